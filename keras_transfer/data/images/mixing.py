"""Mixing the images and labels of a batch."""

import numpy as np

from keras_transfer.data.types import Batch


def mixup(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator, alpha: float = 0.2) -> Batch:
    """Blend each image and its label with those of its neighbour in the batch.

    Args:
        images: a batch of shape (batch, height, width, channels).
        labels: one-hot rows of shape (batch, classes).
        rng: where the randomness comes from.
        alpha: of the Beta(alpha, alpha) distribution of the blend; a larger one blends more evenly.

    Returns:
        Images of the same shape and dtype, and rows of float32 that add up to 1.

    Raises:
        ValueError: the labels are no rows.

    Example:
        >>> import numpy as np
        >>> from keras_transfer.data import mixup
        >>> images, labels = np.zeros((4, 8, 8, 3), "uint8"), np.eye(4, dtype="float32")
        >>> mixup(images, labels, np.random.default_rng(0))[1].sum(axis=1).round(6).tolist()
        [1.0, 1.0, 1.0, 1.0]

    References:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018.
    """
    labels = _rows(images, labels)
    own = rng.beta(alpha, alpha, len(images)).astype("float32")
    return _blended(images, own[:, None, None, None]), _blended(labels, own[:, None])


def cutmix(
    images: np.ndarray, labels: np.ndarray, rng: np.random.Generator, alpha: float = 1.0
) -> Batch:
    """Paste a part of each image's neighbour in the batch into it, and mix the labels by area.

    Args:
        images: a batch of shape (batch, height, width, channels).
        labels: one-hot rows of shape (batch, classes).
        rng: where the randomness comes from.
        alpha: of the Beta(alpha, alpha) distribution of the part that stays.

    Returns:
        Images of the same shape and dtype, and rows of float32 that add up to 1.

    Raises:
        ValueError: the labels are no rows.

    Example:
        >>> import numpy as np
        >>> from keras_transfer.data import cutmix
        >>> images, labels = np.zeros((4, 8, 8, 3), "uint8"), np.eye(4, dtype="float32")
        >>> cutmix(images, labels, np.random.default_rng(0))[1].sum(axis=1).round(6).tolist()
        [1.0, 1.0, 1.0, 1.0]

    References:
        Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
        Features", 2019.
    """
    labels = _rows(images, labels)
    count, height, width = images.shape[:3]
    side = np.sqrt(1.0 - rng.beta(alpha, alpha, count))  # of the pasted part, as a fraction
    centre = rng.random((2, count))
    rows = _within(centre[0] * height, side * height, height)
    columns = _within(centre[1] * width, side * width, width)
    pasted = rows[:, :, None] & columns[:, None, :]
    own = 1.0 - pasted.mean(axis=(1, 2), dtype="float32")
    return np.where(pasted[..., None], _neighbours(images), images), _blended(labels, own[:, None])


def mixup_or_cutmix(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Batch:
    """Mix a batch by `mixup` or by `cutmix`, each half of the time.

    Args:
        images: as in `mixup`.
        labels: as in `mixup`.
        rng: where the randomness comes from.

    Returns:
        As `mixup`.

    Raises:
        ValueError: the labels are no rows.

    Example:
        >>> import numpy as np
        >>> from keras_transfer.data import mixup_or_cutmix
        >>> images, labels = np.zeros((4, 8, 8, 3), "uint8"), np.eye(4, dtype="float32")
        >>> mixup_or_cutmix(images, labels, np.random.default_rng(0))[0].shape
        (4, 8, 8, 3)
    """
    return (mixup if rng.random() < 0.5 else cutmix)(images, labels, rng)


def _rows(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if labels.ndim != 2 or len(labels) != len(images):
        raise ValueError(
            f"labels must be {len(images)} one-hot rows, one an image, to be mixed. Received: an array "
            f"of shape {labels.shape}"
        )
    return labels.astype("float32")


def _neighbours(values: np.ndarray) -> np.ndarray:
    return np.roll(values, 1, axis=0)


def _blended(values: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return `own` times each of the values and the rest of its neighbour's."""
    mixed = own * values + (1.0 - own) * _neighbours(values)
    return (np.rint(mixed) if values.dtype.kind in "iu" else mixed).astype(values.dtype)


def _within(centre: np.ndarray, length: np.ndarray, size: int) -> np.ndarray:
    """Return which of `size` pixels are within a length around each centre, of shape (batch, size)."""
    start, stop = np.rint(centre - length / 2), np.rint(centre + length / 2)
    pixels = np.arange(size)
    return (pixels >= start[:, None]) & (pixels < stop[:, None])
