"""What a classifier is worth on images that it has not seen."""

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import keras
import numpy as np
import rich.box
import rich.console
import rich.table
import rich.text

from keras_transfer import calibration
from keras_transfer._tables import PrintsAsTable
from keras_transfer.features.matrices import checked_loader, class_indices
from keras_transfer.heads import class_names


@dataclass(frozen=True)
class ClassScore:
    """What a classifier reaches for one class.

    Attributes:
        name: of the class.
        samples: how many images there are of it.
        precision: the part of the images that are said to be of it which are.
        recall: the part of its images that are said to be of it.
        f1: the harmonic mean of the two.
    """

    name: str
    samples: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, repr=False)
class Evaluation(PrintsAsTable):
    """What `evaluate` found; prints as a table.

    Attributes:
        samples: how many images there were.
        accuracy: the part of them whose class is the most probable one.
        error: the standard error of the accuracy.
        calibration_error: the expected calibration error of the probabilities, in [0, 1].
        uncalibrated_error: the same without the temperature, for a calibrated model; otherwise None.
        log_loss: the mean of minus the logarithm of the true class's probability. Calibration is for it,
            and with few images it tells more of it than the calibration error.
        uncalibrated_log_loss: the same without the temperature, for a calibrated model; otherwise None.
        promised: the coverage that the calibration promises, or None.
        coverage: the part of the images whose true class is among the candidates, or None.
        unsure: the part for which the candidates are not exactly one, or None.
        classes: what it reaches for each class.
        confusion: how many images of each class (rows) are said to be of each (columns).
        seconds: how long reading the images and predicting took.
        probabilities: what the model gave, of shape (samples, classes), in the order of the data; not
            part of `to_dict`.
        labels: the true classes, of shape (samples,); not part of `to_dict`.
    """

    samples: int
    accuracy: float
    error: float
    calibration_error: float
    uncalibrated_error: float | None
    log_loss: float
    uncalibrated_log_loss: float | None
    promised: float | None
    coverage: float | None
    unsure: float | None
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    seconds: float = field(compare=False)
    probabilities: np.ndarray = field(compare=False)
    labels: np.ndarray = field(compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it but probabilities and labels as plain data."""
        found = asdict(replace(self, probabilities=np.empty(0), labels=np.empty(0)))
        del found["probabilities"], found["labels"]
        return found

    def __rich__(self) -> rich.console.Group:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        table.add_column("class")
        for column in ("images", "precision", "recall", "F1"):
            table.add_column(column, justify="right", no_wrap=True)
        for each in self.classes:
            scores = (each.precision, each.recall, each.f1)
            name = "".join(c if c.isprintable() else " " for c in each.name)
            table.add_row(rich.text.Text(name), f"{each.samples:,}", *(f"{s:.1%}" for s in scores))
        lines = [f"Accuracy {self.accuracy:.1%} +- {self.error:.1%} on {self.samples:,} images"]
        lines.append(
            f"Log-loss {_after(self.log_loss, self.uncalibrated_log_loss)}, expected calibration error "
            f"{_after(self.calibration_error, self.uncalibrated_error)}"
        )
        if self.coverage is not None:
            lines.append(
                f"Candidates include the true class for {self.coverage:.1%} (promised: "
                f"{self.promised:.0%}); unsure of {self.unsure:.1%}"
            )
        return rich.console.Group(table, rich.text.Text("\n".join(lines)))


def evaluate(
    model: keras.Model, data: Any, *, batch_size: int = 32, verbose: str | int = "auto"
) -> Evaluation:
    """Measure a classifier: accuracy, each class, how far its probabilities can be trusted.

    Args:
        model: a classifier that gives probabilities. It stays as it is.
        data: (x, y) arrays or a `keras_transfer.Loader`, of images that it was not trained on; they are
            read in order and without augmentation.
        batch_size: for arrays.
        verbose: as in Keras' `predict`.

    Returns:
        What was found.

    Raises:
        ValueError, TypeError: the data is of another kind or doesn't fit the model.
        ImportError: scikit-learn is not installed.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> x = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), "uint8")
        >>> model = kt.classifier("mobilenet", 2, input_shape=(32, 32, 3), weights=None)
        >>> kt.evaluation.evaluate(model, (x, np.arange(20) % 2), verbose=0).samples
        20
    """
    try:
        from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
    except ImportError as error:
        raise ImportError("scores need scikit-learn: pip install 'keras-transfer[probe]'") from error

    loader = checked_loader(data, model, batch_size, "data")
    started = time.perf_counter()
    p = model.predict(loader, verbose=verbose)
    seconds = time.perf_counter() - started
    y = class_indices(loader.known_labels())
    every = np.arange(p.shape[1])
    predicted = p.argmax(axis=1)
    accuracy = float((predicted == y).mean())
    scores = precision_recall_fscore_support(y, predicted, labels=every, zero_division=0.0)
    names = class_names(model) or loader.class_names or [str(k) for k in every]
    found = calibration.of(model)
    before = loss_before = promised = coverage = unsure = None
    if found is not None:
        sets = calibration.prediction_sets(p, found.threshold)
        promised, coverage = found.coverage, float(sets[np.arange(len(y)), y].mean())
        unsure = float(calibration.unsure(p, found.threshold).mean())
        uncalibrated = _warmer(p, found.temperature)
        before = calibration.expected_calibration_error(uncalibrated, y)
        loss_before = float(losses(uncalibrated, y).mean())
    return Evaluation(
        len(y),
        accuracy,
        float(np.sqrt(accuracy * (1 - accuracy) / len(y))),
        calibration.expected_calibration_error(p, y),
        before,
        float(losses(p, y).mean()),
        loss_before,
        promised,
        coverage,
        unsure,
        tuple(
            ClassScore(name, int(count), float(precision), float(recall), float(f1))
            for name, precision, recall, f1, count in zip(names, *scores, strict=True)
        ),
        tuple(tuple(map(int, row)) for row in confusion_matrix(y, predicted, labels=every)),
        seconds,
        p,
        y,
    )


def _after(value: float, before: float | None) -> str:
    return f"{value:.3f}" if before is None else f"{value:.3f} ({before:.3f} before calibration)"


def losses(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the loss of each sample, of shape (samples,): minus the logarithm of its probability.

    Args:
        p: probabilities of shape (samples, classes).
        y: the classes of shape (samples,).
    """
    true = p[np.arange(len(y)), y].astype("float64")
    return -np.log(np.maximum(true, np.finfo("float32").tiny))


def _warmer(p: np.ndarray, temperature: float) -> np.ndarray:
    """Return what probabilities were before their logits were divided by a temperature."""
    logits = temperature * np.log(np.maximum(p.astype("float64"), np.finfo("float32").tiny))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
