"""What a network makes of a data set, as vectors that stay in files."""

import contextlib
import os
from collections.abc import Iterator
from typing import overload

import keras
import numpy as np

from keras_transfer._lib.files import folder_or_temporary
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache.cache import FeatureCache, features_of
from keras_transfer.features.cache.stored import Features

_ROWS = 256  # read at a time


class Vectors:
    """Rows of features, which are read when a slice of them is asked for.

    As with an array, `vectors[start:stop]` are numbers, in float32. Other than with an array,
    `vectors[indices]` reads nothing: it is these rows as `Vectors`, so that parts cost no memory.

    Args:
        features: of vectors, open as long as rows are read.
        indices: of the rows, of shape (samples,); None: all.
    """

    def __init__(self, features: Features, indices: np.ndarray | None = None) -> None:
        self._features = features
        self._indices = np.arange(len(features)) if indices is None else indices

    @property
    def shape(self) -> tuple[int, int]:
        return len(self._indices), self._features.width

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, rows: slice) -> np.ndarray: ...
    @overload
    def __getitem__(self, rows: np.ndarray) -> "Vectors": ...
    def __getitem__(self, rows: slice | np.ndarray) -> "np.ndarray | Vectors":
        chosen = self._indices[rows]
        if isinstance(rows, slice):
            return self._features.gather(chosen)[0]
        return Vectors(self._features, chosen)

    def last(self, width: int) -> "Vectors":
        """Return the same rows of so many of the features, the last ones."""
        total = self.shape[1]
        part = self._features.part(slice(total - width, total), (width,))
        return Vectors(part, self._indices)


class MeanOfVectors:
    """The mean of the features of two views of each sample, read as `Vectors` are."""

    def __init__(self, one: Vectors, other: Vectors) -> None:
        self._both = one, other

    @property
    def shape(self) -> tuple[int, int]:
        return self._both[0].shape

    def __len__(self) -> int:
        return len(self._both[0])

    @overload
    def __getitem__(self, rows: slice) -> np.ndarray: ...
    @overload
    def __getitem__(self, rows: np.ndarray) -> "MeanOfVectors": ...
    def __getitem__(self, rows: slice | np.ndarray) -> "np.ndarray | MeanOfVectors":
        one, other = self._both
        if isinstance(rows, slice):
            return (one[rows] + other[rows]) / 2
        return MeanOfVectors(one[rows], other[rows])

    def last(self, width: int) -> "MeanOfVectors":
        """Return the same rows of so many of the features, the last ones."""
        one, other = self._both
        return MeanOfVectors(one.last(width), other.last(width))


@contextlib.contextmanager
def feature_vectors(
    network: keras.Model,
    loader: Loader,
    cache: str | os.PathLike[str] | None,
    batch_size: int,
    verbose: int,
) -> Iterator[tuple[Vectors, np.ndarray]]:
    """Give what `network` makes of all samples, and their classes, as long as the block lasts.

    Args:
        network: a functional model that gives a vector for each sample.
        loader: the samples.
        cache: the folder in which the features are kept, as in `FeatureCache`; None: nowhere.
        batch_size: images that are computed at a time.
        verbose: as `verbosity` returns it.

    Yields:
        Features of shape (samples, features), and classes of shape (samples,), or rows of 0 and 1 where
        an image has several.

    Raises:
        ValueError: a feature is not a finite number, or a label is none of the task of the loader.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(folder_or_temporary(cache))
        _, features = features_of(FeatureCache(network, folder), loader, batch_size, None, verbose)
        stack.enter_context(contextlib.closing(features))
        vectors = Vectors(features)
        check_finite(vectors, network.name)
        yield vectors, loader.task.targets(features.labels)


def check_finite(vectors: Vectors, name: str) -> None:
    """Raise a `ValueError` if a number is not finite; the network `name` made them."""
    for start in range(0, len(vectors), _ROWS):
        wrong = np.flatnonzero(~np.isfinite(vectors[start : start + _ROWS]).all(axis=1))
        if wrong.size:
            raise ValueError(
                "features must be finite numbers: look at the weights and the preprocessing of "
                f"{name!r}. Received: NaN or infinity for sample {start + wrong[0]}"
            )
