"""Several labels an image, as people have them: separated text, columns, files in several folders."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from keras_transfer._lib.checks import one_of
from keras_transfer.data.columns import as_label, numbered
from keras_transfer.data.images.stored import ImageFile, content
from keras_transfer.data.rows import Table, is_missing

File = TypeVar("File", bound=ImageFile)

_SEPARATORS = (";", "|", ",", "/", " ", "+", "&")  # that are looked for where the given one is none
_YES, _NO = {1, "1"}, {0, "0"}
_SHOWN = 60
_log = logging.getLogger(__name__)


def of_separated(
    table: Table, column: str, separator: str, rows: list[int], training: list[int], part: str | None
) -> tuple[list[str], dict[int, tuple[int, ...]]]:
    """Return the names of classes, and for rows of a table the 0 and 1 of each, of text as "ant;bee".

    An empty cell is that of an image with none of them.

    Args:
        table: the table.
        column: that of the labels.
        separator: what stands between two.
        rows: the numbers of the rows that are asked for.
        training: those of the part for training, whose classes count.
        part: the part that is asked for, for messages.

    Raises:
        ValueError: the separator is none or stands in no cell, labels are text and numbers, or the part
            has a class that the part for training doesn't have.
    """
    if not isinstance(separator, str) or not separator:
        raise ValueError(
            "label_separator must be what stands between two labels, such as ';'. "
            f"Received: label_separator={separator!r}"
        )
    cells = table.columns[column]
    texts = [str(cells[row]) for row in training if not is_missing(cells[row])]
    if not any(separator in text for text in texts):
        others = [mark for mark in _SEPARATORS if any(mark in text for text in texts)]
        hint = f"; {one_of(others)} does" if others else ", of which each has one label at most"
        raise ValueError(
            f"label_separator must stand in some cells of column {column!r} of {table.name}{hint}. "
            f"Received: label_separator={separator!r} and cells such as {(texts or [''])[0][:_SHOWN]!r}"
        )
    found = {row: _split(cells[row], separator) for row in {*rows, *training}}
    every = {label for row in training for label in found[row]}
    if not every:
        raise ValueError(
            f"label_column must have some labels. Received: column {column!r} of {table.name}, whose "
            f"cells have nothing but {separator!r}"
        )
    names, values = numbered(sorted(every), f"column {column!r}")
    unknown = sorted({label for row in rows for label in found[row]} - every)
    if unknown:
        raise ValueError(
            f"part={part!r} must have no classes that the part for training doesn't have; correct or "
            f"remove these. Received: {', '.join(unknown)} in column {column!r} of {table.name}"
        )
    none = sum(not found[row] for row in rows)
    if none:
        _log.warning("%d of %d rows of %s have none of the labels", none, len(rows), table.name)
    return names, {row: tuple(int(value in found[row]) for value in values) for row in rows}


def _split(cell: Any, separator: str) -> set[str]:
    parts = [] if is_missing(cell) else str(cell).split(separator)
    return {str(as_label(each)) for each in parts if each.strip()}


def of_columns(
    table: Table, columns: Sequence[str], rows: list[int]
) -> tuple[list[str], dict[int, tuple[int, ...] | None]]:
    """Return the names of columns, and for rows of a table the 0 and 1 in them; None where one is empty.

    Raises:
        ValueError: a cell has something else.
    """
    found: dict[int, tuple[int, ...] | None] = {}
    for row in rows:
        cells = [as_label(table.columns[name][row]) for name in columns]
        for name, cell in zip(columns, cells, strict=True):
            if not is_missing(cell) and cell not in _YES | _NO:
                raise ValueError(
                    "label_column must name columns of 0 and 1, if it names several. "
                    f"Received: {cell!r:.99} in column {name!r} of {table.name}, row {row + table.first}"
                )
        empty = any(map(is_missing, cells))
        found[row] = None if empty else tuple(int(cell in _YES) for cell in cells)
    return [*columns], found


def of_folders(classes: Sequence[Sequence[File]]) -> tuple[list[File], np.ndarray]:
    """Return images that stand in the folders of several classes, each once, and their rows of 0 and 1.

    Files are the same image if name and bytes are. Where the first one stands, the image does.

    Args:
        classes: the files of each class.
    """
    named: dict[str, int] = {}
    for files in classes:
        for file in files:
            named[_name(file)] = named.get(_name(file), 0) + 1
    images: dict[Any, File] = {}
    rows: dict[Any, np.ndarray] = {}
    for number, files in enumerate(classes):
        for file in files:
            key: Any = file
            if named[_name(file)] > 1:  # others are not read
                key = _name(file), hashlib.sha256(content(file)).digest()
            images.setdefault(key, file)
            rows.setdefault(key, np.zeros(len(classes), "int32"))[number] = 1
    return [*images.values()], np.array([*rows.values()], "int32").reshape(-1, len(classes))


def _name(file: ImageFile) -> str:
    return str(file).replace("\\", "/").rpartition("/")[2]
