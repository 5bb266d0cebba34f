"""Keras callbacks."""

from keras_transfer.callbacks.gradual_unfreezing import GradualUnfreezing

__all__ = ["GradualUnfreezing"]
