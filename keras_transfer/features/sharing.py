"""A feature cache that the processes which train together fill together."""

import rich.console

from keras_transfer import _distribution
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache import FeatureCache
from keras_transfer.features.cache_folder import alone
from keras_transfer.features.shards import DTYPES, named_spans, whole_shards
from keras_transfer.features.stored import Features


class SharedCache(FeatureCache):
    """A `FeatureCache` whose `build` all processes call at once, each of which computes some files.

    Where they don't share the folder, each machine computes all.
    """

    def _complete(
        self, key: str, loader: Loader, views: int, batch_size: int, verbose: str | int
    ) -> Features:
        place = _distribution.placement(self.prefix)
        folder = self.directory / key
        folder.mkdir(exist_ok=True)
        plan = self._plan(loader.num_samples, views)
        console = rich.console.Console(quiet=verbose == 0)
        if place.index == 0:
            with alone(self.directory / f"{key}.lock", console):
                whole_shards(folder, plan, self.prefix.output_shape[1:], DTYPES[self.dtype])
        self._wait(None)
        missing = [span for span in plan if span not in named_spans(folder)]
        self._wait(None)  # until each has looked
        error = None
        try:
            self._compute(missing[place.index :: place.processes], loader, batch_size, folder, console)
        except OSError as raised:  # such as of a full disk
            error = raised
        self._wait(error)
        return super()._complete(key, loader, views, batch_size, verbose)

    def _wait(self, error: OSError | None) -> None:
        """Wait for the other processes; raise in all of them if there is an error in one."""
        alike = _distribution.agreed(self.prefix, int(error is None))
        if error is not None:
            raise error
        if not alike:
            raise OSError("another process could not write its features")
