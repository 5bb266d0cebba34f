"""What a way to train is worth beside a linear head, and whether that is more than chance."""

import numpy as np

from keras_transfer.results.automatic import DepthScore
from keras_transfer.tasks.scores import fit_temperature, log_losses
from keras_transfer.tasks.single_label import SINGLE_LABEL

_SURE = 2.0  # standard errors by which a deeper one must be better
# Of log-loss: less is what rounding changes, where a training has nothing to learn from.
_LEAST = 1e-3


def score_of(
    name: str,
    samples: np.ndarray,
    logits: np.ndarray,
    linear: np.ndarray,
    y: np.ndarray,
) -> DepthScore:
    """Return what logits of samples are worth, beside those of the linear head for the same samples."""
    labels = y[samples]
    right = SINGLE_LABEL.correct(logits, labels).astype(float)
    gains = right - SINGLE_LABEL.correct(linear, labels)
    losses = [log_losses(each / fit_temperature(each, labels), labels) for each in (linear, logits)]
    lower = losses[0] - losses[1]
    # About no gain and not about that which was found: of few samples that all gain it would be 0.
    error, loss_error = (float(np.sqrt((each**2).mean() / len(each))) for each in (gains, lower))
    gain, loss_gain = float(gains.mean()), float(lower.mean())
    accuracy = float(right.mean())
    return DepthScore(
        name, accuracy, gain, error, len(samples), loss_gain=loss_gain, loss_error=loss_error
    )


def is_better(score: DepthScore) -> bool:
    """Whether a depth is better than the linear head, beyond chance.

    Where few images are held back, as many may be right as before, while the probability of the right
    class has risen for most of them.
    """
    sharper = score.gain >= 0 and score.loss_gain > max(_SURE * score.loss_error, _LEAST)
    return score.gain > _SURE * score.error or sharper
