"""Callbacks for Keras' `fit`."""

from keras_transfer.callbacks.gradual_unfreezing import GradualUnfreezing
from keras_transfer.callbacks.learning_rates import CyclicLR, OneCycleLR, WarmRestartsLR
from keras_transfer.callbacks.lr_finder import LRFinder
from keras_transfer.callbacks.snapshots import SnapshotEnsemble

__all__ = [
    "CyclicLR",
    "GradualUnfreezing",
    "LRFinder",
    "OneCycleLR",
    "SnapshotEnsemble",
    "WarmRestartsLR",
]
