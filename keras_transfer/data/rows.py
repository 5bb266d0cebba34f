"""Tables as people have them, as columns: CSV and TSV files, data frames, rows."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transfer._lib.checks import did_you_mean
from keras_transfer.data.images.kinds import SUFFIXES

TABLES = (".csv", ".tsv", ".tab", ".txt")
_DELIMITERS = (",", ";", "\t", "|")
_BOOKS = (".xlsx", ".xls", ".ods")


class Table(NamedTuple):
    """A table in memory.

    Attributes:
        columns: the values of each, by its name, all of the same number.
        name: what messages call it.
        folder: where its files are looked for if nobody says where.
        first: the number of the first row, as a program shows it in which people edit such tables.
    """

    columns: dict[str, list[Any]]
    name: str
    folder: Path
    first: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


def read_table(table: Any) -> Table:
    """Return a table.

    Args:
        table: the path of a CSV or TSV file; a frame of pandas or polars; a mapping from names to
            columns; or a sequence of (image, label) pairs, or of mappings.

    Raises:
        ValueError: it has no rows, rows of several lengths, several columns of one name, or no text in
            UTF-8.
        TypeError: it is something else.
    """
    if isinstance(table, (str, os.PathLike)):
        found = _of_file(Path(table))
    elif hasattr(table, "collect") and hasattr(table, "lazy"):  # a frame of polars that is only planned
        return read_table(table.collect())
    elif hasattr(table, "columns") and hasattr(table, "shape"):
        found = Table(_of_frame(table), f"a {type(table).__name__}", Path())
    elif isinstance(table, Mapping):
        found = Table({str(name): [*values] for name, values in table.items()}, "a mapping", Path())
        if len({len(values) for values in found.columns.values()}) > 1:
            sizes = ", ".join(f"{name}: {len(values):,}" for name, values in found.columns.items())
            raise ValueError(f"table must have columns of one length. Received: {sizes}")
    elif isinstance(table, (list, tuple)):
        found = Table(_of_rows(table), "a list of rows", Path())
    else:
        raise TypeError(
            "table must be the path of a CSV or TSV file, a frame of pandas or polars, or a list of "
            f"(image, label) pairs. Received: table of type {type(table).__name__}"
        )
    if not len(found):
        raise ValueError(f"table must have at least one row. Received: {found.name} without rows")
    return found


def _of_file(path: Path) -> Table:
    if not path.is_file():
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        hint = did_you_mean(path.name, [each.name for each in beside if each.suffix in TABLES])
        kind = ", but a folder; kt.data.from_directory reads folders." if path.is_dir() else hint
        raise ValueError(
            f"table must be a CSV or TSV file; there is no file {str(path)!r}{kind} "
            f"Received: table={str(path)!r}"
        )
    if path.suffix.lower() in _BOOKS:
        raise ValueError(
            "table must be a CSV or TSV file: save it as CSV, or give the frame that pandas.read_excel "
            f"returns. Received: table={str(path)!r}"
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else _delimiter(header)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"table must be text in UTF-8, with all quotes closed ({error}). Received: "
            f"table={str(path)!r}"
        ) from error
    columns, headed = _headed(lines, repr(str(path)))
    return Table(columns, repr(str(path)), path.parent, 1 + headed)


def _delimiter(header: str) -> str:
    """Return what stands between the columns: the commonest of what may, as names rarely have it."""
    return max(_DELIMITERS, key=header.count)


def _headed(lines: list[tuple[int, list[str]]], name: str) -> tuple[dict[str, list[Any]], bool]:
    """Return the columns of a file, and whether its first line names them; else they have numbers."""
    if not lines:
        return {}, False
    names = lines[0][1]
    headed = not any(os.path.splitext(cell)[1].lower() in SUFFIXES for cell in names)
    if not headed:
        names = [f"column {number + 1}" for number in range(len(names))]
    else:
        lines = lines[1:]
    _check_names(names, name)
    for number, line in lines:
        if len(line) != len(names):
            raise ValueError(
                f"table must have as many cells in each row as in the first, {len(names)}; quote cells "
                f"that have the character between columns. Received: line {number} of {name} with "
                f"{len(line)}"
            )
    cells = zip(*(line for _, line in lines), strict=True) if lines else [()] * len(names)
    return dict(zip(names, map(list, cells), strict=True)), headed


def _check_names(names: Sequence[str], table: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"table must have one column of each name. Received: {twice!r} more than once in {table}"
        )


def _of_frame(frame: Any) -> dict[str, list[Any]]:
    """Return the columns of a frame of pandas or polars; the index counts where it has a name."""
    names = [str(name) for name in frame.columns]
    _check_names(names, f"a {type(frame).__name__}")
    columns = {
        name: list(frame[key].tolist() if hasattr(frame[key], "tolist") else frame[key].to_list())
        for name, key in zip(names, frame.columns, strict=True)
    }
    index = getattr(getattr(frame, "index", None), "name", None)
    if index is not None:
        columns.setdefault(str(index), frame.index.tolist())
    return columns


def _of_rows(rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the columns of (image, label) pairs, or of mappings with the same names."""
    if not rows:
        return {}
    if all(isinstance(row, Mapping) for row in rows):
        names = dict.fromkeys(name for row in rows for name in row)
        return {str(name): [row.get(name) for row in rows] for name in names}
    for number, row in enumerate(rows):
        if isinstance(row, (str, bytes)) or not hasattr(row, "__len__") or len(row) != 2:
            raise ValueError(
                "table must be (image, label) pairs, if it is a list; of several columns give mappings "
                f"with their names. Received: {row!r:.100} as row {number}"
            )
    return {"image": [row[0] for row in rows], "label": [row[1] for row in rows]}


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: None, not a number, pandas' NA, or text without a character."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, np.ndarray):
        return False
    try:
        return bool(value != value)
    except TypeError:  # pandas' NA is neither true nor false
        return True
