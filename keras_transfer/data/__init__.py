"""Data for training: the `Loader` that owns the order, and where its images come from."""

from keras_transfer.data.augmentation import random_crop as random_crop
from keras_transfer.data.augmentation import random_flip as random_flip
from keras_transfer.data.datasets import load as load
from keras_transfer.data.directory import from_directory as from_directory
from keras_transfer.data.loader import Loader as Loader

__all__ = ["Loader", "from_directory", "load", "random_crop", "random_flip"]
