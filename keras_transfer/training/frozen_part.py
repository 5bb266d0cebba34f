"""Which phases of a run train on cached features of the frozen part, and these features."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from keras_transfer import _distribution
from keras_transfer._lib.messages import say
from keras_transfer.callbacks.scheduled_lr import ScheduledLR
from keras_transfer.data.images.augmentation import Augmentation, mixes
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache.cache import CacheOptions, FeatureCache, feature_bytes
from keras_transfer.features.cache.sharing import SharedCache
from keras_transfer.inference.runtimes import RuntimeName, runtimes
from keras_transfer.layers.freezing import restore_trainable_state, trainable_state
from keras_transfer.layers.graph import multiplications
from keras_transfer.layers.splitting import deepest_cut, places, split_model
from keras_transfer.training.job import Job
from keras_transfer.training.phase import FIND, Phase

# Callbacks that leave the frozen part as it is, and drive no step of the whole model: they look at it,
# at logs and at the optimizer, or put weights back when training begins or ends.
_HARMLESS = (
    keras.callbacks.BackupAndRestore,
    keras.callbacks.CSVLogger,
    keras.callbacks.EarlyStopping,
    keras.callbacks.History,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
    keras.callbacks.TerminateOnNaN,
)
_MUCH = 100


@dataclass(frozen=True)
class PhaseCut:
    """Where the cache cuts in a phase.

    Attributes:
        at: the name of a layer, or None for training without a cache.
        note: what the user is told.
        augmentation: that of the phase's images.
        passes: how often the phase goes through its images.
        versions: how many versions of each image are computed.
    """

    at: str | None
    note: str
    augmentation: str | Augmentation | None = None
    passes: int = 0
    versions: int = 1


class FrozenPart:
    """What the frozen parts of a model give, computed once for all phases of a run that it serves.

    Args:
        job: what the run is told; what trains in its model is as before afterwards.
        options: how the features are kept, with the folder for them.
    """

    def __init__(self, job: Job, options: CacheOptions) -> None:
        self._options, self._verbose = options, job.verbose
        self._known: dict[str, tuple[Loader, Loader | None]] = {}  # by the place of the cut
        self._augmentation: str | Augmentation | None = None  # that of what is known
        self._cuts: list[PhaseCut] = []
        flags = trainable_state(job.model)
        try:
            for phase in job.phases:
                phase.set_trainable(job.model)
                with job.objective.view(job.model) as view:
                    self._depth = {name: index for index, name in enumerate(places(view))}
                    own = [*job.callbacks, *phase.callbacks]
                    self._cuts.append(_cut(view, phase, job.train, job.validation, own, options))
        finally:
            restore_trainable_state(flags)
        self._drop_what_saves_nothing()

    def tail(
        self, number: int, view: keras.Model, train: Any, validation: Any
    ) -> tuple[keras.Model, Any, Any]:
        """Return what phase `number` trains: the tail of `view`, on features in the place of images.

        Where no cache serves, all three are returned as they are. One pass serves the phases that
        follow, too, as long as none cuts deeper than the one before.
        """
        here = self._cuts[number]
        self._say(here.note)
        # What trained before has changed everything behind the cut of its phase.
        deepest = -1
        if here.at is not None and _same(here.augmentation, self._augmentation):
            deepest = self._depth[here.at]
        for name in list(self._known):
            if self._depth[name] > deepest:
                self._forget(name)
        self._augmentation = here.augmentation
        if here.at is None:
            return view, train, validation
        tail = view
        for name in dict.fromkeys(cut.at for cut in reversed(self._served(number)) if cut.at):
            prefix, rest = split_model(tail, name)
            if name not in self._known:
                try:
                    self._known[name] = self._features(prefix, train, validation)
                except OSError as error:
                    # As where the disk is full: a run of hours need not end for that.
                    self._say(f"no features of {name} are kept ({error})")
                    break
            tail, (train, validation) = rest, self._known[name]
        return tail, train, validation

    def close(self) -> None:
        """Let go of the files of features, so that they can be removed."""
        for name in list(self._known):
            self._forget(name)

    def _forget(self, name: str) -> None:
        for data in self._known.pop(name):
            if data is not None:
                data.close()

    def _served(self, number: int) -> list[PhaseCut]:
        """Return the cuts of phase `number` and of those after it that the same pass serves."""
        served = [self._cuts[number]]
        for cut in self._cuts[number + 1 :]:
            before = served[-1]
            if cut.at is None or before.at is None or not _same(cut.augmentation, before.augmentation):
                break
            if self._depth[cut.at] > self._depth[before.at]:
                break
            served.append(cut)
        return served

    def _drop_what_saves_nothing(self) -> None:
        """Take the cuts away whose features would be computed as often as they are used."""
        until = 0  # up to this phase a pass serves that pays
        dropped = {}
        for number, cut in enumerate(self._cuts):
            served = self._served(number)
            if cut.at is not None and sum(other.passes for other in served) > cut.versions:
                until = max(until, number + len(served))
            elif cut.at is not None and number >= until:
                dropped[number] = _none(
                    "one epoch is one pass in any case"
                    if cut.augmentation is None
                    else f"there are no more epochs than the {cut.versions} versions of each image"
                )
        self._cuts = [dropped.get(number, cut) for number, cut in enumerate(self._cuts)]

    def _say(self, what: str) -> None:
        say(self._verbose, f"Cache: {what}")

    def _features(
        self, prefix: keras.Model, train: Loader, validation: Loader | None
    ) -> tuple[Loader, Loader | None]:
        options = self._options
        assert options.folder is not None
        together = _distribution.placement(prefix).processes > 1
        cache = (SharedCache if together else FeatureCache)(
            prefix,
            options.folder,
            dtype=options.dtype,
            compute_dtype=options.compute_dtype,
            runtime=options.runtime,
        )
        build = partial(cache.build, batch_size=train.batch_size, verbose=self._verbose)
        views = None if train.augmentation is None else options.views
        with contextlib.ExitStack() as stack:
            features = stack.enter_context(contextlib.closing(build(train, views=views)))
            others = None if validation is None else build(validation)
            stack.pop_all()
        return features, others


def runtime_of(job: Job, before: str | None) -> tuple[RuntimeName, str]:
    """Return by what the features of a run are computed, and what it is known by.

    A run that goes on stays with what it began with. With ONNX Runtime it can't where that is missing,
    or another, which the user is told.

    Args:
        job: what the run is told, with a cache.
        before: what the run began with, or None if it begins.
    """
    options = job.cache
    assert options is not None
    (now, *_), _ = runtimes(job.model, options.runtime if options.compute_dtype is None else "keras")
    if before is None or before == now.identity:
        return options.runtime, now.identity
    for name in ("folded", "keras"):
        if before.startswith(name):
            return name, before
    told = f"Features were computed by {before} so far, and are by {now.identity} from here on"
    say(job.verbose, f"{told}: their last bits may differ")
    return options.runtime, before


def _cut(
    view: keras.Model,
    phase: Phase,
    train: Any,
    validation: Any,
    callbacks: Sequence[keras.callbacks.Callback],
    options: CacheOptions,
) -> PhaseCut:
    """Return where the cache may cut in `phase`, which is set in `view`."""
    for argument, data in (("train", train), ("validation", validation)):
        if data is not None and not isinstance(data, Loader):
            return _none(f"{argument} is neither arrays nor a Loader")
        if data is not None and not data.repeats():
            return _none(f"{argument} gives other images each time that they are read")
    if validation is not None and validation.augmentation is not None:
        return _none("the validation images are augmented")
    augmentation = train.augmentation if phase.augmentation == "inherit" else phase.augmentation
    for callback in callbacks:
        if type(callback) not in _HARMLESS and not isinstance(callback, ScheduledLR):
            return _none(f"callback {type(callback).__name__} may want or change the frozen part")
    cut = deepest_cut(view)
    if cut.at is None:
        return _none(cut.obstacle)
    prefix, tail = split_model(view, cut.at)
    before, after = multiplications(prefix), multiplications(tail)
    if not before:
        return _none(f"there is only preprocessing before {cut.obstacle}")
    if None in prefix.output_shape[1:]:
        return _none("the model takes images of any size")
    if mixes(augmentation):
        return _none("each epoch mixes images of its own")
    if augmentation is not None and options.views is None:
        return _none(
            "each epoch has images of its own by augmentation; cache=kt.CacheOptions(views=n) "
            "computes n versions of each image once"
        )
    versions = 1 if augmentation is None else options.views or 1
    rows = train.num_samples * versions + (0 if validation is None else validation.num_samples)
    needed = feature_bytes(prefix, rows, options.dtype)
    gain = (before + 3 * after) / (3 * after) if after else _MUCH
    work = f"about {gain:.1f} times" if gain < _MUCH else f"over {_MUCH} times"
    augmented = "" if augmentation is None else f", {versions} augmented versions of each image"
    note = (
        f"all up to {cut.at} is computed once ({needed / 1e6:,.1f} MB{augmented}); then an epoch is "
        f"{work} less work. No deeper cut, as {cut.obstacle}"
    )
    passes = phase.epochs + (phase.learning_rate == FIND)
    return PhaseCut(cut.at, note, augmentation, passes, versions)


def _same(one: str | Augmentation | None, other: str | Augmentation | None) -> bool:
    return one is other or (isinstance(one, str) and one == other)


def _none(why: str) -> PhaseCut:
    return PhaseCut(None, f"none, as {why}")
