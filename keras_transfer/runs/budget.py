"""How long automatic training may take: what is left of it, and what a training would need."""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import keras

from keras_transfer.features.cache.limited import Limit, TooLongError
from keras_transfer.results.training import Logs

# Of the time: a training that has not ended then is given up.
_TOO_LATE = 1.05


class OutOfTimeError(Exception):
    """A training took longer than was foreseen, and there is no time for the rest of it."""


@dataclass
class Budget:
    """The time that all may take, and what is gone of it.

    Attributes:
        minutes: what all may take, or None for no limit.
        evaluated: how many other images will be looked at afterwards, for which time is left.
        afterwards: the seconds of what else comes afterwards.
        started: when all began, in seconds of `time.perf_counter`.
        an_image: the seconds that the network takes for an image, once the pass has told.
    """

    minutes: float | None
    evaluated: int = 0
    afterwards: float = 0.0
    started: float = field(default_factory=time.perf_counter)
    an_image: float = 0.0

    @property
    def spent(self) -> float:
        """The seconds since all began."""
        return time.perf_counter() - self.started

    def fits(self, seconds: float) -> bool:
        """Whether there are so many seconds, beside those that are gone and what comes afterwards."""
        return self.minutes is None or self.in_all(seconds) <= 60 * self.minutes

    def in_all(self, seconds: float) -> float:
        """Return how many seconds all takes if this takes so many."""
        return self.spent + seconds + self.evaluated * self.an_image + self.afterwards

    @contextlib.contextmanager
    def of_pass(self) -> Iterator[Limit]:
        """Give what is told how far a pass over the images is, in a block.

        Raises:
            ValueError: by the rate of its first batches the pass alone takes longer than all may.
        """
        limit = Limit(math.inf if self.minutes is None else 60 * self.minutes - self.in_all(0.0))
        spent = self.spent
        try:
            yield limit
        except TooLongError as error:
            needed = spent + error.seconds + self.afterwards
            raise ValueError(
                f"minutes must be at least {_rounded_up(needed)} for one pass of the network over the "
                f"{error.images:,} images that it has not seen; allow more, or take a smaller image "
                f"size or network. Received: minutes={self.minutes:g}"
            ) from error


def _rounded_up(seconds: float) -> str:
    """Return minutes with two digits, no less than so many seconds."""
    minutes = seconds / 60
    unit = 10.0 ** (math.floor(math.log10(minutes)) - 1)
    return f"{unit * math.ceil(minutes / unit):g}"


@dataclass(frozen=True)
class Pace:
    """How quickly something trains.

    Attributes:
        begin: the seconds until its steps begin, and after them.
        step: the seconds that a step takes.
    """

    begin: float
    step: float

    def seconds(self, steps: float) -> float:
        """Return how long a training of so many steps takes."""
        return self.begin + self.step * steps


class Stopwatch(keras.callbacks.Callback):
    """Tells the pace of a training by its first steps."""

    def __init__(self) -> None:
        super().__init__()
        self._started, self._ends = time.perf_counter(), list[float]()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Note when a step has ended."""
        float((logs or {})["loss"])  # which waits for it
        self._ends.append(time.perf_counter())

    def pace(self) -> Pace:
        """Return the pace. The first step includes compilation, and so may the last, a smaller one."""
        took = time.perf_counter() - self._started
        steps = [b - a for a, b in zip(self._ends, self._ends[1:], strict=False)]
        step = min(steps) if steps else took
        return Pace(max(took - step * len(self._ends), 0.0), step)


class Deadline(keras.callbacks.Callback):
    """Gives a training up when the time of a budget is gone."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self._budget = budget

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Raise if it is too late."""
        budget = self._budget
        if budget.minutes is not None and budget.in_all(0.0) > _TOO_LATE * 60 * budget.minutes:
            raise OutOfTimeError
