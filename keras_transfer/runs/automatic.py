"""From pretrained network and images to a trained classifier: how deep to train is found out.

A linear head on pretrained features is often all that a small data set can bear, and fine-tuning blindly
then makes it worse. So the linear head comes first. Deeper training, from that head on, is tried on a
part of the training images and taken only if it is better on the rest by more than chance; then the
choice is trained on all of them. What was held back meanwhile calibrates the probabilities. Nothing is
chosen on other images than those for training.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.checks import check_counts, checked_number
from keras_transfer._lib.files import folder_or_temporary
from keras_transfer._lib.messages import say, verbosity
from keras_transfer._lib.variables import assign_variables, copy_variables
from keras_transfer.data.carried_rules import attach_rules
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.data.inputs import checked_loader
from keras_transfer.data.loader import Loader
from keras_transfer.features.advice import advice_on
from keras_transfer.features.one_pass import Seen, one_pass
from keras_transfer.features.probe.linear_head import assign_linear, assignable_dense
from keras_transfer.layers.about import class_names
from keras_transfer.layers.freezing import restore_trainable_state, trainable_state
from keras_transfer.probabilities import calibration
from keras_transfer.results.automatic import (
    Depth,
    DepthScore,
    LeftOut,
    LinearHead,
    Plan,
    Trained,
)
from keras_transfer.results.training import FineTuneResult
from keras_transfer.runs.fine_tune import fine_tune, unharmed
from keras_transfer.runs.stage import Stage
from keras_transfer.tasks.class_weights import ClassWeight, checked_class_weight
from keras_transfer.tasks.scores import fit_temperature, log_losses
from keras_transfer.tasks.single_label import SINGLE_LABEL
from keras_transfer.training.phase import Phase
from keras_transfer.training.state import RunState

__all__ = [
    "Depth",
    "DepthScore",
    "LeftOut",
    "LinearHead",
    "Plan",
    "Trained",
    "follow",
    "propose",
    "train",
]

# On a fifth of CIFAR-10's training images, after 8 epochs: 88.9 % with 2e-4, flips and shifts; 86.8 %
# with 5e-4, whether earlier groups have half of it or not; 86.0 % with a constant 1e-4, not augmented.
_EVERYTHING_RATE = 2e-4
_SURE = 2.0  # standard errors by which a deeper one must be better
_NO_GAIN = DepthScore("", 0.0, 0.0, 0.0, 0)
LINEAR, LAST_GROUP, EVERYTHING = "linear head", "last group", "everything"
_FOLDS = {"small": 3, "large": 5}  # of which deeper training is tried in one
# Linear heads of so many folds, up to so many samples, take a second; what they give for samples that
# they have not seen is then nearly what the head of all samples gives.
_HEAD_FOLDS, _QUICK = 10, 2000


def propose(
    model: keras.Model,
    data: Any,
    *,
    batch_size: int = 32,
    cache: str | os.PathLike[str] | None = None,
    verbose: str | int = "auto",
) -> Plan:
    """Say what `train` would try, and why.

    Every image is seen once, as `keras_transfer.advise` needs it.

    Args:
        model: as in `train`. It stays as it is.
        data: as in `train`.
        batch_size: for arrays, and images that are computed at a time.
        cache: as in `train`.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        The plan, which prints in words.

    Raises:
        ValueError, TypeError: as `train`.
    """
    assignable_dense(model)
    verbose = verbosity(verbose)
    loader = checked_loader(data, model, batch_size, "data")
    with one_pass(model, loader, cache, batch_size, verbose) as seen:
        return _proposed(model, loader, seen)


def _proposed(model: keras.Model, loader: Loader, seen: Seen) -> Plan:
    """Return the plan by what a pass over the data set has kept."""
    advice = advice_on(model, seen)
    depths = [
        Depth(
            LINEAR,
            None,
            0,
            0.0,
            "ridge regression, on as many depths as cross-validation takes; in seconds",
        )
    ]
    if advice.size == "large":
        why = f"there are {advice.per_class:,.0f} images a class, enough to move all weights a little"
        depths.append(Depth(EVERYTHING, None, 8, _EVERYTHING_RATE, why, find=True))
    elif len(advice.layers) > 1:
        why = f"{advice.per_class:,.0f} images a class are few; more than the last group may overfit"
        at, rate = advice.layers[-2].layer, advice.learning_rate
        depths.append(Depth(LAST_GROUP, at, 5, rate, why, factor=3.0))
        why = "averaged with the weights before, so that few images move them a little"
        depths.append(Depth(EVERYTHING, None, 12, _EVERYTHING_RATE, why, factor=1.5))
    return Plan(advice, tuple(depths), _folds(model, loader, seen.labels, _FOLDS[advice.size]))


def train(
    model: keras.Model,
    data: Any,
    *,
    plan: Plan | None = None,
    fast: bool = False,
    minutes: float | None = None,
    class_weight: ClassWeight | None = None,
    augmentation: str | Augmentation | None = "light",
    batch_size: int = 32,
    seed: int = 0,
    coverage: float = 0.9,
    cache: str | os.PathLike[str] | None = None,
    verbose: str | int = "auto",
) -> Trained:
    """Train a classifier on images, as deep as they can bear, and calibrate its probabilities.

    See `keras_transfer.automatic` for how. The linear head is a ridge regression. Deeper training begins
    with it and has one cycle of the learning rate. The last group alone has a third of the head's rate.
    Where there are many images, everything has one rate, which a range test finds; where its loss falls
    by no more than its noise, 2e-4. Where there are few, each group has two thirds of the rate of the
    next, and the head 2e-4. The weights are then averaged with those before, by a quarter, a half, three
    quarters or all of the change, whichever is best on the held-back images.

    Args:
        model: a classifier whose head is one `Dense` layer, such as `keras_transfer.classifier` makes.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`: all images for training.
        plan: of `propose`, for the same model and data; None makes it.
        fast: whether to fit the linear head alone, by one pass over the images.
        minutes: what all may take. How long a deeper one would take is measured on its first batches;
            what doesn't fit is not tried, and `Trained.left_out` says so. None: everything is tried.
            The pass over the images and the linear head are computed in any case.
        class_weight: as in `keras_transfer.fine_tune`, also for the linear head. Depths are compared
            and probabilities calibrated without.
        augmentation: for training everything; a preset or a function, as in `keras_transfer.Loader`.
        batch_size: for arrays, and images that are computed at a time.
        seed: decides folds, order, augmentation and dropout.
        coverage: of the prediction sets, as in `keras_transfer.calibration.calibrate`.
        cache: a folder in which features are kept for another time, as in
            `keras_transfer.FeatureCache`; None: a temporary one.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        The model, changed, and how it came about.

    Raises:
        ValueError, TypeError: the model or the data are of another kind, or don't fit each other; the
            model is as it was.
        ImportError: scikit-learn is not installed.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> x = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), "uint8")
        >>> y = np.arange(24) % 2
        >>> x[y == 1] //= 4
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> trained = kt.automatic.train(model, (x, y), verbose=0)
        >>> trained.scores[0].name, trained.scores[0].samples
        ('linear head', 24)

    References:
        Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution",
        2022 (from the linear head); Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models", 2022
        (the average with the weights before).
    """
    from keras_transfer.features.probe import linear_fit
    from keras_transfer.features.probe.head_choice import choose_head, fit_head

    started, verbose = time.perf_counter(), verbosity(verbose)
    if minutes is not None:
        checked_number("minutes", minutes, note=", or None for no limit")
    dense = assignable_dense(model)
    loader = checked_loader(data, model, batch_size, "data")
    weights = _weights(class_weight, model, loader)
    with _start(model) as start, folder_or_temporary(cache) as folder, contextlib.ExitStack() as stack:
        seen = stack.enter_context(one_pass(model, loader, folder, batch_size, verbose))
        if plan is None:
            plan = _proposed(model, loader, seen)
        x, y = seen.head, seen.labels
        count = _folds(model, loader, y, plan.folds)
        say(verbose, "Fitting linear heads")
        folds = _head_folds(y, count, seed)
        head = choose_head(x, y, seen.widths, folds, weights)
        linear = _in_order(head.choice.logits, [held_back for _, held_back in folds])
        everyone = np.arange(len(y))
        score = _score(LINEAR, everyone, linear, linear, y)

        def start_from(samples: np.ndarray) -> Any:
            linear = fit_head(x[samples], y[samples], head, weights)
            assign_variables(model.variables, start.weights)
            assign_linear(dense, linear)
            return linear

        kept, tried = next(linear_fit.fold_indices(y, count, seed))
        search = _Search(x, y, kept, tried, started, minutes, seed, verbose)
        for depth in () if fast else plan.depths[1:]:
            stage = Stage(model, depth, loader, seen, augmentation, weights, folder, verbose)
            stack.callback(stage.close)
            search.look_at(stage, start_from)
        start_from(everyone)
        run = search.train_best(everyone)
        name, samples, logits = LINEAR, everyone, linear
        if search.taken is not None:
            name, samples, logits = search.taken.depth.name, tried, search.logits
        calibrated = calibration.calibrate_by_logits(model, logits, y[samples], coverage)
        attach_rules(model, loader)
    about = LinearHead(head.choice.value, head.choice.accuracies, head.depths, len(seen.widths))
    scores, left_out = (score, *search.scores), tuple(search.left_out)
    seconds = time.perf_counter() - started
    return Trained(model, plan, scores, name, calibrated, run, about, seconds, left_out)


def _head_folds(y: np.ndarray, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the folds of the linear head: many, as long as they are quick."""
    from keras_transfer.features.probe import linear_fit

    parts = linear_fit.fold_count(y, _HEAD_FOLDS) if len(y) <= _QUICK else count
    return list(linear_fit.fold_indices(y, parts, seed))


def _in_order(parts: Sequence[np.ndarray], indices: Sequence[np.ndarray]) -> np.ndarray:
    """Return rows that stand in parts, by the indices of the rows of each."""
    rows = np.empty((sum(map(len, parts)), parts[0].shape[1]))
    for part, where in zip(parts, indices, strict=True):
        rows[where] = part
    return rows


@dataclass
class _Search:
    """Which depth is best, of those that were looked at.

    Attributes:
        x: what the linear head is given of all samples.
        y: the classes of all samples.
        kept: the samples on which depths are trained.
        tried: those on which they are compared.
        started: when all began, in seconds.
        minutes: what all may take, or None.
        seed: as in `train`.
        verbose: as `verbosity` returns it.
        scores: of the depths that were tried.
        left_out: those that were not.
        taken: the stage of the best, if it is better than the linear head beyond chance.
        logits: what it gives for the samples on which it was tried.
    """

    x: Any
    y: np.ndarray
    kept: np.ndarray
    tried: np.ndarray
    started: float
    minutes: float | None
    seed: int
    verbose: int
    scores: list[DepthScore] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    taken: Stage | None = None
    logits: np.ndarray = field(default_factory=lambda: np.empty(0))

    def look_at(self, stage: Stage, start_from: Callable[[np.ndarray], Any]) -> None:
        """Try a depth, if there is time for it."""
        name = stage.depth.name
        linear = start_from(self.kept)
        if self.minutes is not None:
            needed = stage.seconds(self.kept, len(self.y), len(self.tried))
            needed += time.perf_counter() - self.started
            if needed > 60 * self.minutes:
                self.left_out.append(LeftOut(name, needed))
                say(
                    self.verbose, f"{name} is left out: all would take {needed / 60:.1f} minutes with it"
                )
                return
            start_from(self.kept)
        say(self.verbose, f"Trying: {name}, on {len(self.tried)} of {len(self.y)} images")
        stage.train(self.kept, self.seed)
        logits = stage.average(self.tried, self.y)
        beside = linear.logits(self.x[self.tried])
        score = _score(name, self.tried, logits, beside, self.y, stage.share)
        best = max((each.gain, each.loss_gain) for each in [_NO_GAIN, *self.scores])
        if _is_better(score) and (score.gain, score.loss_gain) > best:
            self.taken, self.logits = stage, logits
        self.scores.append(score)

    def train_best(self, samples: np.ndarray) -> FineTuneResult | None:
        """Train the best of the depths on these samples, and average the weights as on the others."""
        if self.taken is None:
            return None
        say(self.verbose, f"Training: {self.taken.depth.name}, on all images")
        run = self.taken.train(samples, self.seed)
        self.taken.mix(self.taken.share)
        return run


def follow(
    model: keras.Model,
    data: Any,
    phases: Sequence[Phase],
    *,
    class_weight: ClassWeight | None = None,
    batch_size: int = 32,
    seed: int = 0,
    coverage: float = 0.9,
    verbose: str | int = "auto",
) -> Trained:
    """Train a classifier by given phases, keep the best epoch, and calibrate its probabilities.

    A fifth of the images is held back to choose the epoch and to calibrate; more, where a class has
    fewer than five, so that one of its images is among them.

    Args:
        model: a classifier, as in `keras_transfer.calibration.calibrate`.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`: all images for training.
        phases: as in `keras_transfer.fine_tune`.
        class_weight: as in `keras_transfer.fine_tune`. Epochs are compared and probabilities calibrated
            without.
        batch_size: for arrays.
        seed: decides what is held back, order, augmentation and dropout.
        coverage: of the prediction sets, as in `keras_transfer.calibration.calibrate`.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        The model, changed, and how it came about.

    Raises:
        ValueError, TypeError: as `train`.
        ImportError: scikit-learn is not installed.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> x, y = np.zeros((20, 32, 32, 3), "uint8"), np.arange(20) % 2
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> trained = kt.automatic.follow(model, (x, y), [kt.Phase("head", 1)], verbose=0)
        >>> trained.fine_tuning.best.epoch
        0
    """
    from keras_transfer.features.probe import linear_fit

    started, verbose = time.perf_counter(), verbosity(verbose)
    loader = checked_loader(data, model, batch_size, "data")
    weights = _weights(class_weight, model, loader)
    y = SINGLE_LABEL.targets(loader.known_labels())
    with _start(model):
        count = _folds(model, loader, y, _FOLDS["large"])
        kept, held_back = next(linear_fit.fold_indices(y, count, seed))
        train = loader.subset(kept).replace(shuffle=True, seed=seed)
        validation = loader.subset(held_back)
        run = fine_tune(
            model, train, validation, phases, class_weight=weights, seed=seed, verbose=verbose
        )
        found = calibration.calibrate(model, validation, coverage, verbose=0)
    return Trained(model, None, (), "phases", found, run, None, time.perf_counter() - started)


def _folds(model: keras.Model, loader: Loader, y: np.ndarray, folds: int) -> int:
    """Return how many folds there can be that have samples of each class, at most `folds`."""
    names = class_names(model) or loader.class_names
    why = ", of which some are held back to choose by and to calibrate"
    counts = np.bincount(y, minlength=model.output_shape[-1])
    return min(folds, check_counts("data", counts, names, 2, why, "add some"))


def _weights(
    class_weight: ClassWeight | None, model: keras.Model, loader: Loader
) -> dict[int, float] | None:
    """Return weights of classes by index: "balanced" ones by all images, whatever is held back."""
    names = class_names(model) or loader.class_names
    return checked_class_weight(class_weight, model.output_shape[-1], names, loader.class_counts)


def _score(
    name: str,
    samples: np.ndarray,
    logits: np.ndarray,
    linear: np.ndarray,
    y: np.ndarray,
    share: float = 1.0,
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
    return DepthScore(name, float(right.mean()), gain, error, len(samples), share, loss_gain, loss_error)


def _is_better(score: DepthScore) -> bool:
    """Whether a depth is better than the linear head, beyond chance.

    Where few images are held back, as many may be right as before, while the probability of the right
    class has risen for most of them.
    """
    sharper = score.gain >= 0 and score.loss_gain > _SURE * score.loss_error
    return score.gain > _SURE * score.error or sharper


@contextlib.contextmanager
def _start(model: keras.Model) -> Iterator[RunState]:
    """Give the state to begin from; if the block raises, all is as it was.

    What is trainable is as before in any case.
    """
    state, flags = RunState(copy_variables(model.variables)), trainable_state(model)
    with unharmed(model, state):
        yield state
    restore_trainable_state(flags)
