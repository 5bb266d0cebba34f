"""Where the patches of an image are: learned positions for other sizes, and rotary ones."""

from typing import NamedTuple

import numpy as np

from keras_transfer._lib.checks import one_of


def grid_of(size: tuple[int, int], patch: tuple[int, int], own: tuple[int, int]) -> tuple[int, int]:
    """Return how many rows and columns of patches images of a size have.

    Args:
        size: height and width of the images in pixels.
        patch: those of a patch.
        own: those of the images that the network was trained on, which need be no multiples of the
            patch (such as 384 for patches of 14): the pixels left over go unseen then, as in training.

    Raises:
        ValueError: the sides of other images are no multiples of the patch.
    """
    for pixels, side, trained in zip(size, patch, own, strict=True):
        if (pixels % side and pixels != trained) or pixels < side:
            below = max(pixels // side, 1) * side
            near = sorted({below, below + side, trained}, key=lambda each: abs(each - pixels))[:2]
            raise ValueError(
                f"image_size must be a multiple of the patches' {side} pixels"
                f"{f', or {trained}' if trained % side else ''}; the nearest are "
                f"{one_of(map(str, sorted(near)))}. Received: image_size={size}"
            )
    return size[0] // patch[0], size[1] // patch[1]


def resized(table: np.ndarray, grid: tuple[int, int], *, antialias: bool) -> np.ndarray:
    """Return learned positions for another number of patches, by bicubic interpolation.

    It is that of PyTorch, by which those who published the weights change the size, in float64.

    Args:
        table: the positions, of shape (rows, columns, channels).
        grid: how many rows and columns are wanted.
        antialias: whether a kernel is widened where there are to be fewer.

    Example:
        >>> import numpy as np
        >>> from keras_transfer.backbones.transformers.positions import resized
        >>> resized(np.ones((4, 4, 8)), (6, 5), antialias=False).shape
        (6, 5, 8)
    """
    rows, columns = (
        _bicubic(size, wanted, antialias) for size, wanted in zip(table.shape[:2], grid, strict=True)
    )
    found = np.einsum("ri,cj,ijd->rcd", rows, columns, table.astype("float64"), optimize=True)
    return found.astype("float32")


def _bicubic(size: int, wanted: int, antialias: bool) -> np.ndarray:
    """Return the matrix of shape (wanted, size) that interpolates numbers in a row."""
    centres = (np.arange(wanted) + 0.5) * size / wanted - 0.5
    if antialias:
        reach = max(size / wanted, 1.0)
        weights = _kernel((np.arange(size) - centres[:, None]) / reach, -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((wanted, size))
    first = np.floor(centres).astype(int)
    for offset in range(-1, 3):  # what is beyond the edge is as the edge
        place = np.clip(first + offset, 0, size - 1)
        np.add.at(matrix, (np.arange(wanted), place), _kernel(first + offset - centres, -0.75))
    return matrix


def _kernel(distance: np.ndarray, a: float) -> np.ndarray:
    """Return Keys' cubic kernel with the slope `a` at 1: PyTorch has two, by whether it antialiases."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


class Rotation(NamedTuple):
    """What turns the vectors of patches by where they are: factors of shape (rows, columns, 1, size).

    Each is a product of one for rows and one for columns, as networks hold them: the vector times the
    cosines, plus the vector with its halves exchanged times the sines.
    """

    cosine_of_rows: np.ndarray
    cosine_of_columns: np.ndarray
    sine_of_rows: np.ndarray
    sine_of_columns: np.ndarray


def rotation(grid: tuple[int, int], size: int, theta: float) -> Rotation:
    """Return the rotary positions of DINOv3.

    A vector has four parts: the first and the third form pairs that are turned by the row, the second
    and the fourth by the column, each pair with a frequency of its own. Rows and columns go from -1 to
    1, whatever the image's size.

    Args:
        grid: how many rows and columns of patches there are.
        size: how many numbers the vector of a head has, a multiple of 4.
        theta: the base of the frequencies.

    References:
        DINOv3, https://arxiv.org/abs/2508.10104
    """
    frequencies = theta ** -(np.arange(size // 4) * 4 / size)
    by_row, by_column = (
        2 * np.pi * ((2 * np.arange(number) + 1) / number - 1)[:, None] * frequencies for number in grid
    )
    rows, columns = grid
    neutral_row, neutral_column = np.ones((rows, size // 4)), np.ones((columns, size // 4))

    def row(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        parts = np.concatenate([one, neutral_row, other, neutral_row], axis=1)
        return parts.reshape(rows, 1, 1, size).astype("float32")

    def column(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        parts = np.concatenate([neutral_column, one, neutral_column, other], axis=1)
        return parts.reshape(1, columns, 1, size).astype("float32")

    cosines = np.cos(by_row), np.cos(by_column)
    sines = np.sin(by_row), np.sin(by_column)
    return Rotation(
        row(cosines[0], cosines[0]),
        column(cosines[1], cosines[1]),
        row(-sines[0], sines[0]),
        column(-sines[1], sines[1]),
    )
