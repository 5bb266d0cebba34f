"""Probabilities to rely on: temperature scaling, the error that is left, and sets of classes for sure.

The functions of arrays know nothing of models. `calibrate` makes a model give calibrated probabilities,
and what it found travels in the model's `.keras` file, where `of` reads it.
"""

import dataclasses
import math
import numbers
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import keras
import numpy as np

from keras_transfer import _assets
from keras_transfer.freezing import last_weighted
from keras_transfer.groups import check_graph
from keras_transfer.guard import guard
from keras_transfer.head_replacement import ending_name, endings, flat_operations, is_softmax
from keras_transfer.heads import checked_integer

__all__ = [
    "Calibration",
    "attach_calibration",
    "calibrate",
    "conformal_threshold",
    "expected_calibration_error",
    "fit_temperature",
    "forget_calibration",
    "of",
    "prediction_sets",
    "unsure",
]

_LOWEST, _HIGHEST = 0.05, 20.0
_ROUNDING = 1e-6  # by which a mean of probabilities may exceed 1


@dataclass(frozen=True)
class Calibration:
    """What is known of the probabilities of a model, and travels in its `.keras` file.

    Attributes:
        temperature: by what the logits of the model as it was trained have been divided, in all.
        threshold: the lowest probability with which a class is in the prediction set, in [0, 1].
        coverage: the share of images whose set has the true class in it, as it was asked for.
        samples: how many samples were held back to find this out.

    Raises:
        ValueError, TypeError: a number is none, or has no sensible meaning.
    """

    temperature: float
    threshold: float
    coverage: float
    samples: int

    def __post_init__(self) -> None:
        checked = {
            "temperature": _checked_number("temperature", self.temperature, math.inf),
            "threshold": _checked_number("threshold", self.threshold, 1.0, closed=True),
            "coverage": _checked_number("coverage", self.coverage, 1.0),
            "samples": checked_integer("samples", self.samples, 1),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def fit_temperature(logits: Any, labels: Any) -> float:
    """Return the temperature by which to divide logits, so that their softmax is calibrated.

    It is the T > 0 that minimises the mean log-loss of softmax(logits / T), a convex function of 1 / T:
    above 1 for a network that is too sure of itself, as most are. Which class is the most probable
    doesn't depend on it.

    Args:
        logits: of shape (samples, classes), of samples that the network was not trained on. Logarithms
            of probabilities do as well.
        labels: the classes of shape (samples,): integers.

    Returns:
        T, to about 12 digits, within [0.05, 20]: 0.05 where the labels are the highest logits
        throughout, so that the loss only falls with T, and 20 where the logits tell less than nothing
        of the labels. 1 where each row of the logits is constant, so that no T changes anything.

    Raises:
        ValueError: shapes don't fit, a logit is not finite or a label no class.
        ImportError: SciPy is not installed.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> logits = np.array([[0.0, 4.0]] * 10)
        >>> labels = np.array([1] * 8 + [0] * 2)  # sure of 98 %, right in 80 %
        >>> temperature = kt.calibration.fit_temperature(logits, labels)
        >>> round(float(1 / (1 + np.exp(-4.0 / temperature))), 6)
        0.8

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    try:
        from scipy.optimize import brentq
    except ImportError as error:
        raise ImportError("temperatures need SciPy: pip install 'keras-transfer[probe]'") from error

    below = _checked_rows("logits", logits)
    y = _checked_labels(labels, below)
    below -= below.max(axis=1, keepdims=True)
    if not below.any():
        return 1.0
    true = below[np.arange(len(y)), y]

    # A root of the slope is found to more digits than a minimum, where the loss is flat to rounding.
    def slope(temperature: float) -> float:
        """Return the derivative of the loss by 1 / T, which falls with T."""
        weights = np.exp(below / temperature)
        means = (weights * below).sum(axis=1) / weights.sum(axis=1)
        return float((means - true).mean())

    if slope(_LOWEST) <= 0.0:
        return _LOWEST
    if slope(_HIGHEST) >= 0.0:
        return _HIGHEST
    bounds = math.log(_LOWEST), math.log(_HIGHEST)
    return math.exp(brentq(lambda logarithm: slope(math.exp(logarithm)), *bounds, xtol=1e-12))


def expected_calibration_error(probabilities: Any, labels: Any, bins: int = 15) -> float:
    """Return by how much the probability of the predicted class and the accuracy differ.

    The samples are put into bins of equal width by the probability of their most probable class; the
    error is the mean over the samples of |accuracy - mean probability| of their bin. With n samples a
    perfect model has one of the order of sqrt(bins / n), so compare only what has as many samples.

    Args:
        probabilities: of shape (samples, classes), in [0, 1].
        labels: the classes of shape (samples,): integers.
        bins: how many bins there are.

    Returns:
        The error, from 0 to 1.

    Raises:
        ValueError, TypeError: shapes don't fit, a probability is outside [0, 1], a label is no class or
            `bins` no number of bins.

    Example:
        >>> import keras_transfer as kt
        >>> probabilities = [[0.1, 0.9], [0.1, 0.9], [0.6, 0.4], [0.6, 0.4]]
        >>> round(kt.calibration.expected_calibration_error(probabilities, [1, 0, 0, 0]), 12)
        0.4

    References:
        Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning",
        AAAI 2015; for the most probable of many classes Guo et al., "On Calibration of Modern Neural
        Networks", ICML 2017, section 2.
    """
    counts, confidence, accuracy = confidence_bins(probabilities, labels, bins)
    return float((counts * np.abs(accuracy - confidence)).sum() / counts.sum())


def confidence_bins(
    probabilities: Any, labels: Any, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for bins of the highest probability how many samples, its mean, and the accuracy.

    Args:
        probabilities: as in `expected_calibration_error`.
        labels: as in `expected_calibration_error`.
        bins: as in `expected_calibration_error`.

    Returns:
        Three arrays of shape (bins,); means of bins without samples are 0.

    Raises:
        ValueError, TypeError: as `expected_calibration_error`.
    """
    p = _checked_probabilities(probabilities)
    y = _checked_labels(labels, p)
    edges = np.linspace(0.0, 1.0, checked_integer("bins", bins, 1) + 1)
    confidence = p.max(axis=1)
    # Each bin has its upper edge in it, as in the paper.
    bin_of = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts, sure, right = (
        np.bincount(bin_of, weights=weights, minlength=bins)
        for weights in (np.ones(len(y)), confidence, p.argmax(axis=1) == y)
    )
    return counts, sure / np.maximum(counts, 1), right / np.maximum(counts, 1)


def conformal_threshold(probabilities: Any, labels: Any, coverage: float = 0.9) -> float:
    """Return how probable a class must be at least to be in the prediction set.

    The set of all classes that are as probable as that has the true one in it for a share of at least
    `coverage` of new samples, whatever the network, if those are like the given ones (exchangeable), on
    average over draws of the given ones. With the scores 1 - (probability of the true class) of n
    samples it is one minus the ceil((n + 1) coverage)-th smallest.

    Args:
        probabilities: of shape (samples, classes), in [0, 1], of samples that neither weights nor
            temperature were fitted to.
        labels: the classes of shape (samples,): integers.
        coverage: the share that is promised, between 0 and 1.

    Returns:
        The lowest probability in the set. 0, with which every class is in it, where there are too few
        samples for the promise: fewer than coverage / (1 - coverage).

    Raises:
        ValueError: shapes don't fit, a probability or `coverage` is out of range or a label no class.

    Example:
        >>> import keras_transfer as kt
        >>> probabilities = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]
        >>> kt.calibration.conformal_threshold(probabilities, [0, 0, 1, 1], coverage=0.8)
        0.4

    References:
        Sadinle, Lei and Wasserman, "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels",
        2019; Angelopoulos and Bates, "A Gentle Introduction to Conformal Prediction and
        Distribution-Free Uncertainty Quantification", 2021, section 1.
    """
    p = _checked_probabilities(probabilities)
    y = _checked_labels(labels, p)
    share = Fraction(str(_checked_number("coverage", coverage, 1.0)))  # the float 0.55 is a little more
    rank = math.ceil((len(y) + 1) * share)
    if rank > len(y):
        return 0.0
    true = p[np.arange(len(y)), y]
    return float(np.sort(true)[-rank])


def prediction_sets(probabilities: Any, threshold: float) -> np.ndarray:
    """Return which classes are in the prediction set of each sample.

    Args:
        probabilities: of shape (samples, classes), in [0, 1].
        threshold: of `conformal_threshold`, or the `threshold` of a `Calibration`.

    Returns:
        Booleans of shape (samples, classes). A set may have no class in it, or several.

    Raises:
        ValueError: a probability or `threshold` is outside [0, 1], or a shape is wrong.

    Example:
        >>> import keras_transfer as kt
        >>> kt.calibration.prediction_sets([[0.5, 0.4, 0.1], [0.9, 0.1, 0.0]], 0.3)
        array([[ True,  True, False],
               [ True, False, False]])
    """
    p = _checked_probabilities(probabilities)
    return p >= _checked_number("threshold", threshold, 1.0, closed=True)


def unsure(probabilities: Any, threshold: float) -> np.ndarray:
    """Return for which samples the prediction set is not exactly one class, to be looked at by someone.

    Args:
        probabilities: as in `prediction_sets`.
        threshold: as in `prediction_sets`.

    Returns:
        Booleans of shape (samples,).

    Raises:
        ValueError: as in `prediction_sets`.

    Example:
        >>> import keras_transfer as kt
        >>> kt.calibration.unsure([[0.5, 0.4, 0.1], [0.9, 0.1, 0.0], [0.2, 0.2, 0.2]], 0.3)
        array([ True, False,  True])
    """
    return prediction_sets(probabilities, threshold).sum(axis=1) != 1


def calibrate(model: keras.Model, logits: Any, labels: Any, coverage: float = 0.9) -> Calibration:
    """Make a classifier give calibrated probabilities, by logits of samples that were held back.

    The weights of the layer that gives the logits are divided by the temperature of `fit_temperature`,
    so that the model gives calibrated probabilities wherever it is loaded, in stock Keras, too. Which
    class it predicts stays as it is. The threshold for `prediction_sets` of `conformal_threshold` is
    found as well, and both are attached to the model, for `of` and for its `.keras` file.

    Temperature and threshold are of the same samples. Strictly, the promise of `coverage` needs others
    for the threshold; but one number that is fitted hardly moves it (in simulations with 20 samples, by
    less than 0.001).

    It is forgotten where `fit`, `keras_transfer.fine_tune` or `keras_transfer.fit_linear_head` change
    the weights of the model. After other changes, such as `set_weights` or the training of another
    model that shares layers, call `forget_calibration`. Calibrated again, with the logits that the model
    gives now, it has the product of the temperatures.

    Args:
        model: a functional or sequential classifier that ends in a `Dense` layer and a softmax after it
            or as its activation. It is changed.
        logits: what the model gives before its softmax for the samples, of shape (samples, classes):
            `keras.Model(model.inputs, model.get_layer("predictions").output).predict(images)` for a
            model of `keras_transfer.classifier`. Logarithms of its probabilities do as well. The samples
            should be neither trained on nor used for choices.
        labels: the classes of shape (samples,): integers.
        coverage: the share of images whose prediction set shall have the true class in it.

    Returns:
        What was found, as it is attached to the model.

    Raises:
        ValueError: the model ends in something else, or shapes or values don't fit; nothing has changed.
        ImportError: SciPy is not installed; nothing has changed.

    Example:
        >>> import keras, numpy as np, keras_transfer as kt
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(2000, 3))
        >>> labels = (x + rng.gumbel(size=x.shape)).argmax(axis=1)  # with probabilities softmax(x)
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, "softmax")])
        >>> model.set_weights([3.0 * np.eye(3), np.zeros(3)])  # three times too sure
        >>> found = kt.calibration.calibrate(model, 3.0 * x, labels)
        >>> 2.8 < found.temperature < 3.2
        True
        >>> kt.calibration.of(model) == found
        True

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017; Sadinle, Lei and Wasserman,
        "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels", 2019.
    """
    dense = _logits_layer(model)
    z = _checked_rows("logits", logits)
    y = _checked_labels(labels, z)
    if z.shape[1] != model.output_shape[-1]:
        raise ValueError(
            f"logits must have a column for each of the {model.output_shape[-1]} outputs of model "
            f"{model.name!r}. Received: logits of shape {z.shape}"
        )
    temperature = fit_temperature(z, y)
    exponentials = np.exp((z - z.max(axis=1, keepdims=True)) / temperature)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    threshold = conformal_threshold(probabilities, y, coverage)
    before = of(model)
    total = temperature * (1.0 if before is None else before.temperature)
    found = Calibration(total, threshold, coverage, len(y))
    for variable in dense.weights:
        value = keras.ops.convert_to_numpy(variable)
        variable.assign(value.astype("float64") / temperature)
    attach_calibration(model, found)
    guard(model)
    return found


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
    if isinstance(model, (str, os.PathLike)):
        return _assets.read(model, _assets.CALIBRATION, "calibration", _from_content)
    content = _assets.attached(model, _assets.CALIBRATION)
    return None if content is None else _from_content(content)


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
    _assets.attach(model, _assets.CALIBRATION, dataclasses.asdict(calibration))


def forget_calibration(model: keras.Model) -> None:
    """Let `model` carry its calibration no more, as its weights change; they stay as they are.

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
    _assets.detach(model, _assets.CALIBRATION)


def _logits_layer(model: keras.Model) -> keras.layers.Dense:
    """Return the layer that gives the logits, or raise a `ValueError` if nothing else may be scaled."""
    check_graph(model)
    if len(model.outputs) != 1:
        raise ValueError(
            f"model must have one output. Received: {model.name!r} with {len(model.outputs)}"
        )
    dense = last_weighted(model)
    found = endings(model, dense)
    calls = sum(operation is dense for operation in flat_operations(model))
    # LoRA and quantization add weights, and the kernel is then no variable to be divided.
    plain = isinstance(dense, keras.layers.Dense) and len(dense.weights) == 1 + dense.use_bias
    if not plain or calls != 1 or len(found) != 1 or not is_softmax(found[0]):
        raise ValueError(
            "model must end in a Dense layer, called once and without LoRA or quantization, and nothing "
            "but a softmax after it or as its activation. A model that ends in logits is "
            "given one with keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0])). "
            f"Received: model {model.name!r} with {type(dense).__name__} {dense.name!r}, followed by "
            f"{', '.join(map(ending_name, found)) or 'nothing'}"
        )
    return dense


def _from_content(content: Any) -> Calibration:
    names = {field.name for field in dataclasses.fields(Calibration)}
    if not isinstance(content, dict) or content.keys() != names:
        raise ValueError(f"the calibration is no object with {', '.join(sorted(names))}")
    return Calibration(**content)


def _checked_probabilities(probabilities: Any) -> np.ndarray:
    """Return a new array of probabilities in float64."""
    p = _checked_rows("probabilities", probabilities)
    if p.size and (p.min() < 0.0 or p.max() > 1.0 + _ROUNDING):
        raise ValueError(
            "probabilities must be in [0, 1]; logits become such by a softmax. "
            f"Received: numbers from {p.min():g} to {p.max():g}"
        )
    return np.minimum(p, 1.0)


def _checked_rows(argument: str, rows: Any) -> np.ndarray:
    """Return a new array in float64, with a row a sample and a column a class."""
    try:
        values = np.array(rows, "float64")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{argument} must be an array of numbers ({error}). "
            f"Received: {argument} of type {type(rows).__name__}"
        ) from error
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(
            f"{argument} must have the shape (samples, classes), with at least two classes. "
            f"Received: {argument} of shape {values.shape}"
        )
    strange = np.count_nonzero(~np.isfinite(values))
    if strange:
        raise ValueError(
            f"{argument} must be finite. Received: {strange} of {values.size} numbers that aren't"
        )
    return values


def _checked_labels(labels: Any, values: np.ndarray) -> np.ndarray:
    """Return labels that fit logits or probabilities, of which there are some."""
    count, classes = values.shape
    y = np.asarray(labels)
    if y.dtype.kind not in "iu" or y.shape != (count,) or not count:
        raise ValueError(
            f"labels must be integers of shape ({max(count, 1)},), one a sample. "
            f"Received: labels of type {y.dtype} and shape {y.shape}"
        )
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(
            f"labels must be classes from 0 to {classes - 1}. "
            f"Received: labels from {y.min()} to {y.max()}"
        )
    return y


def _checked_number(argument: str, value: Any, highest: float, closed: bool = False) -> float:
    """Return an argument as a float, or raise if it is not between 0 and `highest`, or one of these."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
        if 0.0 < number < highest or (closed and number in (0.0, highest)):
            return number
    bounds = f"[0, {highest:g}]" if closed else f"(0, {highest:g})"
    raise ValueError(f"{argument} must be a number in {bounds}. Received: {argument}={value!r}")
