"""What a task has to say: loss, output, metrics, form of labels, scores, calibration."""

import abc
from typing import Any, ClassVar

import keras
import numpy as np


class Task(abc.ABC):
    """One kind of labels. A second kind is a second class like this; nothing else knows the kind.

    In what follows, *labels* are as a data set has them, and *targets* are the one form of them that
    scores take.

    Attributes:
        name: what users call it.
        metrics: the names of Keras metrics that training shows by default.
        output: the activation that makes probabilities of logits.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    output: ClassVar[Any]

    def metric(self, given: Any) -> Any:
        """Return a metric as Keras takes it; a name may mean something else for a task."""
        return given

    @abc.abstractmethod
    def loss(self, given: Any = None) -> Any:
        """Return a loss as training takes it, on logits where it has such a form.

        Args:
            given: a Keras loss or its name; None: the loss of the task.
        """

    @abc.abstractmethod
    def stock_loss(self, loss: Any, from_logits: bool, one_hot: bool | None) -> keras.losses.Loss:
        """Return a loss of `loss` as a Keras object that any file can hold.

        Args:
            loss: what training minimised, on logits.
            from_logits: whether the model that it is compiled with gives logits.
            one_hot: whether the labels are rows; None: as in training.
        """

    @abc.abstractmethod
    def wants_logits(self, loss: Any) -> bool:
        """Whether a loss takes logits."""

    @abc.abstractmethod
    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Return labels in the one form that scores take, or raise a `ValueError`."""

    @abc.abstractmethod
    def check_rows(self, labels: np.ndarray, argument: str) -> None:
        """Raise a `ValueError` if labels that are rows are none of the task.

        Args:
            labels: of shape (samples,), which pass, or (samples, classes).
            argument: what holds them, for the message.
        """

    @abc.abstractmethod
    def counts(self, labels: np.ndarray, num_classes: int | None) -> np.ndarray:
        """Return how many samples each class has, of shape (classes,)."""

    @abc.abstractmethod
    def probabilities(self, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Return the probabilities of logits that are divided by a temperature, in float64."""

    @abc.abstractmethod
    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """Return logits that give these probabilities, in float64."""

    @abc.abstractmethod
    def correct(self, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return which samples are classified correctly, by logits or probabilities: booleans."""

    @abc.abstractmethod
    def losses(self, probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the loss of each sample, of shape (samples,)."""

    @abc.abstractmethod
    def temperature(self, logits: np.ndarray, targets: np.ndarray) -> float:
        """Return the temperature by which to divide logits, so that they are calibrated."""

    @abc.abstractmethod
    def threshold(self, probabilities: np.ndarray, targets: np.ndarray, coverage: float) -> float:
        """Return how probable a class must be at least to be in the prediction set."""
