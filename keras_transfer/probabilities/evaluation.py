"""What a classifier is worth on images that it has not seen."""

import time
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.messages import verbosity
from keras_transfer.data.grouping import how_many
from keras_transfer.data.inputs import checked_loader
from keras_transfer.inference.predictions import predictions
from keras_transfer.layers.about import class_names
from keras_transfer.layers.task import task_of
from keras_transfer.probabilities import calibration
from keras_transfer.probabilities.thresholds import said, thresholds_of
from keras_transfer.results.evaluation import ClassScore, Evaluation
from keras_transfer.results.multi_label import LabelScore, MultiLabelEvaluation
from keras_transfer.tasks.label_scores import average_precisions, label_counts
from keras_transfer.tasks.multi_label import MULTI_LABEL
from keras_transfer.tasks.single_label import SINGLE_LABEL

__all__ = [
    "ClassScore",
    "Evaluation",
    "LabelScore",
    "MultiLabelEvaluation",
    "evaluate",
    "losses",
]


def evaluate(
    model: keras.Model, data: Any, *, batch_size: int = 32, verbose: str | int = "auto"
) -> Evaluation | MultiLabelEvaluation:
    """Measure a classifier: accuracy, each class, how far its probabilities can be trusted.

    Of a model with a sigmoid for each class, such as `keras_transfer.classifier(task="multi-label")`
    makes: average precision and F1 of each class, with the thresholds of
    `keras_transfer.calibration.find_thresholds` if the model carries such, otherwise 0.5.

    Args:
        model: a classifier that gives probabilities. It stays as it is.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`, of images that it was not
            trained on; they are read in order and without augmentation.
        batch_size: for arrays.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        What was found; a `MultiLabelEvaluation` of several labels an image.

    Raises:
        ValueError, TypeError: the data is of another kind or doesn't fit the model.
        ImportError: scikit-learn is not installed, for one class an image.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> x = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), "uint8")
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> kt.evaluation.evaluate(model, (x, np.arange(20) % 2), verbose=0).samples
        20
    """
    if task_of(model) is MULTI_LABEL:
        return _evaluate_labels(model, data, batch_size, verbose)
    return evaluate_classes(model, data, batch_size=batch_size, verbose=verbose)


def _evaluate_labels(
    model: keras.Model, data: Any, batch_size: int, verbose: str | int
) -> MultiLabelEvaluation:
    """Measure a classifier of several labels an image."""
    loader = checked_loader(data, model, batch_size, "data", several=True)
    started = time.perf_counter()
    p = predictions(model, loader, verbosity(verbose))
    seconds = time.perf_counter() - started
    rows = MULTI_LABEL.targets(loader.known_labels())
    there, thresholds = said(model, p)
    counts, precisions = label_counts(there, rows), average_precisions(p, rows)
    names = class_names(model) or loader.class_names or [str(k) for k in range(p.shape[1])]
    known, found = ~np.isnan(precisions), calibration.of(model)
    promised, coverage, candidates = None, None, None
    if found is not None:
        among = p >= found.threshold
        promised, candidates = found.coverage, float(among.sum(axis=1).mean())
        coverage = float((among | (rows == 0)).all(axis=1).mean())
    return MultiLabelEvaluation(
        len(rows),
        float(precisions[known].mean()) if known.any() else float("nan"),
        counts.micro_f1,
        float(counts.f1.mean()),
        float((there == (rows == 1)).all(axis=1).mean()),
        float(MULTI_LABEL.losses(p, rows).mean()),
        thresholds_of(model) is not None,
        promised,
        coverage,
        candidates,
        tuple(
            LabelScore(
                name,
                int(counts.there[k]),
                float(precisions[k]) if known[k] else None,
                float(counts.precision[k]),
                float(counts.recall[k]),
                float(counts.f1[k]),
                float(thresholds[k]),
            )
            for k, name in enumerate(names)
        ),
        seconds,
        p,
        rows,
    )


def evaluate_classes(
    model: keras.Model, data: Any, *, batch_size: int = 32, verbose: str | int = "auto"
) -> Evaluation:
    """Measure a classifier of one class an image, as `evaluate` does."""
    try:
        from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
    except ImportError as error:
        raise ImportError("scores need scikit-learn: pip install 'keras-transfer[probe]'") from error

    verbose = verbosity(verbose)
    loader = checked_loader(data, model, batch_size, "data")
    started = time.perf_counter()
    p = predictions(model, loader, verbose)
    seconds = time.perf_counter() - started
    y = SINGLE_LABEL.targets(loader.known_labels())
    every = np.arange(p.shape[1])
    predicted = p.argmax(axis=1)
    groups = how_many(loader.groups)
    accuracy = float(SINGLE_LABEL.correct(p, y).mean())
    scores = precision_recall_fscore_support(y, predicted, labels=every, zero_division=0.0)
    names = class_names(model) or loader.class_names or [str(k) for k in every]
    found = calibration.of(model)
    before = loss_before = promised = coverage = unsure = None
    if found is not None:
        sets = calibration.prediction_sets(p, found.threshold)
        promised, coverage = found.coverage, float(sets[np.arange(len(y)), y].mean())
        unsure = float(calibration.unsure(p, found.threshold).mean())
        z = SINGLE_LABEL.logits(p)
        z *= found.temperature
        uncalibrated = SINGLE_LABEL.probabilities(z)
        before = calibration.expected_calibration_error(uncalibrated, y)
        loss_before = float(SINGLE_LABEL.losses(uncalibrated, y).mean())
    return Evaluation(
        len(y),
        accuracy,
        float(np.sqrt(accuracy * (1 - accuracy) / (groups or len(y)))),
        calibration.expected_calibration_error(p, y),
        before,
        float(SINGLE_LABEL.losses(p, y).mean()),
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
        groups,
    )


def losses(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the loss of each sample, of shape (samples,): minus the logarithm of its probability.

    Args:
        p: probabilities of shape (samples, classes).
        y: the classes of shape (samples,).

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> kt.evaluation.losses(np.array([[0.25, 0.75]]), np.array([1])).round(3)
        array([0.288])
    """
    return SINGLE_LABEL.losses(p, y)
