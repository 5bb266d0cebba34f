"""Images that a table names, with the class of each."""

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transfer._lib.checks import checked_choice, did_you_mean
from keras_transfer.data import layout, series
from keras_transfer.data.columns import Columns, as_label, chosen, numbered
from keras_transfer.data.directory import Directory, folder_of
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.data.images.kinds import SUFFIXES
from keras_transfer.data.label_rows import of_columns, of_separated
from keras_transfer.data.loader import Loader
from keras_transfer.data.rows import Table, is_missing, read_table
from keras_transfer.data.taking import OnError, Taking, check_each, take

_ROWS_NAMED = 5  # in a message, or looked for under other names
_log = logging.getLogger(__name__)


def from_table(
    table: Any,
    images: Directory | Sequence[Directory] | None = None,
    *,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    label_separator: str | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
    group_pattern: str | None = None,
    part: str | None = None,
    image_size: int | tuple[int, int],
    batch_size: int = 32,
    seed: int = 0,
    augmentation: str | Augmentation | None = None,
    shuffle: bool | None = None,
    on_error: OnError = "raise",
    background: str | tuple[int, int, int] = "white",
    value_range: tuple[float, float] | None = None,
    max_pixels: int | None = None,
    num_threads: int | None = None,
    verbose: str | int = "auto",
) -> Loader:
    """Load images that a table names, with the class of each: a CSV file, a data frame or pairs.

    Columns that aren't named are guessed by their names ("file", "image", "id", ...; "label", "class",
    "species", ...); the log says which were taken. Classes are numbered in alphabetical order, or that
    of the numbers where all are integers; samples come in the order of class and file name, whatever
    that of the rows is. So a table means the same as the same photos in a folder for each class.

    Args:
        table: the path of a CSV or TSV file; a frame of pandas or polars, whatever its index; a list of
            (image, label) pairs or of mappings; or a mapping from names to columns.
        images: the folder in which the names of images begin, a zip or tar of it, or a list of folders
            that are looked into one after the other. By default the folder of the CSV file, or the one
            that Python runs in. A name without ending, as in columns of ids, is also that of a file
            "name.jpg", "name.png", ...
        image_column: the column of the images.
        label_column: the column of the classes, as text or integers; or the names of several columns of
            0 and 1, one a class, of which an image may have any number.
        label_separator: what stands between the labels of an image in that column, such as ";", where it
            may have several. An empty cell is that of an image with none of them.
        split_column: the column of the parts, such as "train", "val" and "test".
        group_column: the column of what images belong to, such as a patient or a burst (see
            `Loader.groups`); an image whose cell is empty belongs to no other.
        group_pattern: tells groups by the names of files instead; see `from_directory`.
        part: which part to take; as in `from_directory`, "train", "val" and "test" find others of these
            names, too. None where the table isn't divided.
        image_size: see `from_directory`, as for all arguments below.
        batch_size: images a batch.
        seed: decides order and augmentation.
        augmentation: for training images only.
        shuffle: by default, unless `part` is another one than "train".
        on_error: what happens if files are missing, damaged, without a label, or stand in the table with
            other ones; "skip" leaves them out, and `Loader.skipped` lists them.
        background: the colour on which transparent images are laid.
        value_range: what is black and white in files of more than 8 bits that don't tell it.
        max_pixels: how many pixels may be decoded of an image.
        num_threads: see `Loader`.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        A `Loader` with `class_names`, those of the part for training. Of several labels an image it has
            `multi_label=True`, and samples in the order of file names.

    Raises:
        ValueError: the table has no such column or no rows, the separator stands in no cell, it isn't
            clear which columns or part are meant, labels are of two types, the part has a class that
            that for training doesn't have, a class has no images, or files are no good (see `on_error`).
        TypeError: `table` is something else.

    Example:
        >>> import tempfile, keras_transfer as kt
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> for name in ("1.png", "2.png"):
        ...     Image.new("RGB", (20, 10)).save(Path(folder.name, name))
        >>> rows = [("2.png", "bee"), ("1.png", "ant")]
        >>> loader = kt.data.from_table(rows, folder.name, image_size=8, verbose=0)
        >>> loader.class_names, loader.labels.tolist(), loader.file(0).name
        (['ant', 'bee'], [0, 1], '1.png')
        >>> folder.cleanup()
    """
    rules = {"background": background, "value_range": value_range, "max_pixels": max_pixels}
    taking = Taking.of(image_size, augmentation, verbose, on_error=on_error, **rules)
    read = read_table(table)
    columns = chosen(read, image_column, label_column, split_column, group_column)
    if group_column is not None and group_pattern is not None:
        raise ValueError(
            "group_pattern must be None where group_column tells the groups. "
            f"Received: group_column={group_column!r}, group_pattern={group_pattern!r}"
        )
    if columns.guessed:
        _log.info("%s: %s", read.name, columns)
    chosen_rows, for_training = _part(read, columns, part)
    labels = _labels(read, columns, chosen_rows, part, label_separator)
    found = _found(read, columns, chosen_rows, labels, _Finder(_folders(images, read)))
    received = f"{read.name}, images={_shown(images)}"
    source = take(found.paths, found.labels, taking, received, left_out={}, problems=found.problems)
    check_each(labels.names, source.labels, for_training, source.skipped, received)
    if columns.group is None:
        groups = series.groups_asked(group_pattern, source, for_training)
    else:
        groups = np.array([found.groups[path] for path in source.paths])
    return Loader(
        source,
        batch_size,
        shuffle=for_training if shuffle is None else shuffle,
        seed=seed,
        augmentation=augmentation,
        image_size=image_size,
        class_names=labels.names,
        multi_label=labels.several,
        num_threads=num_threads,
        groups=groups,
    )


