"""One class an image: softmax, cross-entropy, accuracy."""

from typing import Any, ClassVar

import keras
import numpy as np

from keras_transfer.tasks import scores
from keras_transfer.tasks.task import Task

_STOCK = (keras.losses.CategoricalCrossentropy, keras.losses.SparseCategoricalCrossentropy)
_ROUNDING = 1e-3  # by which the sum of a row may differ from 1, in float16, too
_LEAST = np.finfo("float32").tiny  # of a probability, so that its logarithm is a number


class SingleLabel(Task):
    """Each image has exactly one of the classes."""

    name: ClassVar[str] = "single-label"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    output: ClassVar[Any] = staticmethod(keras.activations.softmax)

    def loss(self, given: Any = None) -> Any:
        """Return the form of a loss that takes logits, if it has one; None is cross-entropy."""
        if given is None:
            return _Crossentropy()
        loss = keras.losses.get(given)
        if isinstance(loss, _STOCK):
            return type(loss).from_config({**loss.get_config(), "from_logits": True})
        if loss is keras.losses.categorical_crossentropy:
            return keras.losses.CategoricalCrossentropy(from_logits=True)
        if loss is keras.losses.sparse_categorical_crossentropy:
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return loss

    def stock_loss(self, loss: Any, from_logits: bool, one_hot: bool | None) -> keras.losses.Loss:
        """Return Keras' own cross-entropy for the labels that were met, or the loss that was given."""
        if not isinstance(loss, _Crossentropy):
            return type(loss).from_config({**loss.get_config(), "from_logits": from_logits})
        rows = loss.one_hot if one_hot is None else one_hot
        return _STOCK[0 if rows else 1](from_logits=from_logits)

    def wants_logits(self, loss: Any) -> bool:
        """Whether a loss takes logits."""
        if isinstance(loss, _Crossentropy):
            return True
        return isinstance(loss, keras.losses.Loss) and bool(loss.get_config().get("from_logits"))

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Return labels, integers or one-hot rows, as integers of shape (samples,)."""
        if labels.ndim == 1:
            return labels.astype("int64")
        wrong = np.flatnonzero(~(np.isin(labels, (0, 1)).all(axis=1) & (labels.sum(axis=1) == 1)))
        if wrong.size:
            raise ValueError(
                "labels must be integers or one-hot rows, of one 1 and zeros. "
                f"Received: {labels[wrong[0]]} for sample {wrong[0]}"
            )
        return labels.argmax(axis=1)

    def check_rows(self, labels: np.ndarray, argument: str) -> None:
        """Raise a `ValueError` if a row of labels is no share of classes that adds up to 1."""
        if labels.ndim != 2:
            return
        rows = labels.astype("float64")
        wrong = np.flatnonzero(~((rows >= 0).all(axis=1) & (abs(rows.sum(axis=1) - 1.0) < _ROUNDING)))
        if wrong.size:
            raise ValueError(
                f"{argument} must have one class an image: labels that are integers or one-hot rows, "
                "or rows that add up to 1, such as those of mixed images. Where an image has several "
                "labels, kt.classifier(..., task='multi-label') makes a model, which ends in a sigmoid. "
                f"Received: {labels[wrong[0]]} for sample {wrong[0]}, one of {wrong.size} such rows"
            )

    def counts(self, labels: np.ndarray, num_classes: int | None) -> np.ndarray:
        """Return how many samples each class has, of shape (classes,)."""
        if labels.ndim == 2:
            return np.bincount(labels.argmax(axis=1), minlength=labels.shape[1])
        return np.bincount(labels.astype(int), minlength=num_classes or 0)

    def probabilities(self, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Return the softmax of logits of shape (samples, classes), divided by a temperature."""
        z = logits.astype("float64")  # one array, of all images and classes, and no other
        z -= z.max(axis=1, keepdims=True)
        z /= temperature
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
        return z

    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the logarithms of probabilities, whose softmax they are."""
        p = probabilities.astype("float64")
        return np.log(np.maximum(p, _LEAST, out=p), out=p)

    def correct(self, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return for which samples the true class has the highest score."""
        return scores.argmax(axis=1) == targets

    def losses(self, probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return minus the logarithm of the true class's probability."""
        return -self.logits(probabilities[np.arange(len(targets)), targets])

    def temperature(self, logits: np.ndarray, targets: np.ndarray) -> float:
        """Return the temperature of `keras_transfer.calibration.fit_temperature`."""
        return scores.fit_temperature(logits, targets)

    def threshold(self, probabilities: np.ndarray, targets: np.ndarray, coverage: float) -> float:
        """Return the threshold of `keras_transfer.calibration.conformal_threshold`."""
        return scores.conformal_threshold(probabilities, targets, coverage)


class _Crossentropy(keras.losses.Loss):
    """Cross-entropy from logits; labels may be integers or one-hot rows.

    Which of the two shows in the shape of the labels when the first batch comes, so that nothing need
    be drawn from the data beforehand.
    """

    def __init__(self) -> None:
        super().__init__(name="crossentropy")
        self.one_hot = False

    def call(self, y_true: Any, y_pred: Any) -> Any:
        self.one_hot = len(y_true.shape) == 2 and y_true.shape[-1] == y_pred.shape[-1]
        if self.one_hot:
            return keras.losses.categorical_crossentropy(y_true, y_pred, from_logits=True)
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


SINGLE_LABEL = SingleLabel()
