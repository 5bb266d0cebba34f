"""What a phase takes from a range test as its learning rate."""

from typing import NamedTuple

import numpy as np

from keras_transfer.results.range_test import LRFinderResult

_NEAR = 1.1  # times its lowest value: up to there the loss has not begun to rise
_BELOW = 10.0


class FoundRate(NamedTuple):
    """A learning rate, and the rule by which it was found.

    Attributes:
        value: the rate.
        rule: "valley" or "edge".
    """

    value: float
    rule: str


def found_rate(test: LRFinderResult, phase: str) -> FoundRate:
    """Return the rate to train with after a range test; the message names the phase.

    "valley" is what the test suggests, where the loss falls. When the head has been trained before, the
    loss of the whole network may not fall by more than its noise within the steps of a test, and only
    rise at last: "edge" is a tenth of the last rate at which the smoothed loss is near its lowest.

    Raises:
        ValueError: the loss neither falls nor rises.

    References:
        Howard, "Practical Deep Learning for Coders", 2019, lesson 1 (ten times less than where the loss
        shoots up, after unfreezing).
    """
    try:
        return FoundRate(test.suggest(), "valley")
    except ValueError as error:
        first = test.num_steps // 10  # before it the average is of too few
        smoothed = test.smoothed_losses[first:]
        near = np.flatnonzero(smoothed <= _NEAR * np.min(smoothed, initial=np.inf))
        if test.stopped == "end" or not len(near):
            raise ValueError(
                f"a range test finds no learning rate for phase {phase!r}; give it a number instead of "
                f"'find'. {error}"
            ) from error
        return FoundRate(float(test.learning_rates[first + near[-1]]) / _BELOW, "edge")
