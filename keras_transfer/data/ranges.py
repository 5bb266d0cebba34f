"""Whether images have the values that a model takes."""

import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_transfer.layers.input_range import BYTES, UNIT, input_range

_log = logging.getLogger(__name__)

_FEW = 16.0  # images of which no value is beyond this, on either side of 0, aren't of 0 to 255
_SLACK = 128.0  # how far interpolation or augmentation may go beyond 0 and 255
_BITS = (8, 10, 12, 14, 16)


def check_range(
    images: Any, model: keras.Model, argument: str, first_time: Callable[[str], bool] = lambda key: True
) -> None:
    """Warn of images whose values are not of the range that a model takes, where it tells that.

    Args:
        images: a batch of them.
        model: the model.
        argument: what they are called in messages.
        first_time: whether a warning of this kind is to be told; it is called where there is one.

    Raises:
        ValueError: they are integers beyond 255, and the model takes 0 to 255: that can't be meant.
    """
    taken = input_range(model)
    if taken is None:
        return
    values = np.asarray(keras.ops.convert_to_numpy(images))
    if not values.size or values.dtype.kind not in "biuf":
        return
    low, high = float(values.min()), float(values.max())
    beyond = taken == BYTES and values.dtype.kind in "iu" and high > BYTES[1]
    if not (beyond or (_odd(low, high) if taken == BYTES else high > _FEW or low < -_FEW)):
        return
    black, white = _guess(low, high)
    told = (
        f"{argument} has values from {low:g} to {high:g}, and model {model.name!r} takes "
        f"{taken[0]:g} to {taken[1]:g}, as its first layers tell: "
    )
    mapped = f"kt.Loader(..., value_range=({black:g}, {white:g}))"
    if beyond:
        raise ValueError(
            f"{told}give it images of 0 to 255, which {mapped} makes of them. "
            f"Received: {argument} of dtype {values.dtype}"
        )
    if not first_time("range"):
        return
    remedy = f"{mapped} makes 0 to 255 of them" if taken == BYTES else "divide them by 255"
    _log.warning("%s%s; value_range='as is' says that they are meant to be so", told, remedy)


def _odd(low: float, high: float) -> bool:
    """Whether values from `low` to `high` are hardly those of images of 0 to 255."""
    if low == high:
        return False
    small = high <= 1.0 or (low < 0.0 and high <= _FEW and low >= -_FEW)
    return small or low < -_SLACK / 2 or high > BYTES[1] + _SLACK


def _guess(low: float, high: float) -> tuple[float, float]:
    """Return the black and white of which such values may be."""
    if low >= 0.0:
        if high <= 1.0:
            return UNIT
        return 0.0, float(next((2**bits - 1 for bits in _BITS if high < 2**bits), high))
    return (-1.0, 1.0) if max(-low, high) <= 1.0 else (low, high)
