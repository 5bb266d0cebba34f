"""Where single samples come from: arrays, image files, and sequences of pairs."""

import hashlib
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from keras_transfer.data.types import Crop, Sample, Size

_DIGESTED = 64  # samples that a thread takes at a time
_MOST_THREADS = 8  # each has a batch in hand

# By the identity of sequences; a lock is here as long as a source has it, and with it the sequence.
_locks: weakref.WeakValueDictionary[int, threading.Lock] = weakref.WeakValueDictionary()


class Source:
    """Samples with random access.

    Attributes:
        labels: all labels, where the source knows them: without decoding images, or after
            `fingerprint`; otherwise None.
        views: how many versions of each sample there are; `gather` finds version v of sample i at
            v * len(self) + i.
        skipped: files that were left out, with what is wrong with each.

    Samples are read by several threads at once.
    """

    labels: np.ndarray | None = None
    views = 1
    skipped: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed

    def __len__(self) -> int:
        raise NotImplementedError

    def gathers(self, size: Size | None) -> bool:
        """Whether `gather` gives what `sample` would with this size."""
        return False

    def gather(self, indices: np.ndarray) -> Sample:
        """Return the images and labels `indices` as two arrays."""
        raise NotImplementedError

    def sample(self, index: int, size: Size | None, crop: Crop | None = None) -> Sample:
        """Return the image `index`, or a part of it, in `size` if that is given, and its label."""
        raise NotImplementedError

    def content(self, index: int) -> tuple[bytes, np.ndarray]:
        """Return the bytes of image `index`, before it is resized, and its label."""
        image, label = self.sample(index, None)
        return f"{image.dtype}{image.shape}".encode() + image.tobytes(), label

    def file(self, index: int) -> Path | None:
        """Return the file of a sample, or None where samples aren't files."""
        return None

    def repeats(self) -> bool:
        """Whether images stay the same when they are read again, as far as the first few tell."""
        return all(self.content(i)[0] == self.content(i)[0] for i in range(min(len(self), 16)))

    def fingerprint(self) -> str:
        """Return a digest of all samples in their order; `labels` is known afterwards."""
        digest, labels = hashlib.sha256(), []
        starts = range(0, len(self), _DIGESTED)
        with ThreadPoolExecutor(default_threads()) as pool:
            for digests, some in pool.map(self._digests, starts):
                digest.update(digests)
                labels += some
        stacked = np.stack(labels)
        digest.update(f"{stacked.dtype}{stacked.shape}".encode() + stacked.tobytes())
        self.labels = stacked if self.labels is None else self.labels
        return digest.hexdigest()

    def _digests(self, start: int) -> tuple[bytes, list[np.ndarray]]:
        """Return the digests, one after the other, and the labels of some samples from `start` on."""
        digests, labels = [], []
        for index in range(start, min(start + _DIGESTED, len(self))):
            image, label = self.content(index)
            digests.append(hashlib.sha256(image).digest())
            labels.append(label)
        return b"".join(digests), labels


class ArraySource(Source):
    """Images and labels held in arrays."""

    labels: np.ndarray

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = np.asarray(images), np.asarray(labels)
        if self.labels.ndim == 2 and self.labels.shape[1] == 1:
            self.labels = self.labels[:, 0]
        if self.images.ndim != 4:
            raise ValueError(
                "images must have the shape (samples, height, width, channels). "
                f"Received: an array of shape {self.images.shape}"
            )
        if self.labels.ndim not in (1, 2) or len(self.labels) != len(self.images):
            raise ValueError(
                f"labels must be {len(self.images)} integers or one-hot rows, one an image. "
                f"Received: an array of shape {self.labels.shape}"
            )
        _check_label_dtype(self.labels)

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, size: Size | None, crop: Crop | None = None) -> Sample:
        return _as_image(self.images[index], size, crop, f"image {index}"), self.labels[index]

    def gathers(self, size: Size | None) -> bool:
        return size in (None, self.images.shape[1:3])

    def gather(self, indices: np.ndarray) -> Sample:
        images = self.images[indices]
        images = images.astype("float32") if images.dtype == np.float64 else images
        if images.dtype.kind == "f" and not np.isfinite(images).all():
            for index in indices:
                self.sample(index, None)  # raises for the one that isn't
        return images, self.labels[indices]


class FileSource(Source):
    """Image files and their labels."""

    labels: np.ndarray

    def __init__(
        self, paths: Sequence[Path], labels: np.ndarray, skipped: dict[str, str] | None = None
    ) -> None:
        self.paths, self.labels, self.skipped = list(paths), labels, skipped or {}

    def __len__(self) -> int:
        return len(self.paths)

    def sample(self, index: int, size: Size | None, crop: Crop | None = None) -> Sample:
        from keras_transfer.data.images.reading import read_image

        if size is None:
            raise ValueError("images in files need an image_size. Received: image_size=None")
        return read_image(self.paths[index], size, crop), self.labels[index]

    def content(self, index: int) -> tuple[bytes, np.ndarray]:
        return self.paths[index].read_bytes(), self.labels[index]

    def file(self, index: int) -> Path | None:
        return self.paths[index]


