"""Optimizers with a learning rate for every layer, and what they know when other layers train."""

from keras_transfer.optimizers.decay import decay_kernels
from keras_transfer.optimizers.layerwise_lr import LayerwiseLR

__all__ = ["LayerwiseLR", "decay_kernels"]
