"""JPEGs: what their header says, and their pixels, with an error wherever the decoder warns.

libjpeg-turbo only warns of what is damaged, and goes on with grey. Pillow passes over its warnings, and
OpenCV prints them without the name of the file; simplejpeg raises. All three give the same pixels.
"""

import re
from functools import partial
from typing import NamedTuple

import numpy as np

try:
    import simplejpeg
except ImportError as error:  # pragma: no cover - the solo test runs this
    raise ImportError("reading JPEGs needs simplejpeg: pip install 'keras-transfer[data]'") from error

START = b"\xff\xd8"  # of a file
DIVISORS = (1, 2, 4, 8)  # how many times smaller one can be decoded

# Markers of frames, of which the first kind is decoded row by row, where one scan has all colours.
_SEQUENTIAL = frozenset((0xC0, 0xC1, 0xC9))
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ARITHMETIC = frozenset((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))
_MOST_PIXELS = 512  # a byte: Huffman's code has a bit or more for each block of 8 x 8
_SCAN, _METADATA, _FILL = 0xDA, 0xE1, 0xFF
# The first warning of a file, if it comes with the marker of its end.
_BEHIND_THE_LAST = re.compile("extraneous bytes before marker 0xd9")


class Header(NamedTuple):
    """What the header of a JPEG says.

    Attributes:
        height: in pixels.
        width: in pixels.
        colours: how many there are.
        in_rows: whether it is decoded row by row; otherwise all of it must be in memory, whatever size
            it is decoded at.
        metadata: whether there is EXIF or XMP, which may tell that it is to be turned.
    """

    height: int
    width: int
    colours: int
    in_rows: bool
    metadata: bool


def header(content: bytes) -> Header:
    """Return what the header of a JPEG says.

    Raises:
        ValueError: it is damaged, or of a kind that decoders don't know.
    """
    place, frame, metadata = len(START), None, False
    while content[place : place + 1] == b"\xff":
        marker, length = content[place + 1 : place + 2], content[place + 2 : place + 4]
        if len(length) < 2:
            break
        kind = marker[0]
        if kind == _FILL:
            place += 1
            continue
        if kind in _FRAMES:
            frame = kind, content[place + 4 : place + 10]
        elif kind == _METADATA:
            metadata = True
        elif kind == _SCAN:
            return _header(frame, content[place + 4 : place + 5], metadata, len(content))
        place += 2 + int.from_bytes(length)
    raise ValueError("a JPEG whose header is damaged")


def _header(
    frame: tuple[int, bytes] | None, colours_of_scan: bytes, metadata: bool, size: int
) -> Header:
    kind, said = frame or (0, b"")
    height, width, colours = int.from_bytes(said[1:3]), int.from_bytes(said[3:5]), said[5:6]
    if not (height and width and colours in (b"\1", b"\3", b"\4")):
        raise ValueError("a JPEG whose header is damaged, or of an unknown kind")
    if kind not in _ARITHMETIC and height * width > _MOST_PIXELS * size:
        raise ValueError(f"{width} x {height} pixels, which can't stand in {size} bytes")
    in_rows = kind in _SEQUENTIAL and colours_of_scan == colours
    return Header(height, width, colours[0], in_rows, metadata)


def decode(content: bytes, about: Header, divisor: int) -> tuple[np.ndarray, str | None]:
    """Return the pixels of a JPEG, and what the decoder warns of without having lost any.

    Args:
        content: of the file.
        about: what its header says.
        divisor: how many times smaller it is decoded, one of `DIVISORS`.

    Returns:
        An array of uint8 of shape (height, width, 3), of RGB, or with 4 channels of CMYK; and a warning
        or None. Some cameras leave bytes behind the last pixel.

    Raises:
        ValueError: something is wrong with it, as the decoder says.
    """
    decoded = partial(
        simplejpeg.decode_jpeg,
        content,
        "CMYK" if about.colours == 4 else "RGB",
        min_height=-(-about.height // divisor),
        min_width=-(-about.width // divisor),
    )
    try:
        return decoded(strict=True), None
    except ValueError as error:
        if not _BEHIND_THE_LAST.search(str(error)):
            raise
        return decoded(strict=False), str(error)
