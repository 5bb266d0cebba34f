"""Augmentations of single images: functions of the image and a random generator."""

from collections.abc import Callable

import numpy as np

from keras_transfer._messages import did_you_mean, one_of

Augmentation = Callable[[np.ndarray, np.random.Generator], np.ndarray]


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
    return image[:, ::-1] if rng.random() < 0.5 else image


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


def _light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return random_crop(random_flip(image, rng), rng)


PRESETS: dict[str, Augmentation] = {"light": _light}


def resolve_augmentation(augmentation: str | Augmentation | None) -> Augmentation | None:
    """Return the function that a preset's name, a callable or None stands for.

    Args:
        augmentation: "light" (flip and crop), a callable `(image, rng) -> image`, or None.

    Returns:
        The callable, or None.

    Raises:
        ValueError: there is no preset of this name.
        TypeError: it is neither a name nor callable nor None.
    """
    if augmentation is None or callable(augmentation):
        return augmentation
    if isinstance(augmentation, str):
        if augmentation in PRESETS:
            return PRESETS[augmentation]
        raise ValueError(
            f"augmentation must be {one_of(PRESETS)}, a callable or None"
            f"{did_you_mean(augmentation, PRESETS)} Received: augmentation={augmentation!r}"
        )
    raise TypeError(
        "augmentation must be the name of a preset, a callable (image, rng) -> image, or None. "
        f"Received: augmentation={augmentation!r}"
    )


def augmentation_name(augmentation: str | Augmentation | None) -> str | None:
    """Return what an augmentation is called in histories and tables."""
    if augmentation is None or isinstance(augmentation, str):
        return augmentation
    return getattr(augmentation, "__name__", type(augmentation).__name__)