class SequenceSource(Source):
    """A sequence of (image, label) pairs, or of dicts with these keys, as TFDS data sources give."""

    def __init__(self, sequence: Any) -> None:
        self.sequence = sequence
        self._share_lock()

    def _share_lock(self) -> None:
        # A user's sequence may not bear to be read by several threads, those of two loaders included.
        self._lock = _locks.setdefault(id(self.sequence), threading.Lock())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._share_lock()

    def __len__(self) -> int:
        return len(self.sequence)

    def sample(self, index: int, size: Size | None, crop: Crop | None = None) -> Sample:
        with self._lock:
            item = self.sequence[index]
        image, label = (item["image"], item["label"]) if isinstance(item, dict) else item
        label = np.asarray(label)
        label = label.reshape(()) if label.shape == (1,) else label  # as from arrays of one column
        _check_label_dtype(label)
        return _as_image(np.asarray(image), size, crop, f"image {index}"), label


class Subset(Source):
    """Some samples of another source.

    Args:
        source: that source.
        indices: those of the samples.

    Raises:
        ValueError: an index is not one of a sample.
    """

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray) -> None:
        chosen = np.asarray(indices)
        if chosen.size and chosen.dtype.kind not in "iu":
            raise ValueError(f"indices must be integers. Received: indices of dtype {chosen.dtype}")
        wrong = chosen[(chosen < 0) | (chosen >= len(source))]
        if wrong.size:
            raise ValueError(
                f"indices must be from 0 to {len(source) - 1}. Received: the index {wrong.flat[0]}"
            )
        self.source, self.indices = source, chosen.astype(int)
        self.labels = None if source.labels is None else source.labels[self.indices]
        self.views, self.skipped = source.views, source.skipped

    def __len__(self) -> int:
        return len(self.indices)

    def sample(self, index: int, size: Size | None, crop: Crop | None = None) -> Sample:
        return self.source.sample(int(self.indices[index]), size, crop)

    def gathers(self, size: Size | None) -> bool:
        return self.source.gathers(size)

    def gather(self, indices: np.ndarray) -> Sample:
        view, index = np.divmod(indices, len(self))
        return self.source.gather(self.indices[index] + view * len(self.source))

    def content(self, index: int) -> tuple[bytes, np.ndarray]:
        return self.source.content(int(self.indices[index]))

    def file(self, index: int) -> Path | None:
        return self.source.file(int(self.indices[index]))


def as_source(source: Any) -> Source:
    """Return the source that the `source` argument of a `Loader` stands for.

    Args:
        source: a source, a tuple (x, y) of arrays, or a sequence of pairs or dicts.

    Returns:
        The source.

    Raises:
        ValueError: arrays that don't fit each other.
        TypeError: anything else.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, tuple) and len(source) == 2 and all(hasattr(a, "__len__") for a in source):
        return ArraySource(*source)
    arrays = isinstance(source, tuple) and any(hasattr(part, "shape") for part in source)
    if hasattr(source, "__len__") and hasattr(source, "__getitem__") and not arrays:
        return SequenceSource(source)
    raise TypeError(
        "source must be a tuple (x, y) of arrays, or a sequence of (image, label) pairs with random "
        f"access. Received: an object of type {type(source).__name__}"
    )


def _as_image(image: np.ndarray, size: Size | None, crop: Crop | None, name: str) -> np.ndarray:
    if image.dtype == np.float64:
        image = image.astype("float32")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError(
            f"pixels must be finite numbers. Received: {name} with "
            f"{np.count_nonzero(~np.isfinite(image))} of {image.size} values NaN or infinite"
        )
    if image.ndim != 3:
        raise ValueError(
            f"an image must have the shape (height, width, channels). Received: {name} of shape "
            f"{image.shape}"
        )
    size = size or image.shape[:2]
    if crop is None and image.shape[:2] == size:
        return image
    from keras_transfer.data.images.reading import resize_image

    return resize_image(image, size, crop)


def _check_label_dtype(labels: np.ndarray) -> None:
    if labels.dtype.kind not in "iufb":
        raise TypeError(f"labels must be numbers. Received: labels of dtype {labels.dtype}")


def default_threads() -> int:
    """Return how many threads read images at once: as many as there are processors, up to 8."""
    return min(os.cpu_count() or 1, _MOST_THREADS)
