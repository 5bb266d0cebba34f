"""Folders of images, a class a folder."""

import os
from pathlib import Path

import numpy as np

from keras_transfer._messages import did_you_mean
from keras_transfer.data.augmentation import Augmentation
from keras_transfer.data.loader import Loader
from keras_transfer.data.sources import FileSource

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_VALIDATION_NAMES = ("val", "valid", "validation")


def from_directory(
    directory: str | os.PathLike[str],
    *,
    split: float | None = None,
    image_size: int | tuple[int, int],
    batch_size: int = 32,
    seed: int = 0,
    augmentation: str | Augmentation | None = None,
    shuffle: bool = True,
) -> Loader | tuple[Loader, Loader]:
    """Load images from folders, one folder a class; its name is the class's name.

    Classes are numbered in the alphabetical order of their folders, and samples in the order of class
    and file name, so that a folder means the same on every machine.

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

    Returns:
        One `Loader`; or two, for training and for validation (in order and never augmented), where
        there is a split or the folder has "train" and "val".

    Raises:
        ValueError: the folder is not there or has no images, a class is empty, "train" and "val" have
            different classes, or `split` is no fraction or leaves a class without images.

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
    root = _folder(Path(directory))

    def loader(source: FileSource, names: list[str], *, training: bool) -> Loader:
        return Loader(
            source,
            batch_size,
            shuffle=shuffle and training,
            seed=seed,
            augmentation=augmentation if training else None,
            image_size=image_size,
            class_names=names,
        )

    validation_root = next((root / n for n in _VALIDATION_NAMES if (root / n).is_dir()), None)
    if (root / "train").is_dir() and validation_root is not None:
        if split is not None:
            raise ValueError(
                f"split must be None, as {str(root)!r} has folders for training and validation. "
                f"Received: split={split!r}"
            )
        train, names = _read(root / "train")
        validation, validation_names = _read(validation_root)
        if names != validation_names:
            raise ValueError(
                f"{str(root / 'train')!r} and {str(validation_root)!r} must have the same classes; "
                f"only one of them has {sorted(set(names) ^ set(validation_names))}. "
                f"Received: directory={str(directory)!r}"
            )
    else:
        source, names = _read(root)
        if split is None:
            return loader(source, names, training=True)
        train, validation = _stratified(source, split, seed)
    return loader(train, names, training=True), loader(validation, names, training=False)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ValueError(
            f"directory must be a folder of images; there is no folder {str(path)!r}"
            f"{did_you_mean(path.name, siblings)} Received: directory={str(path)!r}"
        )
    return path


def _read(root: Path) -> tuple[FileSource, list[str]]:
    def by_name(path: Path) -> str:
        return path.name  # paths themselves sort by another rule on Windows

    folders = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    folders.sort(key=by_name)
    if not folders:
        raise ValueError(
            f"directory must have a folder for each class; {str(root)!r} has no folders. "
            f"Received: directory={str(root)!r}"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        files = sorted(
            p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
        )
        if not files:
            raise ValueError(
                f"each class must have images; {str(folder)!r} has none of the types "
                f"{', '.join(sorted(SUFFIXES))}. Received: directory={str(root)!r}"
            )
        paths += files
        labels += [label] * len(files)
    return FileSource(paths, np.array(labels, "int32")), [folder.name for folder in folders]


def _stratified(source: FileSource, split: float, seed: int) -> tuple[FileSource, FileSource]:
    rng = np.random.default_rng(seed)
    held_back = np.zeros(len(source), bool)
    for label in np.unique(source.labels):
        members = rng.permutation(np.flatnonzero(source.labels == label))
        count = round(split * len(members))
        if not 0 < count < len(members):
            raise ValueError(
                f"split must leave images of every class on both sides; class {label} has "
                f"{len(members)}. Received: split={split!r}"
            )
        held_back[members[:count]] = True

    def part(mask: np.ndarray) -> FileSource:
        indices = np.flatnonzero(mask)
        return FileSource([source.paths[i] for i in indices], source.labels[indices])

    return part(~held_back), part(held_back)
