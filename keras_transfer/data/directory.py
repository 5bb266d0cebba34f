"""Folders of images, a class a folder."""

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import rich.progress

from keras_transfer._lib.checks import did_you_mean, one_of
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.data.loader import Loader
from keras_transfer.data.sources import FileSource, default_threads

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_VALIDATION_NAMES = ("val", "valid", "validation")
OnError: TypeAlias = Literal["raise", "skip", "defer"]
_ON_ERROR = ("raise", "skip", "defer")
_NAMED = 10  # files in a message
_AT_A_TIME = 4096  # files
_log = logging.getLogger(__name__)


def from_directory(
    directory: str | os.PathLike[str],
    *,
    split: float | None = None,
    image_size: int | tuple[int, int],
    batch_size: int = 32,
    seed: int = 0,
    augmentation: str | Augmentation | None = None,
    shuffle: bool = True,
    on_error: OnError = "raise",
    follow_links: bool = False,
    num_threads: int | None = None,
) -> Loader | tuple[Loader, Loader]:
    """Load images from folders, one folder a class; its name is the class's name.

    Classes are numbered in the alphabetical order of their folders, and samples in the order of class
    and file name, so that a folder means the same on every machine. Files that begin with a dot, or
    whose name doesn't end as that of an image, don't count.

    All images are looked at beforehand, so that a damaged one is known now and not in the third epoch:
    each is decoded once, by several threads.

    Args:
        directory: a folder with one folder for each class, or with the folders "train" and "val" (or
            "valid", "validation") that each have these.
        split: the fraction of each class that is held back for validation, drawn by `seed`; in (0, 1).
            None takes all images, or the folders "train" and "val" as they are.
        image_size: height and width in pixels, one number for both. Images are cropped around the
            centre to this shape and resized by interpolation.
        batch_size: images a batch.
        seed: decides order, augmentation and split.
        augmentation: for the training images only; see `Loader`.
        shuffle: whether each epoch of the training images has an order of its own.
        on_error: what happens if files are damaged, no images, too large
            (`PIL.Image.MAX_IMAGE_PIXELS`) or links out of the folder. "raise": an error names them.
            "skip": the others are used; the log counts and `Loader.skipped` lists them. "defer": only
            links are looked at beforehand, and an image that can't be read raises when its turn comes.
        follow_links: whether links that lead out of the folder are good.
        num_threads: see `Loader`.

    Returns:
        One `Loader`; or two, for training and for validation (in order and never augmented), where
        there is a split or the folder has "train" and "val".

    Raises:
        ValueError: the folder is not there or has no images, a class is empty, "train" and "val" have
            different classes, files are no good images (see `on_error`), or `split` is no fraction or
            leaves a class without images.

    Example:
        >>> import tempfile, numpy as np, keras_transfer as kt
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> for name in ("ant", "bee"):
        ...     Path(folder.name, name).mkdir()
        ...     Image.new("RGB", (20, 10)).save(Path(folder.name, name, "1.png"))
        >>> loader = kt.data.from_directory(folder.name, image_size=8)
        >>> loader.class_names, loader.num_samples
        (['ant', 'bee'], 2)
        >>> folder.cleanup()
    """
    if split is not None and not 0.0 < split < 1.0:
        raise ValueError(f"split must be a fraction in (0, 1), or None. Received: split={split!r}")
    if on_error not in _ON_ERROR:
        raise ValueError(f"on_error must be {one_of(_ON_ERROR)}. Received: on_error={on_error!r}")
    root = _folder(Path(directory))

    def read(folder: Path) -> tuple[FileSource, list[str]]:
        return _read(folder, root, on_error, follow_links)

    def loader(source: FileSource, names: list[str], *, training: bool) -> Loader:
        return Loader(
            source,
            batch_size,
            shuffle=shuffle and training,
            seed=seed,
            augmentation=augmentation if training else None,
            image_size=image_size,
            class_names=names,
            num_threads=num_threads,
        )

    validation_root = validation_folder(root)
    if validation_root is not None:
        if split is not None:
            raise ValueError(
                f"split must be None, as {str(root)!r} has folders for training and validation. "
                f"Received: split={split!r}"
            )
        train, names = read(root / "train")
        validation, validation_names = read(validation_root)
        if names != validation_names:
            raise ValueError(
                f"{str(root / 'train')!r} and {str(validation_root)!r} must have the same classes; "
                f"only one of them has {sorted(set(names) ^ set(validation_names))}. "
                f"Received: directory={str(directory)!r}"
            )
    else:
        source, names = read(root)
        if split is None:
            return loader(source, names, training=True)
        train, validation = (
            FileSource([source.paths[i] for i in part], source.labels[part], source.skipped)
            for part in stratified(source.labels, split, seed)
        )
    return loader(train, names, training=True), loader(validation, names, training=False)


def validation_folder(directory: Path) -> Path | None:
    """Return the folder for validation of a folder that also has one for training, or None."""
    found = (directory / name for name in _VALIDATION_NAMES if (directory / name).is_dir())
    return next(found, None) if (directory / "train").is_dir() else None


