"""Any number of classes an image: a sigmoid for each, binary cross-entropy, average precision."""

from typing import Any, ClassVar

import keras
import numpy as np

from keras_transfer.tasks import scores
from keras_transfer.tasks.task import Task

_STOCK = (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy)
_HALF = 0.5  # from this probability on a class is said to be there
_LEAST = np.finfo("float32").tiny  # of a probability, so that its logarithm is a number
_CLOSEST = np.finfo("float64").eps / 2  # to 1, for the same


class MultiLabel(Task):
    """Each image has any of the classes, or none: rows of 0 and 1, with a column a class."""

    name: ClassVar[str] = "multi-label"
    metrics: ClassVar[tuple[str, ...]] = ("binary_accuracy",)
    output: ClassVar[Any] = staticmethod(keras.activations.sigmoid)

    def metric(self, given: Any) -> Any:
        """Return what "accuracy" means: Keras would take it for that of the largest output."""
        return keras.metrics.BinaryAccuracy(name=given) if given in ("accuracy", "acc") else given

    def loss(self, given: Any = None) -> Any:
        """Return the form of a loss that takes logits, if it has one; None: binary cross-entropy."""
        if given is None:
            return keras.losses.BinaryCrossentropy(from_logits=True)
        loss = keras.losses.get(given)
        if isinstance(loss, _STOCK):
            return type(loss).from_config({**loss.get_config(), "from_logits": True})
        if loss is keras.losses.binary_crossentropy:
            return keras.losses.BinaryCrossentropy(from_logits=True)
        if self.wants_logits(loss):
            raise ValueError(
                "loss must be for a sigmoid for each class, such as 'binary_crossentropy', where a "
                f"model ends in such. Received: loss={loss.name!r} with from_logits=True"
            )
        return loss

    def stock_loss(self, loss: Any, from_logits: bool, one_hot: bool | None) -> keras.losses.Loss:
        """Return the loss for logits or for probabilities."""
        return type(loss).from_config({**loss.get_config(), "from_logits": from_logits})

    def wants_logits(self, loss: Any) -> bool:
        """Whether a loss takes logits."""
        return isinstance(loss, keras.losses.Loss) and bool(loss.get_config().get("from_logits"))

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Return rows of 0 and 1 as integers of shape (samples, classes)."""
        self.check_rows(labels, "labels")
        return labels.astype("int64")

    def check_rows(self, labels: np.ndarray, argument: str) -> None:
        """Raise a `ValueError` if labels are no rows of 0 and 1."""
        if labels.ndim != 2:
            raise ValueError(
                f"{argument} must have a row of 0 and 1 for each image, with a column a class, for a "
                "model or data of several labels an image. Of images with one class each, "
                "kt.classifier(..., task='single-label') makes a model. "
                f"Received: labels of shape {labels.shape}"
            )
        wrong = np.flatnonzero(~np.isin(labels, (0, 1)).all(axis=1))
        if wrong.size:
            raise ValueError(
                f"{argument} must have rows of 0 and 1, for the classes that an image hasn't and has. "
                f"Received: {labels[wrong[0]]} for sample {wrong[0]}, one of {wrong.size} such rows"
            )

    def counts(self, labels: np.ndarray, num_classes: int | None) -> np.ndarray:
        """Return how many samples have each class, of shape (classes,)."""
        return labels.astype("int64").sum(axis=0)

    def probabilities(self, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Return the sigmoid of logits, divided by a temperature."""
        z = logits.astype("float64")
        z /= temperature
        # Without a warning where the exponential of a large number would be infinite.
        small = np.exp(-np.abs(z))
        return np.where(z >= 0, 1.0, small) / (1.0 + small)

    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the logarithms of the odds."""
        p = np.clip(probabilities.astype("float64"), _LEAST, 1.0 - _CLOSEST)
        return np.log(p) - np.log1p(-p)

    def correct(self, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return for which samples all classes are right, each by whether it is probable.

        Args:
            scores: probabilities of shape (samples, classes), not logits, which have another half.
            targets: as `targets` gives them.
        """
        return ((scores >= _HALF) == (targets == 1)).all(axis=1)

    def losses(self, probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the mean of the binary cross-entropy over the classes, of each sample."""
        p = np.where(targets == 1, probabilities, 1.0 - probabilities.astype("float64"))
        return -np.log(np.maximum(p, _LEAST)).mean(axis=1)

    def temperature(self, logits: np.ndarray, targets: np.ndarray) -> float:
        """Return the one temperature of the lowest mean binary cross-entropy.

        It is one for all classes, as for a softmax, and not one each: a rare class has too few samples
        for a number of its own, and classes keep their order within an image.
        """
        # A sigmoid is the softmax of a logit and 0.
        z = np.stack([np.zeros(logits.size), logits.astype("float64").ravel()], axis=1)
        return scores.fit_temperature(z, targets.ravel())

    def threshold(self, probabilities: np.ndarray, targets: np.ndarray, coverage: float) -> float:
        """Return how probable a class must be, so that all of an image's are in the set as promised.

        An image without classes has them all in any set.
        """
        least = np.where(targets == 1, probabilities.astype("float64"), 1.0).min(axis=1)
        return scores.threshold_of(least, coverage)


MULTI_LABEL = MultiLabel()
