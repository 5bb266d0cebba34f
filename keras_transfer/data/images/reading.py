"""Reading, cropping and resizing single images."""

import contextlib
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_transfer.data.images.kinds import open_image
from keras_transfer.data.types import Crop, Size

try:
    from PIL import Image, UnidentifiedImageError
except ImportError as error:  # pragma: no cover - the solo test runs this
    raise ImportError(
        "reading and resizing images needs Pillow: pip install 'keras-transfer[data]'"
    ) from error

_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_WRONG = (OSError, SyntaxError, ValueError, *_BOMB)
_ORIENTATION = 0x0112  # of EXIF, and what its values say of the rows and columns in the file
_ROWS_REVERSED, _COLUMNS_REVERSED, _ON_ITS_SIDE = (3, 4, 6, 7), (2, 3, 7, 8), (5, 6, 7, 8)
_DRAFTED = ("JPEG", "MPO")  # formats that can be decoded smaller
_SPARE = 2  # they are at no less than this many times the size that is wanted

_JPEG = b"\xff\xd8"  # at the start of a file
_LARGEST = 64 << 20  # bytes of a file that is read as a whole

_Part = tuple[float, float, float, float]  # top, left, height, width


def read_image(path: str | os.PathLike[str], size: Size, crop: Crop | None = None) -> np.ndarray:
    """Read an image file as RGB, upright, and resize a part of it to `size` as `resize_image` does.

    Transparency is dropped, and of 16 bits the upper eight are kept. A JPEG that is far larger than
    `size` is decoded at a half, a quarter or an eighth of its size, which takes a fraction of the time.

    Args:
        path: an image file: JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF, JPEG 2000, PNM, TGA, or, where
            pillow-heif is installed, HEIC.
        size: (height, width) in pixels.
        crop: gives the part, as (top, left, height, width), of an image of (height, width) pixels;
            None: as much of it around the centre as has the shape of `size`.

    Returns:
        A uint8 array of shape (height, width, 3).

    Raises:
        ValueError: the file is damaged, no image, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`;
            the message names it. Or `crop` gives what is no part of the image.
    """
    with _naming(path):
        content = _content(path)
        decoded = _decoded(content, size)
    if decoded is not None:
        height, width = decoded.shape[:2]
        part = _part(height, width, size, crop)
        return _resized(decoded, size, part, exactly=crop is None)
    with contextlib.ExitStack() as stack:
        with _naming(path):
            image = stack.enter_context(_opened(path))
            orientation = image.getexif().get(_ORIENTATION)
        on_its_side = orientation in _ON_ITS_SIDE
        height, width = (image.width, image.height) if on_its_side else (image.height, image.width)
        top, left, rows, columns = _part(height, width, size, crop)
        # The same part as the file has it, so that no more than the small image is turned.
        if on_its_side:
            top, left, rows, columns, size = left, top, columns, rows, (size[1], size[0])
        if orientation in _ROWS_REVERSED:
            top = image.height - top - rows
        if orientation in _COLUMNS_REVERSED:
            left = image.width - left - columns
        with _naming(path):
            scale = _decode_smaller(image, min(rows / size[0], columns / size[1]) / _SPARE)
            part = scale * top, scale * left, scale * rows, scale * columns
            pixels = _resized(_as_rgb(image), size, part, exactly=crop is None)
    if orientation in _ROWS_REVERSED:
        pixels = pixels[::-1]
    if orientation in _COLUMNS_REVERSED:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels.transpose(1, 0, 2) if on_its_side else pixels)


def damage(path: str | os.PathLike[str]) -> str | None:
    """Return what is wrong with an image file, or None if `read_image` will read it.

    All of the file is decoded, a JPEG to a small image.

    Args:
        path: the file.
    """
    try:
        read_image(path, (1, 1))
    except ValueError as error:
        return _reason(error.__cause__ or error)
    return None


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


@contextlib.contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file in what Pillow raises."""
    try:
        yield
    except _WRONG as error:
        raise ValueError(
            f"can't read the image {str(path)!r} ({_reason(error)}); mend or remove the file. "
            f"Received: {str(path)!r}"
        ) from error


def _reason(error: BaseException) -> str:
    """Return what an error says but for the name of the file."""
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format"
    if isinstance(error, _BOMB):
        return f"{str(error).rstrip('.')}; make it smaller, or set PIL.Image.MAX_IMAGE_PIXELS"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _content(path: str | os.PathLike[str]) -> bytes:
    """Return what is in a JPEG of a usual size; other files may fill the memory: nothing of them."""
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):  # a pipe would wait
        raise OSError("neither a file nor a folder")
    with Path(path).open("rb") as file:
        start = file.read(len(_JPEG))
        return start + file.read() if start == _JPEG and about.st_size <= _LARGEST else b""


def _decoded(content: bytes, size: Size) -> np.ndarray | None:
    """Return the pixels of a plain JPEG, decoded by OpenCV, or None where Pillow has to see to it.

    The pixels are those of Pillow, which takes longer and holds up other threads. It sees to what may
    have to be turned or decoded smaller, to other formats, and to what is wrong with damaged files.
    """
    from keras_transfer.data.images.transforms import decode

    shape = _shape_of_plain_jpeg(content)
    if shape is None or shape[0] * shape[1] > (Image.MAX_IMAGE_PIXELS or math.inf):
        return None
    if min(shape[0] / size[0], shape[1] / size[1]) >= 2 * _SPARE:
        return None
    return decode(content)


def _shape_of_plain_jpeg(content: bytes) -> Size | None:
    """Return height and width of a JPEG of three colours without EXIF, or None of anything else."""
    start = 2 if content.startswith(_JPEG) else len(content)
    while content[start : start + 1] == b"\xff":
        marker, length = content[start + 1 : start + 2], content[start + 2 : start + 4]
        if marker in (b"\xc0", b"\xc1", b"\xc2"):  # a frame: bits, height, width, number of colours
            height, width = content[start + 5 : start + 7], content[start + 7 : start + 9]
            three = content[start + 9 : start + 10] == b"\x03"
            return (int.from_bytes(height), int.from_bytes(width)) if three else None
        if marker == b"\xe1":  # EXIF or XMP
            return None
        start += 2 + int.from_bytes(length)
    return None


def _opened(path: str | os.PathLike[str]) -> Image.Image:
    """Return an image whose size and orientation are known; all but a JPEG is decoded."""
    image = open_image(path)
    try:
        limit = Image.MAX_IMAGE_PIXELS  # from here on Pillow warns; it raises from twice as many
        if limit is not None and image.width * image.height > limit:
            raise Image.DecompressionBombError(
                f"{image.width} x {image.height} pixels, and more than {limit:,} may be meant to fill "
                "the memory"
            )
        if image.format not in _DRAFTED:
            image.load()  # a TIFF is turned upright by this
    except BaseException:
        image.close()
        raise
    return image


def _decode_smaller(image: Image.Image, factor: float) -> float:
    """Have a JPEG decoded up to `factor` times smaller, and return the scale; 1 for other formats."""
    divisor = next((n for n in (8, 4, 2) if n <= factor), 1)
    if divisor == 1 or image.format not in _DRAFTED:
        return 1.0
    drafted = image.draft(None, (image.width // divisor, image.height // divisor))
    return 1.0 if drafted is None else 1.0 / divisor


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image  # to convert it would be to copy it
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))  # Pillow would clip at 255
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range")
    elif image.mode == "P":
        image = image.convert("RGBA")  # drops transparency below, which Pillow warns of otherwise
    return image.convert("RGB")


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
