"""Data sets by name: prepared TFDS data where it is found, otherwise Keras' own download."""

import os
import re
from pathlib import Path
from typing import Any

import keras

from keras_transfer._messages import did_you_mean, one_of
from keras_transfer._network import fetching
from keras_transfer.data.augmentation import Augmentation
from keras_transfer.data.loader import Loader
from keras_transfer.data.sources import ArraySource, SequenceSource, Source, Subset

_CLASS_NAMES = {
    "cifar10": [
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ],
}
_SPLITS = ("train", "test")


def load(
    name: str,
    split: str,
    *,
    image_size: int | tuple[int, int],
    batch_size: int = 32,
    seed: int = 0,
    directory: str | os.PathLike[str] | None = None,
    augmentation: str | Augmentation | None = None,
    shuffle: bool | None = None,
) -> Loader:
    """Load a data set by name.

    Data that TFDS has prepared as array_record files is read where it is found (this needs no
    TensorFlow); otherwise `keras.datasets` downloads it, checked against its checksum.

    Args:
        name: "cifar10" (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images"):
            60,000 images of 32 x 32 pixels in 10 classes.
        split: "train" or "test", or a part of it as TFDS writes it: "train[:1000]", "train[90%:]".
        image_size: height and width in pixels, one number for both; images are resized to it by
            interpolation.
        batch_size: images a batch.
        seed: decides order and augmentation.
        directory: where TFDS keeps its data; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
        augmentation: see `Loader`; for training only.
        shuffle: whether each epoch has an order of its own; by default the training split's has.

    Returns:
        A `Loader` with `class_names`.

    Raises:
        ValueError: there is no such data set or split, or the split is empty.
        ConnectionError: the data is not on this machine and could not be fetched.

    Example:
        >>> import keras_transfer as kt
        >>> train = kt.data.load("cifar10", "train[:90%]", image_size=48)  # doctest: +SKIP
    """
    if name not in _CLASS_NAMES:
        raise ValueError(
            f"name must be {one_of(_CLASS_NAMES)}{did_you_mean(name, _CLASS_NAMES)} "
            f"Received: name={name!r}"
        )
    base, first, last = _parse_split(split)
    prepared = _prepared(name, directory)
    source = _from_tfds(name, base, prepared) if prepared else _from_keras(name, base)
    bounds = slice(*(_position(bound, len(source)) for bound in (first, last)))
    indices = range(len(source))[bounds]
    if not indices:
        raise ValueError(
            f"split must name at least one of the {len(source)} samples. Received: split={split!r}"
        )
    return Loader(
        source if len(indices) == len(source) else Subset(source, indices),
        batch_size,
        shuffle=base == "train" if shuffle is None else shuffle,
        seed=seed,
        augmentation=augmentation,
        image_size=image_size,
        class_names=_CLASS_NAMES[name],
    )


def _parse_split(split: str) -> tuple[str, str | None, str | None]:
    match = re.fullmatch(r"(\w+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if not match or match[1] not in _SPLITS:
        raise ValueError(
            f"split must be {one_of(_SPLITS)}, or a part such as 'train[:1000]' or 'train[90%:]'. "
            f"Received: split={split!r}"
        )
    return match[1], match[2], match[3]


def _position(bound: str | None, size: int) -> int | None:
    if bound is None:
        return None
    return round(int(bound[:-1]) * size / 100) if bound.endswith("%") else int(bound)


def _prepared(name: str, directory: str | os.PathLike[str] | None) -> Path | None:
    """Return the folder in which TFDS has prepared the data set, if it has."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    path = Path(directory or default).expanduser()
    if any((path / name).glob("*/*.array_record*")):
        return path
    if directory:
        raise ValueError(
            f"directory must hold {name} as TFDS prepares it (array_record files). "
            f"Received: directory={str(directory)!r}"
        )
    return None


def _from_tfds(name: str, split: str, directory: Path) -> Source:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"reading {name} from {str(directory)!r} needs TFDS: pip install 'keras-transfer[data]'"
        ) from error
    builder: Any = tfds.data_source(name, split=split, data_dir=directory, download=False)
    return SequenceSource(builder)


def _from_keras(name: str, split: str) -> Source:
    advice = (
        "Check the network, or put that file into the folder datasets/ of Keras' home (~/.keras, or "
        "$KERAS_HOME), or set TFDS_DATA_DIR to a folder where TFDS has prepared the data set."
    )
    with fetching(f"the data set {name}", advice):
        train, test = getattr(keras.datasets, name).load_data()
    return ArraySource(*(train if split == "train" else test))