def division_of(table: Table, columns: Columns) -> layout.Division | None:
    """Return the parts of a table that is divided into one for training and another, or None."""
    if columns.split is None:
        return None
    return layout.division_of([*dict.fromkeys(map(str, table.columns[columns.split]))])


def _part(table: Table, columns: Columns, part: str | None) -> tuple[list[int], bool]:
    """Return the numbers of the rows of a part, and whether it is for training."""
    if columns.split is None:
        if part is not None:
            raise ValueError(
                f"split_column must name the column of the parts, as {table.name} has none that is "
                f"called so. Received: split_column=None, part={part!r}"
            )
        return list(range(len(table))), True
    cells = [str(cell) for cell in table.columns[columns.split]]
    parts = list(dict.fromkeys(cells))
    if part is None:
        if len(parts) == 1:
            return list(range(len(table))), True
        raise ValueError(
            f"part must be told, as column {columns.split!r} divides {table.name} into "
            f"{', '.join(parts)}. Received: part=None"
        )
    meant = layout.named_part(part, parts) or checked_choice("part", part, parts)
    rows = [number for number, cell in enumerate(cells) if cell == meant]
    return rows, layout.role_of(meant) == layout.TRAINING


class _Labels(NamedTuple):
    """The labels of rows.

    Attributes:
        names: those of the classes, in their order.
        of: by the number of a row the number of its class, or a 0 or 1 for each; None where it has none.
        several: whether an image may have several.
    """

    names: list[str]
    of: Mapping[int, int | tuple[int, ...] | None]
    several: bool

    def shown(self, label: int | tuple[int, ...]) -> str:
        """Return what a label is called."""
        if isinstance(label, int):
            return repr(self.names[label])
        return repr([name for name, there in zip(self.names, label, strict=True) if there])


def _labels(
    table: Table, columns: Columns, rows: list[int], part: str | None, separator: str | None
) -> _Labels:
    """Return the labels of some rows."""
    training = rows
    if columns.split is not None:
        roles = [layout.role_of(str(cell)) for cell in table.columns[columns.split]]
        training = [row for row, role in enumerate(roles) if role == layout.TRAINING] or rows
    if isinstance(columns.label, tuple):
        if separator is not None:
            raise ValueError(
                "label_separator must be None where label_column names several columns. "
                f"Received: label_separator={separator!r}"
            )
        return _Labels(*of_columns(table, columns.label, rows), True)
    if separator is not None:
        found = of_separated(table, columns.label, separator, rows, training, part)
        return _Labels(*found, True)
    names, values = _classes(table, columns.label, rows, training, part)
    numbers, cells = {value: number for number, value in enumerate(values)}, table.columns[columns.label]
    of = {row: None if is_missing(cells[row]) else numbers[as_label(cells[row])] for row in rows}
    return _Labels(names, of, False)


def _classes(
    table: Table, column: str, rows: list[int], training: list[int], part: str | None
) -> tuple[list[str], list[Any]]:
    """Return the names of the classes in their order, and their values, of the part for training."""
    cells = table.columns[column]
    argument = f"column {column!r}"
    of_part = {as_label(cells[row]) for row in rows if not is_missing(cells[row])}
    every = {as_label(cells[row]) for row in training if not is_missing(cells[row])}
    if not every:
        raise ValueError(
            f"label_column must have a class for each image. Received: {argument} of {table.name}, "
            "which is empty"
        )
    numbered([*every, *of_part], argument)  # as one, for their types
    names, values = numbered([*every], argument)
    unknown = sorted(map(str, of_part - every))
    if unknown:
        raise ValueError(
            f"part={part!r} must have no classes that the part for training doesn't have; correct or "
            f"remove these{did_you_mean(unknown[0], names)} Received: {', '.join(unknown)} in "
            f"{argument} of {table.name}"
        )
    return names, values


class _Found(NamedTuple):
    """The images of a table.

    Attributes:
        paths: the images, in the order of class and name.
        labels: theirs, as numbers of classes, or rows of 0 and 1.
        problems: those that can't be used, with what is wrong.
        groups: what each belongs to, where the table says it.
    """

    paths: list[Path]
    labels: np.ndarray
    problems: dict[Path, str]
    groups: dict[Path, str]


