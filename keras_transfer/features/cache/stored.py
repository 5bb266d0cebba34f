"""Features on disk as the source of a loader."""

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

from keras_transfer.data.sources import Source
from keras_transfer.data.types import Crop, Sample, Size

_OPEN = 256  # files that are mapped into memory at a time; each takes one of the process's file handles


class Features(Source):
    """Features in memory-mapped files, with the labels of their images.

    Args:
        shards: for each range of rows, in order, what maps it into memory. The rows are those of all
            samples, for each view after the other.
        labels: of shape (samples,) or (samples, classes).
        views: how many versions of each sample there are.
        key: what the features are known by.
    """

    labels: np.ndarray

    def __init__(
        self,
        shards: Mapping[tuple[int, int], Callable[[], np.ndarray]],
        labels: np.ndarray,
        views: int,
        key: str,
    ) -> None:
        self.labels, self.views, self._key = labels, views, key
        self._starts = np.array([start for start, _ in shards])
        openers = list(shards.values())
        self._shard = lru_cache(_OPEN)(lambda place: openers[place]())
        # What is mapped stays readable, whatever happens to the file's name.
        for place in range(min(len(openers), _OPEN)):
            self._shard(place)

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, index: int, size: Size | None, crop: Crop | None = None) -> Sample:
        features, labels = self.gather(np.array([index]))
        return features[0], labels[0]

    def gathers(self, size: Size | None) -> bool:
        return True

    def gather(self, indices: np.ndarray) -> Sample:
        features = np.empty((len(indices), *self._shard(0).shape[1:]), "float32")
        places = np.searchsorted(self._starts, indices, side="right") - 1
        for place in np.unique(places):
            here = places == place
            features[here] = self._shard(int(place))[indices[here] - self._starts[place]]
        return features, self.labels[indices % len(self)]

    def fingerprint(self) -> str:
        return self._key
