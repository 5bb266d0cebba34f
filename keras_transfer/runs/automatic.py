"""From pretrained network and images to a trained classifier: how deep to train is found out.

A linear head on pretrained features is often all that a small data set can bear, and fine-tuning blindly
then makes it worse. So the linear head comes first. Deeper training, from that head on, is tried on a
part of the training images and taken only if it is better on the rest by more than chance; then the
choice is trained on all of them. What was held back meanwhile calibrates the probabilities. Nothing is
chosen on other images than those for training.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_transfer._lib.checks import check_counts, checked_number
from keras_transfer._lib.messages import verbosity
from keras_transfer._lib.variables import assign_variables, copy_variables
from keras_transfer.data.carried_rules import attach_rules
from keras_transfer.data.grouping import divisible
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.data.inputs import checked_loader, refuse_several
from keras_transfer.data.loader import Loader
from keras_transfer.features.advice import advice_on
from keras_transfer.features.one_pass import Seen, one_pass
from keras_transfer.features.probe.linear_head import assign_linear, assignable_dense
from keras_transfer.layers.about import class_names
from keras_transfer.layers.freezing import restore_trainable_state, trainable_state
from keras_transfer.models.views import multi_view
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
from keras_transfer.runs.budget import Budget
from keras_transfer.runs.fine_tune import fine_tune, unharmed
from keras_transfer.runs.journal import opened
from keras_transfer.runs.linear import LINEAR, MIRRORED, Asked, Chosen, chosen_head
from keras_transfer.runs.search import Fold, Search
from keras_transfer.runs.stage import Callbacks, Context
from keras_transfer.tasks.class_weights import ClassWeight, checked_class_weight
from keras_transfer.tasks.imbalance import adjustment, checked_adjustment, imbalance_of
from keras_transfer.tasks.single_label import SINGLE_LABEL
from keras_transfer.training.phase import Phase
from keras_transfer.training.state import RunState

if TYPE_CHECKING:
    from keras_transfer.features.probe.linear_fit import Linear

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
# A range test finds none: the loss of a ridge head on several depths doesn't fall at any rate at first.
_EVERYTHING_RATE = 2e-4
LAST_GROUP, EVERYTHING = "last group", "everything"
_FOLDS = {"small": 3, "large": 5}
# So many samples on which deeper training is tried tell it from the linear head; there is a fold of them
# at least.
_ENOUGH = 500


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
    _dense_of(model, data)
    verbose = verbosity(verbose)
    loader = checked_loader(data, model, batch_size, "data")
    with one_pass(model, loader, cache, batch_size, verbose) as seen:
        return _proposed(model, loader, seen)


def _dense_of(model: keras.Model, data: Any) -> keras.layers.Dense:
    """Return the layer that gives the logits, or raise if model or data are none for this."""
    refuse_several(model, data, "data")
    return assignable_dense(model)


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
        depths.append(Depth(EVERYTHING, None, 8, _EVERYTHING_RATE, why))
    else:
        if len(advice.layers) > 1:
            why = f"{advice.per_class:,.0f} images a class are few; more than the last group may overfit"
            at, rate = advice.layers[-2].layer, advice.learning_rate
            depths.append(Depth(LAST_GROUP, at, 5, rate, why, factor=3.0))
        why = "averaged with the weights before, so that few images move them a little"
        depths.append(Depth(EVERYTHING, None, 12, _EVERYTHING_RATE, why, factor=1.5))
    folds = _folds(model, loader, seen.labels, _FOLDS[advice.size])
    tries = min(folds, math.ceil(_ENOUGH * folds / len(seen.labels)))
    counts, names = np.bincount(seen.labels), class_names(model) or loader.class_names
    return Plan(advice, tuple(depths), folds, tries, imbalance_of(counts, names))


def train(
    model: keras.Model,
    data: Any,
    *,
    plan: Plan | None = None,
    fast: bool = False,
    views: bool = False,
    minutes: float | Budget | None = None,
    class_weight: ClassWeight | None = None,
    logit_adjustment: float = 0.0,
    augmentation: str | Augmentation | None = "light",
    batch_size: int = 32,
    seed: int = 0,
    coverage: float = 0.9,
    cache: str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callbacks: Callbacks | None = None,
    verbose: str | int = "auto",
) -> Trained:
    """Train a classifier on images, as deep as they can bear, and calibrate its probabilities.

    See `keras_transfer.automatic` for how. The linear head is a ridge regression. Deeper training begins
    with it and has one cycle of the learning rate. The last group alone has a third of the head's rate.
    Where there are many images, everything has one rate, 2e-4. Where there are few, each group has two
    thirds of the rate of the next, and the head 2e-4. The weights are then averaged with those before,
    by a quarter, a half, three quarters or all of the change, whichever is best on the held-back images.

    Args:
        model: a classifier whose head is one `Dense` layer, such as `keras_transfer.classifier` makes.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`: all images for training.
        plan: of `propose`, for the same model and data; None makes it.
        fast: whether to fit the linear head alone, by one pass over the images.
        views: whether a mean over the image and its mirror image is tried, too, at the cost of a second
            pass over the images. If it is better beyond chance, the model that comes back is that of
            `keras_transfer.multi_view`, which takes two passes for a prediction.
        minutes: what all may take. How long a deeper one would take is measured on its first batches.
            Where there is too little time, it is tried in fewer folds, then not trained again on all
            images, then for half or a quarter of its epochs; what doesn't fit at all is not tried, and
            `Trained.left_out` says so. What takes longer than was measured is given up. The linear head
            is fitted in any case. None: no limit. A `keras_transfer.runs.budget.Budget` has a clock that
            runs already, and leaves time for what comes afterwards.
        class_weight: as in `keras_transfer.fine_tune`, also for the linear head. Depths are compared
            and probabilities calibrated without.
        logit_adjustment: by how many times the logarithm of a class's share of the images its calibrated
            logit is lower in the end, so that common classes are not preferred; 1 is best for macro
            accuracy. Depths are compared without. The probabilities are then those of images of equally
            common classes; the promise of `coverage` is kept for images like these. 0: as it is.
        augmentation: for training everything; a preset or a function, as in `keras_transfer.Loader`.
        batch_size: for arrays, and images that are computed at a time.
        seed: decides folds, order, augmentation and dropout.
        coverage: of the prediction sets, as in `keras_transfer.calibration.calibrate`.
        cache: a folder in which features are kept for another time, as in
            `keras_transfer.FeatureCache`; None: that of `checkpoint`, or a temporary one.
        checkpoint: a folder for what `resume` needs, which must be new or that of a run before; with
            it every epoch is written down. It stays when the training is over. None writes nothing.
        resume: go on with the run that `checkpoint` holds; the result is that of a run that was never
            stopped, bit for bit. The minutes go on from the last decision. Where there is no run, it
            begins.
        callbacks: gives Keras callbacks for each training, by its name, such as "everything, fold 0" or
            "everything, all images": those that log, as `keras.callbacks.CSVLogger`. None: none.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        The model, changed, and how it came about. With mirror images it is another one, which shares
        the layers of the given one.

    Raises:
        ValueError, TypeError: the model or the data are of another kind, or don't fit each other; the
            model is as it was.
        ValueError: there are too few minutes for one pass over the images (the message says how many
            it needs); or the run in `checkpoint` had other settings, data or versions.
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
        (the average with the weights before); Menon et al., "Long-Tail Learning via Logit Adjustment",
        2021 (`logit_adjustment`).
    """
    from keras_transfer.features.probe.head_choice import fit_head

    verbose = verbosity(verbose)
    budget = minutes if isinstance(minutes, Budget) else Budget(_checked_minutes(minutes))
    _check_resume(checkpoint, resume)
    dense = _dense_of(model, data)
    doubled = multi_view(model) if views else model
    loader = checked_loader(data, model, batch_size, "data")
    weights = _weights(class_weight, model, loader)
    tau = checked_adjustment(logit_adjustment, class_weight)
    with (
        _start(model) as start,
        opened(checkpoint, cache) as (journal, folder),
        budget.of_pass() as limit,
        one_pass(model, loader, folder, batch_size, verbose, limit) as seen,
    ):
        budget.an_image = limit.an_image
        plan = plan or _proposed(model, loader, seen)
        same = {"seed": seed, "views": views, "class_weight": weights, "augmentation": augmentation}
        journal.begin(budget, resume, _of_data(loader, seen, plan) | same)
        asked = Asked(
            *(model, loader, seen, views, _folds(model, loader, seen.labels, plan.folds)),
            *(weights, seed, folder, batch_size, verbose),
        )
        with chosen_head(asked, budget, journal) as chosen:

            def start_from(samples: np.ndarray) -> "Linear":
                fitted = fit_head(chosen.x[samples], seen.labels[samples], chosen.head, weights)
                assign_variables(model.variables, start.weights)
                assign_linear(dense, fitted)
                return fitted

            context = Context(
                *(loader, seen, chosen.mirrored, chosen.x, augmentation, weights),
                *(folder, budget, journal, callbacks, seed, verbose),
            )
            search = Search(_tries(asked, plan.tries), context, start_from)
            run = search.best_of(model, () if fast else plan.depths[1:])
        model = model if chosen.mirrored is None else doubled
        return _result(model, loader, plan, chosen, search, run, coverage, tau)


def _result(
    model: keras.Model,
    loader: Loader,
    plan: Plan,
    chosen: Chosen,
    search: Search,
    run: FineTuneResult | None,
    coverage: float,
    tau: float,
) -> Trained:
    """Calibrate the model that a search has trained, and return it with what was found."""
    y, taken = search.y, search.taken
    name, samples, logits = chosen.scores[0].name, np.arange(len(y)), chosen.logits
    if chosen.mirrored is not None:
        name = MIRRORED
    if taken is not None:
        name, samples, logits = taken.stage.depth.name, taken.samples, taken.logits
    added = adjustment(np.bincount(y), tau) if tau else None
    calibrated = calibration.calibrate_by_logits(model, logits, y[samples], coverage, added)
    attach_rules(model, loader)
    return Trained(
        model,
        plan,
        (*chosen.scores, *search.scores),
        name,
        calibrated,
        run,
        chosen.about,
        search.context.budget.spent,
        (*chosen.left_out, *search.left_out),
        1 if chosen.mirrored is None else 2,
    )


def _of_data(loader: Loader, seen: Seen, plan: Plan) -> dict[str, Any]:
    """Return what a run that goes on must have the same of its data, and of what follows from that."""
    same = {"data": seen.key, "plan": asdict(plan), "batch_size": loader.batch_size}
    if loader.groups is not None:
        same["groups"] = hashlib.sha256(str(loader.groups.tolist()).encode()).hexdigest()
    if loader.sampling is not None:
        same["sampling"] = loader.sampling
    return same


def _checked_minutes(minutes: Any) -> float | None:
    return None if minutes is None else checked_number("minutes", minutes, note=", or None for no limit")


def _check_resume(checkpoint: Any, resume: Any) -> None:
    if resume and checkpoint is None:
        raise ValueError(
            "resume=True needs the folder of a run that was stopped; pass checkpoint=... "
            "Received: checkpoint=None"
        )


def _tries(asked: Asked, tries: int) -> list[Fold]:
    """Return the folds in which deeper training is tried."""
    from keras_transfer.features.probe import linear_fit

    how = (asked.seen.labels, asked.folds, asked.seed, asked.loader.groups)
    return list(linear_fit.fold_indices(*how))[:tries]


def follow(
    model: keras.Model,
    data: Any,
    phases: Sequence[Phase],
    *,
    class_weight: ClassWeight | None = None,
    batch_size: int = 32,
    seed: int = 0,
    coverage: float = 0.9,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
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
        checkpoint: as in `train`.
        resume: as in `train`.
        callbacks: Keras callbacks of the run, as in `keras_transfer.fine_tune`.
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

    budget, verbose = Budget(None), verbosity(verbose)
    _check_resume(checkpoint, resume)
    loader = checked_loader(data, model, batch_size, "data")
    weights = _weights(class_weight, model, loader)
    y = SINGLE_LABEL.targets(loader.known_labels())
    with _start(model), opened(checkpoint, None) as (journal, _):
        journal.begin(budget, resume, {})
        count = _folds(model, loader, y, _FOLDS["large"])
        kept, held_back = next(linear_fit.fold_indices(y, count, seed, loader.groups))
        train = loader.subset(kept).replace(shuffle=True, seed=seed)
        validation = loader.subset(held_back)
        output = journal.folder_of("phases")
        run = fine_tune(
            model,
            train,
            validation,
            phases,
            class_weight=weights,
            callbacks=callbacks,
            seed=seed,
            output=output,
            resume=output is not None,
            verbose=verbose,
        )
        found = calibration.calibrate(model, validation, coverage, verbose=0)
    return Trained(model, None, (), "phases", found, run, None, budget.spent)


def _folds(model: keras.Model, loader: Loader, y: np.ndarray, folds: int) -> int:
    """Return how many folds there can be that have samples of each class, at most `folds`."""
    names = class_names(model) or loader.class_names
    why = ", of which some are held back to choose by and to calibrate"
    counts = divisible(y, loader.groups, model.output_shape[-1])
    of = "samples" if loader.groups is None else "groups"
    return min(folds, check_counts("data", counts, names, 2, why, "add some", of))


def _weights(
    class_weight: ClassWeight | None, model: keras.Model, loader: Loader
) -> dict[int, float] | None:
    """Return weights of classes by index: "balanced" ones by all images, whatever is held back."""
    names = class_names(model) or loader.class_names
    return checked_class_weight(class_weight, model.output_shape[-1], names, loader.class_counts)


@contextlib.contextmanager
def _start(model: keras.Model) -> Iterator[RunState]:
    """Give the state to begin from; if the block raises, all is as it was.

    What is trainable is as before in any case.
    """
    state, flags = RunState(copy_variables(model.variables)), trainable_state(model)
    with unharmed(model, state):
        yield state
    restore_trainable_state(flags)
