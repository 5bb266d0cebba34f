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
from keras_transfer.probabilities import calibration
from keras_transfer.results.evaluation import ClassScore, Evaluation
from keras_transfer.tasks.single_label import SINGLE_LABEL

__all__ = ["ClassScore", "Evaluation", "evaluate", "losses"]


def evaluate(
    model: keras.Model, data: Any, *, batch_size: int = 32, verbose: str | int = "auto"
) -> Evaluation:
    """Measure a classifier: accuracy, each class, how far its probabilities can be trusted.

    Args:
        model: a classifier that gives probabilities. It stays as it is.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`, of images that it was not
            trained on; they are read in order and without augmentation.
        batch_size: for arrays.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        What was found.

    Raises:
        ValueError, TypeError: the data is of another kind or doesn't fit the model.
        ImportError: scikit-learn is not installed.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> x = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), "uint8")
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> kt.evaluation.evaluate(model, (x, np.arange(20) % 2), verbose=0).samples
        20
    """
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
