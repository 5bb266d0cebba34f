"""Scores of several labels an image, as NumPy arrays."""

from typing import NamedTuple

import numpy as np

HALF = 0.5  # the threshold where nothing tells another


def average_precisions(probabilities: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the average precision of each class: the mean precision at the ranks of its images.

    Images of one probability have one rank.

    Args:
        probabilities: of shape (samples, classes), or whatever else orders the images.
        rows: of 0 and 1, of the same shape.

    Returns:
        Numbers of shape (classes,) from 0 to 1, NaN for a class that no image has.
    """
    found = np.full(rows.shape[1], np.nan)
    for column in range(rows.shape[1]):
        ranks = _ranks(probabilities[:, column], rows[:, column])
        if ranks.true[-1]:
            recalls = np.diff(ranks.true, prepend=0) / ranks.true[-1]
            found[column] = (recalls * ranks.true / ranks.said).sum()
    return found


def best_thresholds(probabilities: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return for each class from which probability on it is said for the highest F1 score.

    It is halfway between two probabilities that occur. For a class that no image has it is 0.5.

    Args:
        probabilities: of shape (samples, classes), in [0, 1].
        rows: of 0 and 1, of the same shape.
    """
    found = np.full(rows.shape[1], HALF)
    for column in range(rows.shape[1]):
        ranks = _ranks(probabilities[:, column], rows[:, column])
        if ranks.true[-1]:
            f1 = 2 * ranks.true / (ranks.said + ranks.true[-1])
            best = int(f1.argmax())  # of equals the highest threshold, at which fewest are said to be
            below = ranks.values[best + 1] if best + 1 < len(ranks.values) else 0.0
            found[column] = (ranks.values[best] + below) / 2
    return found


class _Ranks(NamedTuple):
    """What is said from each probability on, the highest first.

    Attributes:
        values: the probabilities that occur.
        said: how many images have at least these.
        true: how many of those have the class.
    """

    values: np.ndarray
    said: np.ndarray
    true: np.ndarray


def _ranks(probabilities: np.ndarray, labels: np.ndarray) -> _Ranks:
    order = np.argsort(-probabilities, kind="stable")
    values = probabilities[order].astype("float64")
    ends = np.flatnonzero(np.append(np.diff(values) != 0, True))
    return _Ranks(values[ends], ends + 1, np.cumsum(labels[order])[ends])


class LabelCounts(NamedTuple):
    """How many images of each class are said to have it, each of shape (classes,).

    Attributes:
        right: those that have it and are said to.
        said: those that are said to have it.
        there: those that have it.
    """

    right: np.ndarray
    said: np.ndarray
    there: np.ndarray

    @property
    def precision(self) -> np.ndarray:
        return _share(self.right, self.said)

    @property
    def recall(self) -> np.ndarray:
        return _share(self.right, self.there)

    @property
    def f1(self) -> np.ndarray:
        return _share(2 * self.right, self.said + self.there)

    @property
    def micro_f1(self) -> float:
        """The F1 score of all decisions together."""
        right, said, there = (int(each.sum()) for each in self)
        return 2 * right / max(said + there, 1)


def label_counts(said: np.ndarray, rows: np.ndarray) -> LabelCounts:
    """Return how many images have each class, and are said to; both are of shape (samples, classes)."""
    said, there = said.astype(bool), rows.astype(bool)
    return LabelCounts((said & there).sum(axis=0), said.sum(axis=0), there.sum(axis=0))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return shares, 0 of nothing, as scikit-learn's `zero_division=0`."""
    return part / np.maximum(whole, 1)
