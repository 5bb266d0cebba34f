"""What the modes of Pillow come to as red, green and blue of 8 bits each."""

from typing import Any, NamedTuple

import numpy as np
from PIL import Image  # reading.py says what to install where there is none

from keras_transfer.data.images.rules import Rules, Span, as_bytes

_FULL = (0.0, 65535.0)
_BITS_PER_SAMPLE = 0x0102  # of TIFF
# What Pillow multiplies grey of fewer bits by, but not the value that stands for transparency.
_FACTORS = {"L;2": 85, "L;4": 17}


class Stored(NamedTuple):
    """What a file says of its values, as far as Pillow forgets it when it decodes them.

    Attributes:
        raw: Pillow's name for how they stand in the file.
        span: their range, where the file states one that isn't all that its bits can be.
        sixteen: whether they are colours of 16 bits each, of which Pillow keeps the upper eight.
    """

    raw: str
    span: Span | None
    sixteen: bool


def stored_as(image: Image.Image) -> Stored:
    """Return what a file says of its values, before it is decoded."""
    raw, most = _raw(image)
    if image.format == "PPM":  # Pillow stretches values up to `most` to 8 or, if grey, 16 bits
        deep = image.mode == "RGB" and most == 65535
        return Stored(raw, _FULL if image.mode == "I" and most < 65535 else None, deep)
    if image.format == "TIFF":
        bits = tuple(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
        span = (0.0, 2.0 ** bits[0] - 1) if len(bits) == 1 and 8 < bits[0] < 16 else None
        return Stored(raw, span, len(bits) > 1 and set(bits) == {16})
    return Stored(raw, None, raw in ("RGB;16B", "RGBA;16B", "LA;16B"))


def _raw(image: Image.Image) -> tuple[str, int]:
    """Return how values stand in a file, and the greatest that the header of a PPM allows."""
    tiles: Any = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    if not isinstance(arguments, tuple):
        return str(arguments), 65535 if arguments == "I;16B" else 255
    most = arguments[1] if len(arguments) == 2 and isinstance(arguments[1], int) else 255
    return str(arguments[0]) if arguments else "", most


def is_sixteen(image: Image.Image) -> bool:
    """Whether an image is grey of 16 bits."""
    return image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I")


def as_rgb(image: Image.Image, stored: Stored, rules: Rules) -> Image.Image:
    """Return a decoded image as RGB: transparency laid on the background, values brought to 8 bits.

    Args:
        image: the image.
        stored: what its file says of its values.
        rules: by which it is read.

    Raises:
        ValueError: its values have no known range, or aren't finite.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image, stored, rules)
    if not image.has_transparency_data:
        # To convert what is RGB would be to copy it.
        return image if image.mode == "RGB" else image.convert("RGB")
    key = image.info.get("transparency")
    if isinstance(key, int) and image.mode == "L":
        image.info["transparency"] = key * _FACTORS.get(stored.raw, 1)
    elif isinstance(key, tuple) and stored.sixteen:
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.mode == "La":
        image = image.convert("LA")
    return on_ground(image.convert("RGBA"), rules)


def on_ground(image: Image.Image, rules: Rules) -> Image.Image:
    """Return an RGBA image laid on the background."""
    ground = Image.new("RGB", image.size, rules.background)
    ground.paste(image, (0, 0), image)
    return ground


def from_sixteen(values: np.ndarray, rules: Rules) -> Image.Image:
    """Return colours of 16 bits, of shape (height, width, 3 or 4), as RGB by the range of the rules."""
    colours = as_bytes(values[..., :3], rules.value_range or _FULL)
    if values.shape[2] == 3:
        return Image.fromarray(colours)
    alpha = as_bytes(values[..., 3:], _FULL)
    return on_ground(Image.fromarray(np.concatenate([colours, alpha], axis=-1)), rules)


def _from_deep(image: Image.Image, stored: Stored, rules: Rules) -> Image.Image:
    """Return grey of more than 8 bits as RGB."""
    values, sixteen = np.asarray(image), is_sixteen(image)
    span = stored.span or rules.value_range or (_FULL if sixteen else None)
    if span is None:
        raise ValueError(
            f"pixels of mode {image.mode!r} have no known range; value_range=(low, high) tells it"
        )
    if span == _FULL and sixteen:
        grey = (values >> 8).astype("uint8")  # Pillow would clip at 255
    else:
        grey = as_bytes(values, span)
    pixels = np.repeat(grey[..., None], 3, axis=2)
    key = image.info.get("transparency")
    if isinstance(key, int):
        pixels[values == key] = rules.background
    return Image.fromarray(pixels)
