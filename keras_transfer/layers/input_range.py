"""What range of values a model takes, as far as its first layers tell."""

from typing import Any

import keras
import numpy as np

from keras_transfer.layers.graph import has_graph, walk

BYTES, UNIT = (0.0, 255.0), (0.0, 1.0)  # black and white

# What an image is to the first layer with weights: about as wide as a few standard deviations. So a
# factor tells what range it is meant for.
_NARROWEST, _WIDEST = 0.5, 16.0
_CENTRE = 16.0  # of what is only shifted: more than that is a mean of 0 to 255


def input_range(model: keras.Model) -> tuple[float, float] | None:
    """Return the values of black and white that a model takes, or None where it doesn't tell.

    It does by a `Rescaling` or `Normalization` before the first layer with weights, as those have that
    `keras_transfer.classifier` makes, and many of `keras.applications`.

    Args:
        model: any model.

    Returns:
        (0.0, 255.0), (0.0, 1.0) or None.

    Example:
        >>> import keras
        >>> from keras_transfer.layers.input_range import input_range
        >>> image, ends = keras.Input((4, 4, 3)), [keras.layers.Flatten(), keras.layers.Dense(2)]
        >>> input_range(keras.Sequential([image, keras.layers.Rescaling(1 / 255), *ends]))
        (0.0, 255.0)
        >>> input_range(keras.Sequential([image, *ends])) is None
        True
    """
    if not has_graph(model) or len(model.inputs) != 1:
        return None
    for call in walk(model):
        layer = call.operation
        if isinstance(layer, keras.layers.Rescaling):
            return _taken(layer.scale, layer.offset)
        if isinstance(layer, keras.layers.Normalization):
            return _normalized(layer)
        if getattr(layer, "weights", None):
            return None
    return None


def _normalized(layer: keras.layers.Normalization) -> tuple[float, float] | None:
    """Return the range that a `Normalization` with a mean and a variance takes."""
    if layer.invert or layer.mean is None or layer.variance is None:
        return None
    mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(v), float) for v in (layer.mean, layer.variance)
    )
    if not (variance > 0).all():
        return None
    return _taken(variance**-0.5, mean * variance**-0.5)


def _taken(scale: Any, offset: Any) -> tuple[float, float] | None:
    """Return the range that a factor and what is added then are for, or None."""
    factor, shift = (float(np.abs(np.asarray(value, float)).mean()) for value in (scale, offset))
    if factor == 0.0 or not np.isfinite([factor, shift]).all():
        return None
    if factor == 1.0:
        return BYTES if shift > _CENTRE else None
    if _NARROWEST <= factor * BYTES[1] <= _WIDEST:
        return BYTES
    # To 0 ... 255, or to what has the mean 0 and the deviation 1.
    if abs(factor - BYTES[1]) < 1.0 or 1.0 < factor <= _WIDEST:
        return UNIT
    return None