def _found(
    table: Table, columns: Columns, rows: list[int], labels: _Labels, finder: "_Finder"
) -> _Found:
    """Return the images of some rows, each once."""
    images = table.columns[columns.image]
    cells = [None] * len(images) if columns.group is None else table.columns[columns.group]
    unknown = (0,) * len(labels.names) if labels.several else 0
    classes: dict[Path, Any] = {}
    groups: dict[Path, str] = {}
    order: dict[Path, tuple[str, ...]] = {}
    problems: dict[Path, str] = {}
    again, unnamed = 0, []
    for row in rows:
        if is_missing(images[row]):
            unnamed.append(row + table.first)
            continue
        path, key, problem = finder.find(images[row])
        label: Any = labels.of[row]
        if label is None:
            problem, label = problem or "no label", unknown
        group = str(path) if is_missing(cells[row]) else str(as_label(cells[row]))
        if path in classes and problem is None:
            again += 1
            if groups[path] != group:
                problem = f"two groups, {groups[path]!r} and {group!r}"
            if classes[path] != label:
                first, second = map(labels.shown, sorted((classes[path], label)))
                problem = f"two labels, {first} and {second}"
        if problem is not None:
            problems.setdefault(path, problem)
        classes.setdefault(path, label)
        groups.setdefault(path, group)
        order[path] = key
    if unnamed:
        raise ValueError(
            f"image_column must name a file in each row. Received: column {columns.image!r} of "
            f"{table.name}, empty in {len(unnamed)} rows: {unnamed[:_ROWS_NAMED]}"
        )
    if again:
        _log.warning("%d rows of %s name a file that another one names", again, table.name)
    _check_somewhere(problems, classes, finder)
    first_by: Any = {} if labels.several else classes
    paths = sorted(classes, key=lambda path: (first_by.get(path, 0), order[path]))
    return _Found(paths, np.array([classes[path] for path in paths], "int32"), problems, groups)


def _check_somewhere(problems: dict[Path, str], classes: dict[Path, Any], finder: "_Finder") -> None:
    """Raise a `ValueError` if there is none of the files, as the folder is another one then."""
    missing = [path for path in classes if problems.get(path, "").startswith(_NO_FILE)]
    if len(missing) == len(classes):
        raise ValueError(
            "images must be the folder in which the names of the images begin; there is none of the "
            f"{len(missing)} files, of which the first is {str(missing[0])!r}. "
            f"Received: images={finder.shown}"
        )


_NO_FILE = "no such file"


class _Finder:
    """Finds files by what a table calls them.

    Args:
        folders: where to look, one after the other.
    """

    def __init__(self, folders: list[Path]) -> None:
        self.folders = folders
        self.shown = ", ".join(repr(str(folder)) for folder in folders)
        self._told = 0
        self._stems = functools.lru_cache(maxsize=64)(_stems)

    def find(self, cell: Any) -> tuple[Path, tuple[str, ...], str | None]:
        """Return the file that a cell names, what it is sorted by, and what is wrong with it."""
        name = os.fspath(cell) if isinstance(cell, os.PathLike) else str(cell).strip()
        if "://" in name:
            return Path(name), (name,), "an address, and no file; fetch it first"
        ways = [name, name.replace("\\", "/")] if "\\" in name and os.sep == "/" else [name]
        for folder in self.folders:
            for way in ways:
                path = folder / way
                if path.is_file():
                    return path, _key(path, folder), None
                ends = path.suffix.lower() in SUFFIXES
                ending = [] if ends else self._stems(path.parent).get(path.name, [])
                if len(ending) == 1:
                    path = path.with_name(ending[0])
                    return path, _key(path, folder), None
                if ending:
                    return path, _key(path, folder), f"several files: {', '.join(ending)}"
        path = self.folders[0] / ways[-1]
        problem = "a folder, and no file" if path.is_dir() else f"{_NO_FILE}{self._near(path)}"
        return path, _key(path, self.folders[0]), problem

    def _near(self, path: Path) -> str:
        """Return which file may be meant instead of one that is missing; of the first that are."""
        self._told += 1
        beside = [name for names in self._stems(path.parent).values() for name in names]
        return did_you_mean(path.name, beside, 1).rstrip(".") if self._told <= _ROWS_NAMED else ""


def _key(path: Path, folder: Path) -> tuple[str, ...]:
    """Return what a file is sorted by: the names on the way to it."""
    return path.relative_to(folder).parts if path.is_relative_to(folder) else path.parts


def _stems(folder: Path) -> dict[str, list[str]]:
    """Return the images of a folder by their names without ending."""
    found: dict[str, list[str]] = {}
    if folder.is_dir():
        for name in sorted(os.listdir(folder)):
            stem, ending = os.path.splitext(name)
            if ending.lower() in SUFFIXES and not name.startswith("."):
                found.setdefault(stem, []).append(name)
    return found


def _folders(images: Any, table: Table) -> list[Path]:
    """Return the folders in which images are looked for."""
    if images is None:
        return [table.folder]
    several = [images] if isinstance(images, (str, os.PathLike)) else images
    return [folder_of(Path(each), "images") for each in several]


def _shown(images: Any) -> str:
    several = images is None or isinstance(images, (str, os.PathLike))
    return repr(images if images is None else str(images)) if several else repr([*map(str, images)])
