"""By what rules a file becomes an image: the same in training, predicting and evaluating."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from keras_transfer._lib.checks import checked_integer, is_whole

Colour: TypeAlias = tuple[int, int, int]  # red, green, blue, 0 to 255
Span: TypeAlias = tuple[float, float]  # what becomes 0, and what becomes 255

_NAMES = {"white": (255, 255, 255), "grey": (128, 128, 128), "gray": (128, 128, 128), "black": (0, 0, 0)}
_HEXADECIMAL = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Rules:
    """How image files are read.

    Attributes:
        background: the colour on which transparent images are laid.
        value_range: the values that become 0 and 255 in files of more than 8 bits that don't say so
            themselves; None: 0 and 65,535, of 16 bits.
        max_pixels: how many pixels may be decoded of a file; None: `PIL.Image.MAX_IMAGE_PIXELS`.
    """

    background: Colour = _NAMES["white"]
    value_range: Span | None = None
    max_pixels: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what an image hangs on, so without `max_pixels`, in terms of JSON."""
        span = None if self.value_range is None else list(self.value_range)
        return {"background": list(self.background), "value_range": span}


USUAL = Rules()


def checked_rules(background: Any = "white", value_range: Any = None, max_pixels: Any = None) -> Rules:
    """Return rules, or raise if an argument makes no sense.

    Args:
        background: "white", "grey", "black", "#rrggbb" or three integers from 0 to 255.
        value_range: two numbers, the second greater, or None.
        max_pixels: an integer of at least 1, or None.

    Raises:
        ValueError, TypeError: one is something else.

    Example:
        >>> from keras_transfer.data.images.rules import checked_rules
        >>> checked_rules("#ff8000").background
        (255, 128, 0)
    """
    return Rules(
        _checked_colour(background),
        None if value_range is None else checked_span(value_range),
        None if max_pixels is None else checked_integer("max_pixels", max_pixels, 1),
    )


def _checked_colour(given: Any) -> Colour:
    if isinstance(given, str):
        if given in _NAMES:
            return _NAMES[given]
        if _HEXADECIMAL.fullmatch(given):
            red, green, blue = bytes.fromhex(given[1:])
            return red, green, blue
    elif isinstance(given, Iterable):
        values = tuple(given)
        if len(values) == 3 and all(is_whole(value) and 0 <= value <= 255 for value in values):
            red, green, blue = map(int, values)
            return red, green, blue
    raise ValueError(
        "background must be 'white', 'grey', 'black', '#rrggbb' or (red, green, blue) of integers from "
        f"0 to 255. Received: background={given!r}"
    )


def checked_span(given: Any) -> Span:
    """Return the argument `value_range` as two floats, or raise a `ValueError` if it is no range."""
    values = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else ()
    if len(values) == 2 and all(isinstance(value, (int, float, np.number)) for value in values):
        low, high = map(float, values)
        if math.isfinite(low) and math.isfinite(high) and low < high:
            return low, high
    raise ValueError(
        "value_range must be two finite numbers, what becomes 0 and what becomes 255, such as (0, 4095) "
        f"for 12 bits. Received: value_range={given!r}"
    )


def as_bytes(values: np.ndarray, span: Span) -> np.ndarray:
    """Return numbers of a range as uint8: its ends as 0 and 255, and what is beyond them as its ends.

    Args:
        values: an array of numbers.
        span: the range.

    Raises:
        ValueError: a value is no finite number.
    """
    low, high = span
    scaled = (np.asarray(values, "float32") - np.float32(low)) * np.float32(255.0 / (high - low))
    if not np.isfinite(scaled).all():
        raise ValueError("pixels must be finite numbers")
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype("uint8")
