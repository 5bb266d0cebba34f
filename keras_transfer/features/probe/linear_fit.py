"""Linear classifiers on features: their fit by scikit-learn, and the choice of C."""

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

try:
    from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
    from scipy.optimize import minimize_scalar
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.svm import LinearSVC
except ImportError as error:  # pragma: no cover - the solo test runs this
    raise ImportError("linear heads need scikit-learn: pip install 'keras-transfer[probe]'") from error

from keras_transfer.data.grouping import divided, divisible
from keras_transfer.data.order import divided_rows
from keras_transfer.tasks.multi_label import MULTI_LABEL
from keras_transfer.tasks.scores import log_loss

# What C is chosen from. A machine with more than 0.1 is hardly any other, and takes minutes. The penalty
# of a ridge regression is the number of features divided by C.
GRIDS = {
    "logistic": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
    "svm": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "ridge": (1e-5, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
}
# From the first on, weights differ between backends by no more than features do; the choice of C can do
# with the second, and with half the digits.
_FINE, _ROUGH = {"logistic": 1e-6, "svm": 1e-6}, 1e-3
# Held-back samples that are enough to choose C by, where it is not in closed form: the others would take
# time, and choose the same or its neighbour.
_ENOUGH = 1500
_WORSE = 2  # values of C in a row whose loss is above the lowest: then larger ones aren't tried
# How far apart the scores of two classes are, by the one number that scikit-learn gives for both.
_DISTANCE = {"logistic": 1.0, "svm": 2.0}
_CONSTANT = 1e-6  # of the mean: what a feature varies less than that is rounding
# Of the median deviation. On four sets of photos log-loss by cross-validation is lowest with 0.2 to 0.5;
# with 0 that of 44 kinds of flowers is half as high again.
_LEAST = 0.3
_ROUNDING = {"float32": 1e-6, "float64": 1e-12}
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

    def times(self, factor: float) -> "Linear":
        """Return the classifier whose logits are so many times as large."""
        return Linear(factor * self.kernel, factor * self.bias)

    def plus(self, added: np.ndarray) -> "Linear":
        """Return the classifier whose logits are greater by a number for each class."""
        return Linear(self.kernel, self.bias + added)

    def accuracy(self, x: Any, y: np.ndarray) -> float:
        """Return the accuracy on features of shape (samples, features) and their classes."""
        return float((self.logits(x).argmax(axis=1) == y).mean())


def fit(
    x: Any,
    y: np.ndarray,
    method: str,
    values: Iterable[float],
    rough: bool = False,
    class_weight: dict[int, float] | None = None,
) -> Iterator[Linear]:
    """Yield the linear classifier of raw features for each C.

    Features are standardised for the fit, and the classifier is then written in terms of raw ones. They
    are in memory once.

    Args:
        x: features of shape (samples, features).
        y: classes of shape (samples,): each of 0 ... k - 1 at least once.
        method: "logistic", "svm" or "ridge": least squares for each class against the rest.
        values: values of C, in which each begins where the one before ended.
        rough: whether it is to compare values of C only: in float32, to fewer digits.
        class_weight: of the losses of a class's samples, by its index; None: 1 for each.
    """
    z, mean, scale = standardised(x, "float32" if rough else "float64")
    # Not scikit-learn's own weights of classes: in a machine of one class against the rest those of the
    # rest have no effect.
    weight = None
    if class_weight is not None:
        weight = np.array([class_weight.get(index, 1.0) for index in range(y.max() + 1)])[y]
    if method == "ridge":
        found = _ridge(z, y, values, weight)
    else:
        few = _factor_of_products(z) if z.shape[0] < z.shape[1] else None
        tolerance = _ROUGH if rough else _FINE[method]
        found = _by_estimator(z, y, _estimator(method, tolerance), values, weight, few)
        del few
    for weights, bias in found:
        if weights.shape[1] == 1:
            half = _DISTANCE[method] / 2
            weights, bias = weights * [-half, half], bias * [-half, half]
        kernel = scale[:, None] * weights
        yield Linear(kernel, bias - mean @ kernel)
    if z.nbytes >= _LARGE:
        # SciPy 1.13 and 1.16 leave the matrix in a circle of references (scipy#20768, scipy#24005); a
        # matrix of each fold would stay.
        del z, found
        gc.collect()


def _by_estimator(
    z: np.ndarray,
    y: np.ndarray,
    estimator: Any,
    values: Iterable[float],
    weight: np.ndarray | None,
    few: np.ndarray | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield weights of shape (features, classes), or one column for two classes, and biases.

    In `few` is what `_factor_of_products` gives, where there are fewer samples than features: they lie
    in a space of so few dimensions, and so do the weights that fit them best.
    """
    for value in values:
        estimator.set_params(C=value).fit(z if few is None else few, y, weight)
        weights = estimator.coef_.T
        if few is not None:
            weights = z.T @ solve_triangular(few, weights, lower=True, trans="T", check_finite=False)
        yield weights, estimator.intercept_


def _ridge(
    z: np.ndarray, y: np.ndarray, values: Iterable[float], weight: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield weights of shape (features, classes) and biases, in closed form.

    The products of the features, or of the samples where these are fewer, serve all values.
    """
    targets = np.eye(y.max() + 1, dtype=z.dtype)[y]
    mean, bias = (np.average(each, axis=0, weights=weight).astype(z.dtype) for each in (z, targets))
    targets -= bias
    if weight is not None:  # else features have mean 0 already, and are not copied
        root = np.sqrt(weight)[:, None].astype(z.dtype)
        z, targets = root * (z - mean), root * targets
    by_sample = z.shape[0] < z.shape[1]
    products = z @ z.T if by_sample else z.T @ z
    right = targets if by_sample else z.T @ targets
    for value in values:
        matrix = products.copy()
        matrix[np.diag_indices_from(matrix)] += z.shape[1] / value
        factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        weights = cho_solve(factor, right, check_finite=False)
        weights = z.T @ weights if by_sample else weights
        yield weights, bias - mean @ weights


def standardised(x: Any, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features with mean 0 and deviation 1, the means, and by what they were multiplied.

    Of a feature that hardly varies the deviation is less than 1. It may be 0 for all samples but a few;
    with a deviation of 1, a sample with another value would decide for a class by it alone.
    """
    z = np.empty(x.shape, dtype)
    for start in range(0, len(z), _ROWS):
        z[start : start + _ROWS] = x[start : start + _ROWS]
    mean = z.mean(axis=0, dtype="float64")
    z -= mean.astype(dtype)  # in its place, as all that follows: there is no room for another
    deviation = np.sqrt(np.einsum("ij,ij->j", z, z, dtype="float64") / len(z))
    varies = deviation > _CONSTANT * np.abs(mean)
    if varies.any():
        deviation = np.maximum(deviation, _LEAST * np.median(deviation[varies]))
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
    z *= scale.astype(dtype)
    return z, mean, scale


def _factor_of_products(z: np.ndarray) -> np.ndarray:
    """Return rows of as many numbers as there are samples, whose products are those of the rows of z.

    That is quicker by far than an orthogonal basis of the rows.
    """
    products = z @ z.T
    # As the mean is 0, one direction has no length; rounding may take it below.
    products[np.diag_indices_from(products)] += (
        _ROUNDING[z.dtype.name] * len(z) * max(float(np.trace(products)) / len(z), 1.0)
    )
    return np.tril(cholesky(products, lower=True, overwrite_a=True, check_finite=False))


def _estimator(method: str, tolerance: float) -> Any:
    if method == "logistic":
        return LogisticRegression(tol=tolerance, max_iter=10_000, warm_start=True)
    # Not the dual problem, whose solver draws random numbers.
    return LinearSVC(dual=False, tol=tolerance, max_iter=10_000)


def fit_rows(x: Any, rows: np.ndarray, values: Iterable[float], rough: bool = False) -> Iterator[Linear]:
    """Yield the linear classifier of several labels for each C: a logistic regression a class.

    Args:
        x: features of shape (samples, features).
        rows: of 0 and 1, of shape (samples, classes).
        values: as in `fit`.
        rough: as in `fit`.

    Yields:
        Classifiers whose logits are those of a sigmoid for each class. Of a class that no sample has, or
        all have, nothing but the share is known, and that is its probability for each image.
    """
    z, mean, scale = standardised(x, "float32" if rough else "float64")
    few = _factor_of_products(z) if z.shape[0] < z.shape[1] else None
    counts = rows.sum(axis=0)
    # Half a sample more on each side, so that the logarithm is a number.
    constant = np.log(counts + 0.5) - np.log(len(rows) - counts + 0.5)
    some = np.flatnonzero((counts > 0) & (counts < len(rows)))
    estimators = {k: _estimator("logistic", _ROUGH if rough else _FINE["logistic"]) for k in some}
    for value in values:
        weights, bias = np.zeros((z.shape[1], rows.shape[1])), constant.copy()
        for k, estimator in estimators.items():
            pairs = _by_estimator(z, rows[:, k], estimator, [value], None, few)
            ((column, intercept),) = pairs
            weights[:, k], bias[k] = column[:, 0], intercept[0]
        kernel = scale[:, None] * weights
        yield Linear(kernel, bias - mean @ kernel)
    if z.nbytes >= _LARGE:  # as in `fit`
        del z, few
        gc.collect()


def choose_for_rows(
    splits: Iterable[Split], advance: Callable[[], None], values: Sequence[float]
) -> tuple[float, float]:
    """Return the C of the lowest mean log-loss on test data for several labels, and that loss.

    It is one for all classes: rare ones have too few samples to choose by.

    Args:
        splits: features and rows for training and for testing, of which the losses are averaged.
        advance: called for each C of each split, tried or not.
        values: of C, in which each begins where the one before ended.
    """
    left, losses = list(values), []
    for train, (x, rows) in splits:
        row: list[float] = []
        for linear in fit_rows(*train, left, True):
            p = MULTI_LABEL.probabilities(linear.logits(x))
            row.append(float(MULTI_LABEL.losses(p, rows).mean()))
            if min(row[-_WORSE:]) > min(row):
                break  # the others take longest
        _advanced(advance, "logistic", values)
        left = left[: len(row)]
        losses.append(row)
    means = [float(np.mean([row[index] for row in losses])) for index in range(len(left))]
    best = int(np.argmin(means))
    return left[best], means[best]


def fold_rows(
    x: Any, rows: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None
) -> Iterator[Split]:
    """Yield (x, rows) for training and for testing, in turn, with about the same share of each class."""
    part = divided_rows(rows, [1 / folds] * folds, seed, groups)
    for fold in range(folds):
        train, test = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
        yield (x[train], rows[train]), (x[test], rows[test])


def fold_count(y: np.ndarray, folds: int, groups: np.ndarray | None = None) -> int:
    """Return how many folds there can be that have samples of every class, at most `folds`."""
    return min(folds, int(divisible(y, groups).min()))


def fold_indices(
    y: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield which samples are for training and which for testing, in turn, by shares of each class.

    All folds by which anything is chosen or measured come from here.

    Args:
        y: classes of shape (samples,).
        folds: how many.
        seed: decides which samples are in which.
        groups: of shape (samples,), of which none is in two folds; None: there are none.

    Raises:
        ValueError: the groups leave no way to have each class in two folds.
    """
    if groups is None:
        yield from StratifiedKFold(folds, shuffle=True, random_state=seed).split(y, y)
        return
    fold_of = divided(y, groups, (1 / folds,) * folds, seed)
    once = np.flatnonzero(divisible(y, fold_of) == 1)
    if once.size:
        raise ValueError(
            "groups must leave samples of every class in two folds, which no way to divide them does "
            f"that was found; add groups of class {once[0]} alone. Received: groups that have several "
            "classes"
        )
    for fold in range(folds):
        yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)


def fold_data(
    x: Any, y: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None
) -> Iterator[Split]:
    """Yield (x, y) for training and for testing, in turn, with the same share of each class."""
    for train, test in fold_indices(y, folds, seed, groups):
        yield (x[train], y[train]), (x[test], y[test])


class Choice(NamedTuple):
    """The C that was chosen, and what each reached.

    Attributes:
        method: as in `fit`.
        value: C.
        accuracy: the mean accuracy with it.
        loss: the log-loss with it.
        accuracies: by each C that was tried, the mean accuracy.
        factor: by what the logits of a ridge regression are multiplied, which knows none; else 1.
        logits: those with this C, factor included, of the test data of each split.
    """

    method: str
    value: float
    accuracy: float
    loss: float
    accuracies: dict[float, float]
    factor: float
    logits: list[np.ndarray]


def given(method: str, value: float) -> Choice:
    """Return a C that somebody else has chosen."""
    return Choice(method, value, float("nan"), float("nan"), {}, 1.0, [])


def choose(
    splits: Iterable[Split],
    method: str,
    advance: Callable[[], None],
    class_weight: dict[int, float] | None = None,
    values: Sequence[float] | None = None,
) -> Choice:
    """Return the C of the highest accuracy on test data, among equals of the lowest log-loss.

    For "ridge" it is that of the lowest log-loss.

    Args:
        splits: data for training and for testing; one pair, or several whose scores are averaged. But
            for "ridge", no more are taken than have 1,500 samples for testing.
        method: as in `fit`.
        advance: called for each C of each split, tried or not.
        class_weight: as in `fit`.
        values: of C; None: the method's `GRIDS`.

    Returns:
        C, and what was found with it.
    """
    left = list(GRIDS[method] if values is None else values)
    rows: list[list[np.ndarray]] = []
    labels: list[np.ndarray] = []
    for train, (x, y) in splits:
        if method != "ridge" and sum(len(each) for each in labels) >= _ENOUGH:
            _advanced(advance, method, values)
            continue
        row: list[np.ndarray] = []
        losses: list[float] = []
        for linear in fit(*train, method, left, True, class_weight):
            row.append(linear.logits(x).astype("float32"))
            losses.append(log_loss(row[-1], y))
            if method == "logistic" and min(losses[-_WORSE:]) > min(losses):
                break  # the others take longest
        _advanced(advance, method, values)
        left = left[: len(row)]
        rows.append(row)
        labels.append(y)
    found = [
        scored(method, value, [row[index] for row in rows], labels) for index, value in enumerate(left)
    ]
    # Of a ridge regression the loss has one minimum, where that of the accuracy is within its noise.
    best = min(found, key=lambda choice: (-choice.accuracy * (method != "ridge"), choice.loss))
    return best._replace(accuracies={choice.value: choice.accuracy for choice in found})


def _advanced(advance: Callable[[], None], method: str, values: Sequence[float] | None) -> None:
    for _ in GRIDS[method] if values is None else values:
        advance()


def scored(
    method: str, value: float, logits: Sequence[np.ndarray], labels: Sequence[np.ndarray]
) -> Choice:
    """Return how good a C is by what it gives for the test data of each split."""
    factor = _factor(logits, labels) if method == "ridge" else 1.0
    logits = [factor * each for each in logits]
    pairs = list(zip(logits, labels, strict=True))
    accuracy = float(np.mean([(each.argmax(axis=1) == y).mean() for each, y in pairs]))
    loss = float(np.mean([log_loss(each, y) for each, y in pairs]))
    return Choice(method, value, accuracy, loss, {}, factor, logits)


def _factor(logits: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """Return by what logits of a ridge regression are multiplied for the lowest log-loss, at least 1.

    Times 1 all classes are nearly equal; times less, nothing before the head would learn from it.
    """
    every, y = np.concatenate(logits), np.concatenate(labels)
    found = minimize_scalar(lambda x: log_loss(np.exp(x) * every, y), bounds=(0, 6), method="bounded")
    return float(np.exp(found.x))
