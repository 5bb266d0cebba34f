"""What a frozen part of a network makes of a data set, computed once and kept on disk."""

import contextlib
import itertools
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np

from keras_transfer._lib.checks import checked_choice, checked_integer
from keras_transfer._lib.messages import progress, say, verbosity
from keras_transfer._version import __version__
from keras_transfer.data.images.augmentation import mixes
from keras_transfer.data.inputs import as_loader, check_values
from keras_transfer.data.loader import Loader
from keras_transfer.data.reading_ahead import made_ahead
from keras_transfer.features.cache.folder import alone, cache_folder, describe, is_described
from keras_transfer.features.cache.identity import augmentation_digest, digest_of, model_digest
from keras_transfer.features.cache.limited import TooLongError
from keras_transfer.features.cache.shards import DTYPES, whole_shards, write_shard
from keras_transfer.features.cache.stored import Features
from keras_transfer.inference.runtimes import (
    Compute,
    Runtime,
    RuntimeName,
    UnfitError,
    by_the_first,
    started,
)
from keras_transfer.layers.graph import check_graph
from keras_transfer.layers.precision import in_precision

FloatType = Literal["float32", "float16", "bfloat16"]
ComputeType = Literal["float16", "bfloat16"]
Span = tuple[int, int]  # the first row of a file and the one behind its last
Files = dict[Span, Path]
Told = Callable[[int, int], None]

_FORMAT = 3
_SHARD_BYTES = 32 * 2**20


@dataclass(frozen=True)
class CacheOptions:
    """Where and how `keras_transfer.fine_tune` keeps the features of frozen parts.

    Attributes:
        folder: a folder for caches alone, where the features stay for other runs; None: a temporary
            one, for this run.
        views: with augmentation, how many augmented versions of each image are computed, of which each
            epoch draws one; None: augmented phases have no cache.
        dtype: as in `FeatureCache`.
        compute_dtype: as in `FeatureCache`.
        runtime: as in `FeatureCache`.

    Raises:
        ValueError: an option has no sensible meaning.

    Example:
        >>> import keras_transfer as kt
        >>> kt.CacheOptions(views=4).dtype
        'float32'
    """

    folder: str | os.PathLike[str] | None = None
    views: int | None = None
    dtype: FloatType = "float32"
    compute_dtype: ComputeType | None = None
    runtime: RuntimeName = "auto"

    def __post_init__(self) -> None:
        if self.views is not None:
            object.__setattr__(self, "views", checked_integer("views", self.views, 1))
        _check_types(self.dtype, self.compute_dtype, self.runtime)


