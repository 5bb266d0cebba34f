"""Samples made into batches: cropped, augmented, stacked and mixed."""

from collections.abc import Callable, Sequence

import numpy as np

from keras_transfer.data.images.augmentation import Augmentation, Compose, RandomCrop
from keras_transfer.data.images.rules import Span, as_bytes
from keras_transfer.data.sources import Source, check_label_dtype
from keras_transfer.data.types import Batch, Crop, Sample, Size
from keras_transfer.tasks.multi_label import MULTI_LABEL
from keras_transfer.tasks.task import Task

_MIXING = 1  # tells the random numbers of a batch from those of its first sample


class BatchMaker:
    """Makes batches: a function of its arguments, whatever order they are asked for in.

    It knows nothing of the loader, so that nothing holds that when it is let go of: its threads end.

    Args:
        source: where samples come from.
        rows: gives the indices of the samples of a batch, by its epoch and its position there.
        image_size: as in `Loader`.
        augmentation: what is done to samples and batches, or None.
        seed: decides augmentation.
        num_classes: how many classes labels may name, or None.
        one_hot: whether labels come as rows.
        task: what kind of labels they are.
        span: the values that become 0 and 255, or None.
    """

    def __init__(
        self,
        source: Source,
        rows: Callable[[int, int], np.ndarray],
        *,
        image_size: Size | None,
        augmentation: Augmentation | None,
        seed: int,
        num_classes: int | None,
        one_hot: bool,
        task: Task,
        span: Span | None = None,
    ) -> None:
        self._source, self._rows = source, rows
        self._size, self._seed, self._augment = image_size, seed, augmentation
        stages = augmentation if isinstance(augmentation, Compose) else Compose()
        self._crop, self._mix = stages.crop, stages.mix
        self._num_classes, self._one_hot, self._span = num_classes, one_hot, span
        self._samples = len(source) * source.views
        self._task = task
        self._labels_come = source.labels is None  # only with their images, and are checked then

    def batch(self, epoch: int, index: int) -> Batch:
        """Return a batch of an epoch."""
        return self.samples(epoch, self._rows(epoch, index).tolist())

    def samples(self, epoch: int, indices: Sequence[int]) -> Batch:
        """Return samples, by their indices in the source, as a batch of an epoch."""
        images, labels = zip(*(self._sample(epoch, index) for index in indices), strict=True)
        for index, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                raise ValueError(
                    "all images must have one shape; image_size=... resizes them. Received: image "
                    f"{indices[0]} of shape {images[0].shape} and image {index} of shape {image.shape}"
                )
        batch = np.stack(images), self.as_in_batches(np.stack(labels))
        if self._mix is None:
            return batch
        return self._mix(*batch, np.random.default_rng([self._seed, epoch, indices[0], _MIXING]))

    def gather(self, rows: np.ndarray) -> Batch:
        """Return a batch of a source that gathers them, by rows; it is not augmented."""
        images, labels = self._source.gather(rows)
        images = images if self._span is None else as_bytes(images, self._span)
        return images, self.as_in_batches(labels)

    def _sample(self, epoch: int, index: int) -> Sample:
        crop = None
        times, index = divmod(index, self._samples)
        if self._augment is not None:
            # A sample that comes again in an epoch is another picture; 1 is `_MIXING`.
            again = [_MIXING + times] if times else []
            rng = np.random.default_rng([self._seed, epoch, index, *again])
            if self._crop is not None:
                crop = _drawing(self._crop, rng)
        image, label = self._source.sample(index, self._size, crop)
        if self._span is not None:
            image = as_bytes(image, self._span)
        if self._num_classes is not None and self._labels_come:
            check_labels(label[None], self._num_classes, first_sample=index)
            if self._task is MULTI_LABEL:
                self._task.check_rows(label[None], f"the labels of image {index}")
        if self._augment is not None:
            own = np.array(image)  # it may write: not the user's
            augmented = np.asarray(self._augment(own, rng))
            if augmented.shape != image.shape:
                raise ValueError(
                    f"augmentation must keep the shape {image.shape} of an image. Received: an image "
                    f"of shape {augmented.shape}"
                )
            image = augmented
        return image, label

    def as_in_batches(self, labels: np.ndarray) -> np.ndarray:
        """Return labels of the source in the form in which a batch has them."""
        if not self._one_hot:
            return labels
        if labels.ndim == 2:
            return labels.astype("float32")
        rows = np.zeros((len(labels), self._num_classes or 0), "float32")
        rows[np.arange(len(labels)), labels.astype(int)] = 1.0
        return rows


def _drawing(crop: RandomCrop, rng: np.random.Generator) -> Crop:
    """Return `crop` with its randomness."""
    return lambda height, width: crop(height, width, rng)


def check_labels(labels: np.ndarray, num_classes: int, first_sample: int = 0) -> None:
    """Check that labels name classes that exist.

    Args:
        labels: integers of shape (samples,), or one-hot rows of shape (samples, num_classes).
        num_classes: how many classes there are.
        first_sample: the index of the first of these samples, for the message.

    Raises:
        ValueError: a label is outside 0 ... num_classes - 1, or the rows have another width.
        TypeError: they are no numbers.
    """
    check_label_dtype(labels)
    if labels.ndim == 2:
        if labels.shape[1] != num_classes:
            raise ValueError(
                f"one-hot labels must have {num_classes} columns, one a class. Received: labels of "
                f"shape {labels.shape}"
            )
        return
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes) | (labels != np.floor(labels)))
    if wrong.size:
        raise ValueError(
            f"labels must be integers from 0 to {num_classes - 1}. Received: label "
            f"{labels[wrong[0]]} for sample {first_sample + wrong[0]}"
        )
