"""A feature cache that is given up where it would take too long."""

import contextlib
import math
import time
from collections.abc import Callable

from keras_transfer.features.cache.cache import FeatureCache, Files, Span, Work

_LOOKED_AT = 3  # batches: the first one takes longer, as a network begins


class TooLongError(RuntimeError):
    """Features would take longer than they may.

    Attributes:
        seconds: how long they would have taken.
    """

    def __init__(self, seconds: float, most: float) -> None:
        super().__init__(f"features would take {seconds:.0f} s, and may take {most:.0f} s")
        self.seconds = seconds


class LimitedCache(FeatureCache):
    """A `FeatureCache` that raises a `TooLongError` after its first batches, if these tell so.

    What was computed before, and stands in the folder, takes no time.

    Attributes:
        most_seconds: how long it may compute.
    """

    most_seconds: float = math.inf

    def _write(self, work: Work, spans: list[Span], advance: Callable[[int], None]) -> Files:
        rows, done, batches = sum(stop - start for start, stop in spans), 0, 0
        began = first = time.perf_counter()
        of_first = 0

        def watched(count: int) -> None:
            nonlocal done, batches, first, of_first
            advance(count)
            now, done, batches = time.perf_counter(), done + count, batches + 1
            if batches == 1:
                first, of_first = now, count
            elif batches == _LOOKED_AT:
                seconds = now - began + (now - first) / (done - of_first) * (rows - done)
                if seconds > self.most_seconds:
                    raise TooLongError(seconds, self.most_seconds)

        try:
            return super()._write(work, spans, watched)
        except TooLongError:
            with contextlib.suppress(OSError):  # it has some features already
                work.folder.rmdir()
            raise
