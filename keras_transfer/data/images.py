"""Reading and resizing single images."""

import os

import numpy as np

try:
    from PIL import Image, ImageOps
except ImportError as error:  # pragma: no cover - the solo test runs this
    raise ImportError(
        "reading and resizing images needs Pillow: pip install 'keras-transfer[data]'"
    ) from error

Size = tuple[int, int]


def read_image(path: str | os.PathLike[str], size: Size) -> np.ndarray:
    """Read an image file as RGB, upright, cropped to the shape of `size` and resized to it.

    Args:
        path: an image file of any format that Pillow reads.
        size: (height, width) in pixels.

    Returns:
        A uint8 array of shape (height, width, 3).

    Raises:
        ValueError: the file is damaged or no image; the message names it.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(_fit(_as_rgb(ImageOps.exif_transpose(image)), size))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"can't read the image {str(path)!r} ({error}); mend or remove the file. "
            f"Received: {str(path)!r}"
        ) from error


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Crop an image to the shape of `size` around its centre and resize it by interpolation.

    Bilinear, and averaged over the pixels that are lost where the image becomes smaller.

    Args:
        image: an image of shape (height, width, channels), of integers or floating point.
        size: (height, width) in pixels.

    Returns:
        An image of shape (*size, channels) of the same dtype.
    """
    if image.shape[:2] == size:
        return image
    if image.dtype == np.uint8 and image.shape[2] == 3:  # of 4, Pillow weights three by the last
        return np.asarray(_fit(Image.fromarray(image), size))
    # Of other types Pillow interpolates float32 only, or not at all.
    channels = np.moveaxis(image if image.dtype == np.uint8 else image.astype("float32"), -1, 0)
    resized = np.stack([_fit(Image.fromarray(channel), size) for channel in channels], axis=-1)
    return (np.rint(resized) if image.dtype.kind in "iu" else resized).astype(image.dtype)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))  # Pillow would clip at 255
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range")
    elif image.mode == "P":
        image = image.convert("RGBA")  # drops transparency below, which Pillow warns of otherwise
    return image.convert("RGB")


def _fit(image: Image.Image, size: Size) -> Image.Image:
    height, width = size
    return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
