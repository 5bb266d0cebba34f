"""Which of several classifiers is best, told by the same samples, that none of them was fitted to."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SURE = 2.0  # standard errors by which one must be better


class Scored(NamedTuple):
    """What a classifier makes of samples.

    Attributes:
        right: for each sample 1.0 where its class is the most probable, else 0.0.
        losses: the log-loss of each.
    """

    right: np.ndarray
    losses: np.ndarray


def behind(one: Scored, best: Scored) -> tuple[float, float]:
    """Return by how much the accuracy of one is below that of another, and its standard error.

    Both saw the same samples, so that those count that one has right and the other hasn't.
    """
    return paired(best.right - one.right)


def paired(differences: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Return the mean of differences over the same samples, and the standard error if there were none.

    That is McNemar's test where they are of what is right. Not about the mean that was found: of few
    samples that all differ in one direction the deviation would be 0.

    Args:
        differences: of shape (samples,).
        groups: of shape (samples,). Samples of one, such as photos of one object, are right or wrong
            together, so that only groups are drawn by chance. None: each stands for itself.
    """
    if groups is not None:
        sums = np.bincount(np.unique(groups, return_inverse=True)[1], weights=differences)
        return float(differences.mean()), float(np.sqrt((sums**2).sum()) / len(differences))
    return float(differences.mean()), float(np.sqrt((differences**2).mean() / len(differences)))


def in_order(scored: Sequence[Scored]) -> list[int]:
    """Return the indices of classifiers, the best first, then the best of the others, and so on.

    The best is that of the lowest log-loss, as all samples tell of that; unless others are more accurate
    than this by more than twice the standard error of the difference: then the most accurate.
    """
    left, order = list(range(len(scored))), []
    while left:
        lowest = min(left, key=lambda index: scored[index].losses.mean())
        sure = [index for index in left if _is_ahead(scored[index], scored[lowest])]
        best = max(sure, key=lambda index: _accuracy_and_loss(scored[index]), default=lowest)
        left.remove(best)
        order.append(best)
    return order


def _accuracy_and_loss(one: Scored) -> tuple[float, float]:
    return float(one.right.mean()), -float(one.losses.mean())


def _is_ahead(one: Scored, other: Scored) -> bool:
    gain, error = behind(other, one)
    return gain > SURE * error
