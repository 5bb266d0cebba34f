"""Probabilities to rely on: temperature scaling, the error that is left, and sets of classes for sure.

The functions of arrays know nothing of models. `calibrate` makes a model give calibrated probabilities,
and what it found travels in the model's `.keras` file, where `of` reads it.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.attributes import attributes
from keras_transfer._lib.checks import checked_number
from keras_transfer._lib.messages import verbosity
from keras_transfer.data.inputs import checked_loader
from keras_transfer.inference.predictions import predictions
from keras_transfer.layers import carried
from keras_transfer.layers.graph import check_graph, input_of, walk
from keras_transfer.layers.guard import guard
from keras_transfer.layers.head import endings, is_plain, last_weighted
from keras_transfer.layers.task import task_of
from keras_transfer.probabilities.thresholds import find_thresholds, thresholds_of
from keras_transfer.results.evaluation import Calibration
from keras_transfer.results.multi_label import Thresholds
from keras_transfer.tasks.multi_label import MULTI_LABEL
from keras_transfer.tasks.scores import (
    checked_labels,
    checked_rows,
    conformal_threshold,
    expected_calibration_error,
    fit_temperature,
    prediction_sets,
    unsure,
)
from keras_transfer.tasks.single_label import SINGLE_LABEL

__all__ = [
    "Calibration",
    "Thresholds",
    "attach_calibration",
    "calibrate",
    "conformal_threshold",
    "expected_calibration_error",
    "find_thresholds",
    "fit_temperature",
    "forget_calibration",
    "of",
    "prediction_sets",
    "thresholds_of",
    "unsure",
]


def calibrate(
    model: keras.Model,
    data: Any,
    coverage: float = 0.9,
    *,
    batch_size: int = 32,
    verbose: str | int = "auto",
) -> Calibration:
    """Make a classifier give calibrated probabilities, by images that were held back.

    The weights of the layer that gives the logits are divided by the temperature of `fit_temperature`,
    so that the model gives calibrated probabilities wherever it is loaded, in stock Keras, too. Which
    class it predicts stays as it is. The threshold for `prediction_sets` of `conformal_threshold` is
    found as well, and both are attached to the model, for `of` and for its `.keras` file.

    Temperature and threshold are of the same samples. Strictly, the promise of `coverage` needs others
    for the threshold; but one number that is fitted hardly moves it (in simulations with 20 samples, by
    less than 0.001).

    Of a model that ends in a sigmoid for each class, the one temperature minimises the mean binary
    cross-entropy, and the sets of `coverage` have all classes of the image in them. Thresholds of
    `find_thresholds` are those of other probabilities then and are forgotten: find them afterwards.

    It is forgotten where `fit` or `keras_transfer.fine_tune` change the weights of the model. After
    other changes, such as `set_weights` or the training of another model that shares layers, call
    `forget_calibration`. Calibrated again, it has the product of the temperatures.

    Args:
        model: a functional or sequential classifier that ends in a `Dense` layer and a softmax, or a
            sigmoid for each class, after it or as its activation. It is changed.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`, of images that should be neither
            trained on nor used for choices; they are read in order and without augmentation. With logits
            at hand, `fit_temperature` and `conformal_threshold` find the numbers alone.
        coverage: the share of images whose prediction set shall have the true class in it, or all of
            their classes, where there may be several.
        batch_size: for arrays.
        verbose: as in Keras' `predict`.

    Returns:
        What was found, as it is attached to the model.

    Raises:
        ValueError, TypeError: the model ends in something else, the data is of another kind or doesn't
            fit the model, or a logit is no finite number; nothing has changed.
        ImportError: SciPy is not installed; nothing has changed.

    Example:
        >>> import keras, numpy as np, keras_transfer as kt
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(2000, 1, 1, 3))
        >>> y = (x + rng.gumbel(size=x.shape))[:, 0, 0].argmax(axis=1)  # with probabilities softmax(x)
        >>> ends = [keras.layers.Flatten(), keras.layers.Dense(3, "softmax")]
        >>> model = keras.Sequential([keras.Input((1, 1, 3)), *ends])
        >>> model.set_weights([3.0 * np.eye(3), np.zeros(3)])  # three times too sure
        >>> found = kt.calibration.calibrate(model, (x, y), verbose=0)
        >>> 2.8 < found.temperature < 3.2
        True
        >>> kt.calibration.of(model) == found
        True

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; Sadinle, Lei and Wasserman,
        "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels", 2019.
    """
    dense = _logits_layer(model)
    checked_number("coverage", coverage, high=1)
    loader = checked_loader(data, model, batch_size, "data", several=True)
    with _of_logits(model, dense) as network:
        logits = predictions(network, loader, verbosity(verbose))
    labels = task_of(model).targets(loader.known_labels())
    return calibrate_by_logits(model, logits, labels, coverage)


def calibrate_by_logits(
    model: keras.Model, logits: Any, labels: Any, coverage: float = 0.9, added: np.ndarray | None = None
) -> Calibration:
    """Calibrate a model as `calibrate` does, by logits that are there.

    Args:
        model: as in `calibrate`.
        logits: what the model gives before its softmax or sigmoids, of shape (samples, classes); of a
            softmax, logarithms of its probabilities will do.
        labels: the classes of shape (samples,), integers; or, of sigmoids, rows of 0 and 1 of the shape
            of `logits`.
        coverage: as in `calibrate`.
        added: what is added to the calibrated logits of each class, of shape (classes,), such as
            `keras_transfer.tasks.imbalance.adjustment`. The threshold is that of what the model gives
            then. None: nothing.

    Raises:
        ValueError: the model ends in something else, or shapes or values don't fit; nothing has changed.
    """
    dense = _logits_layer(model)
    z = checked_rows("logits", logits)
    task = task_of(model)
    y = checked_labels(labels, z) if task is SINGLE_LABEL else _checked_rows(labels, z)
    if z.shape[1] != model.output_shape[-1]:
        raise ValueError(
            f"logits must have a column for each of the {model.output_shape[-1]} outputs of model "
            f"{model.name!r}. Received: logits of shape {z.shape}"
        )
    temperature = task.temperature(z, y)
    if added is None:
        p = task.probabilities(z, temperature)
    else:
        p = task.probabilities(z / temperature + added)
        _check_bias(dense)
    threshold = task.threshold(p, y, coverage)
    before = of(model)
    total = temperature * (1.0 if before is None else before.temperature)
    found = Calibration(total, threshold, coverage, len(y))
    for variable in dense.weights:
        value = keras.ops.convert_to_numpy(variable)
        value = value.astype("float64") / temperature
        variable.assign(value if added is None or variable is not dense.bias else value + added)
    forget_calibration(model)  # and thresholds
    attach_calibration(model, found)
    guard(model)
    return found


def _checked_rows(labels: Any, logits: np.ndarray) -> np.ndarray:
    """Return rows of 0 and 1 of the shape of logits, or raise a `ValueError`."""
    rows = np.asarray(labels)
    if rows.shape != logits.shape:
        raise ValueError(
            f"labels must be rows of 0 and 1 of the shape of logits, {logits.shape}. "
            f"Received: labels of shape {rows.shape}"
        )
    return MULTI_LABEL.targets(rows)


def _check_bias(dense: keras.layers.Dense) -> None:
    """Raise a `ValueError` if there is nothing to which a number for each class can be added."""
    if dense.bias is None:
        raise ValueError(
            "model must have a bias in its last layer, to which the adjustment of logits is added. "
            f"Received: layer {dense.name!r} with use_bias=False"
        )


def of(model: keras.Model | str | os.PathLike[str]) -> Calibration | None:
    """Return the calibration of a model or of a `.keras` file.

    As class names, it is written into every `.keras` file that the model's own `save` makes, and
    `keras_transfer.load_model` keeps it. A model that stock Keras loaded gives the same calibrated
    probabilities, but knows the threshold no more.

    Args:
        model: a model that was calibrated or came from `load_model`, or the path of a `.keras` file.

    Returns:
        The calibration, or None where there is none.

    Raises:
        ValueError: the path is no `.keras` file, or what it holds as calibration is none.

    Example:
        >>> import keras, keras_transfer as kt
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, "softmax")])
        >>> kt.calibration.of(model) is None
        True
    """
    return carried.of(model, carried.CALIBRATION, "calibration", _from_content)


def attach_calibration(model: keras.Model, calibration: Calibration) -> None:
    """Make `model` carry a calibration into every `.keras` file that it is saved to.

    Args:
        model: a model whose weights are calibrated already, as those of a copy are.
        calibration: what to carry.

    Raises:
        TypeError: `calibration` is none.

    Example:
        >>> import keras, keras_transfer as kt
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, "softmax")])
        >>> kt.calibration.attach_calibration(model, kt.calibration.Calibration(1.0, 0.2, 0.9, 500))
        >>> kt.calibration.of(model).threshold
        0.2
    """
    if not isinstance(calibration, Calibration):
        raise TypeError(
            f"calibration must be a kt.calibration.Calibration. Received: calibration={calibration!r}"
        )
    carried.attach(model, carried.CALIBRATION, dataclasses.asdict(calibration))


def forget_calibration(model: keras.Model) -> None:
    """Let `model` carry its calibration and thresholds no more, as its weights change; they stay.

    Args:
        model: any model; one that carries none stays as it is.

    Example:
        >>> import keras, keras_transfer as kt
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, "softmax")])
        >>> kt.calibration.attach_calibration(model, kt.calibration.Calibration(1.0, 0.2, 0.9, 500))
        >>> kt.calibration.forget_calibration(model)
        >>> kt.calibration.of(model) is None
        True
    """
    for name in carried.OF_WEIGHTS:
        carried.detach(model, name)


def _logits_layer(model: keras.Model) -> keras.layers.Dense:
    """Return the layer that gives the logits, or raise a `ValueError` if nothing else may be scaled."""
    check_graph(model)
    if len(model.outputs) != 1:
        raise ValueError(
            f"model must have one output. Received: {model.name!r} with {len(model.outputs)}"
        )
    dense = last_weighted(model)
    found = [e for e in endings(model, dense) if e.activation is not keras.activations.linear]
    calls = sum(call.operation is dense for call in walk(model))
    plain = isinstance(dense, keras.layers.Dense) and is_plain(dense)
    if not plain or calls != 1 or [e.activation for e in found] != [_output(model)]:
        raise ValueError(
            "model must end in a Dense layer, called once and without LoRA or quantization, and nothing "
            "but a softmax, or a sigmoid for each class, after it or as its activation. A model that "
            "ends in logits is given one with keras.Model(model.inputs, "
            "keras.layers.Softmax()(model.outputs[0])). "
            f"Received: model {model.name!r} with {type(dense).__name__} {dense.name!r}, followed by "
            f"{', '.join(ending.name for ending in found) or 'nothing'}"
        )
    return dense


def _output(model: keras.Model) -> Any:
    """Return the activation that makes probabilities of the logits of a model."""
    return task_of(model).output


@contextlib.contextmanager
def _of_logits(model: keras.Model, dense: keras.layers.Dense) -> Iterator[keras.Model]:
    """Give a model of the logits of `model`; an activation within `dense` is switched off meanwhile."""
    output = _output(model)
    if dense.activation is output:
        with attributes(dense, activation=keras.activations.linear):
            yield keras.Model(model.inputs[0], model.outputs[0])
        return
    found = [e.call for e in endings(model, dense) if e.activation is output]
    yield keras.Model(model.inputs[0], input_of(model, found[-1].operation))


def _from_content(content: Any) -> Calibration:
    names = {field.name for field in dataclasses.fields(Calibration)}
    if not isinstance(content, dict) or content.keys() != names:
        raise ValueError(f"the calibration is no object with {', '.join(sorted(names))}")
    return Calibration(**content)
