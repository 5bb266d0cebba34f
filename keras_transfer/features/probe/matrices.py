"""What a network makes of a data set, as one matrix in memory."""

import contextlib
import os

import keras
import numpy as np

from keras_transfer._lib.files import folder_or_temporary
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache.cache import FeatureCache
from keras_transfer.tasks.single_label import SINGLE_LABEL

_ROWS = 256  # read at a time


def feature_matrix(
    network: keras.Model,
    loader: Loader,
    cache: str | os.PathLike[str] | None,
    batch_size: int,
    verbose: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `network` makes of all samples, and their classes.

    Args:
        network: a functional model that gives a vector for each sample.
        loader: the samples.
        cache: the folder in which the features are kept, as in `FeatureCache`; None: nowhere.
        batch_size: images that are computed at a time.
        verbose: as `verbosity` returns it.

    Returns:
        Features of shape (samples, features) in float64, and classes of shape (samples,).

    Raises:
        ValueError: a feature is not a finite number, or a label is neither an integer nor one-hot.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(folder_or_temporary(cache))
        cached = FeatureCache(network, folder).build(loader, batch_size, verbose=verbose)
        stack.enter_context(contextlib.closing(cached))
        assert cached.labels is not None  # features always have them
        matrix = checked_matrix(cached, network.name, network.output_shape[-1])
        return matrix, SINGLE_LABEL.targets(cached.labels)


def checked_matrix(features: Loader, name: str, columns: int) -> np.ndarray:
    """Return the first numbers of each row of features as one matrix of float64.

    Args:
        features: of vectors.
        name: the network that made them.
        columns: how many numbers.

    Raises:
        ValueError: one is not finite.
    """
    matrix = np.empty((features.num_samples, columns))
    for start in range(0, len(matrix), _ROWS):
        rows = matrix[start : start + _ROWS]
        rows[:] = features.samples(start, start + len(rows))[0][:, :columns]
        wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if wrong.size:
            raise ValueError(
                "features must be finite numbers: look at the weights and the preprocessing of "
                f"{name!r}. Received: NaN or infinity for sample {start + wrong[0]}"
            )
    return matrix
