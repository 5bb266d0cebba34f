"""Random flips, crops and rotations of single images."""

import math

import numpy as np

from keras_transfer.data.types import Box


def random_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror an image left to right, every other time.

    Args:
        image: an image of shape (height, width, channels).
        rng: where the randomness comes from.

    Returns:
        The image or its mirror image, of the same shape and dtype.

    Example:
        >>> import numpy as np
        >>> from keras_transfer.data import random_flip
        >>> random_flip(np.zeros((4, 6, 3), "uint8"), np.random.default_rng(0)).shape
        (4, 6, 3)
    """
    if rng.random() >= 0.5:
        return image
    # A channel at a time, in a fifth of the time of a copy of all at once.
    mirrored = np.empty_like(image)
    for channel in range(image.shape[2]):
        mirrored[:, :, channel] = image[:, ::-1, channel]
    return mirrored


def random_crop(image: np.ndarray, rng: np.random.Generator, padding: float = 0.125) -> np.ndarray:
    """Shift an image by a random crop out of its mirror-padded self.

    The usual augmentation of CIFAR-10 (He et al. 2016, "Deep Residual Learning for Image Recognition",
    section 4.2: 4 pixels on each side of 32), with the padding mirrored rather than black.

    Args:
        image: an image of shape (height, width, channels).
        rng: where the randomness comes from.
        padding: how far the image is padded on each side, as a fraction of its size, in [0, 1).

    Returns:
        An image of the same shape and dtype.

    Example:
        >>> import numpy as np
        >>> from keras_transfer.data import random_crop
        >>> random_crop(np.zeros((32, 32, 3), "uint8"), np.random.default_rng(0)).shape
        (32, 32, 3)
    """
    height, width = image.shape[:2]
    rows, columns = int(height * padding), int(width * padding)
    padded = np.pad(image, ((rows, rows), (columns, columns), (0, 0)), mode="reflect")
    top = rng.integers(2 * rows + 1)
    left = rng.integers(2 * columns + 1)
    return padded[top : top + height, left : left + width]


def random_rotation(image: np.ndarray, rng: np.random.Generator, degrees: float = 15.0) -> np.ndarray:
    """Turn an image about its centre by a random angle; the corners are filled by mirroring.

    Args:
        image: an image of shape (height, width, channels), of uint8 or float32.
        rng: where the randomness comes from.
        degrees: the largest angle, in either direction.

    Returns:
        An image of the same shape and dtype, interpolated bilinearly.

    Raises:
        ImportError: OpenCV is not installed (extra `data`).

    Example:
        >>> import numpy as np
        >>> from keras_transfer.data import random_rotation
        >>> random_rotation(np.zeros((32, 32, 3), "uint8"), np.random.default_rng(0)).shape
        (32, 32, 3)
    """
    from keras_transfer.data.images.transforms import rotate

    return rotate(image, rng.uniform(-degrees, degrees))


def random_resized_crop(
    height: int,
    width: int,
    rng: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Choose a part of an image at random, to be resized to the size that the network takes.

    For `Compose(crop=...)`, which has the part read from the image as it is in its file.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        rng: where the randomness comes from.
        scale: the smallest and the largest part of its area.
        ratio: the smallest and the largest ratio of width to height, drawn on a logarithmic scale.

    Returns:
        (top, left, height, width) in pixels.

    Example:
        >>> import numpy as np
        >>> from keras_transfer.data import random_resized_crop
        >>> top, left, height, width = random_resized_crop(480, 640, np.random.default_rng(0))
        >>> top + height <= 480 and left + width <= 640
        True

    References:
        Szegedy et al., "Going Deeper with Convolutions", 2015, section 6; the algorithm is that of
        torchvision's `RandomResizedCrop`.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        rows, columns = round(math.sqrt(area / shape)), round(math.sqrt(area * shape))
        if 0 < rows <= height and 0 < columns <= width:
            top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
            return int(top), int(left), rows, columns
    # The image is too long for it: as much as a ratio allows, around the centre.
    rows = min(height, max(1, round(width / ratio[0])))
    columns = min(width, max(1, round(height * ratio[1])))
    return (height - rows) // 2, (width - columns) // 2, rows, columns
