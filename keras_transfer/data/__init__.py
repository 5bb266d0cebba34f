"""Data for training: the `Loader` that owns the order, where its images come from, augmentation."""

from keras_transfer.data.directory import from_directory
from keras_transfer.data.huggingface import from_huggingface
from keras_transfer.data.images.augmentation import Compose
from keras_transfer.data.images.color import color_jitter, rand_augment, trivial_augment
from keras_transfer.data.images.geometry import (
    random_crop,
    random_flip,
    random_resized_crop,
    random_rotation,
)
from keras_transfer.data.images.mixing import cutmix, mixup, mixup_or_cutmix
from keras_transfer.data.loader import Loader
from keras_transfer.data.sets.datasets import load
from keras_transfer.data.table import from_table
from keras_transfer.data.webdataset import from_webdataset

__all__ = [
    "Compose",
    "Loader",
    "color_jitter",
    "cutmix",
    "from_directory",
    "from_huggingface",
    "from_table",
    "from_webdataset",
    "load",
    "mixup",
    "mixup_or_cutmix",
    "rand_augment",
    "random_crop",
    "random_flip",
    "random_resized_crop",
    "random_rotation",
    "trivial_augment",
]
