"""What a network makes of a data set, as one matrix in memory."""

import contextlib
import os
import tempfile
from typing import Any

import keras
import numpy as np

from keras_transfer.data.inputs import check_images, training_data
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache import FeatureCache
from keras_transfer.heads import class_names

_ROWS = 256  # read at a time


def as_loader(data: Any, batch_size: int, argument: str) -> Loader:
    """Return a loader of `data` in the order of its source, without augmentation.

    Args:
        data: (x, y) arrays or a `Loader`.
        batch_size: for arrays.
        argument: what `data` is called in messages.

    Raises:
        TypeError: data of another kind.
    """
    if isinstance(data, tuple) and len(data) == 2:
        return Loader(data, batch_size, shuffle=False)
    if not isinstance(data, Loader):
        raise TypeError(
            f"{argument} must be (x, y) arrays or a kt.Loader, which also takes any sequence of (image, "
            f"label) pairs. Received: {argument} of type {type(data).__name__}"
        )
    return data.replace(augmentation=None, shuffle=False)


def checked_loader(
    data: Any, model: keras.Model, batch_size: int, argument: str, *, classes: bool = True
) -> Loader:
    """Return a loader as `as_loader` does, checked against a model.

    Args:
        data: (x, y) arrays or a `Loader`.
        model: the classifier whose input and classes the data must fit.
        batch_size: for arrays.
        argument: what `data` is called in messages.
        classes: whether `model` has an output for each class; its labels are not looked at otherwise.

    Raises:
        TypeError: data of another kind.
        ValueError: images of another shape than the model's input, or labels outside its classes.
    """
    loader = as_loader(data, batch_size, argument)
    if classes:
        return training_data(
            loader, model, batch_size=batch_size, seed=0, argument=argument, names=class_names(model)
        )
    check_images(loader, model, argument)
    return loader


def feature_matrix(
    network: keras.Model,
    loader: Loader,
    directory: str | os.PathLike[str] | None,
    batch_size: int,
    verbose: str | int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `network` makes of all samples, and their classes.

    Args:
        network: a functional model that gives a vector for each sample.
        loader: the samples.
        directory: where the features are kept, as in `FeatureCache`; None: nowhere.
        batch_size: images that are computed at a time.
        verbose: 0 is silent.

    Returns:
        Features of shape (samples, features) in float64, and classes of shape (samples,).

    Raises:
        ValueError: a feature is not a finite number, or a label is neither an integer nor one-hot.
    """
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory())
        cached = FeatureCache(network, directory).build(loader, batch_size, verbose=verbose)
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
        return features, class_indices(cached.labels)


def class_indices(labels: np.ndarray) -> np.ndarray:
    """Return labels, integers or one-hot rows, as integers."""
    if labels.ndim == 1:
        return labels.astype("int64")
    wrong = np.flatnonzero(~(np.isin(labels, (0, 1)).all(axis=1) & (labels.sum(axis=1) == 1)))
    if wrong.size:
        raise ValueError(
            "labels must be integers or one-hot rows, of one 1 and zeros. "
            f"Received: {labels[wrong[0]]} for sample {wrong[0]}"
        )
    return labels.argmax(axis=1)
