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
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.checks import check_counts
from keras_transfer._lib.files import folder_or_temporary
from keras_transfer._lib.messages import SILENT, say, verbosity
from keras_transfer._lib.variables import assign_variables, copy_variables
from keras_transfer.data.carried_rules import attach_rules
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.data.inputs import checked_loader
from keras_transfer.data.loader import Loader
from keras_transfer.features.advice import advice_on
from keras_transfer.features.cache.cache import FeatureCache
from keras_transfer.features.one_pass import Seen, one_pass
from keras_transfer.features.probe.linear_head import assign_linear, assignable_dense, single_dense
from keras_transfer.inference.predictions import predictions
from keras_transfer.layers.about import class_names
from keras_transfer.layers.freezing import restore_trainable_state, trainable_state
from keras_transfer.layers.splitting import split_model
from keras_transfer.optimizers import multipliers
from keras_transfer.probabilities import calibration
from keras_transfer.rates.schedules import OneCycle
from keras_transfer.results.automatic import Depth, DepthScore, LinearHead, Plan, Trained
from keras_transfer.results.training import FineTuneResult
from keras_transfer.runs.fine_tune import fine_tune, unharmed
from keras_transfer.tasks.class_weights import ClassWeight, checked_class_weight
from keras_transfer.tasks.single_label import SINGLE_LABEL
from keras_transfer.training.phase import FIND, Phase
from keras_transfer.training.state import RunState

__all__ = ["Depth", "DepthScore", "LinearHead", "Plan", "Trained", "follow", "propose", "train"]

# On a fifth of CIFAR-10's training images, after 8 epochs: 88.9 % with 2e-4, flips and shifts; 86.8 %
# with 5e-4, whether earlier groups have half of it or not; 86.0 % with a constant 1e-4, not augmented.
_EVERYTHING_RATE = 2e-4
_SURE = 2.0  # standard errors by which a deeper one must be better
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
            "logistic regression on the last features: the same each time, in seconds",
        )
    ]
    if advice.size == "large":
        why = f"there are {advice.per_class:,.0f} images a class, enough to move all weights a little"
        depths.append(Depth(EVERYTHING, None, 8, _EVERYTHING_RATE, why, find=True))
    elif len(advice.layers) > 1:
        why = f"{advice.per_class:,.0f} images a class are few; more than the last group would overfit"
        at, rate = advice.layers[-2].layer, advice.learning_rate
        depths.append(Depth(LAST_GROUP, at, 5, rate, why, factor=3.0))
    return Plan(advice, tuple(depths), _folds(model, loader, seen.labels, _FOLDS[advice.size]))


def train(
    model: keras.Model,
    data: Any,
    *,
    plan: Plan | None = None,
    class_weight: ClassWeight | None = None,
    augmentation: str | Augmentation | None = "light",
    batch_size: int = 32,
    seed: int = 0,
    coverage: float = 0.9,
    cache: str | os.PathLike[str] | None = None,
    verbose: str | int = "auto",
) -> Trained:
    """Train a classifier on images, as deep as they can bear, and calibrate its probabilities.

    See `keras_transfer.automatic` for how. Deeper training begins with the linear head and has one cycle
    of the learning rate. The last group alone has a third of the head's rate; everything has one rate,
    which a range test finds; where its loss falls by no more than its noise, 2e-4.

    Args:
        model: a classifier whose head is one `Dense` layer, such as `keras_transfer.classifier` makes.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`: all images for training.
        plan: of `propose`, for the same model and data; None makes it.
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
    """
    from keras_transfer.features.probe import linear_fit
    from keras_transfer.features.probe.head_choice import choose_head, fit_head

    started, verbose = time.perf_counter(), verbosity(verbose)
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
        parts = linear_fit.fold_count(y, _HEAD_FOLDS) if len(y) <= _QUICK else count
        folds = list(linear_fit.fold_indices(y, parts, seed))
        head = choose_head(x, y, seen.widths, folds, weights)

        def linear_head(samples: np.ndarray) -> Any:
            return fit_head(x[samples], y[samples], head, weights)

        linear = np.empty((len(y), model.output_shape[-1]))
        for found, (_, held_back) in zip(head.choice.logits, folds, strict=True):
            linear[held_back] = found
        everyone = np.arange(len(y))
        scores = [_score(LINEAR, everyone, linear, linear, y)]
        taken, samples, logits = None, everyone, linear
        kept, tried = next(linear_fit.fold_indices(y, count, seed))
        begin = linear_head(kept)
        for depth in plan.depths[1:]:
            say(verbose, f"Trying: {depth.name}, on one of {count} parts of the images")
            stage = _Stage(model, depth, loader, seen, augmentation, weights, folder, verbose)
            stack.callback(stage.close)
            assign_variables(model.variables, start.weights)
            assign_linear(dense, begin)
            stage.train(kept, seed)
            deeper = stage.logits(tried)
            scores.append(_score(depth.name, tried, deeper, begin.logits(x[tried]), y))
            beyond_chance = _SURE * scores[-1].error
            if scores[-1].gain > max(beyond_chance, *(score.gain for score in scores[:-1])):
                taken, samples, logits = stage, tried, deeper
        assign_variables(model.variables, start.weights)
        assign_linear(dense, linear_head(everyone))
        run = None
        if taken is not None:
            say(verbose, f"Training: {taken.depth.name}, on all images")
            run = taken.train(everyone, seed)
        name = LINEAR if taken is None else taken.depth.name
        calibrated = calibration.calibrate_by_logits(model, logits, y[samples], coverage)
        attach_rules(model, loader)
    about = LinearHead(head.choice.value, head.choice.accuracies, head.depths, len(seen.widths))
    seconds = time.perf_counter() - started
    return Trained(model, plan, tuple(scores), name, calibrated, run, about, seconds)


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


