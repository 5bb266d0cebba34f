"""Data for training: the `Loader` that owns the order, where its images come from, augmentation."""

from keras_transfer.data.augmentation import Compose as Compose
from keras_transfer.data.color import color_jitter as color_jitter
from keras_transfer.data.color import rand_augment as rand_augment
from keras_transfer.data.color import trivial_augment as trivial_augment
from keras_transfer.data.datasets import load as load
from keras_transfer.data.directory import from_directory as from_directory
from keras_transfer.data.geometry import random_crop as random_crop
from keras_transfer.data.geometry import random_flip as random_flip
from keras_transfer.data.geometry import random_resized_crop as random_resized_crop
from keras_transfer.data.geometry import random_rotation as random_rotation
from keras_transfer.data.loader import Loader as Loader
from keras_transfer.data.mixing import cutmix as cutmix
from keras_transfer.data.mixing import mixup as mixup
from keras_transfer.data.mixing import mixup_or_cutmix as mixup_or_cutmix

__all__ = [
    "Compose",
    "Loader",
    "color_jitter",
    "cutmix",
    "from_directory",
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
