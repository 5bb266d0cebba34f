"""Which phases of a run train on cached features of the frozen part, and these features."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import rich.console

from keras_transfer.callbacks.scheduled_lr import ScheduledLR
from keras_transfer.data.augmentation import Augmentation
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache import FeatureCache
from keras_transfer.features.cost import multiplications
from keras_transfer.features.splitting import deepest_cut, places, split_model
from keras_transfer.freezing import restore_trainable_state, trainable_state
from keras_transfer.training.objective import Objective
from keras_transfer.training.phase import FIND, Phase

# Callbacks for which the tail of a model does as well as the whole: they look at logs and optimizer, or
# put weights back that they took from the same model.
_ANY_MODEL = (
    keras.callbacks.CSVLogger,
    keras.callbacks.EarlyStopping,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.TerminateOnNaN,
)
_ROOM = 0.9  # of what is free on the disk
_MUCH = 100


@dataclass(frozen=True)
class PhaseCut:
    """Where the cache cuts in a phase.

    Attributes:
        at: the name of a layer, or None for training without a cache.
        note: what the user is told.
        augmentation: that of the phase's images.
    """

    at: str | None
    note: str
    augmentation: str | Augmentation | None = None


class FrozenPart:
    """What the frozen parts of a model give, computed once for all phases of a run that it serves.

    Args:
        model: the classifier; what trains in it is as before afterwards.
        objective: that of the run.
        phases: the phases.
        train: what the run trains on.
        validation: what it validates with, or None.
        directory: where the features are kept.
        views: augmented versions of each image, or None.
        callbacks: those of all phases.
        console: where to say what is done.
    """

    def __init__(
        self,
        model: keras.Model,
        objective: Objective,
        phases: Sequence[Phase],
        train: Any,
        validation: Any,
        directory: str | os.PathLike[str],
        views: int | None,
        callbacks: Sequence[keras.callbacks.Callback],
        console: rich.console.Console,
    ) -> None:
        self._directory, self._views, self._console = directory, views, console
        self._known: dict[tuple[str, Any], tuple[Loader, Loader | None]] = {}
        self._cuts: list[PhaseCut] = []
        flags = trainable_state(model)
        try:
            for number, phase in enumerate(phases):
                phase.set_trainable(model)
                run = (phases[number:], train, validation, [*callbacks, *phase.callbacks])
                with objective.view(model) as view:
                    self._depth = {name: index for index, name in enumerate(places(view))}
                    self._cuts.append(_cut(view, *run, directory, views))
        finally:
            restore_trainable_state(flags)

    def tail(
        self, number: int, view: keras.Model, train: Any, validation: Any
    ) -> tuple[keras.Model, Any, Any]:
        """Return what phase `number` trains: the tail of `view`, on features in the place of images.

        Where no cache serves, all three are returned as they are. One pass serves the phases that
        follow, too, as long as none cuts deeper than the one before.
        """
        here = self._cuts[number]
        self._console.print(f"Cache: {here.note}", highlight=False)
        # What trained before has changed everything behind the cut of its phase.
        self._known = {
            known: data
            for known, data in self._known.items()
            if here.at is not None and self._depth[known[0]] <= self._depth[here.at]
        }
        if here.at is None:
            return view, train, validation
        chain = [here.at]
        for cut in self._cuts[number + 1 :]:
            if cut.at is None or cut.augmentation != here.augmentation:
                break
            if self._depth[cut.at] > self._depth[chain[-1]]:
                break
            chain.append(cut.at)
        tail = view
        for name in dict.fromkeys(reversed(chain)):
            prefix, tail = split_model(tail, name)
            known = (name, here.augmentation)
            if known not in self._known:
                self._known[known] = self._features(prefix, train, validation)
            train, validation = self._known[known]
        return tail, train, validation

    def _features(
        self, prefix: keras.Model, train: Loader, validation: Loader | None
    ) -> tuple[Loader, Loader | None]:
        cache = FeatureCache(prefix, self._directory)
        build = partial(
            cache.build, batch_size=train.batch_size, verbose=0 if self._console.quiet else 1
        )
        views = None if train.augmentation is None else self._views
        return build(train, views=views), None if validation is None else build(validation)


def _cut(
    view: keras.Model,
    phases: Sequence[Phase],
    train: Any,
    validation: Any,
    callbacks: Sequence[keras.callbacks.Callback],
    directory: str | os.PathLike[str],
    views: int | None,
) -> PhaseCut:
    """Return where the cache cuts in the first of `phases`, which is set in `view`."""
    phase = phases[0]
    for argument, data in (("train", train), ("validation", validation)):
        if data is not None and not isinstance(data, Loader):
            return _none(f"{argument} is neither arrays nor a Loader")
    augmentation = train.augmentation if phase.augmentation == "inherit" else phase.augmentation
    for callback in callbacks:
        if type(callback) not in _ANY_MODEL and not isinstance(callback, ScheduledLR):
            return _none(f"callback {type(callback).__name__} may want the whole model")
    cut = deepest_cut(view)
    if cut.at is None:
        return _none(cut.obstacle)
    prefix, tail = split_model(view, cut.at)
    before, after = multiplications(prefix), multiplications(tail)
    if not before:
        return _none(f"there is only preprocessing before {cut.obstacle}")
    passes = sum(p.epochs + (p.learning_rate == FIND) for p in phases)
    if augmentation is None and passes < 2:
        return _none("one epoch is one pass in any case")
    if augmentation is not None and (views is None or views >= phase.epochs):
        return _none(
            "each epoch has images of its own by augmentation; cache_views=n computes n versions once, "
            f"fewer than the {phase.epochs} epochs",
        )
    rows = train.num_samples * (1 if augmentation is None else views or 1)
    rows += 0 if validation is None else validation.num_samples
    needed = FeatureCache(prefix, directory).nbytes(rows)
    free = _ROOM * shutil.disk_usage(directory).free
    if needed > free:
        return _none(f"{needed / 1e6:,.0f} MB of features have no room ({free / 1e6:,.0f} MB)")
    gain = (before + 3 * after) / (3 * after) if after else _MUCH
    work = f"{gain:.1f} times" if gain < _MUCH else f"over {_MUCH} times"
    versions = "" if augmentation is None else f", {views} augmented versions of each image"
    note = (
        f"all up to {cut.at} is computed once ({needed / 1e6:,.0f} MB{versions}); then an epoch is "
        f"about {work} less work. {cut.obstacle} forbids a deeper cut"
    )
    return PhaseCut(cut.at, note, augmentation)


def _none(why: str) -> PhaseCut:
    return PhaseCut(None, f"none, as {why}")