def _folder(path: Path) -> Path:
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ValueError(
            f"directory must be a folder of images; there is no folder {str(path)!r}"
            f"{did_you_mean(path.name, siblings)} Received: directory={str(path)!r}"
        )
    return path


def _read(
    folder: Path, root: Path, on_error: OnError, follow_links: bool
) -> tuple[FileSource, list[str]]:
    """Return the images in the folders of `folder` and the names of these; `root` is the user's."""

    def by_name(path: Path) -> str:
        return path.name  # paths themselves sort by another rule on Windows

    entries = [entry for entry in _entries(folder) if not entry.name.startswith(".")]
    classes = sorted((Path(entry) for entry in entries if os.path.isdir(entry)), key=by_name)
    if not classes:
        raise ValueError(
            f"directory must have a folder for each class; {str(folder)!r} has no folders. "
            f"Received: directory={str(folder)!r}"
        )
    label_of = {
        path: label
        for label, each in enumerate(classes)
        for path in sorted(map(Path, filter(_may_be_image, _entries(each))), key=by_name)
    }
    # What may have been a class, and would be missed by nobody.
    problems = {Path(e): "a link to nowhere" for e in entries if not os.path.exists(e)}
    count = len(label_of) + len(problems)
    problems |= {} if follow_links else _links_out(label_of, root)
    if on_error != "defer":
        problems |= damaged_images([path for path in label_of if path not in problems])
    if problems and on_error != "skip":
        raise ValueError(
            f"{len(problems)} of {count} files can't be used; mend or remove them, or leave them out "
            f"with on_error='skip': {_listed(problems)}. Received: directory={str(root)!r}"
        )
    if problems:
        _log.warning("left out %d of %d files: %s", len(problems), count, _listed(problems))
    paths = [path for path in label_of if path not in problems]
    labels = np.array([label_of[path] for path in paths], "int32")
    empty = [each for label, each in enumerate(classes) if label not in labels]
    if empty:
        raise ValueError(
            f"each class must have images; {str(empty[0])!r} has none of the types "
            f"{', '.join(sorted(SUFFIXES))} that can be used. Received: directory={str(root)!r}"
        )
    skipped = {str(path): problem for path, problem in problems.items()}
    return FileSource(paths, labels, skipped), [each.name for each in classes]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ValueError(
            f"directory must have folders that can be read ({error.strerror}). Received: {str(folder)!r}"
        ) from error


def _may_be_image(entry: os.DirEntry[str]) -> bool:
    name = Path(entry.name)
    named = name.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
    # What a link leads to is looked at later: a broken one is to be told.
    return named and (entry.is_symlink() or entry.is_file(follow_symlinks=False))


def _links_out(paths: Collection[Path], root: Path) -> dict[Path, str]:
    """Return the files that stand outside of `root`, though their names stand in it."""
    # Path.resolve raises where links lead in a circle.
    inside = os.path.realpath(root)
    real_folders = {folder: os.path.realpath(folder) for folder in {path.parent for path in paths}}
    problems = {}
    for path in paths:
        real = os.path.realpath(path) if path.is_symlink() else real_folders[path.parent]
        if not Path(real).is_relative_to(inside):
            problems[path] = f"a link to {real!r}, out of the folder"
    return problems


def damaged_images(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the files that are no good images, after decoding all of them."""
    from keras_transfer.data.images.reading import damage

    def found() -> Iterator[str | None]:
        # Each thread has an image in memory. A part of the files at a time: of a million there would be
        # as many tasks.
        with ThreadPoolExecutor(default_threads()) as pool:
            for start in range(0, len(paths), _AT_A_TIME):
                yield from pool.map(damage, paths[start : start + _AT_A_TIME])

    console = rich.console.Console(stderr=True)
    problems = rich.progress.track(
        found(),
        "Looking at images",
        len(paths),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    return {path: problem for path, problem in zip(paths, problems, strict=True) if problem}


def _listed(problems: dict[Path, str]) -> str:
    first = [f"{str(path)!r} ({problem})" for path, problem in list(problems.items())[:_NAMED]]
    more = len(problems) - len(first)
    return "; ".join(first) + (f"; and {more} more" if more else "")


def stratified(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the samples that stay and of those that are held back, each in order.

    Args:
        labels: the classes of shape (samples,): integers.
        fraction: the part of each class that is held back, in (0, 1).
        seed: decides which samples are.

    Raises:
        ValueError: a class would have no sample on one of the sides.
    """
    rng = np.random.default_rng(seed)
    held_back = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = round(fraction * len(members))
        if not 0 < count < len(members):
            raise ValueError(
                f"split must leave images of every class on both sides; class {label} has "
                f"{len(members)}. Received: split={fraction!r}"
            )
        held_back[members[:count]] = True
    return np.flatnonzero(~held_back), np.flatnonzero(held_back)
