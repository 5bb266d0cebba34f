"""Which linear head suits a data set: on how many depths, and with which C."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_transfer.data.grouping import divisible, of_samples
from keras_transfer.features.probe import linear_fit
from keras_transfer.features.probe.linear_fit import Choice, Linear
from keras_transfer.features.probe.ridge_folds import RidgeFolds
from keras_transfer.features.probe.vectors import MeanOfVectors, Vectors

# Samples by which depths are compared, and C where the folds of all need no fit: their products are
# inverted some twenty times.
_COMPARED = 1500
# With more samples than this many times the features, or more in all, folds are fitted in turn: the
# products of the samples would take longer, or more memory.
_TIMES, _PRODUCTS = 2, 6000
_BEGIN = 1.0  # the C that is tried first

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


class Head(NamedTuple):
    """A kind of linear head.

    Attributes:
        depths: how many of the last depths it is on.
        width: how many of the last features these are.
        choice: its method and C.
    """

    depths: int
    width: int
    choice: Choice


def choose_head(
    x: Any,
    y: np.ndarray,
    widths: Sequence[int],
    folds: Folds,
    class_weight: dict[int, float] | None = None,
    groups: np.ndarray | None = None,
) -> Head:
    """Return the ridge regression of the lowest log-loss on held-back samples.

    On four sets of photos it was as good as logistic regression or better, and it takes a tenth of the
    time.

    Args:
        x: features of shape (samples, features).
        y: classes of shape (samples,).
        widths: how many of the features are of each depth, the last depth last.
        folds: indices of the samples for training and of those held back.
        class_weight: as in `linear_fit.fit`.
        groups: of shape (samples,), which `folds` keep whole; None: there are none.
    """
    depths = chosen_depths(x, y, widths, groups=groups)
    x = last_features(x, sum(widths[-depths:]))
    if class_weight is None and len(y) <= min(_TIMES * x.shape[1], _PRODUCTS):
        return Head(depths, x.shape[1], _choice_of_c(x, y, [part for _, part in folds], groups))
    splits = (((x[a], y[a]), (x[b], y[b])) for a, b in folds)
    choice = linear_fit.choose(splits, "ridge", lambda: None, class_weight)
    return Head(depths, x.shape[1], choice)


def fit_head(x: Any, y: np.ndarray, head: Head, class_weight: dict[int, float] | None = None) -> Linear:
    """Return a head of that kind on all features, of which those of other depths have weights of 0."""
    choice, used = head.choice, last_features(x, head.width)
    (linear,) = linear_fit.fit(used, y, choice.method, [choice.value], class_weight=class_weight)
    kernel = np.zeros((x.shape[1], len(linear.bias)))
    kernel[-head.width :] = linear.kernel
    return Linear(kernel, linear.bias).times(choice.factor)


def last_features(x: Any, width: int) -> Any:
    """Return the last so many features of vectors that stay in files, or of an array."""
    return x.last(width) if isinstance(x, (Vectors, MeanOfVectors)) else x[:, x.shape[1] - width :]


def chosen_depths(
    x: Any, y: np.ndarray, widths: Sequence[int], folds: int = 5, groups: np.ndarray | None = None
) -> int:
    """Return on how many of the last depths a ridge regression is best for samples it has not seen.

    Where there are many samples, some are compared, of each class its share.

    Args:
        x: as in `choose_head`.
        y: as there.
        widths: as there.
        folds: how many folds, at most as many as the smallest class has samples, or groups.
        groups: as there.
    """
    if len(widths) == 1 or divisible(y, groups).min() < 2:  # nothing to choose, or to choose by
        return len(widths)
    some = _some(y, groups)
    z = linear_fit.standardised(x[some], "float32")[0]
    ridge = RidgeFolds(y[some], _parts(y[some], folds, of_samples(groups, some)))

    def worth(C: float) -> tuple[float, float]:
        found = ridge.scores(C)
        errors = found - np.eye(found.shape[1])[ridge.y]
        return (found.argmax(axis=1) == ridge.y).mean(), -float((errors**2).mean())

    scores, C, end = [], _BEGIN, z.shape[1]
    for width in reversed(widths):
        ridge.add(z[:, end - width : end])
        end -= width
        C, found = _climb(worth, C)
        scores.append(found[C])
    return 1 + scores.index(max(scores))


def _choice_of_c(
    x: Any, y: np.ndarray, parts: Sequence[np.ndarray], groups: np.ndarray | None
) -> Choice:
    """Return the C of the lowest log-loss on folds that were left out, and what it gives for these.

    Where there are many samples, C is chosen on some: the penalty weighs noise in the classes against
    the size of the weights, and neither depends on how many samples there are.
    """
    some, few = _some(y, groups), (x, y, parts)
    if len(some) < len(y):
        few = x[some], y[some], _parts(y[some], len(parts), of_samples(groups, some))
    with_c = _left_out(*few)
    choices: dict[float, Choice] = {}

    def worth(C: float) -> float:
        choices[C] = with_c(C)
        return -choices[C].loss

    best, _ = _climb(worth, _BEGIN)
    choice = choices[best] if len(some) == len(y) else _left_out(x, y, parts)(best)
    choices[best] = choice
    return choice._replace(accuracies={C: choices[C].accuracy for C in sorted(choices)})


def _left_out(x: Any, y: np.ndarray, parts: Sequence[np.ndarray]) -> Callable[[float], Choice]:
    """Return what tells how good a C is for the samples of folds that were left out."""
    ridge = RidgeFolds(y, parts)
    ridge.add(linear_fit.standardised(x, "float32")[0])
    labels = [y[part] for part in parts]

    def with_c(C: float) -> Choice:
        scores = ridge.scores(C)
        return linear_fit.scored("ridge", C, [scores[part] for part in parts], labels)

    return with_c


def _some(y: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Return indices of as many samples as are compared, in order: of each class its share, or two.

    All, where those would be of one group of a class.
    """
    share = min(_COMPARED / len(y), 1.0)
    found = []
    for samples in (np.flatnonzero(y == index) for index in np.unique(y)):
        count = min(max(round(share * len(samples)), 2), len(samples))
        found.append(samples[np.linspace(0, len(samples) - 1, count).round().astype(int)])
    some = np.sort(np.concatenate(found))
    parted = groups is None or divisible(y[some], groups[some]).min() > 1
    return some if parted else np.arange(len(y))


def _parts(y: np.ndarray, folds: int, groups: np.ndarray | None) -> list[np.ndarray]:
    """Return the samples of each of so many folds, or of as many as there can be."""
    count = linear_fit.fold_count(y, folds, groups)
    return [part for _, part in linear_fit.fold_indices(y, count, 0, groups)]


def _climb(worth: Callable[[float], Any], start: float) -> tuple[float, dict[float, Any]]:
    """Return the C beside which no other is worth more, and what those are worth that were looked at."""
    values, found = linear_fit.GRIDS["ridge"], {}

    def at(index: int) -> Any:
        if values[index] not in found:
            found[values[index]] = worth(values[index])
        return found[values[index]]

    best = values.index(start)
    while True:
        near = [index for index in (best, best - 1, best + 1) if 0 <= index < len(values)]
        better = max(near, key=at)
        if better == best:
            return values[best], found
        best = better
