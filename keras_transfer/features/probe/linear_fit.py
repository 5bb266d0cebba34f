"""Linear classifiers on features: their fit by scikit-learn, and the choice of C."""

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

try:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.svm import LinearSVC
except ImportError as error:  # pragma: no cover - the solo test runs this
    raise ImportError("linear heads need scikit-learn: pip install 'keras-transfer[probe]'") from error

# What C is chosen from. A machine with more than 0.1 is hardly any other, and takes minutes.
GRIDS = {
    "logistic": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
    "svm": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
}
# From the first on, weights differ between backends by no more than features do; the choice of C can do
# with the second.
_FINE, _ROUGH = {"logistic": 1e-8, "svm": 1e-6}, 1e-4
# How far apart the scores of two classes are, by the one number that scikit-learn gives for both.
_DISTANCE = {"logistic": 1.0, "svm": 2.0}
_CONSTANT = 1e-6  # of the mean: what a feature varies less than that is rounding
_ROWS = 256  # read at a time
_LARGE = 2**26  # bytes: a smaller matrix may wait for the garbage collector, whose run takes .1 s

# Features are arrays of shape (samples, features), or `vectors.Vectors`, which stay in files.
Split = tuple[tuple[Any, np.ndarray], tuple[Any, np.ndarray]]


@dataclass(frozen=True)
class Linear:
    """A linear classifier.

    Attributes:
        kernel: of shape (features, classes).
        bias: of shape (classes,).
    """

    kernel: np.ndarray
    bias: np.ndarray

    def logits(self, x: Any) -> np.ndarray:
        """Return logits of shape (samples, classes) for features of shape (samples, features)."""
        logits = np.empty((len(x), len(self.bias)))
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            logits[rows] = x[rows] @ self.kernel + self.bias
        return logits

    def score(self, x: Any, y: np.ndarray) -> tuple[float, float]:
        """Return accuracy and log-loss on features of shape (samples, features) and their classes."""
        logits = self.logits(x)
        logits -= logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]
        return float((logits.argmax(axis=1) == y).mean()), float(losses.mean())


def fit(
    x: Any,
    y: np.ndarray,
    method: str,
    values: Iterable[float],
    tolerance: float | None = None,
    class_weight: dict[int, float] | None = None,
) -> Iterator[Linear]:
    """Yield the linear classifier of raw features for each C.

    Features are standardised for the fit, and the classifier is then written in terms of raw ones. They
    are in memory once, in float64.

    Args:
        x: features of shape (samples, features).
        y: classes of shape (samples,): each of 0 ... k - 1 at least once.
        method: "logistic" or "svm".
        values: values of C, in which each begins where the one before ended.
        tolerance: of scikit-learn, on what is left of the gradient; None: fine.
        class_weight: of the losses of a class's samples, by its index; None: 1 for each.
    """
    z, mean, scale = _standardised(x)
    basis = scale[:, None]
    if z.shape[0] < z.shape[1]:
        # So few samples lie in a space of so few dimensions, and so do the weights that fit them best.
        directions = np.linalg.qr(z.T)[0]
        z, basis = z @ directions, basis * directions
    # Not scikit-learn's own weights of classes: in a machine of one class against the rest those of the
    # rest have no effect.
    sample_weight = None
    if class_weight is not None:
        sample_weight = np.array([class_weight.get(index, 1.0) for index in range(y.max() + 1)])[y]
    estimator = _estimator(method, tolerance or _FINE[method])
    for value in values:
        estimator.set_params(C=value).fit(z, y, sample_weight)
        weights, bias = estimator.coef_.T, estimator.intercept_
        if weights.shape[1] == 1:
            half = _DISTANCE[method] / 2
            weights, bias = weights * [-half, half], bias * [-half, half]
        kernel = basis * weights if basis.shape[1] == 1 else basis @ weights
        yield Linear(kernel, bias - mean @ kernel)
    if z.nbytes >= _LARGE:
        # SciPy 1.13 and 1.16 leave the matrix in a circle of references (scipy#20768, scipy#24005); a
        # matrix of each fold would stay.
        del z, estimator
        gc.collect()


def _standardised(x: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features with mean 0 and deviation 1, the means, and by what they were multiplied."""
    z = np.empty(x.shape)
    for start in range(0, len(z), _ROWS):
        z[start : start + _ROWS] = x[start : start + _ROWS]
    mean = z.mean(axis=0)
    z -= mean  # in its place, as all that follows: there is no room for another
    deviation = np.sqrt(np.einsum("ij,ij->j", z, z) / len(z))
    varies = deviation > _CONSTANT * np.abs(mean)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
    z *= scale
    return z, mean, scale


def _estimator(method: str, tolerance: float) -> Any:
    if method == "logistic":
        return LogisticRegression(tol=tolerance, max_iter=10_000, warm_start=True)
    # Not the dual problem, whose solver draws random numbers.
    return LinearSVC(dual=False, tol=tolerance, max_iter=10_000)


def fold_count(y: np.ndarray, folds: int) -> int:
    """Return how many folds there can be that have samples of every class, at most `folds`."""
    return min(folds, int(np.bincount(y).min()))


def fold_indices(y: np.ndarray, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield which samples are for training and which for testing, in turn, by shares of each class."""
    return StratifiedKFold(folds, shuffle=True, random_state=seed).split(y, y)


def fold_data(x: Any, y: np.ndarray, folds: int, seed: int) -> Iterator[Split]:
    """Yield (x, y) for training and for testing, in turn, with the same share of each class."""
    for train, test in fold_indices(y, folds, seed):
        yield (x[train], y[train]), (x[test], y[test])


class Choice(NamedTuple):
    """The C that was chosen, and what each reached.

    Attributes:
        value: C.
        accuracy: the mean accuracy with it.
        accuracies: the mean accuracy with each of the method's grid.
    """

    value: float
    accuracy: float
    accuracies: tuple[float, ...]


def choose(
    splits: Iterable[Split],
    method: str,
    advance: Callable[[], None],
    class_weight: dict[int, float] | None = None,
) -> Choice:
    """Return the C of the highest accuracy on test data, among equals of the lowest log-loss.

    Args:
        splits: data for training and for testing; one pair, or several whose scores are averaged.
        method: "logistic" or "svm".
        advance: called after each of the fits, of which a split has one for each C.
        class_weight: as in `fit`.

    Returns:
        C, and the accuracies.
    """
    rows = []
    for train, test in splits:
        row = []
        for linear in fit(*train, method, GRIDS[method], _ROUGH, class_weight):
            row.append(linear.score(*test))
            advance()
        rows.append(row)
    accuracy, loss = np.mean(rows, axis=0).T
    best = int(np.lexsort((loss, -accuracy))[0])
    return Choice(GRIDS[method][best], float(accuracy[best]), tuple(map(float, accuracy)))
