"""A layer of Keras that is stock, but has no public name."""

from typing import Any

import keras
from keras.src.applications.convnext import LayerScale


def layer_scale(channels: int, initial: float = 1.0, **named: Any) -> keras.Layer:
    """Return a layer that multiplies each channel by a number that trains.

    It is what ConvNeXt of `keras.applications` is made of, so that stock Keras opens files with it.
    """
    return LayerScale(initial, channels, **named)
