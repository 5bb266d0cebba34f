"""Where single samples come from: arrays, image files, sequences of pairs, and batches."""

import contextlib
import functools
import hashlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transfer.data.images.kept import Kept
from keras_transfer.data.images.rules import USUAL, Rules
from keras_transfer.data.images.stored import ImageFile, Stored, content
from keras_transfer.data.reading_ahead import made_ahead
from keras_transfer.data.types import Crop, Sample, Size

_DIGESTED = 64  # samples that a thread takes at a time
_MOST_THREADS = 8  # each has a batch in hand
_KEPT_BYTES = 2**28  # of the batches of a data set

# By the identity of sequences; a lock is here as long as a source has it, and with it the sequence.
_locks: weakref.WeakValueDictionary[int, threading.Lock] = weakref.WeakValueDictionary()


class Source:
    """Samples with random access.

    Attributes:
        labels: all labels, where the source knows them: without decoding images, or after
            `fingerprint`; otherwise None.
        views: how many versions of each sample there are; `gather` finds version v of sample i at
            v * len(self) + i.
        skipped: files that were left out, with the reason for each.
        noted: files that are used, with what is odd about each.
        rules: how files are read, or None where samples aren't files.
        told: what somebody was warned of already; the same set for all loaders of these samples.

    Samples are read by several threads at once.
    """

    labels: np.ndarray | None = None
    views = 1
    skipped: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed
    noted: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed
    rules: Rules | None = None

    @functools.cached_property
    def told(self) -> set[str]:
        return set()

    def __len__(self) -> int:
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the files that are open, if any stay open between two reads."""

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
        with contextlib.closing(made_ahead(self._digests, starts, default_threads())) as found:
            for digests, some in found:
                digest.update(digests)
                labels.append(some)
        stacked = np.concatenate(labels)
        digest.update(f"{stacked.dtype}{stacked.shape}".encode() + stacked.tobytes())
        self.labels = stacked if self.labels is None else self.labels
        return digest.hexdigest()

    def _digests(self, start: int) -> tuple[bytes, np.ndarray]:
        """Return the digests, one after the other, and the labels of some samples from `start` on."""
        digests, labels = [], []
        for index in range(start, min(start + _DIGESTED, len(self))):
            image, label = self.content(index)
            digests.append(hashlib.sha256(image).digest())
            labels.append(label)
        return b"".join(digests), np.stack(labels)


class ArraySource(Source):
    """Images and labels held in arrays."""

    labels: np.ndarray

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = _one_array(images), np.asarray(labels)
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
        check_label_dtype(self.labels)

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
    """Image files and their labels.

    Args:
        paths: the files, or what is `Stored` within others.
        labels: theirs.
        rules: how they are read.
        skipped: as in `Source`.
        noted: as in `Source`.
        kept: images of some of the files, as `rules` and `read_image` give them.
    """

    labels: np.ndarray
    rules: Rules

    def __init__(
        self,
        paths: Sequence[ImageFile],
        labels: np.ndarray,
        rules: Rules = USUAL,
        *,
        skipped: dict[str, str] | None = None,
        noted: dict[str, str] | None = None,
        kept: Kept | None = None,
    ) -> None:
        # Text has a third of the size of a `Path`.
        self._files = [each if isinstance(each, Stored) else os.fspath(each) for each in paths]
        self.labels, self.rules = labels, rules
        self.skipped, self.noted = skipped or {}, noted or {}
        self._kept = kept

    def __len__(self) -> int:
        return len(self._files)

    @property
    def paths(self) -> list[Path]:
        return [path for index in range(len(self)) if (path := self.file(index)) is not None]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": None}  # another process may be on another machine

    def close(self) -> None:
        if self._kept is not None:
            self._kept.clear()

    def sample(self, index: int, size: Size | None, crop: Crop | None = None) -> Sample:
        from keras_transfer.data.images.reading import read_image

        if size is None:
            raise ValueError("images in files need an image_size. Received: image_size=None")
        path, image = self._files[index], None
        if crop is None and self._kept is not None and self._kept.size == size:
            image = self._kept.get(path)
        if image is None:
            image = read_image(path, size, crop, self.rules)
        return image, self.labels[index]

    def content(self, index: int) -> tuple[bytes, np.ndarray]:
        rules = repr(self.rules.to_dict()).encode()
        return content(self._files[index]) + rules, self.labels[index]

    def file(self, index: int) -> Path | None:
        file = self._files[index]
        return file.file() if isinstance(file, Stored) else Path(file)


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
        check_label_dtype(label)
        return _as_image(np.asarray(image), size, crop, f"image {index}"), label


class DatasetSource(SequenceSource):
    """The samples of a Keras `PyDataset`, in the order in which its batches stand now.

    Attributes:
        batch_size: the size of its first batch.
    """

    def __init__(self, dataset: keras.utils.PyDataset) -> None:
        self._batches = _Batches(dataset)
        super().__init__(self._batches)
        self.labels, self.batch_size = self._batches.labels, self._batches.batch_size

    def fingerprint(self) -> str:
        return hashlib.sha256(b"".join(self._batches.digests)).hexdigest()


class _Batches:
    """A `PyDataset` as a sequence of (image, label) pairs.

    All batches are read once, for their sizes and labels. Those used last stay in memory, up to 256 MB;
    the others are read again, and must then be what they were. One thread at a time may read.
    """

    def __init__(self, dataset: keras.utils.PyDataset) -> None:
        count = dataset.num_batches
        if count is None:
            raise ValueError(
                "a PyDataset must tell how many batches it has, as each of its samples is wanted once; "
                "give it a num_batches, or give (x, y) arrays. "
                f"Received: a {type(dataset).__name__} whose num_batches is None"
            )
        self._dataset = dataset
        self._kept: OrderedDict[int, Sample] = OrderedDict()  # the batch that was used last at the end
        self._kept_bytes = 0
        self.digests: list[bytes] = []
        labels = [self._batch(place)[1] for place in range(count)]
        self.labels = np.concatenate(labels) if labels else np.empty(0, int)
        self.batch_size = len(labels[0]) if labels else 1
        self._starts = np.cumsum([0, *map(len, labels)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        images, labels = self._batch(place)
        within = index - self._starts[place]
        return images[within], labels[within]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": OrderedDict(), "_kept_bytes": 0}

    def _batch(self, place: int) -> Sample:
        if place not in self._kept:
            batch = _as_batch(self._dataset[place], place)
            digest = _digest(batch)
            if place == len(self.digests):
                self.digests.append(digest)
            elif digest != self.digests[place]:
                raise ValueError(
                    "a PyDataset must give the same batches each time that they are read, as not all "
                    "stay in memory; keep it from shuffling and from random changes (a kt.Loader of it "
                    "makes both, the same each time), or give (x, y) arrays. "
                    f"Received: a {type(self._dataset).__name__} whose batch {place} has changed"
                )
            self._kept[place] = batch
            self._kept_bytes += _nbytes(batch)
            while len(self._kept) > 1 and self._kept_bytes > _KEPT_BYTES:
                self._kept_bytes -= _nbytes(self._kept.popitem(last=False)[1])
        self._kept.move_to_end(place)
        return self._kept[place]


def _as_batch(batch: Any, place: int) -> Sample:
    """Return the images and labels of a batch as arrays."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        kind = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise ValueError(
            f"a PyDataset must give batches (images, labels). Received: a batch {place} of {kind}"
        )
    # Copies, as a data set may fill the same arrays again.
    images, labels = (np.array(keras.ops.convert_to_numpy(part)) for part in batch)
    if not labels.ndim or len(images) != len(labels):
        raise ValueError(
            "a PyDataset must give a label for each image. Received: a batch "
            f"{place} of images of shape {images.shape} and labels of shape {labels.shape}"
        )
    return images, labels[:, 0] if labels.shape[1:] == (1,) else labels


