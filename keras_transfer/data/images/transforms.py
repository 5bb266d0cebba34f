"""What is done to images by OpenCV: deterministic changes by a given strength, decoding, resizing.

On two cores OpenCV turns, shears and recolours images of 224 pixels 2 to 7 times as fast as Pillow, and
lets other threads run meanwhile.
"""

from collections.abc import Callable

import numpy as np

try:
    import cv2
except ImportError as error:  # pragma: no cover - the solo test runs this
    raise ImportError(
        "reading and changing images needs OpenCV: pip install 'keras-transfer[data]'"
    ) from error

_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], "float32") / 13  # as Pillow's
_LEVELS = np.arange(256)
_GREY = np.array([0.299, 0.587, 0.114])  # how bright red, green and blue are: ITU-R BT.601


def decode_sixteen(content: bytes) -> np.ndarray:
    """Return the pixels of the content of an image file with colours of 16 bits.

    Args:
        content: of the file, which another decoder found to be whole: OpenCV prints what is wrong.

    Returns:
        An array of uint16 of shape (height, width, 3 or 4), of RGB, or RGB and transparency.

    Raises:
        ValueError: OpenCV finds no such colours in it.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(content, "uint8"), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype != np.uint16 or pixels.shape[2:] not in ((3,), (4,)):
        raise ValueError("colours of 16 bits that OpenCV can't decode")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolate an image to (height, width) pixels, no fewer than half of it."""
    shrinks = [max(1.0, image.shape[axis] / size[axis]) for axis in (0, 1)]
    if max(shrinks) > 1:
        down, across = map(_smoothing, shrinks)
        image = cv2.sepFilter2D(image, -1, across, down, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(image, (size[1], size[0]))


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turn an image about its centre, against the clock."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return _warp(image, ((cosine, sine), (-sine, cosine)))


def shear_x(image: np.ndarray, slope: float) -> np.ndarray:
    """Move each row sideways by `slope` for each pixel that it is from the middle one."""
    return _warp(image, ((1.0, slope), (0.0, 1.0)))


def shear_y(image: np.ndarray, slope: float) -> np.ndarray:
    """Move each column up or down by `slope` for each pixel that it is from the middle one."""
    return _warp(image, ((1.0, 0.0), (slope, 1.0)))


def translate_x(image: np.ndarray, fraction: float) -> np.ndarray:
    """Move an image to the right by a fraction of its width."""
    return _warp(image, ((1.0, 0.0), (0.0, 1.0)), (fraction * image.shape[1], 0.0))


def translate_y(image: np.ndarray, fraction: float) -> np.ndarray:
    """Move an image down by a fraction of its height."""
    return _warp(image, ((1.0, 0.0), (0.0, 1.0)), (0.0, fraction * image.shape[0]))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply all values by a factor."""
    return _scaled(image, factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the distances from the mean brightness by a factor."""
    mean = round(_GREY @ cv2.mean(_rgb(image))[:3])
    return _scaled(image, factor, mean * (1.0 - factor))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the distances from the grey of each pixel by a factor."""
    return cv2.transform(_rgb(image), factor * np.eye(3) + (1.0 - factor) * _GREY)


def hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turn the hue by a fraction of the colour circle."""
    values = cv2.cvtColor(_rgb(image), cv2.COLOR_RGB2HSV_FULL)
    added = np.zeros(values.shape[1:], "uint8")
    added[:, 0] = round(256 * turn) % 256  # 256 values are a whole turn
    values += added
    return cv2.cvtColor(values, cv2.COLOR_HSV2RGB_FULL)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply the distances from the smoothed image by a factor."""
    return cv2.addWeighted(_rgb(image), factor, cv2.filter2D(image, -1, _SMOOTH), 1.0 - factor, 0.0)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep the upper bits of each value."""
    return _map_levels(image, _LEVELS & (0xFF << (8 - bits)))


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Turn values from the threshold on into their negative."""
    return _map_levels(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretch each channel to all values from 0 to 255; one of a single value stays."""

    def stretched(channel: np.ndarray) -> np.ndarray:
        if channel.min() == channel.max():  # OpenCV would make it black
            return channel
        return cv2.normalize(channel, None, 0, 255, cv2.NORM_MINMAX)

    return _each_channel(image, stretched)


def equalize(image: np.ndarray) -> np.ndarray:
    """Have each channel's values about equally often."""
    return _each_channel(image, cv2.equalizeHist)


def check_rgb(image: np.ndarray) -> None:
    """Raise a `TypeError` if an image is of another kind than the changes of colour need."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise TypeError(
            "changes of colour need RGB images of uint8, of shape (height, width, 3). "
            f"Received: shape {image.shape} and dtype {image.dtype}"
        )


def _smoothing(shrinks: float) -> np.ndarray:
    """Return the weights of three pixels that make interpolation an average as wide as Pillow's.

    Its weights fall off linearly over `shrinks` pixels on either side, a variance of shrinks**2 / 6, of
    which interpolation between two pixels brings 1 / 6.
    """
    beside = (shrinks**2 - 1) / 12
    return np.array([beside, 1 - 2 * beside, beside], "float32")


def _warp(
    image: np.ndarray,
    matrix: tuple[tuple[float, float], tuple[float, float]],
    shift: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Map each point, seen from the centre, by a matrix, and shift it."""
    if image.dtype not in (np.uint8, np.float32):
        raise TypeError(f"the image must be of uint8 or float32. Received: dtype {image.dtype}")
    height, width = image.shape[:2]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    linear = np.array(matrix)
    affine = np.column_stack([linear, centre - linear @ centre + shift])
    warped = cv2.warpAffine(
        image, affine, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return warped.reshape(image.shape)  # OpenCV drops a single channel


def _scaled(image: np.ndarray, factor: float, shift: float = 0.0) -> np.ndarray:
    """Multiply all values by a factor and shift them, in a third of the time of a table."""
    image = _rgb(image)
    return cv2.addWeighted(image, factor, image, 0.0, shift)


def _map_levels(image: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return cv2.LUT(_rgb(image), np.clip(np.rint(levels), 0, 255).astype("uint8"))


def _each_channel(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return cv2.merge([change(channel) for channel in cv2.split(_rgb(image))])


def _rgb(image: np.ndarray) -> np.ndarray:
    check_rgb(image)
    return np.ascontiguousarray(image)
