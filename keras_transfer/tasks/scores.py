"""Scores of probabilities, as NumPy arrays."""

import math
from fractions import Fraction
from typing import Any

import numpy as np

from keras_transfer._lib.checks import checked_integer, checked_number
from keras_transfer._lib.extras import optional

_LOWEST, _HIGHEST = 0.05, 20.0
_ROUNDING = 1e-6  # by which a mean of probabilities may exceed 1


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
    brentq = optional("scipy.optimize", "temperatures need SciPy", "probe").brentq
    below = checked_rows("logits", logits)
    y = checked_labels(labels, below)
    below -= below.max(axis=1, keepdims=True)
    if not below.any():
        return 1.0
    true = below[np.arange(len(y)), y]

    # A root of the slope is found to more digits than a minimum, where the loss is flat to rounding.
    def slope(temperature: float) -> float:
        """Return the derivative of the loss by 1 / T, which falls with T."""
        weights = below / temperature
        np.exp(weights, out=weights)
        sums = weights.sum(axis=1)
        weights *= below
        means = weights.sum(axis=1) / sums
        return float((means - true).mean())

    if slope(_LOWEST) <= 0.0:
        return _LOWEST
    if slope(_HIGHEST) >= 0.0:
        return _HIGHEST
    bounds = math.log(_LOWEST), math.log(_HIGHEST)
    return math.exp(brentq(lambda logarithm: slope(math.exp(logarithm)), *bounds, xtol=1e-12))


def log_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the log-loss of each sample.

    Args:
        logits: of shape (samples, classes).
        labels: classes of shape (samples,).
    """
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of `log_losses`."""
    return float(log_losses(logits, labels).mean())


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

    Arguments and errors are those of `expected_calibration_error`. Means of bins without samples are 0.
    """
    p = _checked_probabilities(probabilities)
    y = checked_labels(labels, p)
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
    y = checked_labels(labels, p)
    return threshold_of(p[np.arange(len(y)), y], coverage)


def threshold_of(true: np.ndarray, coverage: float) -> float:
    """Return the threshold of `conformal_threshold` by the probability that must be in each set."""
    coverage = checked_number("coverage", coverage, high=1)
    share = Fraction(str(coverage))  # the float 0.55 is a little more
    rank = math.ceil((len(true) + 1) * share)
    return 0.0 if rank > len(true) else float(np.sort(true)[-rank])


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
    return p >= checked_number("threshold", threshold, high=1, closed="both")


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


def _checked_probabilities(probabilities: Any) -> np.ndarray:
    """Return a new array of probabilities in float64."""
    p = checked_rows("probabilities", probabilities)
    if p.size and (p.min() < 0.0 or p.max() > 1.0 + _ROUNDING):
        raise ValueError(
            "probabilities must be in [0, 1]; logits become such by a softmax. "
            f"Received: numbers from {p.min():g} to {p.max():g}"
        )
    return np.minimum(p, 1.0, out=p)


def checked_rows(argument: str, rows: Any) -> np.ndarray:
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


def checked_labels(labels: Any, values: np.ndarray) -> np.ndarray:
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
