"""Thresholds for several labels an image, which a model carries."""

import dataclasses
import os
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.messages import verbosity
from keras_transfer.data.inputs import checked_loader
from keras_transfer.inference.predictions import predictions
from keras_transfer.layers import carried
from keras_transfer.layers.guard import guard
from keras_transfer.layers.task import task_of
from keras_transfer.results.multi_label import Thresholds
from keras_transfer.tasks.label_scores import HALF, best_thresholds
from keras_transfer.tasks.multi_label import MULTI_LABEL


def find_thresholds(
    model: keras.Model, data: Any, *, batch_size: int = 32, verbose: str | int = "auto"
) -> Thresholds:
    """Find from which probability on each class is best said to be there, by images held back.

    For each class it is the threshold of the highest F1 score. Rare classes, whose probabilities hardly
    reach 0.5, gain most. The thresholds are attached to the model, for `thresholds_of`, `evaluate` and
    its `.keras` file; its weights stay as they are. They are forgotten where `fit` or
    `keras_transfer.fine_tune` change the weights.

    Args:
        model: a classifier that ends in a sigmoid for each class, such as
            `keras_transfer.classifier(task="multi-label")` makes.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`, with rows of 0 and 1 as labels,
            of images that should be neither trained on nor used for choices. They are read in order and
            without augmentation.
        batch_size: for arrays.
        verbose: as in Keras' `predict`.

    Returns:
        What was found, as it is attached to the model. For a class that no image has it is 0.5.

    Raises:
        ValueError, TypeError: the model ends in something else, or the data is of another kind or
            doesn't fit the model; nothing has changed.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> x = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), "uint8")
        >>> rows = np.arange(8)[:, None] >> np.arange(2) & 1
        >>> model = kt.classifier("mobilenet", 2, task="multi-label", image_size=32, weights=None)
        >>> found = kt.calibration.find_thresholds(model, (x, rows), verbose=0)
        >>> len(found.values), kt.calibration.thresholds_of(model) == found
        (2, True)

    References:
        Lipton, Elkan and Naryanaswamy, "Optimal Thresholding of Classifiers to Maximize F1 Measure",
        ECML 2014.
    """
    if task_of(model) is not MULTI_LABEL:
        raise ValueError(
            "model must end in a sigmoid for each of several classes, as that of "
            "kt.classifier(..., task='multi-label') does; of others the most probable class is said. "
            f"Received: model {model.name!r}"
        )
    loader = checked_loader(data, model, batch_size, "data", several=True)
    p = predictions(model, loader, verbosity(verbose))
    rows = MULTI_LABEL.targets(loader.known_labels())
    found = Thresholds(tuple(map(float, best_thresholds(p, rows))), len(rows))
    attach_thresholds(model, found)
    guard(model)
    return found


def thresholds_of(model: keras.Model | str | os.PathLike[str]) -> Thresholds | None:
    """Return the thresholds of a model or of a `.keras` file.

    Args:
        model: a model of `find_thresholds` or `keras_transfer.load_model`, or the path of a `.keras`
            file.

    Returns:
        The thresholds, or None where there are none.

    Raises:
        ValueError: the path is no `.keras` file, or what it holds as thresholds are none.

    Example:
        >>> import keras, keras_transfer as kt
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "sigmoid")])
        >>> kt.calibration.thresholds_of(model) is None
        True
    """
    return carried.of(model, carried.THRESHOLDS, "thresholds", _from_content)


def attach_thresholds(model: keras.Model, thresholds: Thresholds | None) -> None:
    """Make `model` carry thresholds, if there are any, into every `.keras` file that it is saved to."""
    if thresholds is not None:
        carried.attach(model, carried.THRESHOLDS, dataclasses.asdict(thresholds))


def said(model: keras.Model, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which classes a model says are there, of shape (samples, classes), and its thresholds."""
    found = thresholds_of(model)
    classes = probabilities.shape[1]
    values = np.full(classes, HALF) if found is None else np.array(found.values)
    if len(values) != classes:
        raise ValueError(
            f"the thresholds of a model must be one for each of its {classes} classes; find them anew "
            f"with kt.calibration.find_thresholds. Received: {len(values)}"
        )
    return probabilities >= values, values


def _from_content(content: Any) -> Thresholds:
    names = {field.name for field in dataclasses.fields(Thresholds)}
    good = isinstance(content, dict) and content.keys() == names
    if not good or not isinstance(content["values"], (list, tuple)):
        raise ValueError(f"the thresholds are no object with {', '.join(sorted(names))}")
    return Thresholds(tuple(content["values"]), content["samples"])
