"""Folders of images, a class a folder."""

import logging
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from keras_transfer._lib.checks import checked_choice, did_you_mean
from keras_transfer._lib.messages import progress, verbosity
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.data.loader import Loader
from keras_transfer.data.sources import FileSource, default_threads

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_TRAINING, _VALIDATION, _TEST = "train", ("val", "valid", "validation"), "test"  # names of parts
OnError: TypeAlias = Literal["raise", "skip", "defer"]
_ON_ERROR = ("raise", "skip", "defer")
_NAMED = 10  # files in a message
_AT_A_TIME = 4096  # files
_log = logging.getLogger(__name__)


def from_directory(
    directory: str | os.PathLike[str],
    *,
    part: str | None = None,
    image_size: int | tuple[int, int],
    batch_size: int = 32,
    seed: int = 0,
    augmentation: str | Augmentation | None = None,
    shuffle: bool | None = None,
    on_error: OnError = "raise",
    follow_links: bool = False,
    num_threads: int | None = None,
    verbose: str | int = "auto",
) -> Loader:
    """Load images from folders, one folder a class; its name is the class's name.

    A folder that isn't divided into images for training and others is divided by `Loader.split`, as in
    `train, validation = kt.data.from_directory("photos", image_size=224).split(0.2)`.

    Classes are numbered in the alphabetical order of their folders, and samples in the order of class
    and file name, so that a folder means the same on every machine. Files that begin with a dot, or
    whose name doesn't end as that of an image, don't count.

    All images are looked at beforehand, so that a damaged one is known now and not in the third epoch:
    each is decoded once, by several threads.

    Args:
        directory: a folder with one folder for each class; or one that is divided, into folders such as
            "train" and "val" that each have these.
        part: which folder of a divided one to take, such as "train"; None where it isn't divided.
        image_size: height and width in pixels, one number for both. Images are cropped around the
            centre to this shape and resized by interpolation.
        batch_size: images a batch.
        seed: decides order and augmentation.
        augmentation: see `Loader`; for training images only.
        shuffle: whether each epoch has an order of its own; by default, unless `part` is another one
            than "train".
        on_error: what happens if files are damaged, no images, too large
            (`PIL.Image.MAX_IMAGE_PIXELS`) or links out of the folder. "raise": an error names them.
            "skip": the others are used; the log counts and `Loader.skipped` lists them. "defer": only
            links are looked at beforehand, and an image that can't be read raises when its turn comes.
        follow_links: whether links that lead out of the folder are good.
        num_threads: see `Loader`.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        A `Loader` with `class_names`.

    Raises:
        ValueError: the folder is not there or has no images, a class is empty, files are no good images
            (see `on_error`), the folder is divided and `part` doesn't say which of its folders is
            meant, or the part has other classes than "train".

    Example:
        >>> import tempfile, numpy as np, keras_transfer as kt
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> for name in ("ant", "bee"):
        ...     Path(folder.name, name).mkdir()
        ...     Image.new("RGB", (20, 10)).save(Path(folder.name, name, "1.png"))
        >>> loader = kt.data.from_directory(folder.name, image_size=8, verbose=0)
        >>> loader.class_names, loader.num_samples
        (['ant', 'bee'], 2)
        >>> folder.cleanup()
    """
    checked_choice("on_error", on_error, _ON_ERROR)
    verbose = verbosity(verbose)
    root = _folder(Path(directory))
    folder = _part(root, part)
    source, names = _read(folder, root, on_error, follow_links, verbose)
    return Loader(
        source,
        batch_size,
        shuffle=part in (None, _TRAINING) if shuffle is None else shuffle,
        seed=seed,
        augmentation=augmentation,
        image_size=image_size,
        class_names=names,
        num_threads=num_threads,
    )


def validation_folder(directory: Path) -> Path | None:
    """Return the folder for validation of a folder that also has one for training, or None."""
    found = (directory / name for name in _VALIDATION if (directory / name).is_dir())
    return next(found, None) if (directory / _TRAINING).is_dir() else None