def _digest(batch: Sample) -> bytes:
    digest = hashlib.sha256()
    for part in batch:
        digest.update(f"{part.dtype}{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.digest()


def _nbytes(batch: Sample) -> int:
    return batch[0].nbytes + batch[1].nbytes


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
        self.views, self.skipped, self.noted = source.views, source.skipped, source.noted
        self.rules, self.told = source.rules, source.told

    def close(self) -> None:
        self.source.close()

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


def refuse_images_alone(data: Any, argument: str) -> None:
    """Raise a `TypeError` if data is an array, which has no labels."""
    if hasattr(data, "shape"):
        raise TypeError(
            f"{argument} must have labels, too: pass (x, y), the images and the class of each. "
            f"Received: {argument}, an array of shape {tuple(data.shape)}"
        )


def as_source(data: Any) -> Source:
    """Return the source that the `data` argument of a `Loader` stands for.

    Args:
        data: a source, a tuple (x, y) of arrays, a sequence of pairs or dicts, or a `PyDataset`.

    Returns:
        The source.

    Raises:
        ValueError: arrays that don't fit each other, or batches that are no data set.
        TypeError: anything else.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, tuple) and len(data) == 2 and all(hasattr(a, "__len__") for a in data):
        return ArraySource(*data)
    if isinstance(data, keras.utils.PyDataset):
        return DatasetSource(data)
    refuse_images_alone(data, "data")
    arrays = isinstance(data, tuple) and any(hasattr(part, "shape") for part in data)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not arrays:
        return SequenceSource(data)
    raise TypeError(
        "data must be a tuple (x, y) of arrays, a sequence of (image, label) pairs with random access, "
        f"or a PyDataset. Received: an object of type {type(data).__name__}"
    )


def _one_array(images: Any) -> np.ndarray:
    """Return images as an array, or raise a `ValueError` if they have several shapes."""
    try:
        array = np.asarray(images)
    except ValueError as error:  # what NumPy says of it names no argument
        shapes = {np.shape(image) for image in images}
        raise _several_shapes(f"images of {len(shapes)} shapes") from error
    if array.dtype == object:
        raise _several_shapes("an array of objects")
    return array


def _several_shapes(received: str) -> ValueError:
    return ValueError(
        "images must be one array of numbers, so all of one shape; "
        f"kt.Loader(list(zip(x, y)), image_size=...) resizes others. Received: {received}"
    )


def _as_image(image: np.ndarray, size: Size | None, crop: Crop | None, name: str) -> np.ndarray:
    if image.dtype.kind in "OSU":
        raise TypeError(
            "an image must be an array of numbers; kt.data.from_directory reads files. "
            f"Received: {name} of dtype {image.dtype}"
        )
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


def check_label_dtype(labels: np.ndarray) -> None:
    """Raise a `TypeError` if labels are no numbers."""
    if labels.dtype.kind not in "iufb":
        raise TypeError(f"labels must be numbers. Received: labels of dtype {labels.dtype}")


def default_threads() -> int:
    """Return how many threads read images at once: as many as there are processors, up to 8."""
    return min(os.cpu_count() or 1, _MOST_THREADS)
