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
        features = np.empty((cached.num_samples, network.output_shape[-1]))
        for start in range(0, len(features), _ROWS):
            rows = features[start : start + _ROWS]
            rows[:] = cached.samples(start, start + len(rows))[0]
            wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            if wrong.size:
                raise ValueError(
                    "features must be finite numbers: look at the weights and the preprocessing of "
                    f"{network.name!r}. Received: NaN or infinity for sample {start + wrong[0]}"
                )
        assert cached.labels is not None  # features always have them
        return features, SINGLE_LABEL.targets(cached.labels)
