"""LogME: how well features explain labels, without training."""

import numpy as np

_STEPS = 100
_CONVERGED = 1e-6
_TINY = 1e-12  # of what is to be explained: a residual below that is rounding


def log_maximum_evidence(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the logarithm of the maximum evidence for labels given features, per sample and class.

    For each class the column y of ones and zeros is modelled as y = F w + noise, with w of precision
    alpha and noise of precision beta. The evidence p(y | F, alpha, beta), in which w is integrated out,
    is maximised by a fixed-point iteration: gamma = sum of s / (s + alpha / beta) over the eigenvalues s
    of F'F, alpha = gamma / |m|^2 and beta = (n - gamma) / |F m - y|^2, m being the mean of w. As the
    weights are integrated out, features that could fit anything score no better for it.

    Args:
        features: of shape (samples, features).
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
    features = np.asarray(features, "float64")
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    kept = singular > 1e-12 * max(singular[0], 1e-300)
    left, eigenvalues = left[:, kept], singular[kept] ** 2
    targets = [(labels == each).astype("float64") for each in np.unique(labels)]
    return float(np.mean([_evidence(left, eigenvalues, y, features.shape[1]) for y in targets]))


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


def _evidence(left: np.ndarray, eigenvalues: np.ndarray, y: np.ndarray, width: int) -> float:
    """Return the logarithm of the evidence for one column of labels, per sample."""
    count = len(y)
    inside = (left.T @ y) ** 2
    total = float(y @ y)
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
