"""A job: all that a run is told, checked before anything changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_transfer import _distribution
from keras_transfer._lib.messages import SILENT, verbosity
from keras_transfer.data.grouping import check_apart
from keras_transfer.data.images.augmentation import (
    Augmentation,
    augmentation_name,
    mixes,
    resolve_augmentation,
)
from keras_transfer.data.inputs import checked_data
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache.cache import CacheOptions
from keras_transfer.layers.about import class_names
from keras_transfer.tasks.class_weights import ClassWeight, check_weighable, checked_class_weight
from keras_transfer.tasks.single_label import SINGLE_LABEL
from keras_transfer.tasks.task import Task
from keras_transfer.training.checks import (
    check_averages,
    check_backups,
    check_callbacks,
    check_mixing,
    check_same_labels,
    check_together,
    checked_cache,
    checked_phases,
    checked_steps,
)
from keras_transfer.training.objective import Objective
from keras_transfer.training.phase import Phase


@dataclass(frozen=True)
class Job:
    """All that a run is told.

    Attributes:
        model: the classifier.
        objective: what it is trained for.
        phases: what to train, one after the other.
        train: a `Loader` of the run's own, or other data for `fit`; that of all processes together.
        validation: the same for validation, or None.
        steps: how many batches an epoch has, where a phase asks for it; otherwise 0.
        names: the names of the classes, where they are known.
        one_hot: whether the labels are rows, where an augmentation makes them rows; otherwise None.
        class_weight: the weights of classes by their indices, or None.
        callbacks: those of all phases.
        seed: the seed of the run.
        cache: how features of the frozen part are kept, or None.
        place: where the model trains.
        verbose: as `verbosity` returns it.
    """

    model: keras.Model
    objective: Objective
    phases: Sequence[Phase]
    train: Any
    validation: Any
    steps: int
    names: list[str] | None
    one_hot: bool | None
    class_weight: dict[int, float] | None
    callbacks: Sequence[keras.callbacks.Callback]
    seed: int
    cache: CacheOptions | None
    place: _distribution.Placement
    verbose: int

    @property
    def owns_order(self) -> bool:
        """Whether the training data is a `Loader`, whose order a run decides."""
        return isinstance(self.train, Loader)

    @property
    def shuffle(self) -> bool:
        """Whether `fit` must shuffle: of what has no order of its own it shuffles PyDatasets only."""
        return not self.owns_order and isinstance(self.train, keras.utils.PyDataset)

    @property
    def rows(self) -> bool | None:
        """Whether labels are rows without an augmentation that makes them rows; None: not known yet."""
        labels = self.train.some_labels() if self.owns_order else None
        return self.one_hot if labels is None or self.one_hot is not None else labels.ndim == 2

    def data_of(self, phase: Phase) -> tuple[Any, Any]:
        """Return what a phase trains on and validates with."""
        train, validation = self.train, self.validation
        if self.owns_order:
            if phase.augmentation != "inherit":
                train = train.replace(augmentation=phase.augmentation)
            if isinstance(validation, Loader) and (train.one_hot or self.rows):
                validation = validation.replace(one_hot=True)
        return train, validation


def checked_job(
    model: keras.Model,
    train: Any,
    validation: Any,
    phases: Sequence[Phase],
    *,
    batch_size: int,
    loss: Any,
    metrics: Sequence[Any] | None,
    class_weight: ClassWeight | None,
    augmentation: str | Augmentation | None,
    callbacks: Sequence[keras.callbacks.Callback],
    seed: int,
    cache: Any,
    verbose: str | int,
    **told: Any,
) -> Job:
    """Return the job that arguments of `fine_tune` make, or raise; nothing changes.

    In `told` is what else must be the same in all processes that train together.
    """
    objective = Objective(model, loss, metrics)
    phases = checked_phases(phases, model)
    check_callbacks(phases, callbacks)
    check_backups(phases, callbacks, told.get("resume", False))
    names = class_names(model)
    shared: dict[str, Any] = {
        "batch_size": batch_size,
        "seed": seed,
        "task": _task(objective, class_weight),
    }
    data = checked_data(train, model, names=names, **shared)
    if names is None and isinstance(data, Loader):
        found = data.class_names or []
        names = found if len(found) == model.output_shape[-1] else None
    if validation is not None:
        validation = checked_data(validation, model, argument="validation", names=names, **shared)
        check_apart(data, validation, "train", "validation")
    check_averages(model, phases, callbacks, data, validation is not None)
    count = data.class_counts if isinstance(data, Loader) else None
    weights = checked_class_weight(class_weight, model.output_shape[-1], names, count)
    data = _augmented(data, augmentation, phases)
    one_hot = _one_hot(objective, phases, data, validation)
    place, kept = _distribution.placement(model), checked_cache(cache)
    told |= {"seed": seed, "cache": "none" if kept is None else "on", "class_weight": weights}
    told["augmentation"] = augmentation_name(augmentation)
    own_part = check_together(model, objective, phases, data, validation, weights is not None, **told)
    shown = verbosity(verbose)
    return Job(
        model,
        objective,
        phases,
        data,
        validation,
        steps=checked_steps(phases, own_part),
        names=names,
        one_hot=one_hot,
        class_weight=weights,
        callbacks=callbacks,
        seed=seed,
        cache=kept,
        place=place,
        verbose=SILENT if place.index else shown,  # one process speaks for all
    )


def _task(objective: Objective, class_weight: Any) -> Task | None:
    """Return the task of which labels must be; None: it isn't known, and they may be anything."""
    check_weighable(class_weight, objective.labels_of)
    # Of which class would a weight be, if it were another one?
    return objective.labels_of if class_weight is None else SINGLE_LABEL


def _augmented(data: Any, augmentation: Any, phases: Sequence[Phase]) -> Any:
    """Return the training data with the augmentation of the run."""
    if augmentation is None and all(p.augmentation in ("inherit", None) for p in phases):
        return data
    resolve_augmentation(augmentation)
    if not isinstance(data, Loader):
        raise ValueError(
            "augmentation needs train to be arrays or a Loader; kt.Loader(train) is one of a PyDataset. "
            f"Received: train of type {type(data).__name__}"
        )
    return data if augmentation is None else data.replace(augmentation=augmentation)


def _one_hot(objective: Objective, phases: Sequence[Phase], data: Any, validation: Any) -> bool | None:
    """Return whether labels are rows by themselves, where an augmentation makes them rows."""
    if not isinstance(data, Loader):
        return None
    check_same_labels(data, validation)
    used = [data.augmentation if p.augmentation == "inherit" else p.augmentation for p in phases]
    return check_mixing(objective, data, validation) if any(map(mixes, used)) else None
