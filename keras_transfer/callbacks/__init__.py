"""Keras callbacks: learning rates that change with every step."""

from keras_transfer.callbacks.learning_rates import CyclicLR, OneCycleLR, WarmRestartsLR

__all__ = ["CyclicLR", "OneCycleLR", "WarmRestartsLR"]
