"""Which of several classifiers is best on samples that they share."""

import numpy as np
import pytest

from keras_transfer.features.compared import Scored, behind, in_order


def scored(right, loss, samples=100):
    """Return what has the first so many samples right, all with one loss."""
    return Scored((np.arange(samples) < right).astype(float), np.full(samples, loss))


def test_the_error_is_that_of_the_samples_that_differ():
    one = Scored(np.array([1.0, 1, 0, 0, 1, 1, 1, 1]), np.zeros(8))
    other = Scored(np.array([0.0, 1, 1, 1, 1, 1, 1, 1]), np.zeros(8))
    less, error = behind(one, other)
    assert less == pytest.approx((2 - 1) / 8)
    assert error == pytest.approx(np.sqrt(3) / 8)  # McNemar: as many as differ, of which each is 1
    assert behind(one, one) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([scored(80, 0.5), scored(80, 0.4), scored(80, 0.6)], [1, 0, 2]),
        ([scored(84, 0.5), scored(80, 0.4)], [1, 0]),  # four of four differ: exactly two errors
        ([scored(85, 0.5), scored(80, 0.4)], [0, 1]),
        ([scored(86, 0.9), scored(90, 0.8), scored(80, 0.4)], [1, 0, 2]),
        ([scored(85, 0.5), scored(85, 0.6), scored(80, 0.4)], [0, 1, 2]),
        ([scored(3, 1.0)], [0]),
    ],
)
def test_log_loss_decides_where_accuracy_differs_by_chance(given, expected):
    assert in_order(given) == expected


def test_of_equally_accurate_ones_that_are_ahead_the_lower_loss_is_first():
    assert in_order([scored(85, 0.6), scored(85, 0.5), scored(80, 0.4)]) == [1, 0, 2]
