"""Callbacks for Keras' `fit`."""

from keras_transfer.callbacks.lr_finder import LRFinder

__all__ = ["LRFinder"]
