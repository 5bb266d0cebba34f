"""What a way to train is worth beside a linear head, and whether that is more than chance."""

from dataclasses import replace

import numpy as np

from keras_transfer.data.grouping import how_many, of_samples
from keras_transfer.features.compared import SURE, paired
from keras_transfer.results.automatic import DepthScore
from keras_transfer.tasks.scores import fit_temperature, log_losses
from keras_transfer.tasks.single_label import SINGLE_LABEL

# Of log-loss: less is what rounding changes, where a training has nothing to learn from.
_LEAST = 1e-3


def score_of(
    name: str,
    samples: np.ndarray,
    logits: np.ndarray,
    linear: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray | None = None,
) -> DepthScore:
    """Return what logits of samples are worth, beside those of the linear head for the same samples.

    `y` and `groups` are of all samples.
    """
    labels = y[samples]
    right = SINGLE_LABEL.correct(logits, labels).astype(float)
    gains = right - SINGLE_LABEL.correct(linear, labels)
    losses = [log_losses(each / fit_temperature(each, labels), labels) for each in (linear, logits)]
    together = of_samples(groups, samples)
    gain, error = paired(gains, together)
    loss_gain, loss_error = paired(losses[0] - losses[1], together)
    accuracy = float(right.mean())
    told = DepthScore(name, accuracy, gain, error, len(samples), groups=how_many(together))
    return replace(told, loss_gain=loss_gain, loss_error=loss_error)


def is_better(score: DepthScore) -> bool:
    """Whether a depth is better than the linear head, beyond chance.

    Where few images are held back, as many may be right as before, while the probability of the right
    class has risen for most of them.
    """
    sharper = score.gain >= 0 and score.loss_gain > max(SURE * score.loss_error, _LEAST)
    return score.gain > SURE * score.error or sharper
