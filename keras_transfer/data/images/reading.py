"""Reading, cropping and resizing single images."""

import contextlib
import io
import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias

import numpy as np

from keras_transfer._lib.attributes import warnings_heard
from keras_transfer._lib.printed import printed_heard
from keras_transfer.data.images.kinds import identified
from keras_transfer.data.images.rules import USUAL, Rules
from keras_transfer.data.images.stored import ImageFile, Stored
from keras_transfer.data.types import Crop, Size

try:
    from PIL import Image, JpegImagePlugin, UnidentifiedImageError

    from keras_transfer.data.images.pixels import as_rgb, from_sixteen, is_sixteen, stored_as
except ImportError as error:  # pragma: no cover - the solo test runs this
    raise ImportError(
        "reading and resizing images needs Pillow: pip install 'keras-transfer[data]'"
    ) from error

_WRONG = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)
_ORIENTATION = 0x0112  # of EXIF, and what its values say of the rows and columns in the file
_ROWS_REVERSED, _COLUMNS_REVERSED, _ON_ITS_SIDE = (3, 4, 6, 7), (2, 3, 7, 8), (5, 6, 7, 8)
_SPARE = 2  # a JPEG is decoded at no less than this many times the size that is wanted
# How lines begin that libtiff prints, which knows the file by another name.
_LIBTIFF = (
    r"(_?TIFF\w*|\w+(Decode|Encode|Setup|SetField)\w*|\w*JPEG\w*|Fax3\w*|LogL\w*|Thunder\w*|\w*(fp|[hH]or)Acc\w*|"
    r"MissingRequired|EstimateStripByteCounts|ChopUp\w*|allocChopped\w*|setExtraSamples|tempfile\.tif): "
)
_LARGEST = 512 << 20  # bytes of a JPEG, which is read as a whole

_Part = tuple[float, float, float, float]  # top, left, height, width
Pixels: TypeAlias = Image.Image | np.ndarray  # of RGB


def read_image(
    path: ImageFile, size: Size, crop: Crop | None = None, rules: Rules = USUAL
) -> np.ndarray:
    """Read an image file as RGB, upright, and resize a part of it to `size` as `resize_image` does.

    What is transparent is laid on a background. Of 16 bits the upper eight are kept, unless the rules or
    the file tell the range. A JPEG that is far larger than `size` is decoded at a half, a quarter or an
    eighth of its size, which takes a fraction of the time.

    Args:
        path: an image file: JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF, JPEG 2000, PNM, TGA, or, where
            pillow-heif is installed, HEIC.
        size: (height, width) in pixels.
        crop: gives the part, as (top, left, height, width), of an image of (height, width) pixels;
            None: as much of it around the centre as has the shape of `size`.
        rules: how it is read.

    Returns:
        A uint8 array of shape (height, width, 3).

    Raises:
        ValueError: the file is damaged, no image, or more pixels of it would have to be decoded than
            the rules allow; the message names it. Or `crop` gives what is no part of the image.
    """
    with contextlib.ExitStack() as stack:
        with naming(path):
            image = stack.enter_context(opened(path, rules))
        # Not within `naming`: what is wrong with a crop is no fault of the file.
        part = None if crop is None else _part(*image.upright, size, crop)
        with naming(path):
            return small(image, size, part)


class Opened(NamedTuple):
    """An image file whose size and orientation are known.

    Attributes:
        height: in pixels, as the file has it.
        width: in pixels, as the file has it.
        orientation: the value of EXIF, or None.
        decode: gives RGB pixels that are up to so many times smaller, and their scale.
        unstated: whether it has values of 16 bits whose range nobody tells.
        warnings: what the decoder has warned of so far.
    """

    height: int
    width: int
    orientation: int | None
    decode: Callable[[float], tuple[Pixels, float]]
    unstated: bool = False
    warnings: Sequence[str] = ()

    @property
    def upright(self) -> Size:
        """Height and width as it is looked at."""
        on_its_side = self.orientation in _ON_ITS_SIDE
        return (self.width, self.height) if on_its_side else (self.height, self.width)