def _part(root: Path, part: str | None) -> Path:
    """Return the folder with a folder for each class, or raise if it isn't clear which that is."""
    if part is None:
        parts = [name for name in (_TRAINING, *_VALIDATION, _TEST) if (root / name).is_dir()]
        if _TRAINING in parts and len(parts) > 1:
            raise ValueError(
                f"directory must have a folder for each class; {str(root)!r} is divided into "
                f"{', '.join(parts)}: take one of these, as {str(root / parts[-1])!r} or with "
                f"part={parts[-1]!r}. "
                f"Received: directory={str(root)!r}, part=None"
            )
        return root
    folders = [path.name for path in _folders(root)]
    if part not in folders:
        raise ValueError(
            f"part must be the name of a folder in {str(root)!r}{did_you_mean(str(part), folders)} "
            f"Received: part={part!r}"
        )
    here, training = root / part, root / _TRAINING
    if part != _TRAINING and training.is_dir():
        classes, others = ({path.name for path in _folders(each)} for each in (here, training))
        if classes != others:
            raise ValueError(
                f"{str(training)!r} and {str(here)!r} must have the same classes; only one of them has "
                f"{sorted(classes ^ others)}. Received: directory={str(root)!r}, part={part!r}"
            )
    return here


def _folder(path: Path) -> Path:
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ValueError(
            f"directory must be a folder of images; there is no folder {str(path)!r}"
            f"{did_you_mean(path.name, siblings)} Received: directory={str(path)!r}"
        )
    return path


def _read(
    folder: Path, root: Path, on_error: OnError, follow_links: bool, verbose: int
) -> tuple[FileSource, list[str]]:
    """Return the images in the folders of `folder` and the names of these; `root` is the user's."""
    classes = _folders(folder)
    if not classes:
        raise ValueError(
            f"directory must have a folder for each class; {str(folder)!r} has no folders. "
            f"Received: directory={str(folder)!r}"
        )
    label_of = {
        path: label
        for label, each in enumerate(classes)
        for path in sorted(map(Path, filter(_may_be_image, _entries(each))), key=_by_name)
    }
    # What may have been a class, and would be missed by nobody.
    problems = {Path(e): "a link to nowhere" for e in _shown(folder) if not os.path.exists(e)}
    count = len(label_of) + len(problems)
    problems |= {} if follow_links else _links_out(label_of, root)
    if on_error != "defer":
        problems |= damaged_images([path for path in label_of if path not in problems], verbose)
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


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, in the order of their names."""
    return sorted((Path(entry) for entry in _shown(folder) if os.path.isdir(entry)), key=_by_name)


def _by_name(path: Path) -> str:
    return path.name  # paths themselves sort by another rule on Windows


def _shown(folder: Path) -> list[os.DirEntry[str]]:
    return [entry for entry in _entries(folder) if not entry.name.startswith(".")]


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


def damaged_images(paths: Sequence[Path], verbose: int) -> dict[Path, str]:
    """Return the files that are no good images, after decoding all of them.

    Args:
        paths: the files.
        verbose: as `verbosity` returns it.
    """
    from keras_transfer.data.images.reading import damage

    def found() -> Iterator[str | None]:
        # Each thread has an image in memory. A part of the files at a time: of a million there would be
        # as many tasks.
        with ThreadPoolExecutor(default_threads()) as pool:
            for start in range(0, len(paths), _AT_A_TIME):
                yield from pool.map(damage, paths[start : start + _AT_A_TIME])

    problems = {}
    with progress(verbose, f"Looking at {len(paths):,} images", len(paths), "image") as advance:
        for path, problem in zip(paths, found(), strict=True):
            if problem:
                problems[path] = problem
            advance()
    return problems


def _listed(problems: dict[Path, str]) -> str:
    first = [f"{str(path)!r} ({problem})" for path, problem in list(problems.items())[:_NAMED]]
    more = len(problems) - len(first)
    return "; ".join(first) + (f"; and {more} more" if more else "")
