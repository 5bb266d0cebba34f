"""Keras callbacks."""

from keras_transfer.callbacks.gradual_unfreezing import GradualUnfreezing
from keras_transfer.callbacks.snapshots import SnapshotEnsemble

__all__ = ["GradualUnfreezing", "SnapshotEnsemble"]
