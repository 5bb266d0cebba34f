"""Samples made into batches: cropped, augmented, stacked and mixed."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from keras_transfer.data.augmentation import Augmentation, Compose
from keras_transfer.data.sources import Batch, Size, Source

_MIXING = 1  # tells the random numbers of a batch from those of its first sample


class MadeSample(NamedTuple):
    """A sample of an epoch."""

    epoch: int
    index: int
    image: np.ndarray
    label: np.ndarray


class BatchMaker:
    """Makes samples and batches; a function of its arguments, whatever order they are asked for in.

    It knows nothing of the loader, so that nothing holds that when it is let go of: its threads end.

    Args:
        source: where samples come from.
        image_size: as in `Loader`.
        augmentation: what is done to samples and batches, or None.
        seed: decides augmentation.
        num_classes: how many classes labels may name, or None.
        one_hot: whether labels come as rows.
    """

    def __init__(
        self,
        source: Source,
        image_size: Size | None,
        augmentation: Augmentation | None,
        seed: int,
        num_classes: int | None,
        one_hot: bool,
    ) -> None:
        self._source, self._size, self._seed = source, image_size, seed
        self._augment = augmentation
        stages = augmentation if isinstance(augmentation, Compose) else Compose()
        self._crop, self._mix = stages.crop, stages.mix
        self._num_classes, self._one_hot = num_classes, one_hot

    def sample(self, position: int, index: int) -> MadeSample:
        """Return a sample.

        Args:
            position: of the sample among those of all epochs, in the order of the source.
            index: of the sample in the source.
        """
        epoch, index = position // len(self._source), int(index)
        crop = None
        if self._augment is not None:
            rng = np.random.default_rng([self._seed, epoch, index])
            crop = None if self._crop is None else partial(self._crop, rng=rng)
        image, label = self._source.sample(index, self._size, crop)
        if self._num_classes is not None:
            check_labels(label[None], self._num_classes, first_sample=index)
        if self._augment is not None:
            own = np.array(image)  # it may write: not the user's
            augmented = np.asarray(self._augment(own, rng))
            if augmented.shape != image.shape:
                raise ValueError(
                    f"augmentation must keep the shape {image.shape} of an image. Received: an image "
                    f"of shape {augmented.shape}"
                )
            image = augmented
        return MadeSample(epoch, index, image, label)

    def batch(self, samples: Sequence[MadeSample]) -> Batch:
        """Return samples as a batch."""
        first = samples[0]
        for sample in samples:
            if sample.image.shape != first.image.shape:
                raise ValueError(
                    "all images must have one shape; image_size=... resizes them. Received: image "
                    f"{first.index} of shape {first.image.shape} and image {sample.index} of shape "
                    f"{sample.image.shape}"
                )
        images = np.stack([sample.image for sample in samples])
        labels = self._labels(np.stack([sample.label for sample in samples]))
        if self._mix is None:
            return images, labels
        rng = np.random.default_rng([self._seed, first.epoch, first.index, _MIXING])
        return self._mix(images, labels, rng)

    def gather(self, rows: np.ndarray) -> Batch:
        """Return a batch of a source that gathers them, by rows; it is not augmented."""
        images, labels = self._source.gather(rows)
        return images, self._labels(labels)

    def _labels(self, labels: np.ndarray) -> np.ndarray:
        if not self._one_hot:
            return labels
        if labels.ndim == 2:
            return labels.astype("float32")
        rows = np.zeros((len(labels), self._num_classes or 0), "float32")
        rows[np.arange(len(labels)), labels.astype(int)] = 1.0
        return rows


def check_labels(labels: np.ndarray, num_classes: int, first_sample: int = 0) -> None:
    """Check that labels name classes that exist.

    Args:
        labels: integers of shape (samples,), or one-hot rows of shape (samples, num_classes).
        num_classes: how many classes there are.
        first_sample: the index of the first of these samples, for the message.

    Raises:
        ValueError: a label is outside 0 ... num_classes - 1, or the rows have another width.
    """
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
