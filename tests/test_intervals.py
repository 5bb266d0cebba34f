"""Wilson's interval, by its closed formula, and wherever an accuracy is told with how sure it is."""

import pytest

from keras_transfer._lib.intervals import wilson, with_interval
from keras_transfer.results.automatic import DepthScore
from keras_transfer.results.ranking import BackboneRanking, HeadScore, RankedBackbone

Z = 1.959963984540054


@pytest.mark.parametrize(("right", "samples"), [(0, 1), (1, 1), (4, 4), (0, 7), (3, 10), (995, 1000)])
def test_is_where_the_score_test_begins_to_reject(right, samples):
    """The ends are the proportions of which the one that was seen is 1.96 deviations away."""
    part = right / samples
    for end in wilson(part, samples):
        assert 0.0 <= end <= 1.0
        assert (part - end) ** 2 == pytest.approx(Z**2 * end * (1 - end) / samples, abs=1e-12)


def test_of_four_out_of_four():
    low, high = wilson(1.0, 4)
    assert (low, high) == (pytest.approx(4 / (4 + Z**2)), 1.0)
    assert with_interval(1.0, (low, high)) == "100.0% (51.0% to 100.0%)"


def test_a_depth_s_score():
    score = DepthScore("linear head", 1.0, 0.0, 0.0, 4)
    assert score.interval == wilson(1.0, 4)


def test_a_cross_validation():
    score = HeadScore((1.0, 1.0), (0.1, 0.1), 4)
    assert (score.std, score.interval) == (0.0, wilson(1.0, 4))
    assert str(score) == "accuracy 1.000 (0.510 to 1.000; 2 folds of 4 samples)"
    table = str(BackboneRanking([RankedBackbone("vgg16", 0.1, score, 1, 1.0, 1.0, (224, 224), 1.0)]))
    assert "1.000 (0.510 to 1.000)" in table
    assert "+-" not in table
