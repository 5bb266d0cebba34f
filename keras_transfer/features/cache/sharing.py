"""A feature cache that the processes which train together fill together."""

import contextlib
from collections.abc import Callable
from typing import TypeVar

from keras_transfer import _distribution
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache.cache import FeatureCache, Work
from keras_transfer.features.cache.folder import alone
from keras_transfer.features.cache.shards import DTYPES, named_spans, whole_shards
from keras_transfer.features.cache.stored import Features
from keras_transfer.inference.runtimes import Runtime

_Result = TypeVar("_Result")
_FINE, _NO_DISK, _FAILED = range(3)


class SharedCache(FeatureCache):
    """A `FeatureCache` whose `build` all processes call at once, each of which computes some files.

    Where they don't share the folder, each machine computes all. An error in one process is an error in
    all: an `OSError` if it is one, otherwise a `RuntimeError`.
    """

    def _key(self, loader: Loader, views: int | None, runtime: Runtime) -> str:
        key = super()._key
        return self._together(lambda: key(loader, views, runtime))

    def _complete(self, work: Work, views: int, verbose: int) -> Features:
        place, folder = _distribution.placement(self.prefix), work.folder
        plan = self._plan(work.loader.num_samples, views)
        complete = super()._complete
        with contextlib.ExitStack() as stack:

            def look_after() -> None:
                folder.mkdir(exist_ok=True)
                if place.index == 0:  # no other run writes meanwhile
                    stack.enter_context(alone(folder.with_suffix(".lock"), verbose))
                    whole_shards(folder, plan, work.shape, DTYPES[work.dtype])

            def compute() -> None:
                if missing:
                    self._compute(work, missing[place.index :: place.processes], verbose)

            self._together(look_after)
            there = self._together(lambda: named_spans(folder))
            missing = [span for span in plan if span not in there]
            self._together(compute)
        return self._together(lambda: complete(work, views, verbose))

    def _together(self, act: Callable[[], _Result]) -> _Result:
        """Do something in each process, wait for the others, and raise in all if it fails in one."""
        error: Exception | None = None
        try:
            result = act()
        except Exception as raised:
            error = raised
        code = _FINE if error is None else _NO_DISK if isinstance(error, OSError) else _FAILED
        worst = max(_distribution.gathered(self.prefix, code))
        if error is not None and code == worst:
            raise error
        if worst == _NO_DISK:
            raise OSError("another process could not read or write its features")
        if worst == _FAILED:
            raise RuntimeError("another process failed; its own message tells why") from error
        return result
