"""A pass over images that is given up where it would take too long."""

import math
import time

# The first batch takes longer, as what computes begins with it. So many more, and so long a part of what
# it may take, are looked at before their rate is believed.
_BATCHES, _PART = 2, 0.02


class TooLongError(RuntimeError):
    """A pass would take longer than it may.

    Attributes:
        seconds: how long it would have taken.
        images: how many were to be computed.
    """

    def __init__(self, seconds: float, most: float, images: int) -> None:
        super().__init__(f"features would take {seconds:.0f} s, and may take {most:.0f} s")
        self.seconds, self.images = seconds, images


class Limit:
    """What is told how far a pass is, and raises a `TooLongError` where its batches tell so.

    What was computed before, and stands in a folder, takes no time.

    Args:
        most_seconds: how long the pass may take, from now on.

    Attributes:
        an_image: the seconds that an image takes, once the batches have told; 0 before.
    """

    def __init__(self, most_seconds: float = math.inf) -> None:
        self.an_image = 0.0
        self._most, self._began = most_seconds, time.perf_counter()
        self._first, self._batches = (0.0, math.inf), 0

    def __call__(self, done: int, total: int) -> None:
        """Look at the clock after a batch.

        Args:
            done: how many images are computed by now.
            total: how many will be.
        """
        now = time.perf_counter()
        if done <= self._first[1]:  # the first batch, or that of another way to compute
            self._first, self._batches = (now, done), 0
            return
        self._batches += 1
        took = now - self._first[0]
        self.an_image = took / (done - self._first[1])
        if done == total or self._batches < _BATCHES or took < _PART * self._most:
            return
        seconds = now - self._began + self.an_image * (total - done)
        if seconds > self._most:
            raise TooLongError(seconds, self._most, total)