class _Stage:
    """What trains at a depth, and on what: behind a cut on features, which are computed once."""

    def __init__(
        self,
        model: keras.Model,
        depth: Depth,
        loader: Loader,
        seen: Seen,
        augmentation: str | Augmentation | None,
        class_weight: dict[int, float] | None,
        folder: str | os.PathLike[str],
        verbose: int,
    ) -> None:
        self.depth, self._weights, self._verbose = depth, class_weight, verbose
        self._rate: float | str = FIND if depth.find else depth.learning_rate
        dense = single_dense(model)
        self.close: Callable[[], None] = lambda: None
        self._gives_probabilities = dense.activation is keras.activations.softmax
        end = keras.Model(model.inputs[0], dense.output, name=model.name)
        if depth.at is None:
            self._tail, self._seen = end, loader
            self._data = loader.replace(augmentation=augmentation, shuffle=True)
        else:
            prefix, self._tail = split_model(end, depth.at)
            if depth.at == seen.cut and seen.behind_cut is not None:
                self._seen = seen.behind_cut
            else:  # a plan of the user's own
                cache = FeatureCache(prefix, folder)
                self._seen = cache.build(loader, loader.batch_size, verbose=verbose)
                self.close = self._seen.close
            self._data = self._seen.replace(shuffle=True)

    def train(self, samples: np.ndarray, seed: int) -> FineTuneResult:
        """Train on some of the samples, at the learning rate that was found the first time."""
        if self._rate != FIND:
            return self._run(samples, seed)
        try:
            run = self._run(samples, seed)
            self._rate = run.phases[0].settings["found"]
        except ValueError:  # the loss neither falls nor rises within the range test
            self._rate = self.depth.learning_rate
            run = self._run(samples, seed)
        return run

    def _run(self, samples: np.ndarray, seed: int) -> FineTuneResult:
        epochs = self.depth.epochs

        def one_cycle(highest: float, steps_per_epoch: int) -> OneCycle:
            return OneCycle(highest, epochs * steps_per_epoch)

        phase = Phase(
            self.depth.name,
            epochs,
            train="all",
            learning_rate=self._rate,
            multipliers=multipliers.geometric(self._tail, self.depth.factor),
            schedule=one_cycle,
        )
        data = self._data.subset(samples).replace(seed=seed)
        return fine_tune(
            self._tail,
            data,
            phases=[phase],
            class_weight=self._weights,
            seed=seed,
            cache=False,
            verbose=self._verbose,
        )

    def logits(self, samples: np.ndarray) -> np.ndarray:
        """Return logits of some of the samples, as they are without augmentation."""
        given = predictions(self._tail, self._seen.subset(samples), SILENT)
        return SINGLE_LABEL.logits(given) if self._gives_probabilities else given


def _weights(
    class_weight: ClassWeight | None, model: keras.Model, loader: Loader
) -> dict[int, float] | None:
    """Return weights of classes by index: "balanced" ones by all images, whatever is held back."""
    names = class_names(model) or loader.class_names
    return checked_class_weight(class_weight, model.output_shape[-1], names, loader.class_counts)


def _score(
    name: str, samples: np.ndarray, logits: np.ndarray, linear: np.ndarray, y: np.ndarray
) -> DepthScore:
    """Return what logits of samples are worth, beside those of the linear head for the same samples."""
    right = SINGLE_LABEL.correct(logits, y[samples]).astype(float)
    gains = right - SINGLE_LABEL.correct(linear, y[samples])
    # About no gain and not about that which was found: of few samples that all gain it would be 0.
    error = float(np.sqrt((gains**2).mean() / len(gains)))
    return DepthScore(name, float(right.mean()), float(gains.mean()), error, len(samples))


@contextlib.contextmanager
def _start(model: keras.Model) -> Iterator[RunState]:
    """Give the state to begin from; if the block raises, all is as it was.

    What is trainable is as before in any case.
    """
    state, flags = RunState(copy_variables(model.variables)), trainable_state(model)
    with unharmed(model, state):
        yield state
    restore_trainable_state(flags)
