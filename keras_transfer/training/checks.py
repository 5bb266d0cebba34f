"""What `fine_tune` checks before it begins, so that nothing fails after hours that can fail now."""

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_transfer import _distribution
from keras_transfer.callbacks import GradualUnfreezing, SnapshotEnsemble
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache.cache import CacheOptions
from keras_transfer.features.cache.folder import cache_folder
from keras_transfer.layers.freezing import restore_trainable_state, trainable_state
from keras_transfer.training.averaging import trained_norms
from keras_transfer.training.low_rank import described_train
from keras_transfer.training.objective import Objective
from keras_transfer.training.phase import DEFAULT_LEARNING_RATE, FIND, FOUND, Phase

FILES = ("model.keras", "history.json", "curves.png")


def checked_cache(cache: Any) -> CacheOptions | None:
    """Return how features are kept, or None for not at all."""
    if cache is False:
        return None
    if isinstance(cache, CacheOptions):
        if cache.folder is not None:
            cache_folder(cache.folder)
        return cache
    if cache is not True and cache != "auto":
        raise ValueError(
            "cache must be 'auto', True, False or kt.CacheOptions, such as kt.CacheOptions('folder'). "
            f"Received: cache={cache!r}"
        )
    return CacheOptions()


def checked_phases(phases: Sequence[Phase], model: keras.Model) -> Sequence[Phase]:
    """Return phases that can be applied to the model, or raise."""
    phases = list(phases)
    if not phases or not all(isinstance(phase, Phase) for phase in phases):
        raise TypeError(f"phases must be one or more kt.Phase. Received: phases={phases!r}")
    for number, phase in enumerate(phases):
        phase.check(model)
        if phase.learning_rate == FOUND and FIND not in [p.learning_rate for p in phases[:number]]:
            raise ValueError(
                f"learning_rate of phase {phase.name!r} can be {FOUND!r} only after a phase with "
                f"{FIND!r}. Received: learning_rate={FOUND!r}"
            )
    return phases


def checked_steps(phases: Sequence[Phase], data: Any) -> int:
    """Return the steps of an epoch, or 0 if no schedule asks; wrong schedules raise here."""
    if all(phase.schedule is None or phase.schedule is phase.learning_rate for phase in phases):
        return 0
    try:
        steps = len(data)
    except TypeError as error:
        raise ValueError(
            "train must tell its length in batches by len(train) for a phase whose schedule is a "
            f"function of it ({error}). Received: train of type {type(data).__name__}"
        ) from error
    for phase in phases:
        phase.rate(DEFAULT_LEARNING_RATE, steps)
    return steps


def check_together(
    model: keras.Model,
    objective: Objective,
    phases: Sequence[Phase],
    train: Any,
    validation: Any,
    weighted: bool,
    **arguments: Any,
) -> Any:
    """Check that several devices and processes can train together, and are told to do the same.

    Args:
        model: the model.
        objective: that of the run.
        phases: the phases.
        train: what the run trains on.
        validation: what it validates with, or None.
        weighted: whether classes have weights.
        **arguments: what else must be the same in all processes.

    Returns:
        The training data; of a `Loader` the part of this process.
    """
    place = _distribution.placement(model)
    if place.devices == 1:
        return train
    optimizers = [phase.make_optimizer() for phase in phases]
    accumulates = any(optimizer.gradient_accumulation_steps for optimizer in optimizers)
    adapted = [phase.name for phase in phases if phase.lora is not None]
    if adapted:
        raise ValueError(
            "training on several devices needs phases without adapters (LoRA). "
            f"Received: {place.devices} devices and phase {adapted[0]!r}"
        )
    pulls = any(phase.l2_sp is not None for phase in phases)
    wanted = _distribution.refusal(model, accumulates, pulls, objective.reduction, weighted)
    if wanted is not None:
        raise ValueError(
            f"training on several devices needs {wanted}. "
            f"Received: {place.devices} devices on {keras.backend.backend()}"
        )
    if isinstance(validation, Loader) and validation.num_samples < place.devices:
        raise ValueError(
            f"validation must have at least {place.devices} samples, one for each device. "
            f"Received: {validation.num_samples}"
        )
    arguments["phases"] = [
        (phase.name, phase.epochs, described_train(phase.train), phase.average, phase.l2_sp)
        for phase in phases
    ]
    for name, data in (("train", train), ("validation", validation)):
        arguments[name] = "none" if data is None else type(data).__name__
        if isinstance(data, Loader):
            arguments[name] = f"{data.num_samples} samples, batch {data.batch_size}, seed {data.seed}"
    for name, value in arguments.items():
        if not _distribution.agreed(model, zlib.crc32(repr(value).encode()) >> 1):
            raise ValueError(
                f"{name} must be given alike to all processes that train together. "
                f"Received: {value!r} in process {place.index}, and something else in another"
            )
    if not isinstance(train, Loader):
        return train
    return train.shard(place.index, place.processes, multiple=place.devices)


def check_mixing(objective: Objective, train: Loader, validation: Any) -> bool:
    """Check that mixed images can be trained on; return whether the labels were rows without."""
    if objective.integers_only:
        raise ValueError(
            "loss and metrics must take labels as one-hot rows, as 'categorical_crossentropy' and "
            "'accuracy' do, for an augmentation that mixes images. "
            f"Received: {', '.join(objective.integers_only)}, for integers"
        )
    if validation is not None and not isinstance(validation, Loader):
        raise ValueError(
            "validation must be arrays or a Loader for an augmentation that mixes images, which makes "
            f"labels one-hot rows. Received: validation of type {type(validation).__name__}"
        )
    return train.replace(augmentation=None).samples(0, 1)[1].ndim == 2


