"""What a classifier is worth on images that it has not seen."""

import time
from typing import Any

import keras
import numpy as np

from keras_transfer.data.inputs import checked_loader, class_indices
from keras_transfer.layers.about import class_names
from keras_transfer.probabilities import calibration
from keras_transfer.results.evaluation import ClassScore, Evaluation


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
