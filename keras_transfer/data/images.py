"""Reading, cropping and resizing single images."""

import os

import numpy as np

from keras_transfer.data.sources import Crop, Size

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:  # pragma: no cover - the solo test runs this
    raise ImportError(
        "reading and resizing images needs Pillow: pip install 'keras-transfer[data]'"
    ) from error

_ORIENTATION, _ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # of EXIF
_SPARE = 2  # a JPEG is decoded at no less than this many times the size that is wanted
_WRONG = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)


def read_image(path: str | os.PathLike[str], size: Size, crop: Crop | None = None) -> np.ndarray:
    """Read an image file as RGB, upright, and resize a part of it to `size`.

    Transparency is dropped, and of 16 bits the upper eight are kept. A JPEG that is far larger than
    `size` is decoded at a half, a quarter or an eighth of its size, which takes a fraction of the time.

    Args:
        path: an image file of any format that Pillow reads.
        size: (height, width) in pixels.
        crop: gives the part, as (top, left, height, width), of an image of (height, width) pixels;
            None: as much of it around the centre as has the shape of `size`.

    Returns:
        A uint8 array of shape (height, width, 3).

    Raises:
        ValueError: the file is damaged, no image, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`;
            the message names it.
    """
    try:
        with _opened(path) as image:
            height, width = image.height, image.width
            if image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE:
                height, width = width, height
            part = _centred(height, width, size) if crop is None else crop(height, width)
            scale = _decode_smaller(image, min(part[2] / size[0], part[3] / size[1]) / _SPARE)
            upright = _as_rgb(ImageOps.exif_transpose(image))
            return np.asarray(_resized(upright, size, part, scale))
    except _WRONG as error:
        raise ValueError(
            f"can't read the image {str(path)!r} ({_reason(error)}); mend or remove the file. "
            f"Received: {str(path)!r}"
        ) from error


def damage(path: str | os.PathLike[str]) -> str | None:
    """Return what is wrong with an image file, or None if `read_image` will read it.

    All of the file is decoded, a JPEG to a small image.

    Args:
        path: the file.
    """
    try:
        with _opened(path) as image:
            image.draft(None, (1, 1))
            _as_rgb(image)
    except _WRONG as error:
        return _reason(error)
    return None


def resize_image(image: np.ndarray, size: Size, crop: Crop | None = None) -> np.ndarray:
    """Resize a part of an image by interpolation.

    Bilinear, and averaged over the pixels that are lost where the image becomes smaller.

    Args:
        image: an image of shape (height, width, channels), of integers or floating point.
        size: (height, width) in pixels.
        crop: as in `read_image`.

    Returns:
        An image of shape (*size, channels) of the same dtype.
    """
    height, width = image.shape[:2]
    if crop is None and (height, width) == size:
        return image
    part = _centred(height, width, size) if crop is None else crop(height, width)
    if image.dtype == np.uint8 and image.shape[2] == 3:  # of 4, Pillow weights three by the last
        return np.asarray(_resized(Image.fromarray(image), size, part))
    # Of other types Pillow interpolates float32 only, or not at all.
    channels = np.moveaxis(image if image.dtype == np.uint8 else image.astype("float32"), -1, 0)
    resized = np.stack([_resized(Image.fromarray(channel), size, part) for channel in channels], axis=-1)
    return (np.rint(resized) if image.dtype.kind in "iu" else resized).astype(image.dtype)


def _opened(path: str | os.PathLike[str]) -> Image.Image:
    image = Image.open(path)
    limit = Image.MAX_IMAGE_PIXELS  # from here on Pillow warns; it raises from twice as many
    if limit is not None and image.width * image.height > limit:
        image.close()
        raise ValueError(
            f"it has {image.width} x {image.height} pixels, and more than {limit:,} may be meant to "
            "fill the memory; make it smaller, or set PIL.Image.MAX_IMAGE_PIXELS"
        )
    return image


def _reason(error: Exception) -> str:
    """Return what an error says but for the name of the file."""
    if isinstance(error, UnidentifiedImageError):
        return "no image of a known format"
    return getattr(error, "strerror", None) or str(error)


def _decode_smaller(image: Image.Image, factor: float) -> float:
    """Have a JPEG decoded up to `factor` times smaller, and return the scale; 1 for other formats."""
    if factor < 2:
        return 1.0
    width = image.width
    drafted = image.draft(None, (int(width / factor), int(image.height / factor)))
    return drafted[1][2] / width if drafted else 1.0


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))  # Pillow would clip at 255
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range")
    elif image.mode == "P":
        image = image.convert("RGBA")  # drops transparency below, which Pillow warns of otherwise
    return image.convert("RGB")


def _centred(height: int, width: int, size: Size) -> tuple[float, float, float, float]:
    """Return as much of an image around its centre as has the shape of `size`."""
    scale = min(height / size[0], width / size[1])
    rows, columns = min(scale * size[0], height), min(scale * size[1], width)
    return (height - rows) / 2, (width - columns) / 2, rows, columns


def _resized(
    image: Image.Image, size: Size, part: tuple[float, float, float, float], scale: float = 1.0
) -> Image.Image:
    """Return a part of an image, which was made smaller by `scale`, in another size."""
    top, left, height, width = (scale * length for length in part)
    box = (left, top, min(left + width, image.width), min(top + height, image.height))
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