def check_callbacks(phases: Sequence[Phase], callbacks: Any) -> None:
    """Raise if callbacks, of the run or of a phase, are no list of such, or don't fit a phase."""
    of_phases = ((f"callbacks of phase {phase.name!r}", phase.callbacks) for phase in phases)
    for name, given in (("callbacks", callbacks), *of_phases):
        found = given if isinstance(given, Sequence) else [None]
        if not all(isinstance(each, keras.callbacks.Callback) for each in found):
            raise TypeError(
                f"{name} must be a list of Keras callbacks, such as "
                f"[keras.callbacks.EarlyStopping()]. Received: {given!r:.200}"
            )
    _check_adapted(phases, callbacks)


def _check_adapted(phases: Sequence[Phase], callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Raise a `ValueError` if a callback can't do where adapters train what it is there for."""
    kinds = (GradualUnfreezing, SnapshotEnsemble)
    for phase in phases:
        found = [each for each in (*callbacks, *phase.callbacks) if isinstance(each, kinds)]
        if phase.lora is not None and found:
            raise ValueError(
                "a phase that trains adapters (LoRA) must be without callbacks that unfreeze layers or "
                "keep weights for an ensemble, as adapters are in the model during the phase only. "
                f"Received: {type(found[0]).__name__} and phase {phase.name!r}, train={phase.train!r}"
            )


def check_same_labels(train: Any, validation: Any) -> None:
    """Raise a `ValueError` if labels are integers in training and rows in validation."""
    if not (isinstance(train, Loader) and isinstance(validation, Loader)):
        return
    kinds = [getattr(each.some_labels(), "ndim", None) for each in (train, validation)]
    if kinds == [1, 2] and not train.one_hot:
        raise ValueError(
            "validation must have integers as labels, as train has; or give both rows, with "
            "kt.Loader(..., one_hot=True). Received: validation with rows"
        )


def check_averages(
    model: keras.Model,
    phases: Sequence[Phase],
    callbacks: Sequence[keras.callbacks.Callback],
    train: Any,
    validated: bool,
) -> None:
    """Raise a `ValueError` if weights that are averaged could not be validated, or not as such."""
    swapping = [
        "SwapEMAWeights"
        for callback in [*callbacks, *(own for phase in phases for own in phase.callbacks)]
        if isinstance(callback, keras.callbacks.SwapEMAWeights)
    ]
    averaging = [phase.name for phase in phases if phase.average is not None]
    if swapping and averaging:
        raise ValueError(
            "a phase with an average must be without SwapEMAWeights: it validates averaged weights by "
            f"itself. Received: SwapEMAWeights and phase {averaging[0]!r}"
        )
    by_keras = [phase.name for phase in phases if phase.make_optimizer().use_ema] + swapping
    if validated and by_keras:
        raise ValueError(
            "moving averages of the weights that Keras takes (EMA) need a run without validation data: "
            "with them the weights of the best epoch are kept, not their averages; take "
            "kt.Phase(average=kt.EMA(0.99)) in their place. "
            f"Received: validation data and {', '.join(by_keras)}"
        )
    _check_measuring(model, phases, train)


def _check_measuring(model: keras.Model, phases: Sequence[Phase], train: Any) -> None:
    """Raise a `ValueError` if batch norm trains where weights are averaged, and can't be measured."""
    once = isinstance(train, Iterator)
    devices = _distribution.placement(model).devices
    if not once and devices == 1:
        return
    flags = trainable_state(model)
    try:
        for phase in phases:
            if phase.average is None:
                continue
            phase.set_trainable(model)
            if trained_norms(model):
                raise ValueError(
                    f"average of phase {phase.name!r} needs training data that can be read again, and "
                    "one device, as batch norm trains, whose statistics are measured anew; take "
                    "batch_norm='freeze'. Received: train of type "
                    f"{type(train).__name__} on {devices} devices"
                )
    finally:
        restore_trainable_state(flags)


def check_backups(
    phases: Sequence[Phase], callbacks: Sequence[keras.callbacks.Callback], resume: bool
) -> None:
    """Raise a `ValueError` where `BackupAndRestore` can't bring a run back."""
    kind = keras.callbacks.BackupAndRestore
    of_phases = [p.name for p in phases if any(isinstance(each, kind) for each in p.callbacks)]
    if of_phases:
        raise ValueError(
            "BackupAndRestore must be among the callbacks of the run, fine_tune(callbacks=...), as a "
            f"phase can't begin in the middle by itself. Received: one in phase {of_phases[0]!r}"
        )
    if resume and any(isinstance(each, kind) for each in callbacks):
        raise ValueError(
            "resume must be without BackupAndRestore, which would bring back another epoch; it takes "
            "along all that BackupAndRestore does, and more. Received: resume=True and BackupAndRestore"
        )


def check_repeatable(train: Any, validation: Any, folder: Path | None, resume: bool) -> bool:
    """Return whether a run on such data can be resumed, and raise if it shall be and can't."""
    if resume and folder is None:
        raise ValueError("resume needs the output of the run. Received: resume=True, output=None")
    for argument, data in (("train", train), ("validation", validation)):
        if data is None or (isinstance(data, Loader) and data.repeats()):
            continue
        if resume:
            raise ValueError(
                f"resume needs {argument} to be arrays or a kt.Loader that gives the same images each "
                "time, so that the order can be taken up again. "
                f"Received: resume=True and {argument} of type {type(data).__name__}"
            )
        return False
    return True
