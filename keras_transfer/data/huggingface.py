"""Data sets of Hugging Face's `datasets`, whose images stay undecoded until they are wanted."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer._lib.checks import checked_choice
from keras_transfer._lib.extras import optional
from keras_transfer._lib.network import fetching
from keras_transfer.data import layout
from keras_transfer.data.columns import as_label, chosen, numbered
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.data.images.stored import Stored, Version, version
from keras_transfer.data.loader import Loader
from keras_transfer.data.rows import Table, is_missing
from keras_transfer.data.taking import OnError, Taking, check_each, take

_SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk writes
_PLAIN = "bytes"


def from_huggingface(
    dataset: Any,
    *,
    part: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
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
    """Load images of a data set of Hugging Face's `datasets`.

    The bytes of an image are decoded here when they are wanted, by the rules that hold for files, and
    not by `datasets`. Classes of a `ClassLabel` keep their names and numbers; others are numbered as in
    `from_table`. Samples come in the order of class and file name, where the images have names, and
    otherwise of their rows.

    Args:
        dataset: a `datasets.Dataset` or `DatasetDict`; a folder that its `save_to_disk` has written; a
            parquet file or a folder of these; or a name of the Hub, "hf://owner/name", which is fetched
            into the cache of `datasets`.
        part: which part to take; as in `from_directory`, "train", "val" and "test" find others of these
            names, too. None where there is one alone.
        image_column: the column of the images; None: the one whose kind is that of images, or that is
            called so.
        label_column: the column of the classes; None: the one whose kind is that of classes, or that is
            called so.
        image_size: see `from_directory`, as for all arguments below.
        batch_size: images a batch.
        seed: decides order and augmentation.
        augmentation: for training images only.
        shuffle: by default, unless `part` is another one than "train".
        on_error: what happens if images are damaged or have no class; "skip" leaves them out.
        background: the colour on which transparent images are laid.
        value_range: what is black and white in files of more than 8 bits that don't tell it.
        max_pixels: how many pixels may be decoded of an image.
        num_threads: see `Loader`.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        A `Loader` with `class_names`.

    Raises:
        ValueError: there is no such data set, column or part, it isn't clear which is meant, it has no
            rows, or images are no good (see `on_error`).
        TypeError: `dataset` is something else, or is streamed, so that no image can be asked for.
        ConnectionError: it could not be fetched.
        ImportError: `datasets` is not installed; a `Dataset` needs nothing else.

    Example:
        >>> import keras_transfer as kt
        >>> train = kt.data.from_huggingface(  # doctest: +SKIP
        ...     "hf://AI-Lab-Makerere/beans", part="train", image_size=224
        ... )

    References:
        - https://huggingface.co/docs/datasets
    """
    rules = {"background": background, "value_range": value_range, "max_pixels": max_pixels}
    taking = Taking.of(image_size, augmentation, verbose, on_error=on_error, **rules)
    called = str(dataset) if isinstance(dataset, (str, os.PathLike)) else type(dataset).__name__
    rows, for_training = _part(_opened(dataset), part, called)
    image, label = _columns(rows, image_column, label_column, called)
    names, values, cells = _classes(rows, label, called)
    images = _images(rows, image, called)
    numbers = {value: number for number, value in enumerate(values)}
    labels = [-1 if is_missing(cell) else numbers[as_label(cell)] for cell in cells]
    order = sorted(range(len(images)), key=lambda row: (labels[row], images[row].key))
    ordered = [images[row] for row in order]
    problems = {images[row]: "no label" for row in order if labels[row] < 0}
    received = f"dataset={called}, part={part!r}"
    numbered_labels = np.array([labels[row] for row in order], "int32")
    source = take(ordered, numbered_labels, taking, received, left_out={}, problems=problems)
    check_each(names, source.labels, False, source.skipped, received)
    return Loader(
        source,
        batch_size,
        shuffle=for_training if shuffle is None else shuffle,
        seed=seed,
        augmentation=augmentation,
        image_size=image_size,
        class_names=names,
        num_threads=num_threads,
    )


class _Image(Stored):
    """The image of a row.

    Args:
        rows: the data set, of this column alone.
        row: the number of the row.
        name: the name of the image's file, where it is known.
        called: what messages call the data set.
    """

    __slots__ = ("called", "name", "row", "rows")

    def __init__(self, rows: Any, row: int, name: str | None, called: str) -> None:
        self.rows, self.row, self.name, self.called = rows, row, name, called

    @property
    def key(self) -> tuple[tuple[str, ...], int]:
        """What it is sorted by."""
        return () if self.name is None else Path(self.name).parts, self.row

    def read(self) -> bytes:
        (cell,) = self.rows[self.row].values()
        if isinstance(cell, Mapping):
            path, cell = cell.get("path"), cell.get(_PLAIN)
            if cell is None and path is not None:
                return Path(path).read_bytes()
        if not isinstance(cell, bytes):
            raise OSError("no image")
        return cell

    def version(self) -> Version | None:
        # A data set stays as it is, but where it has the paths of files alone, as those it is made of.
        there = self.name is not None and os.path.isabs(self.name)
        return version(self.name) if there and self.name is not None else (self.row,)

    def __str__(self) -> str:
        name = "" if self.name is None else f" ({self.name})"
        return f"{self.called}, row {self.row}{name}"

    def file(self) -> Path:
        return Path(self.name or f"row {self.row}")


def is_dataset(path: Path) -> bool:
    """Whether a path is that of parquet, of a folder of `save_to_disk`, or a name of the Hub."""
    if path.is_dir():
        saved = any((path / name).is_file() for name in _SAVED)
        return saved or any(path.glob("*.parquet")) or any(path.glob("data/*.parquet"))
    return path.suffix == ".parquet" or str(path).startswith("hf:")


def parts_of(dataset: Any) -> layout.Division | None:
    """Return the parts of a data set that is divided into one for training and another, or None."""
    found = _opened(dataset)
    return layout.division_of([*found]) if isinstance(found, Mapping) else None


def _opened(dataset: Any) -> Any:
    """Return a `Dataset`, or several of them by name."""
    if not isinstance(dataset, (str, os.PathLike)):
        several = isinstance(dataset, Mapping)
        one = next(iter(dataset.values()), None) if several else dataset
        if hasattr(one, "features") and hasattr(one, "__getitem__") and hasattr(one, "__len__"):
            return dataset
        streamed = (
            " that is streamed; load it without streaming=True" if hasattr(one, "features") else ""
        )
        raise TypeError(
            "dataset must be a datasets.Dataset or DatasetDict, a folder of save_to_disk, parquet, "
            f"or 'hf://owner/name'. Received: dataset of type {type(dataset).__name__}{streamed}"
        )
    path, name = Path(dataset), os.fspath(dataset)
    if not is_dataset(path) or not (path.exists() or name.startswith("hf:")):
        raise ValueError(
            "dataset must be a folder of save_to_disk, a parquet file or a folder of these, or, on the "
            f"Hub, 'hf://owner/name'. Received: dataset={name!r}"
        )
    datasets = optional("datasets", "reading a data set of Hugging Face needs datasets", "datasets")
    if name.startswith("hf:"):
        name = name.removeprefix("hf:").strip("/").removeprefix("datasets/")
        with fetching(f"the data set {name}", "Check the network and the name, or give a folder."):
            return datasets.load_dataset(name)
    if path.is_file():
        return datasets.Dataset.from_parquet(name)
    if any((path / saved).is_file() for saved in _SAVED):
        return datasets.load_from_disk(name)
    return datasets.load_dataset("parquet", data_dir=name)


def _part(found: Any, part: str | None, called: str) -> tuple[Any, bool]:
    """Return the rows of a part, and whether it is for training."""
    if not isinstance(found, Mapping):
        if part is not None:
            raise ValueError(
                f"part must be None, as the data set isn't divided. Received: part={part!r} of {called}"
            )
        return found, True
    parts = [*found]
    if part is None and len(parts) > 1:
        raise ValueError(
            f"part must be told, as the data set is divided into {', '.join(parts)}. "
            f"Received: part=None of {called}"
        )
    if part is None:
        return found[parts[0]], True
    name = layout.named_part(part, parts) or checked_choice("part", part, parts)
    return found[name], layout.role_of(name) == layout.TRAINING


def _columns(rows: Any, image: str | None, label: str | None, called: str) -> tuple[str, str]:
    """Return the names of the columns of images and classes."""
    if not len(rows):
        raise ValueError(f"dataset must have rows. Received: {called}, which has none")
    kinds = {name: type(feature).__name__ for name, feature in rows.features.items()}
    if image is None and [*kinds.values()].count("Image") == 1:
        image = next(name for name, kind in kinds.items() if kind == "Image")
    if label is None and [*kinds.values()].count("ClassLabel") == 1:
        label = next(name for name, kind in kinds.items() if kind == "ClassLabel")
    columns = chosen(Table({name: [] for name in kinds}, called, Path()), image, label, None)
    assert isinstance(columns.label, str)  # as one is asked for
    return columns.image, columns.label


def _classes(rows: Any, label: str, called: str) -> tuple[list[str], list[Any], list[Any]]:
    """Return the names of the classes in their order, their values, and the cells of the column."""
    cells = list(rows[label])
    names = getattr(rows.features[label], "names", None)
    if names is not None:
        return (
            list(names),
            list(range(len(names))),
            [None if cell in (None, -1) else cell for cell in cells],
        )
    every = {as_label(cell) for cell in cells if not is_missing(cell)}
    if not every:
        raise ValueError(
            f"label_column must have a class for each image. Received: column {label!r} of {called}, "
            "which is empty"
        )
    return (*numbered([*every], f"column {label!r}"), cells)


def _images(rows: Any, column: str, called: str) -> list[_Image]:
    """Return the images of the rows, of which none is read yet."""
    alone = rows.select_columns([column]).with_format(None)
    feature = alone.features[column]
    if hasattr(feature, "decode"):
        alone = alone.cast_column(column, type(feature)(decode=False))
    paths = alone.flatten()
    has_names = f"{column}.path" in paths.column_names
    names = list(paths[f"{column}.path"]) if has_names else [None] * len(alone)
    return [_Image(alone, row, name, called) for row, name in enumerate(names)]