@contextlib.contextmanager
def opened(path: ImageFile, rules: Rules) -> Iterator[Opened]:
    """Open an image file; all but a JPEG is decoded.

    Raises:
        ValueError, OSError, SyntaxError: it can't be read; the message doesn't name it.
    """
    from keras_transfer.data.images import jpeg

    with _file(path) as (file, size):
        if file.read(len(jpeg.START)) == jpeg.START:
            if size > _LARGEST:  # it may be meant to fill the memory
                raise ValueError(f"a JPEG of more than {_LARGEST >> 20} MB")
            file.seek(0)
            image = _opened_jpeg(file.read(), rules)
        else:
            with warnings_heard("PIL") as heard:
                image = _opened_other(identified(file, str(path)), file, rules)
            image = image._replace(warnings=heard)
        yield image


@contextlib.contextmanager
def _file(path: ImageFile) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file, and tell its size in bytes."""
    if isinstance(path, Stored):
        found = path.read()
        yield io.BytesIO(found), len(found)
        return
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):  # a pipe would wait
        raise OSError("neither a file nor a folder")
    with Path(path).open("rb") as file:
        yield file, about.st_size


def small(image: Opened, size: Size, part: _Part | None = None) -> np.ndarray:
    """Return a part of an open image, upright, in another size.

    Args:
        image: the image.
        size: (height, width) in pixels.
        part: of the upright image; None: as much around its centre as has the shape of `size`.

    Returns:
        A uint8 array of shape (height, width, 3).

    Raises:
        ValueError, OSError, SyntaxError: it can't be decoded; the message doesn't name it.
    """
    top, left, rows, columns = _part(*image.upright, size, None) if part is None else part
    # The same part as the file has it, so that no more than the small image is turned.
    on_its_side = image.orientation in _ON_ITS_SIDE
    if on_its_side:
        top, left, rows, columns, size = left, top, columns, rows, (size[1], size[0])
    if image.orientation in _ROWS_REVERSED:
        top = image.height - top - rows
    if image.orientation in _COLUMNS_REVERSED:
        left = image.width - left - columns
    decoded, scale = image.decode(min(rows / size[0], columns / size[1]) / _SPARE)
    scaled = scale * top, scale * left, scale * rows, scale * columns
    pixels = _resized(decoded, size, scaled, exactly=part is None)
    if image.orientation in _ROWS_REVERSED:
        pixels = pixels[::-1]
    if image.orientation in _COLUMNS_REVERSED:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels.transpose(1, 0, 2) if on_its_side else pixels)


@contextlib.contextmanager
def naming(path: ImageFile) -> Iterator[None]:
    """Name the file in what decoders raise."""
    try:
        yield
    except _WRONG as error:
        raise ValueError(
            f"can't read the image {str(path)!r} ({reason(error)}); mend or remove the file. "
            f"Received: {str(path)!r}"
        ) from error


def reason(error: BaseException) -> str:
    """Return what an error says but for the name of the file."""
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def resize_image(image: np.ndarray, size: Size, crop: Crop | None = None) -> np.ndarray:
    """Resize a part of an image by interpolation.

    Bilinear, and averaged over the pixels that are lost where the image becomes smaller. Pillow does
    it, but for a `crop`, one of many in training, that becomes no smaller than half: OpenCV takes a
    third of the time for it and gives nearly the same.

    Args:
        image: an image of shape (height, width, channels), of integers or floating point.
        size: (height, width) in pixels.
        crop: as in `read_image`.

    Returns:
        An image of shape (*size, channels) of the same dtype.

    Raises:
        ValueError: `crop` gives what is no part of the image.
    """
    height, width = image.shape[:2]
    if crop is None and (height, width) == size:
        return image
    part, exactly = _part(height, width, size, crop), crop is None
    if image.dtype == np.uint8 and image.shape[2] == 3:  # of 4, Pillow weights three by the last
        return _resized(image, size, part, exactly)
    # Of other types Pillow interpolates float32 only, or not at all.
    channels = np.moveaxis(image if image.dtype == np.uint8 else image.astype("float32"), -1, 0)
    resized = np.stack([_resized(channel, size, part, exactly) for channel in channels], axis=-1)
    return (np.rint(resized) if image.dtype.kind in "iu" else resized).astype(image.dtype)


def _opened_jpeg(content: bytes, rules: Rules) -> Opened:
    """Return a JPEG that is in memory."""
    from keras_transfer.data.images import jpeg

    header = jpeg.header(content)
    least = _least_divisor(header.height * header.width, header.in_rows, rules)
    orientation: int | None = None
    heard: list[str] = []
    if header.metadata:
        with warnings_heard("PIL") as heard:
            orientation = JpegImagePlugin.JpegImageFile(io.BytesIO(content)).getexif().get(_ORIENTATION)

    def decode(factor: float) -> tuple[Pixels, float]:
        divisor = max(least, _divisor(factor))
        pixels, warning = jpeg.decode(content, header, divisor)
        heard.extend([warning] if warning else [])
        if header.colours == 4:  # as programs of Adobe write it: 255 is no ink
            return Image.fromarray(255 - pixels, "CMYK").convert("RGB"), 1.0 / divisor
        return pixels, 1.0 / divisor

    return Opened(header.height, header.width, orientation, decode, warnings=heard)


def _opened_other(image: Image.Image, file: IO[bytes], rules: Rules) -> Opened:
    """Return an image that Pillow has identified, decoded."""
    _least_divisor(image.height * image.width, False, rules)
    stored = stored_as(image)
    if stored.sixteen and rules.value_range is not None:
        from keras_transfer.data.images.transforms import decode_sixteen

        orientation = image.getexif().get(_ORIENTATION)
        _load(image)  # to see whether it is whole
        file.seek(0)
        rgb = from_sixteen(decode_sixteen(file.read()), rules)
    else:
        _load(image)  # a TIFF is turned upright by this
        orientation = image.getexif().get(_ORIENTATION)
        rgb = as_rgb(image, stored, rules)
    unstated = stored.sixteen or (is_sixteen(image) and stored.span is None)
    unstated = unstated and rules.value_range is None
    return Opened(rgb.height, rgb.width, orientation, lambda factor: (rgb, 1.0), unstated)


def _load(image: Image.Image) -> None:
    """Decode an image, with libtiff's own words where something is wrong that it would print."""
    if not any(tile[0] == "libtiff" for tile in image.tile):
        image.load()
        return
    try:
        with printed_heard(_LIBTIFF) as heard:
            image.load()
    except OSError as error:
        raise OSError("; ".join(heard) or str(error)) from error
    if heard:
        raise OSError("; ".join(heard))


