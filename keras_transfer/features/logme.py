"""LogME: how well features explain labels, without training."""

from typing import Any

import numpy as np

_STEPS = 100
_CONVERGED = 1e-6
_TINY = 1e-12  # of what is to be explained: a residual below that is rounding
_ROWS = 512  # read at a time


def log_maximum_evidence(features: Any, labels: np.ndarray) -> float:
    """Return the logarithm of the maximum evidence for labels given features, per sample and class.

    For each class the column y of ones and zeros is modelled as y = F w + noise, with w of precision
    alpha and noise of precision beta. The evidence p(y | F, alpha, beta), in which w is integrated out,
    is maximised by a fixed-point iteration: gamma = sum of s / (s + alpha / beta) over the eigenvalues s
    of F'F, alpha = gamma / |m|^2 and beta = (n - gamma) / |F m - y|^2, m being the mean of w. As the
    weights are integrated out, features that could fit anything score no better for it.

    Rows are read some at a time, and features^2 numbers are in memory, however many samples there are.
    Where those are more than the features, the eigenvalues come from F'F, so that a direction in which
    features have less than about 1e-7 of their largest deviation counts as none: in float32 they are
    rounding there.

    Args:
        features: of shape (samples, features): an array, or what gives one for a slice of rows.
        labels: classes of shape (samples,): integers.

    Returns:
        The mean over the classes of log p(y | F) / samples. Higher is better; it may be positive, as it
        is a density.

    Example:
        >>> import numpy as np
        >>> labels = np.arange(100) % 2
        >>> noise = np.random.default_rng(0).standard_normal((100, 5))
        >>> told = noise + 3 * labels[:, None]
        >>> log_maximum_evidence(told, labels) > log_maximum_evidence(noise, labels)
        True

    References:
        You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML
        2021, algorithm 1.
    """
    features = features if hasattr(features, "shape") else np.asarray(features)
    classes, y = np.unique(labels, return_inverse=True)
    samples, width = features.shape
    eigenvalues, inside = (_of_rows if samples <= width else _of_sums)(features, y, len(classes))
    counts = np.bincount(y)
    found = [
        _evidence(eigenvalues, each, float(count), samples, width)
        for each, count in zip(inside, counts, strict=True)
    ]
    return float(np.mean(found))


def classes_of(labels: np.ndarray) -> np.ndarray:
    """Return the classes that labels name, or raise a `ValueError` if they are not at least two."""
    found = np.unique(labels)
    if len(found) < 2:
        raise ValueError(
            f"data must have samples of at least two classes. Received: samples of class {found[0]} only"
        )
    return found


def explained(score: float, labels: np.ndarray) -> float:
    """Return which part of the spread of the labels a score tells that features explain, from 0 to 1.

    It is 1 - exp(-2 (score - s)), s being the score of a feature that is always one: for a normal
    distribution with the same evidence, the part by which the variance is lower.
    """
    without = log_maximum_evidence(np.ones((len(labels), 1)), labels)
    return float(max(0.0, 1.0 - np.exp(2.0 * (without - score))))


def _of_rows(features: Any, y: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return as `_of_sums` does, by a decomposition of all rows, which are few."""
    left, singular, _ = np.linalg.svd(np.asarray(features[:], "float64"), full_matrices=False)
    kept = singular > 1e-12 * max(singular[0], 1e-300)
    targets = y == np.arange(classes)[:, None]
    return singular[kept] ** 2, (targets @ left[:, kept]) ** 2


def _of_sums(features: Any, y: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what of F'F and F'y the evidence hangs on.

    Args:
        features: of shape (samples, features), of which some rows at a time are read.
        y: the number of each sample's class.
        classes: how many there are.

    Returns:
        The eigenvalues of F'F that are more than rounding, of shape (directions,); and for each class
        how much of its column y of ones and zeros lies in each of these directions of the samples,
        squared, of shape (classes, directions).
    """
    samples, width = features.shape
    products, sums = np.zeros((width, width)), np.zeros((classes, width))
    for start in range(0, samples, _ROWS):
        rows = np.asarray(features[start : start + _ROWS], "float64")
        products += rows.T @ rows
        sums += (y[start : start + _ROWS] == np.arange(classes)[:, None]).astype("float64") @ rows
    eigenvalues, directions = np.linalg.eigh(products)
    kept = eigenvalues > width * np.finfo("float64").eps * max(eigenvalues[-1], 1e-300)
    eigenvalues = eigenvalues[kept]
    return eigenvalues, (sums @ directions[:, kept]) ** 2 / eigenvalues


def _evidence(
    eigenvalues: np.ndarray, inside: np.ndarray, total: float, count: int, width: int
) -> float:
    """Return the logarithm of the evidence for one column y of labels, per sample.

    Args:
        eigenvalues: of F'F.
        inside: how much of y lies in each of their directions, squared.
        total: |y|^2.
        count: how many samples there are.
        width: how many features.
    """
    outside = max(total - float(inside.sum()), 0.0)  # of y, what no weights reach
    alpha = beta = 1.0
    for _ in range(_STEPS):
        ratio = alpha / beta
        gamma, size, residual = _moments(eigenvalues, inside, outside, ratio)
        alpha = max(gamma / max(size, _TINY * total), _TINY)
        beta = max(count - gamma, _TINY) / max(residual, _TINY * total)
        if abs(alpha / beta - ratio) <= _CONVERGED * ratio:
            break
    _, size, residual = _moments(eigenvalues, inside, outside, alpha / beta)
    determinant = np.log(alpha + beta * eigenvalues).sum() + (width - len(eigenvalues)) * np.log(alpha)
    evidence = (
        count * np.log(beta)
        + width * np.log(alpha)
        - count * np.log(2 * np.pi)
        - beta * residual
        - alpha * size
        - determinant
    )
    return float(evidence) / (2 * count)


def _moments(
    eigenvalues: np.ndarray, inside: np.ndarray, outside: float, ratio: float
) -> tuple[float, float, float]:
    """Return the number of weights that count, |m|^2 and |F m - y|^2 at alpha / beta = `ratio`."""
    shrunk = eigenvalues + ratio
    gamma = (eigenvalues / shrunk).sum()
    size = (eigenvalues * inside / shrunk**2).sum()
    residual = (inside * (ratio / shrunk) ** 2).sum() + outside
    return float(gamma), float(size), float(residual)
