"""The loss over the learning rate, and what it suggests."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from keras_transfer._lib.checks import checked_choice

Method = Literal["valley", "steepest", "minimum"]
Ending = Literal["end", "diverged", "not finite", "interrupted"]

_FEWEST_POINTS = 5
_NOISE = 3.5  # how many standard errors a fall must have
_ROUNDING = 1e-6  # of the losses


@dataclass(frozen=True, eq=False, repr=False)
class LRFinderResult:
    """What an LR range test found: the loss of each step at the rate of that step.

    The loss at a rate is the one before the step is taken at this rate, as in fastai.

    Attributes:
        learning_rates: the rates, of shape (points,), in rising order.
        losses: for each the loss of its own batch (under gradient accumulation the mean of those of the
            update), of shape (points,).
        smoothed_losses: their moving average with bias correction, of shape (points,).
        num_steps: how many points were asked for; there are fewer where the loss diverged.
        smoothing: the weight of the past in that average.
        stopped: "end"; "diverged"; "not finite", where the loss became infinite or NaN after the last
            point; or "interrupted", by an exception or the end of the epochs.

    Example:
        >>> import numpy as np
        >>> from keras_transfer.results.range_test import LRFinderResult
        >>> rates = np.geomspace(1e-5, 1.0, 60)
        >>> losses = np.interp(np.log10(rates), [-4, -1, 0], [2.0, 0.5, 3.0])
        >>> result = LRFinderResult(rates, losses, losses, num_steps=60)
        >>> result  # doctest: +NORMALIZE_WHITESPACE
        LRFinderResult(60 of 60 points, rates 1e-05 to 1, loss 2 to 0.508 at 0.0962,
                       valley suggests 0.00236)
        >>> round(result.suggest("minimum"), 5)
        0.00962
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    smoothed_losses: np.ndarray
    num_steps: int
    smoothing: float = 0.98
    stopped: Ending = "end"

    def suggest(self, method: Method = "valley") -> float:
        """Return a learning rate to train with.

        As in fastai, the first tenth and the last twentieth of the steps count for nothing.

        Args:
            method: "valley": the middle of the longest falling part of the smoothed curve, rises in
                between left out; "steepest": where it falls most steeply over the logarithm of the
                rate; "minimum": a tenth of the rate where it is lowest.

        Returns:
            The learning rate: of a layer with multiplier 1, if the rates differ by layer.

        Raises:
            ValueError: the curve has too few points, or doesn't fall by more than its noise.

        References:
            Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3 (the range
            test); fastai, `callback/schedule.py`, `valley`, `steep` and `minimum`.
        """
        return float(_METHODS[checked_choice("method", method, _METHODS)](*self._usable()))

    def __repr__(self) -> str:
        points = f"{len(self.losses)} of {self.num_steps} points"
        if self.stopped != "end":
            points += f", {self.stopped}"
        if not len(self.losses):
            return f"LRFinderResult({points})"
        first = min(self.num_steps // 10, len(self.losses) - 1)  # before it the average is of too few
        lowest = first + int(np.argmin(self.smoothed_losses[first:]))
        try:
            suggestion = f"valley suggests {self.suggest():.3g}"
        except ValueError:
            suggestion = "no suggestion"
        return (
            f"LRFinderResult({points}, rates {self.learning_rates[0]:.3g} to "
            f"{self.learning_rates[-1]:.3g}, loss {self.smoothed_losses[first]:.3g} to "
            f"{self.smoothed_losses[lowest]:.3g} at {self.learning_rates[lowest]:.3g}, {suggestion})"
        )

    def _usable(self) -> tuple[np.ndarray, np.ndarray]:
        """Return rates and smoothed losses without the ends, or raise if they suggest nothing."""
        part = slice(self.num_steps // 10, len(self.losses) - self.num_steps // 20)
        rates, losses, smoothed = (
            values[part] for values in (self.learning_rates, self.losses, self.smoothed_losses)
        )
        if len(rates) < _FEWEST_POINTS:
            raise ValueError(
                f"the curve needs {_FEWEST_POINTS} points without its ends to suggest a rate; lower "
                f"max_lr, and min_lr if the loss diverges at once, or raise num_steps. Received: "
                f"{len(self.losses)} points of {self.num_steps} (stopped: {self.stopped})"
            )
        lowest = int(np.argmin(smoothed))
        early = max(3, (lowest + 1) // 2)
        fall = losses[:early].mean() - smoothed[lowest]
        # From one step to the next the noise changes more than the curve does. Both sides are means: of
        # `early` points, and of as many as the moving average weighs.
        weighed = (1 + self.smoothing) / (1 - self.smoothing)
        noise = np.diff(losses[: lowest + 2]).std() * np.sqrt(0.5 / early + 0.5 / weighed)
        if lowest == 0 or fall <= _NOISE * noise + _ROUNDING * np.abs(losses).max():
            raise ValueError(
                "the loss must fall by more than its noise to suggest a rate; lower min_lr if it "
                "diverges at once, raise max_lr if it stays flat, or take larger batches, more steps. "
                f"Received: a smoothed loss of {smoothed[0]:.4g} at the rate {rates[0]:.3g} and "
                f"{smoothed[lowest]:.4g} at its lowest, at {rates[lowest]:.3g} (stopped: {self.stopped})"
            )
        return rates, smoothed


def _valley(rates: np.ndarray, losses: np.ndarray) -> float:
    # The longest falling subsequence that ends at each point, rises in between left out.
    length = np.ones(len(losses), int)
    for index in range(1, len(losses)):
        higher = losses[:index] > losses[index]
        length[index] = 1 + max(length[:index][higher], default=0)
    end = int(np.argmax(length))
    start = max(0, end - int(length[end]))
    third = (end - start) / 3
    return rates[start + int(third) + int(third / 2)]


def _steepest(rates: np.ndarray, losses: np.ndarray) -> float:
    return rates[np.argmin(np.diff(losses) / np.diff(np.log(rates)))]


def _minimum(rates: np.ndarray, losses: np.ndarray) -> float:
    return rates[np.argmin(losses)] / 10


_METHODS: dict[Method, Callable[[np.ndarray, np.ndarray], float]] = {
    "valley": _valley,
    "steepest": _steepest,
    "minimum": _minimum,
}
METHODS = tuple(_METHODS)
