"""Data sets by name: prepared TFDS data where it is found, otherwise a download."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.checks import checked_choice
from keras_transfer._lib.extras import optional
from keras_transfer._lib.network import fetching
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.data.loader import Loader
from keras_transfer.data.sets.flowers import class_names, oxford_flowers102, tf_flowers
from keras_transfer.data.sets.hotdog import hotdog
from keras_transfer.data.sets.splits import chosen_positions, parse_split
from keras_transfer.data.sources import ArraySource, SequenceSource, Source, Subset


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
    TensorFlow). Otherwise the data is fetched once into the folder datasets/ of Keras' home (~/.keras,
    or $KERAS_HOME), checked against its checksum: CIFAR by `keras.datasets`, flowers (229 and 345 MB)
    and hot dogs (not in TFDS) from where their authors publish them. Labels are the same
    both ways, and a part of the flowers is the same images. A part of CIFAR is not: TFDS has it in an
    order of its own.

    | name                | images | classes | splits                                         |
    |---------------------|--------|---------|------------------------------------------------|
    | "cifar10"           | 60,000 | 10      | "train" 50,000, "test" 10,000                  |
    | "cifar100"          | 60,000 | 100     | "train" 50,000, "test" 10,000                  |
    | "hotdog"            | 2,800  | 2       | "train" 2,000, "test" 800                      |
    | "tf_flowers"        | 3,670  | 5       | "train"                                        |
    | "oxford_flowers102" | 8,189  | 102     | "train" 1,020, "validation" 1,020, "test" 6,149 |

    Images of CIFAR have 32 x 32 pixels, and labels of CIFAR-100 are the fine ones. The authors of
    "oxford_flowers102" train on 10 images a class. Some tutorials train on the large split instead:
    load "test" with `shuffle=True` for training, and validate on "validation" or "train+validation".

    Args:
        name: one of the data sets above.
        split: one of the splits above; a part of it as TFDS writes it, "train[:1000]" or
            "train[90%:]"; or a sum, "train+validation" or "train+test[:50%]".
        image_size: height and width in pixels, one number for both; images are cropped around the
            centre to this shape and resized to it by interpolation.
        batch_size: images a batch.
        seed: decides order and augmentation.
        directory: where TFDS keeps its data; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
        augmentation: see `Loader`; for training only.
        shuffle: whether each epoch has an order of its own; by default it has where any of the images
            are of "train".

    Returns:
        A `Loader` with `class_names`.

    Raises:
        ValueError: there is no such data set or split, a part is empty, two parts have common images,
            or a file in Keras' home is not as it was published.
        ConnectionError: the data is not on this machine and could not be fetched.
        ImportError: a library of the extra "data" is missing.

    Example:
        >>> import keras_transfer as kt
        >>> train = kt.data.load("cifar10", "train[:90%]", image_size=48)  # doctest: +SKIP
        >>> train = kt.data.load(  # doctest: +SKIP
        ...     "oxford_flowers102", "test", image_size=224, shuffle=True, augmentation="light"
        ... )

    Source:
        - CIFAR-10 and CIFAR-100: Krizhevsky (2009), "Learning Multiple Layers of Features from Tiny
          Images".
        - hotdog: Zhang et al., "Dive into Deep Learning", section 14.2.
        - tf_flowers: The TensorFlow Team (2019), "Flowers"; photographs under CC BY, with the names of
          the photographers in LICENSE.txt of its folder.
        - oxford_flowers102: Nilsback and Zisserman (2008), "Automated Flower Classification over a
          Large Number of Classes".
    """
    checked_choice("name", name, _DATA_SETS)
    parts = parse_split(split, _DATA_SETS[name].splits, name)
    splits = list(dict.fromkeys(part.split for part in parts))
    prepared = _prepared(name, directory)
    source, sizes = _from_tfds(name, splits, prepared) if prepared else _DATA_SETS[name].fetch(splits)
    positions = chosen_positions(split, parts, sizes)
    whole = np.array_equal(positions, np.arange(len(source)))
    return Loader(
        source if whole else Subset(source, positions),
        batch_size,
        shuffle="train" in splits if shuffle is None else shuffle,
        seed=seed,
        augmentation=augmentation,
        image_size=image_size,
        class_names=class_names(name),
    )


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


def _from_tfds(name: str, splits: Sequence[str], directory: Path) -> tuple[Source, dict[str, int]]:
    tfds = optional("tensorflow_datasets", f"reading {name} from {str(directory)!r} needs TFDS", "data")

    def read(split: str) -> Any:
        return tfds.data_source(name, split=split, data_dir=directory, download=False)

    return SequenceSource(read("+".join(splits))), {split: len(read(split)) for split in splits}


def _from_keras(name: str, splits: Sequence[str]) -> tuple[Source, dict[str, int]]:
    advice = (
        "Check the network, or put that file into the folder datasets/ of Keras' home (~/.keras, or "
        "$KERAS_HOME), or set TFDS_DATA_DIR to a folder where TFDS has prepared the data set."
    )
    with fetching(f"the data set {name}", advice):
        train, test = getattr(keras.datasets, name).load_data()
    arrays = [train if split == "train" else test for split in splits]
    # A whole split is not copied: it has up to 150 MB.
    images, labels = arrays[0] if len(arrays) == 1 else map(np.concatenate, zip(*arrays, strict=True))
    return ArraySource(images, labels), {s: len(y) for s, (_, y) in zip(splits, arrays, strict=True)}


@dataclass(frozen=True)
class _DataSet:
    """What the splits are called, and what reads some of them, one after another, without TFDS."""

    splits: tuple[str, ...]
    fetch: Callable[[Sequence[str]], tuple[Source, dict[str, int]]]


_DATA_SETS = {
    "cifar10": _DataSet(("train", "test"), partial(_from_keras, "cifar10")),
    "cifar100": _DataSet(("train", "test"), partial(_from_keras, "cifar100")),
    "hotdog": _DataSet(("train", "test"), hotdog),
    "tf_flowers": _DataSet(("train",), tf_flowers),
    "oxford_flowers102": _DataSet(("train", "validation", "test"), oxford_flowers102),
}
