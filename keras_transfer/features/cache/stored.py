"""Features on disk as the source of a loader."""

import copy
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from keras_transfer.data.sources import Source
from keras_transfer.data.types import Crop, Sample, Size
from keras_transfer.features.cache.shards import open_shard

_OPEN = 256  # files that are mapped into memory at a time; each takes one of the process's file handles


class Features(Source):
    """Features in memory-mapped files, with the labels of their images.

    Args:
        files: for each range of rows, in order, its file. The rows are those of all samples, for each
            view after the other.
        shape: the shape of a row.
        dtype: the type of the numbers.
        labels: of shape (samples,) or (samples, classes).
        views: how many versions of each sample there are.
        key: what the features are known by.
    """

    labels: np.ndarray

    def __init__(
        self,
        files: Mapping[tuple[int, int], Path],
        shape: tuple[int, ...],
        dtype: np.dtype,
        labels: np.ndarray,
        views: int,
        key: str,
    ) -> None:
        self.labels, self.views, self._shape, self._key = labels, views, shape, key
        self._columns: slice | None = None
        self._starts = np.array([start for start, _ in files])
        known = [(path, span) for span, path in files.items()]
        self._shard: Callable[[int], np.ndarray] = lru_cache(_OPEN)(
            lambda place: open_shard(*known[place], shape, dtype)
        )
        # What is mapped stays readable, whatever happens to the file's name.
        for place in range(min(len(known), _OPEN)):
            self._shard(place)

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return math.prod(self._shape)

    def part(self, columns: slice, shape: tuple[int, ...]) -> "Features":
        """Return some of the numbers of each row, which are a vector, in another shape.

        They stand in the same files, and are closed with these.
        """
        part = copy.copy(self)
        first = 0 if self._columns is None else self._columns.start
        columns = slice(first + columns.start, first + columns.stop)
        part._columns, part._shape = columns, shape
        part._key = f"{self._key}[{columns.start}:{columns.stop}]"
        part._shard = lambda place: self._shard(place)
        return part

    def close(self) -> None:
        def closed(place: int) -> np.ndarray:
            raise ValueError("source must be open to be read. Received: features that were closed")

        self._shard = closed  # which forgets what is mapped

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, index: int, size: Size | None, crop: Crop | None = None) -> Sample:
        features, labels = self.gather(np.array([index]))
        return features[0], labels[0]

    def gathers(self, size: Size | None) -> bool:
        return True

    def gather(self, indices: np.ndarray) -> Sample:
        features = np.empty((len(indices), *self._shape), "float32")
        places = np.searchsorted(self._starts, indices, side="right") - 1
        for place in np.unique(places):
            here = places == place
            rows = self._shard(int(place))
            chosen = indices[here] - self._starts[place]
            found = rows[chosen] if self._columns is None else rows[chosen, self._columns]
            features[here] = found.reshape(-1, *self._shape)
        return features, self.labels[indices % len(self)]

    def fingerprint(self) -> str:
        return self._key