def _divisor(factor: float) -> int:
    """Return how many times smaller a JPEG is decoded that may be up to `factor` times smaller."""
    return next((divisor for divisor in (8, 4, 2) if divisor <= factor), 1)


def _least_divisor(pixels: int, in_rows: bool, rules: Rules) -> int:
    """Return how many times smaller an image must be decoded, or raise if it can't be small enough."""
    limit = rules.max_pixels or Image.MAX_IMAGE_PIXELS or math.inf
    for divisor in (1, 2, 4, 8) if in_rows else (1,):
        if pixels <= limit * divisor**2:
            return divisor
    raise ValueError(
        f"{pixels:,} pixels, and more than {limit:,} may be meant to fill the memory; make it smaller, "
        "or allow them with max_pixels"
    )


def _part(height: int, width: int, size: Size, crop: Crop | None) -> _Part:
    """Return the part of an image that `crop` gives, or as much around its centre as has this shape."""
    if crop is None:
        scale = min(height / size[0], width / size[1])
        rows, columns = min(scale * size[0], height), min(scale * size[1], width)
        return (height - rows) / 2, (width - columns) / 2, rows, columns
    part = top, left, rows, columns = crop(height, width)
    inside = top >= 0 and left >= 0 and top + rows <= height and left + columns <= width
    if not (inside and rows > 0 and columns > 0):
        raise ValueError(
            f"crop must give a part (top, left, height, width) of an image of {height} rows and {width} "
            f"columns. Received: {part}"
        )
    return part


def _resized(image: Image.Image | np.ndarray, size: Size, part: _Part, exactly: bool) -> np.ndarray:
    """Return a part of an image in another size."""
    top, left, height, width = part
    if exactly or max(height / size[0], width / size[1]) > 2:
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        box = (left, top, min(left + width, image.width), min(top + height, image.height))
        return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))
    from keras_transfer.data.images.transforms import resize

    top, left, height, width = map(round, part)
    return resize(np.asarray(image)[top : top + height, left : left + width], size)
