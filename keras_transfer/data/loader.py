"""The loader that owns the data order."""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np

from keras_transfer._lib.checks import checked_choice, checked_image_size, checked_integer
from keras_transfer.data.batches import BatchMaker, check_labels
from keras_transfer.data.grouping import checked_groups
from keras_transfer.data.images.augmentation import Augmentation, mixes, resolve_augmentation
from keras_transfer.data.images.rules import Rules, Span, checked_span
from keras_transfer.data.order import Remainder, Share, epoch_rows, stratified, stratified_rows
from keras_transfer.data.reading_ahead import made_ahead
from keras_transfer.data.serving import Passes
from keras_transfer.data.sources import DatasetSource, Source, Subset, as_source, default_threads
from keras_transfer.data.types import Batch
from keras_transfer.tasks.multi_label import MULTI_LABEL
from keras_transfer.tasks.single_label import SINGLE_LABEL
from keras_transfer.tasks.task import Task

_SEED_LIMIT = 2**32
_AS_IS: Literal["as is"] = "as is"
_BALANCED: Literal["balanced"] = "balanced"


class Loader(keras.utils.PyDataset):
    """Batches of images and labels in an order that this object alone decides.

    Which sample stands where in an epoch, and how it is augmented, is a pure function of (seed, epoch,
    sample index): the same on every backend, in every process, whatever ran before. Resuming, caching
    and comparing runs rest on that. Threads read, decode and augment the next batches while the model
    trains on this one.

    Give it to `keras_transfer.fine_tune`, or to the `fit`, `evaluate` and `predict` of any Keras
    model; the `shuffle` argument of `fit` then has no effect. Every whole pass of `fit`, `evaluate` or
    a loop moves `epoch` on by one, and assigning `epoch` moves it anywhere.

    Args:
        data: (x, y) arrays: images of shape (samples, height, width, channels) and labels of shape
            (samples,), or one-hot (samples, classes); or a sequence with random access (`len` and an
            integer index) of (image, label) pairs, of dicts with these keys, or a TFDS data source; or a
            `PyDataset` of batches (images, labels), which is read once beforehand. Of this up to 256 MB
            stay in memory; with `shuffle` each sample beyond them costs reading a batch.
        batch_size: samples a batch; the last batch of an epoch may be smaller.
        shuffle: whether each epoch has an order of its own; otherwise that of `data`.
        seed: an integer from 0 to 2**32 - 1 that decides order and augmentation.
        augmentation: "light", "standard" or "strong" (see `keras_transfer.data.Compose`), a callable
            `(image, rng) -> image` of the same shape, or None. Belongs on training data only. It is
            called by several threads at once.
        image_size: height and width in pixels, one number for both, to which images are cropped around
            the centre and resized by interpolation; None leaves them as they are.
        class_names: the names of the classes in the order of the labels.
        num_classes: how many classes the labels may name; a label outside is an error. By default
            the number of `class_names`, if given.
        one_hot: whether labels come as rows of shape (num_classes,) even if they are integers, as an
            augmentation that mixes images makes them.
        multi_label: whether an image has any number of classes: labels are then rows of 0 and 1, of
            shape (samples, classes), and a row may be all 0.
        value_range: the values of `data` that are black and white, such as (0, 1), (-1, 1) or
            (0, 65535): images come as integers from 0 to 255 then, as those of files do. None: as they
            are; the functions of this package warn if a model takes another range. "as is": as they
            are, and that is meant.
        num_threads: how many threads read ahead; by default as many as there are processors, up to 8,
            and for a `PyDataset` 1. 0 reads each batch when it is asked for.
        groups: for each sample what it belongs to, such as a patient or a burst of photos: numbers or
            texts of shape (samples,). Samples of one group never stand on two sides of a division, be it
            that of `split` or folds by which something is chosen. None: each stands for itself.
        sampling: "balanced": each shuffled epoch has as many samples of every class, and as many in all
            as ever: those of rare classes come several times, each time augmented in another way, and of
            common ones others in each epoch. With it, leave `class_weight` alone, which does the same.
            Where samples come in order, each comes once. Labels that aren't known are read, with all
            images. None: each sample comes once an epoch.

    Attributes:
        epoch: the epoch that the next pass serves, from 0.
        skipped: files of a folder that were left out, with the reason for each: no image, hidden,
            damaged, a link out, ...
        noted: files that are used, with what is odd about each, such as images of one colour.
        num_samples: how many samples there are.
        multi_label: whether an image has any number of classes.
        labels: all labels, of shape (samples,) or (samples, classes), or None where every image
            would have to be decoded for them.
        groups: an array of the group of each sample, or None.

    Raises:
        ValueError: the data is empty, its arrays don't fit each other, or an argument has no
            sensible meaning, or labels are no rows of 0 and 1 for `multi_label`. While reading: a label
            outside the classes, a pixel that is not a finite number, or an image of another shape; the
            message names the sample.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> x, y = np.zeros((10, 8, 8, 3), "uint8"), np.arange(10)
        >>> loader = kt.Loader((x, y), batch_size=4, seed=1)
        >>> [len(labels) for images, labels in loader]
        [4, 4, 2]
        >>> sorted(int(i) for i in loader.order(epoch=5)) == list(range(10))
        True
    """

    def __init__(
        self,
        data: Any,
        batch_size: int = 32,
        *,
        shuffle: bool = True,
        seed: int = 0,
        augmentation: str | Augmentation | None = None,
        image_size: int | tuple[int, int] | None = None,
        class_names: Sequence[str] | None = None,
        num_classes: int | None = None,
        one_hot: bool = False,
        multi_label: bool = False,
        value_range: tuple[float, float] | Literal["as is"] | None = None,
        num_threads: int | None = None,
        groups: Sequence[Any] | np.ndarray | None = None,
        sampling: Literal["balanced"] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(data, Loader):
            raise TypeError(
                "data must be what a Loader is made of; loader.replace(...) gives one with other "
                f"arguments. Received: data={data!r:.200}"
            )
        self._source: Source = as_source(data)
        if len(self._source) == 0:
            raise ValueError(f"data must have at least one sample. Received: {data!r:.200}")
        self.batch_size = checked_integer("batch_size", batch_size, 1)
        self.shuffle = bool(shuffle)
        self.seed = checked_integer("seed", seed, 0, _SEED_LIMIT - 1)
        self.image_size = None if image_size is None else checked_image_size(image_size)
        self.class_names = None if class_names is None else list(class_names)
        self.num_classes = len(class_names) if num_classes is None and class_names else num_classes
        self.multi_label = bool(multi_label)
        if self.multi_label and self.labels is not None:
            self.num_classes = _checked_width(self.labels, self.num_classes)
        self.epoch = 0
        self.augmentation = augmentation
        self._augment = resolve_augmentation(augmentation)
        self._one_hot = bool(one_hot)
        self.one_hot = self._one_hot or self.multi_label or mixes(self._augment)
        self._check_classes_are_known()
        self.value_range = _checked_range(value_range, self._source)
        # One thread at a time reads a PyDataset, and several would need more batches of it at once.
        most = 1 if isinstance(self._source, DatasetSource) else default_threads()
        threads = most if num_threads is None else num_threads
        self.num_threads = checked_integer("num_threads", threads, 0)
        self.groups = checked_groups(groups, self.num_samples)
        self.sampling = checked_choice("sampling", sampling, (_BALANCED, None))
        if self.sampling and self.multi_label:
            raise ValueError(
                "sampling must be None where an image may have several classes, as drawing one of them "
                f"more often draws the others with it. Received: sampling={sampling!r}, multi_label=True"
            )
        self._share = Share()
        self._passes = Passes()
        if self.labels is not None and self.num_classes is not None:
            check_labels(self.labels, self.num_classes)
        self._prepare()

    def _check_classes_are_known(self) -> None:
        """Raise a `ValueError` if nothing tells how wide rows of labels are."""
        known_rows = self.labels is not None and self.labels.ndim == 2
        if self.one_hot and self.num_classes is None and not known_rows:
            raise ValueError(
                "num_classes or class_names must tell how many classes there are, for labels as one-hot "
                f"rows or of several classes. Received: one_hot={self._one_hot!r}, "
                f"augmentation={self.augmentation!r}, multi_label={self.multi_label!r}"
            )

    def replace(self, **changes: Any) -> "Loader":
        """Return a loader with some of the arguments of this one changed.

        Args:
            **changes: any of `data`, `batch_size`, `shuffle`, `seed`, `augmentation`, `image_size`,
                `class_names`, `num_classes`, `one_hot`, `multi_label`, `value_range`, `num_threads`,
                `groups`, `sampling`.

        Returns:
            A new loader at epoch 0; this one is as it was.
        """
        return _made({**self._arguments(), **changes}, self._share)

    def _arguments(self) -> dict[str, Any]:
        return {
            "data": self._source,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "augmentation": self.augmentation,
            "image_size": self.image_size,
            "class_names": self.class_names,
            "num_classes": self.num_classes,
            "one_hot": self._one_hot,
            "multi_label": self.multi_label,
            "value_range": self.value_range,
            "num_threads": self.num_threads,
            "groups": self.groups,
            "sampling": self.sampling,
        }

    def subset(self, indices: Sequence[int] | np.ndarray) -> "Loader":
        """Return a loader of some of the samples.

        Args:
            indices: their indices in the order of the source.

        Returns:
            A new loader at epoch 0, otherwise with the arguments of this one.
        """
        some = Subset(self._source, indices)
        groups = None if self.groups is None else self.groups[some.indices]
        return self.replace(data=some, groups=groups)

    def split(
        self, fraction: float, *, seed: int | None = None, stratify: bool = True
    ) -> tuple["Loader", "Loader"]:
        """Return two loaders: of the samples that stay, and of a fraction that is held back.

        Where the loader has `groups`, each of them stays whole, on one side; the sides then have about
        their parts, as near as the sizes of the groups allow.

        Args:
            fraction: how much is held back, in (0, 1).
            seed: decides which samples are; by default the seed of this loader.
            stratify: whether that is the fraction of each class, and not only of all together; of
                images of several classes as nearly as can be. Labels that aren't known are then read,
                with all images.

        Returns:
            What stays, otherwise with the arguments of this loader; and what is held back, in the order
            of this loader's data and never augmented. Both are new loaders at epoch 0.

        Raises:
            ValueError, TypeError: `fraction` or `seed` has no sensible meaning, or a class would have no
                sample on one of the sides, as where all of it is one group.

        Example:
            >>> import numpy as np, keras_transfer as kt
            >>> loader = kt.Loader((np.zeros((10, 8, 8, 3), "uint8"), np.arange(10) % 2))
            >>> train, validation = loader.split(0.4, seed=0)
            >>> train.num_samples, validation.class_counts().tolist()
            (6, [2, 2])
            >>> pairs = loader.replace(groups=[0, 1, 0, 1, 2, 3, 2, 3, 4, 5])
            >>> train, validation = pairs.split(0.4)
            >>> set(train.groups) & set(validation.groups)
            set()
        """
        alike = np.zeros(self.num_samples, int)
        classes = self.task.targets(self.known_labels()) if stratify else alike
        seed = self.seed if seed is None else checked_integer("seed", seed, 0)
        names = self.class_names if stratify else None
        divide = stratified_rows if classes.ndim == 2 else stratified
        kept, held_back = divide(classes, fraction, seed, names, self.groups)
        rest = self.subset(held_back).replace(shuffle=False, augmentation=None)
        return self.subset(kept), rest

    def shard(
        self,
        index: int,
        count: int,
        *,
        multiple: int | None = None,
        remainder: Remainder = "drop",
    ) -> "Loader":
        """Return a loader of one process's part of every batch, of several that train together.

        Only that part is read, decoded and augmented. Together the processes have the batches of this
        loader: order and augmentation of a sample don't depend on how many they are. A mixing
        augmentation takes partners from the part. Everything but the batches, such as `order` and
        `labels`, is still of all samples. `keras_transfer.fine_tune` does this by itself.

        Args:
            index: the number of the process, from 0. What a loader took before is forgotten.
            count: how many processes there are. `batch_size` stays that of all together.
            multiple: how many devices the processes have in all, where each divides its part among
                several; by default `count`. `batch_size` must be a multiple of it.
            remainder: what is done with a last batch that isn't a multiple of it. "drop": fewer samples
                than `multiple` are left out, others in each epoch if it is shuffled, so that all parts
                are equal, as training needs. "uneven": parts differ by one sample and may be none.
                "whole": every process has the whole of it.

        Returns:
            A new loader at the epoch of this one.

        Raises:
            ValueError: an argument has no sensible meaning, or there are too few samples.

        Example:
            >>> import numpy as np, keras_transfer as kt
            >>> loader = kt.Loader((np.zeros((10, 8, 8, 3), "uint8"), np.arange(10)), batch_size=4)
            >>> [len(labels) for images, labels in loader.shard(0, 2)]
            [2, 2, 1]
        """
        multiple = count if multiple is None else multiple
        if not 0 <= index < count or multiple < count or multiple % count:
            raise ValueError(
                "index must be from 0 to count - 1, and multiple a multiple of count. "
                f"Received: index={index!r}, count={count!r}, multiple={multiple!r}"
            )
        checked_choice("remainder", remainder, get_args(Remainder))
        return _made(self._arguments(), Share(index, count, multiple, remainder), self.epoch)

    @property
    def task(self) -> Task:
        """What kind of labels these are; its `name` is "single-label" or "multi-label"."""
        return MULTI_LABEL if self.multi_label else SINGLE_LABEL

    @property
    def num_samples(self) -> int:
        """How many samples an epoch has."""
        return len(self._source)

    @property
    def num_batches(self) -> int:
        """How many batches an epoch has."""
        return self._share.batches(self.num_samples, self.batch_size)

    @property
    def workers(self) -> int:
        """How many threads of its own Keras reads with: none, as they would change the order."""
        self._passes.enter()
        return 0

    @property
    def skipped(self) -> dict[str, str]:
        """Files that were left out, with the reason for each."""
        return self._source.skipped

    @property
    def noted(self) -> dict[str, str]:
        """Files that are used, with what is odd about each."""
        return self._source.noted

    @property
    def rules(self) -> Rules | None:
        """How image files are read; None where samples aren't files."""
        return self._source.rules

    def first_time(self, warning: str) -> bool:
        """Whether nobody was warned so of these samples yet, by any loader of them; now it is told."""
        told = self._source.told
        first = warning not in told
        told.add(warning)
        return first

    @property
    def labels(self) -> np.ndarray | None:
        """All labels in the order of the source, where they are known without decoding images."""
        return self._source.labels

    def some_labels(self) -> np.ndarray | None:
        """Return a label as batches have it, of shape (1,) or (1, classes), if labels are known."""
        return None if self.labels is None else self._maker.as_in_batches(self.labels[:1])

    def class_counts(self) -> np.ndarray:
        """Return how many samples each class has, of shape (num_classes,)."""
        return self.task.counts(self.known_labels(), self.num_classes)

    def known_labels(self) -> np.ndarray:
        """Return all labels in the order of the source, after reading all samples if need be."""
        if self.labels is None:
            self.fingerprint()
        assert self.labels is not None
        return self.labels

    def order(self, epoch: int) -> np.ndarray:
        """Return the sample indices of an epoch in their order, of shape (samples,).

        Args:
            epoch: the number of the epoch, from 0.
        """
        return self._rows(epoch) % self.num_samples

    def batch(self, epoch: int, index: int) -> Batch:
        """Return a batch: a pure function of its arguments and those of the loader.

        Args:
            epoch: the number of the epoch, from 0.
            index: the position of the batch in the epoch, from 0.

        Returns:
            Images of shape (batch, height, width, channels) and their labels.

        Raises:
            IndexError: an epoch has no such batch.
        """
        self._check(index)
        if self._gathers:
            return self._maker.gather(self._batch_rows(epoch, index))
        return self._maker.batch(epoch, index)

    @property
    def views(self) -> int:
        """How many versions of each sample the source has; each epoch draws one for each."""
        return self._source.views

    def samples(self, start: int, stop: int, view: int = 0) -> Batch:
        """Return the samples from `start` to `stop` in the order of the source, as a batch.

        Args:
            start: the index of the first sample.
            stop: the index behind the last.
            view: the version of them: as augmented in the epoch of this number, or as the source has it.
        """
        if self._gathers:
            return self._maker.gather(np.arange(start, stop) + view * self.num_samples)
        return self._maker.samples(view, range(start, stop))

    def file(self, index: int) -> Path | None:
        """Return the file of a sample, or None where samples aren't files.

        Args:
            index: of the sample, in the order of the source.
        """
        return self._source.file(index)

    def close(self) -> None:
        """Let go of the files that the source has open, so that they can be removed on Windows, too.

        Those are features, which are mapped into memory; none of them can be read any more, by no loader
        that was made of this one either. Other sources open a file when it is read; of a folder, images
        that stay in memory are let go of, and decoded again when they are wanted.

        Example:
            >>> import contextlib, tempfile, numpy as np, keras, keras_transfer as kt
            >>> inputs, data = keras.Input((2, 2, 1)), (np.ones((3, 2, 2, 1)), np.arange(3))
            >>> network = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     features = kt.FeatureCache(network, folder).build(data, verbose=0)
            ...     with contextlib.closing(features):
            ...         [batch.shape for batch, labels in features]
            [(3, 1)]
        """
        self._source.close()

    def repeats(self) -> bool:
        """Whether the source gives the same images each time, as far as its first samples tell."""
        return self._source.repeats()

    def fingerprint(self) -> str:
        """Return a digest of what decides the samples but for order and augmentation."""
        known = f"{self._source.fingerprint()}, {self.image_size}"
        return known if self._span is None else f"{known}, {self._span}"

    @property
    def _span(self) -> Span | None:
        return self.value_range if isinstance(self.value_range, tuple) else None

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> Batch:
        # Inside fit, Keras may ask in an order of its own (fit's default shuffle=True permutes the
        # batches with Python's global generator), so batches are served in ours.
        position = self._passes.position()
        if position is None:
            return self.batch(self.epoch, index)
        return self._next(self.epoch, position)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the current epoch, then move on to the next."""
        epoch = self.epoch
        for index in range(self.num_batches):
            yield self._next(epoch, index)
        self.epoch = epoch + 1

    def on_epoch_begin(self) -> None:
        """Start serving the current epoch; Keras calls this."""
        self._passes.begin_epoch()

    def on_epoch_end(self) -> None:
        """Move on to the next epoch; Keras calls this."""
        if self._passes.end_epoch():
            self.epoch += 1

    def __deepcopy__(self, memo: dict[int, Any]) -> "Loader":
        return _made(self._arguments(), self._share, self.epoch)

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self._arguments(), self._share, self.epoch)

    def _prepare(self) -> None:
        drawn = self.sampling is not None and self.shuffle
        classes = SINGLE_LABEL.targets(self.known_labels()) if drawn else None
        again = self._augment is not None and self.views == 1
        how = (self.num_samples, self.views, self.seed, self.shuffle, classes, again)
        # Of two epochs, as threads read into the next one.
        self._rows = functools.lru_cache(maxsize=2)(functools.partial(epoch_rows, *how))
        self._batch_rows = functools.partial(_batch_rows, self._rows, self.batch_size, self._share)
        self._maker = BatchMaker(
            self._source,
            self._batch_rows,
            image_size=self.image_size,
            augmentation=self._augment,
            seed=self.seed,
            num_classes=self.num_classes,
            one_hot=self.one_hot,
            task=self.task,
            span=self._span,
        )
        # Whole batches, without a step in Python for each sample.
        self._gathers = self._augment is None and self._source.gathers(self.image_size)
        # What threads make, and the process and the batch that it is for.
        self._ahead: tuple[tuple[int, int], Iterator[Batch]] | None = None

    def _check(self, index: int) -> None:
        if not 0 <= index < self.num_batches:
            raise IndexError(f"an epoch has {self.num_batches} batches. Received: index={index}")

    def _next(self, epoch: int, index: int) -> Batch:
        """Return a batch of a pass, and have threads make those after it, of the next epochs, too."""
        self._check(index)
        if self._gathers or not self.num_threads:
            return self.batch(epoch, index)
        process, position = os.getpid(), epoch * self.num_batches + index
        if self._ahead is None or self._ahead[0] != (process, position):  # a fork has no threads
            self._ahead = (process, position), self._read_ahead(position)
        batches = self._ahead[1]
        self._ahead = None  # if it raises, another try begins anew
        batch = next(batches)
        self._ahead = (process, position + 1), batches
        return batch

    def _read_ahead(self, position: int) -> Iterator[Batch]:
        """Return the batches from a position on, which threads make beforehand."""
        make, count = self._maker.batch, self.num_batches  # not the loader: with it the threads end
        positions = itertools.count(position)
        return made_ahead(lambda position: make(*divmod(position, count)), positions, self.num_threads)


def _checked_range(given: Any, source: Source) -> Span | Literal["as is"] | None:
    """Return the argument `value_range`, or raise if it is none, or the source is of files."""
    if given is None or (isinstance(given, str) and given == _AS_IS):
        return given
    if isinstance(given, str):
        raise ValueError(
            f"value_range must be two numbers, {_AS_IS!r} or None. Received: value_range={given!r}"
        )
    if source.rules is not None:
        raise ValueError(
            "value_range must be told to kt.data.from_directory, where files are read; they come as "
            f"integers from 0 to 255. Received: value_range={given!r}"
        )
    return checked_span(given)


def _checked_width(labels: np.ndarray, num_classes: int | None) -> int:
    """Return how many classes rows of 0 and 1 have, or raise if they are none, or have another width."""
    MULTI_LABEL.check_rows(labels, "labels")
    width = labels.shape[1]
    if num_classes not in (None, width):
        raise ValueError(
            f"labels must be rows of {num_classes} numbers, one a class. "
            f"Received: labels of shape {labels.shape}"
        )
    return width


def _batch_rows(
    rows: Callable[[int], np.ndarray], batch_size: int, share: Share, epoch: int, index: int
) -> np.ndarray:
    """Return the rows of a process's part of a batch."""
    batch = rows(epoch)[index * batch_size :][:batch_size]
    return batch[share.of(len(batch))]


def _made(arguments: dict[str, Any], share: Share, epoch: int = 0) -> Loader:
    """Return a loader of a part of each batch."""
    loader = Loader(**arguments)
    if share != loader._share:
        if loader.batch_size % share.multiple:
            nearest = max(share.multiple, loader.batch_size - loader.batch_size % share.multiple)
            raise ValueError(
                f"batch_size must be a multiple of {share.multiple}, the number of devices that each "
                f"batch is divided among, such as {nearest}. Received: batch_size={loader.batch_size}"
            )
        needed = {"drop": share.multiple, "uneven": share.count, "whole": 1}[share.remainder]
        if loader.num_samples < needed:
            raise ValueError(
                f"the source must have at least {needed} samples, one for each part of a batch. "
                f"Received: {loader.num_samples} samples"
            )
        loader._share = share
        loader._prepare()
    loader.epoch = epoch
    return loader
