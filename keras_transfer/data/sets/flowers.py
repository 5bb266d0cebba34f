"""The two data sets of flowers as their authors publish them, in the order that TFDS gives them."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_transfer._lib.extras import optional
from keras_transfer._lib.keras_private.process import home
from keras_transfer.data.sets.archives import Download, ImageArchive, fetch, unpack
from keras_transfer.data.sources import FileSource

_PHOTOS = ImageArchive(
    url="https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz",
    checksum="4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c",
    root="flower_photos",
    image=re.compile(r"(?:dandelion|daisy|tulips|sunflowers|roses)/[^/\\:]+\.jpg"),
    num_images=3_670,
    notices=("LICENSE.txt",),  # names the photographers, as CC BY asks for
)
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
_IMAGES = ImageArchive(
    url=f"{_OXFORD}/102flowers.tgz",
    checksum="2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
    root="jpg",
    image=re.compile(r"image_[0-9]{5}\.jpg"),
    num_images=8_189,
)
_LABELS = Download(
    url=f"{_OXFORD}/imagelabels.mat",
    checksum="4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
)
_SPLITS = Download(
    url=f"{_OXFORD}/setid.mat",
    checksum="46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
)
_SPLIT_NAMES = {"train": "trnid", "validation": "valid", "test": "tstid"}


def tf_flowers(splits: Sequence[str]) -> tuple[FileSource, dict[str, int]]:
    """Return the photographs of flowers of the TensorFlow tutorials, and how many are in "train".

    Raises:
        ValueError, ConnectionError: as `unpack`.

    Source:
        The TensorFlow Team (2019), "Flowers"; https://www.tensorflow.org/tutorials/load_data/images
    """
    folder, classes = data_set_folder("tf_flowers"), class_names("tf_flowers")
    names = unpack(_PHOTOS, folder)
    labels = {name: classes.index(name.partition("/")[0]) for name in names}
    return in_tfds_order(folder / _PHOTOS.root, labels, dict.fromkeys(splits, names))


def oxford_flowers102(splits: Sequence[str]) -> tuple[FileSource, dict[str, int]]:
    """Return the images of 102 kinds of flowers that are common in the United Kingdom.

    Args:
        splits: some of "train", "validation" and "test", the authors' own.

    Returns:
        The images, one split after another, and how many each has.

    Raises:
        ValueError, ConnectionError: as `fetch` and `unpack`.
        ImportError: scipy, which reads the labels, is not installed.

    Source:
        Nilsback and Zisserman (2008), "Automated Flower Classification over a Large Number of
        Classes"; https://www.robots.ox.ac.uk/~vgg/data/flowers/102/
    """
    # Before anything large is fetched.
    loadmat = optional("scipy.io", "reading the labels of oxford_flowers102 needs scipy", "data").loadmat
    folder = data_set_folder("oxford_flowers102")
    kinds = loadmat(fetch(_LABELS, folder))["labels"][0].astype("int32") - 1  # Matlab counts from 1
    numbers = loadmat(fetch(_SPLITS, folder))
    unpack(_IMAGES, folder)
    labels = {_image_name(number): kind for number, kind in enumerate(kinds, start=1)}
    members = {split: map(_image_name, numbers[_SPLIT_NAMES[split]][0]) for split in splits}
    return in_tfds_order(folder / _IMAGES.root, labels, members)


def data_set_folder(data_set: str) -> Path:
    """Return the folder that the files of a data set are fetched into."""
    return home() / "datasets" / data_set


def _image_name(number: int) -> str:
    return f"image_{number:05d}.jpg"


def in_tfds_order(
    root: Path, labels: Mapping[str, int], members: Mapping[str, Iterable[str]]
) -> tuple[FileSource, dict[str, int]]:
    """Return the images of some splits, and how many each has.

    By name the images come class after class, and half a split would be half the classes. TFDS sorts
    the samples of a split by a digest of their names; in that order a part is the same images as there.
    """
    ordered = {split: sorted(names, key=_digest(split)) for split, names in members.items()}
    names = [name for of_split in ordered.values() for name in of_split]
    numbers = np.array([labels[name] for name in names], "int32")
    source = FileSource([root / name for name in names], numbers)
    return source, {split: len(of_split) for split, of_split in ordered.items()}


def _digest(split: str) -> Callable[[str], bytes]:
    return lambda name: hashlib.md5(f"{split}{name}".encode(), usedforsecurity=False).digest()


_NAMES = Path(__file__).with_name("class_names.json")


def class_names(data_set: str) -> list[str]:
    """Return the classes of a data set in the order of their labels, which is that of TFDS."""
    return json.loads(_NAMES.read_text(encoding="utf-8"))[data_set]
