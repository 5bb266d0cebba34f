"""Which rate a phase takes from a range test."""

import numpy as np
import pytest

from keras_transfer.rates.found import found_rate
from keras_transfer.results.range_test import LRFinderResult

RATES = np.geomspace(1e-6, 1.0, 100)


def result(losses, stopped="end"):
    losses = np.asarray(losses)
    return LRFinderResult(RATES[: len(losses)], losses, losses, len(RATES), stopped=stopped)


def test_a_loss_that_falls():
    curve = result(np.interp(np.log10(RATES), [-4, -1, 0], [2.0, 0.5, 3.0]))
    assert found_rate(curve, "p") == (curve.suggest(), "valley")


def test_a_loss_that_only_rises():
    """It begins to rise at 1e-2."""
    losses = np.interp(np.log10(RATES[:90]), [-2, -1], [0.5, 3.0])
    losses += 0.01 * np.sin(np.arange(90) * 2.5)
    value, rule = found_rate(result(losses, "diverged"), "p")
    assert rule == "edge"
    assert 0.8e-3 < value < 1.2e-3


@pytest.mark.parametrize(
    ("losses", "stopped"), [(np.ones(100), "end"), (np.ones(5), "not finite"), ([], "not finite")]
)
def test_a_loss_that_says_nothing(losses, stopped):
    with pytest.raises(ValueError, match="no learning rate for phase 'p'; give it a number"):
        found_rate(result(losses, stopped), "p")