@dataclass(frozen=True)
class Work:
    """What computes features, of which images, and where they go.

    Attributes:
        network: gives the features.
        loader: the images.
        batch_size: images that are computed at a time.
        dtype: the type in which features are kept.
        folder: where the files belong; it exists.
        runtime: by what it computes.
        told: is called after each batch with how many samples are computed by now, and how many will
            be; or None.
    """

    network: keras.Model
    loader: Loader
    batch_size: int
    dtype: FloatType
    folder: Path
    runtime: Runtime
    told: Told | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the features of a sample."""
        return self.network.output_shape[1:]


class FeatureCache:
    """Computes what a model gives for every sample of a data set once, and keeps it on disk.

    A cache is known by a digest of all that its numbers hang on: architecture, weights and dtypes of the
    model, Keras' version and backend, the bytes of all images and labels, their size and augmentation.
    If any of that changes, another is made. It is written in pieces, each whole or not at all and with
    a checksum in its name. After a crash it goes on where it stopped, and pieces that are damaged are
    made again. Several processes may read one; of several that would write one, the others wait.

    Args:
        prefix: a functional model with one input and one output, such as the first of
            `keras_transfer.split_model`. It is run in inference mode.
        cache: a folder for caches alone, made if it doesn't exist.
        dtype: the type in which features are kept: "float32", or "float16" or "bfloat16" for half the
            size, rounded. They are read as float32.
        compute_dtype: "bfloat16" or "float16" runs the network in mixed precision: faster on many
            machines, with features that are off by some hundredths. None changes nothing.
        runtime: what computes. "onnxruntime" (extra `fast`): ONNX Runtime, faster than Keras on a
            processor, on a graph with batch norm folded into the weights beside it. Its
            features are the same bit for bit on all three backends, and within 1e-5 of their norm of
            Keras'. "keras": the model itself. "auto": ONNX Runtime where it is installed, the model is
            in float32 on no GPU and consists of layers that are known to it, and two images give the
            same; otherwise "folded", and a line says why. "folded": Keras, on a copy of the model with
            batch norm in the weights before it, and with the convolutions of `fine_tune`.

    Raises:
        ValueError: an argument has no sensible meaning, or `cache` holds other things.

    Example:
        >>> import tempfile, numpy as np, keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> prefix, tail = kt.split_model(model, "block5_pool")
        >>> x, y = np.zeros((6, 32, 32, 3), "uint8"), np.arange(6) % 3
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     features = kt.FeatureCache(prefix, folder).build((x, y), 4, verbose=0)
        ...     [batch.shape for batch, labels in features]
        [(4, 1, 1, 512), (2, 1, 1, 512)]
    """

    def __init__(
        self,
        prefix: keras.Model,
        cache: str | os.PathLike[str],
        *,
        dtype: FloatType = "float32",
        compute_dtype: ComputeType | None = None,
        runtime: RuntimeName = "auto",
    ) -> None:
        check_graph(prefix)
        if len(prefix.inputs) != 1 or len(prefix.outputs) != 1 or None in prefix.output_shape[1:]:
            raise ValueError(
                "prefix must have one input, and one output of a known shape. "
                f"Received: a model from {prefix.input_shape} to {prefix.output_shape}"
            )
        _check_types(dtype, compute_dtype, runtime)
        self.prefix = prefix
        self.dtype = dtype
        self.compute_dtype = compute_dtype
        self.runtime = runtime
        self.folder = cache_folder(cache)

    def nbytes(self, samples: int, views: int = 1) -> int:
        """Return how many bytes the features of a data set take."""
        return feature_bytes(self.prefix, samples * views, self.dtype)

    def build(
        self, data: Any, batch_size: int = 32, *, views: int | None = None, verbose: str | int = "auto"
    ) -> Loader:
        """Return a loader of the features of `data`, computed now or before.

        Args:
            data: (x, y) arrays, a `Loader` or a `PyDataset`.
            batch_size: images that are computed at a time, and for arrays the size of the loader's
                batches. Other data keeps its own.
            views: for a loader with augmentation, how many augmented versions of each image are
                computed: those of its first epochs. Each epoch then draws one for each sample.
            verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

        Returns:
            A loader of (features, labels) in the batches and the order of a `Loader`; of arrays each
            epoch has an order of its own, and a `PyDataset` keeps its order.

        Raises:
            TypeError: `data` is of another kind, whose order can't be told or repeated.
            ValueError: `data` is augmented and `views` isn't given, or the reverse; it mixes images
                or gives other ones each time; or features are too large for float16.
            OSError: there is no room on the disk; what was computed is kept.
            RuntimeError: `runtime` can't compute the model, or gives something else.
        """
        loader, features = features_of(self, data, batch_size, views, verbosity(verbose))
        return of_features(loader, features)

    def _computed(
        self, loader: Loader, batch_size: int, views: int | None, verbose: int, told: Told | None
    ) -> Features:
        """Return the features of all samples, by the first runtime that can compute them."""
        versions = loader.views if views is None else views

        def complete(runtime: Runtime) -> Features:
            folder = self.folder / self._key(loader, views, runtime)
            work = Work(self.prefix, loader, batch_size, self.dtype, folder, runtime, told)
            return self._complete(work, versions, verbose)

        wanted = self.runtime if self.compute_dtype is None else "keras"
        return by_the_first(self.prefix, wanted, complete, verbose)

    def _key(self, loader: Loader, views: int | None, runtime: Runtime) -> str:
        network = [model_digest(self.prefix), runtime.identity, self.dtype, self.compute_dtype]
        images: list[Any] = [loader.fingerprint()]
        if views is not None:
            images += [views, loader.seed, augmentation_digest(loader.augmentation)]
        return digest_of([_FORMAT, __version__, *network, *images])

    def _complete(self, work: Work, views: int, verbose: int) -> Features:
        """Return the features of all samples, after computing what there isn't of them."""
        folder, loader, shape, dtype = work.folder, work.loader, work.shape, DTYPES[work.dtype]
        plan = self._plan(loader.num_samples, views)
        with alone(folder.with_suffix(".lock"), verbose):
            folder.mkdir(exist_ok=True)
            promised = is_described(folder)
            shards = whole_shards(folder, plan, shape, dtype)
            missing = [span for span in plan if span not in shards]
            if missing:
                if promised:
                    say(verbose, f"Feature cache: {len(missing)} of {len(plan)} files are made again")
                try:
                    shards |= self._compute(work, missing, verbose)
                except (UnfitError, TooLongError):
                    with contextlib.suppress(OSError):  # it has some features already
                        folder.rmdir()
                    raise
            if len(shards) < len(plan):  # others have written
                shards = whole_shards(folder, plan, shape, dtype)
                self._check_all(plan, shards)
            describe(
                folder,
                format=_FORMAT,
                prefix=self.prefix.name,
                samples=loader.num_samples,
                views=views,
                shape=list(shape),
                dtype=self.dtype,
            )
            labels = loader.labels
            assert labels is not None  # the fingerprint has found them
            files = {span: shards[span] for span in plan}
            return Features(files, shape, dtype, labels, views, folder.name)

    def _compute(self, work: Work, spans: list[Span], verbose: int) -> Files:
        """Compute the features of spans and write them, with a progress bar; return as `_write` does."""
        rows = sum(stop - start for start, stop in spans)
        self._check_room(self.nbytes(rows))
        if self.compute_dtype is not None:
            work = replace(work, network=in_precision(work.network, self.compute_dtype))
        with progress(verbose, f"Feature cache: {rows:,} samples", rows, "sample") as advance:
            return self._write(work, spans, _telling(advance, work.told, rows))

    def _write(self, work: Work, spans: list[Span], advance: Callable[[int], None]) -> Files:
        """Write the features of spans, and return the files; those of other processes are looked for."""
        return write_spans(work, spans, advance)

    def _plan(self, samples: int, views: int) -> list[Span]:
        """Return the rows of each file: of one view, as many as a power of two, so that batches fit."""
        length = 2 ** (max(1, _SHARD_BYTES // self.nbytes(1)).bit_length() - 1)
        return [
            (view * samples + start, view * samples + min(start + length, samples))
            for view in range(views)
            for start in range(0, samples, length)
        ]

    def _check_all(self, plan: list[Span], shards: Files) -> None:
        missing = len(plan) - len(shards)
        if missing:
            raise OSError(
                "cache must be one folder for all workers, on a disk that they share; "
                f"{missing} of {len(plan)} files of features are not in it. "
                f"Received: cache={str(self.folder)!r}"
            )

    def _check_room(self, nbytes: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if nbytes > free:
            raise OSError(
                f"the features need {nbytes / 1e6:,.0f} MB in {self.folder}, where {free / 1e6:,.0f} "
                "MB are free; make room, cut deeper, keep them as float16, or choose another folder. "
                f"Received: cache={str(self.folder)!r}"
            )


def features_of(
    cache: FeatureCache,
    data: Any,
    batch_size: int,
    views: int | None,
    verbose: int,
    told: Told | None = None,
) -> tuple[Loader, Features]:
    """Return the loader that `data` is, and its features; the arguments are those of `build`.

    `told` is as in `Work`.
    """
    batch_size = checked_integer("batch_size", batch_size, 1)
    loader = as_loader(data, batch_size, shuffle=True)
    if mixes(loader.augmentation):
        raise ValueError(
            "data must not mix images, as features are computed for one at a time. "
            f"Received: augmentation={loader.augmentation!r}"
        )
    if (views is None) != (loader.augmentation is None):
        raise ValueError(
            "views must say how many augmented versions of each image to compute if, and only if, "
            "data is augmented. "
            f"Received: views={views!r} and augmentation={loader.augmentation!r}"
        )
    if not loader.repeats():
        raise ValueError(
            "data must give the same images each time; random changes belong in the "
            f"augmentation of a kt.Loader. Received: data={data!r:.200}"
        )
    if views is not None:
        views = checked_integer("views", views, 1)
    check_values(loader, cache.prefix, "data")
    return loader, cache._computed(loader, batch_size, views, verbose, told)


def of_features(loader: Loader, features: Features) -> Loader:
    """Return a loader of features in the batches and the order in which another gives images."""
    built = loader.replace(data=features, augmentation=None, image_size=None, value_range=None)
    built.epoch = loader.epoch
    return built


def feature_bytes(prefix: keras.Model, samples: int, dtype: FloatType) -> int:
    """Return how many bytes the features that `prefix` gives for a number of samples take."""
    return samples * math.prod(prefix.output_shape[1:]) * DTYPES[dtype].itemsize


def write_spans(work: Work, spans: Sequence[Span], advance: Callable[[int], None]) -> Files:
    """Compute the features of spans, rows of one view each, and write each to a file.

    `advance` is told how many more rows are computed.

    Raises:
        ValueError: features are too large for float16.
    """
    loader, batch_size = work.loader, work.batch_size
    batches = [
        (first, min(first + batch_size, stop))
        for start, stop in spans
        for first in range(start, stop, batch_size)
    ]

    def read(batch: Span) -> np.ndarray:
        view, first = divmod(batch[0], loader.num_samples)
        return loader.samples(first, first + batch[1] - batch[0], view)[0]

    written: Files = {}
    if not batches:  # others compute all
        return written
    with contextlib.closing(made_ahead(read, batches, loader.num_threads)) as ahead:
        some = next(ahead)
        compute = started(work.network, work.runtime, some, batch_size)
        images = itertools.chain([some], ahead)
        for start, stop in spans:
            rows = np.empty((stop - start, *work.shape), DTYPES[work.dtype])
            for first in range(0, stop - start, batch_size):
                x = next(images)
                with np.errstate(over="ignore"):  # told below
                    rows[first : first + len(x)] = _predict(compute, x)
                advance(len(x))
            if work.dtype == "float16" and np.isinf(rows).any():
                raise ValueError(
                    "features are too large for 16 bits of this kind; take dtype='bfloat16' or "
                    f"'float32'. Received: dtype={work.dtype!r}"
                )
            written[start, stop] = write_shard(work.folder, start, rows)
    return written


def _telling(advance: Callable[[int], None], told: Told | None, total: int) -> Callable[[int], None]:
    """Return what moves a progress bar on, and tells how far all is."""
    if told is None:
        return advance
    done = 0

    def both(count: int) -> None:
        nonlocal done
        done += count
        advance(count)
        told(done, total)

    return both


def _predict(compute: Compute, images: np.ndarray) -> np.ndarray:
    """Return the features of a batch of images."""
    return compute(images)[0]


def _check_types(dtype: Any, compute_dtype: Any, runtime: Any) -> None:
    checked_choice("dtype", dtype, DTYPES)
    checked_choice("compute_dtype", compute_dtype, (*get_args(ComputeType), None))
    checked_choice("runtime", runtime, get_args(RuntimeName))
    if compute_dtype is not None and runtime not in ("auto", "keras"):
        raise ValueError(
            "runtime must be 'keras' or 'auto' with a compute_dtype: others compute in float32. "
            f"Received: runtime={runtime!r} and compute_dtype={compute_dtype!r}"
        )
