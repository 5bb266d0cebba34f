"""The engine: a job, trained phase by phase from where its state is."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import keras

from keras_transfer import _distribution
from keras_transfer._lib.messages import say
from keras_transfer._lib.variables import copy_variables, forget_gradients
from keras_transfer.data.images.augmentation import augmentation_name
from keras_transfer.data.loader import Loader
from keras_transfer.layers.freezing import restore_trainable_state, trainable_state
from keras_transfer.layers.table import trainable_table
from keras_transfer.models.averages import batches_of
from keras_transfer.optimizers.carry_over import carry_over, same_kind
from keras_transfer.rates.find import find_lr
from keras_transfer.rates.found import found_rate
from keras_transfer.results.training import PhaseResult
from keras_transfer.training.averaging import Averager
from keras_transfer.training.epochs import AfterEpoch, EpochEnd, EpochKeeper, seed_everything
from keras_transfer.training.frozen_part import FrozenPart
from keras_transfer.training.job import Job
from keras_transfer.training.phase import FIND, FOUND, Phase
from keras_transfer.training.state import Clock, RunState
from keras_transfer.training.told import Audience, bring_back

_OF_ADAPTERS = 1  # a seed of (seed, phase) and this is none of an epoch


def trained_phases(
    job: Job, state: RunState, frozen: FrozenPart | None = None, after_epoch: AfterEpoch | None = None
) -> Iterator[PhaseResult]:
    """Train a job from where its state is, and yield each phase when it is over.

    A phase sets what trains, compiles a view of the model that ends in the logits, fits it, and goes
    back to the best weights. The state has changed when a phase is yielded, and the model has the
    weights to go on from. For the callbacks of the run training begins with the first fit and ends
    when the model has the weights of the end; `stop_training` ends the run.

    Args:
        job: what to train.
        state: how far that is. It changes after every epoch.
        frozen: the features of the frozen part, or None where every epoch computes all.
        after_epoch: what to call at the end of each epoch.

    Raises:
        FloatingPointError: the loss of an epoch is not a finite number.
        ValueError: a range test suggests no rate.
    """
    epochs = sum(phase.epochs for phase in job.phases)
    run = Audience(job, job.callbacks, epochs, one_fit=False)
    if state.start is None and any(phase.l2_sp is not None for phase in job.phases):
        state.start = copy_variables(job.model.variables)
    bring_back(job, state)
    while state.phase < len(job.phases):
        phase, clock = job.phases[state.phase], Clock(state)
        phase.set_trainable(job.model)
        seed_everything(job.model, job.seed, state.epoch, job.place.stream)
        say(job.verbose, f"Phase {state.phase + 1} of {len(job.phases)}: {phase.name}")
        if state.adapters is None:
            state.adapters = phase.adapters(job.model, (job.seed, state.phase, _OF_ADAPTERS))
        adapters = state.adapters
        with adapters.shown(), job.objective.view(job.model) as view:
            train, validation = job.data_of(phase)
            if frozen is not None:
                view, train, validation = frozen.tail(state.phase, view, train, validation)
            view = _distribution.joined(view)
            job.objective.compile_view(view, _optimizer(job, state, phase, view, train))
            _fit(job, state, run, view, train, validation, clock, after_epoch)
            adapters.fold()
        phase.set_trainable_after(job.model)
        forget_gradients(job.model.variables)
        state.go_back_to_best(job.model)
        # What a file told of the callbacks of the run, if no epoch was left to fit.
        known = state.callbacks[: len(job.callbacks)]
        done = state.finish_phase(phase.name, clock.seconds)
        state.callbacks = known
        if state.ended:
            say(job.verbose, "A callback has ended the run")
            state.phase = len(job.phases)
        if state.phase == len(job.phases):
            run.end(state.logs[-1])
            state.weights = copy_variables(job.model.variables)
        yield done


def _optimizer(
    job: Job, state: RunState, phase: Phase, view: keras.Model, train: Any
) -> keras.optimizers.Optimizer:
    """Return what a phase goes on with or begins with, and tell the user and the state what that is."""
    if state.optimizer is not None:  # the phase goes on
        things = [thing for thing, _ in trainable_state(job.model)]
        restore_trainable_state(list(zip(things, state.flags, strict=True)))
        return state.optimizer
    if phase.learning_rate == FIND:
        _find_rate(job, state, phase, view, train)
    if phase.learning_rate == FOUND and math.isnan(state.found):
        raise ValueError(
            f"learning_rate of phase {phase.name!r} must be known, but BackupAndRestore doesn't keep "
            "what a range test has found; leave it out, and resume with fine_tune(output=..., "
            "resume=True). "
            f"Received: learning_rate={FOUND!r} after a phase that was over"
        )
    rate = phase.rate(state.found, job.steps)
    optimizer = phase.training_optimizer(rate, job.model, state.start)
    settings = phase.describe(rate)
    multiplier_of = getattr(optimizer, "multiplier_of", None)
    table = trainable_table(job.model, settings["learning_rate"], multiplier_of)
    say(job.verbose, table.summary())
    state.settings = settings | {
        "range_test": state.rule if phase.learning_rate == FIND else None,
        "found": state.found if phase.learning_rate in (FIND, FOUND) else None,
        "groups": table.by_group(),
    }
    if job.owns_order:
        augmentation = job.data_of(phase)[0].augmentation
        used = {"augmentation": augmentation_name(augmentation), "images": job.train.num_samples}
        state.settings |= used
    if state.kept is not None and same_kind(state.kept, optimizer):
        return carry_over(state.kept, view.trainable_variables, settings=optimizer)
    return optimizer


def _find_rate(job: Job, state: RunState, phase: Phase, view: keras.Model, train: Any) -> None:
    """Let a range test find the rate that a phase begins with."""
    job.objective.compile_view(view, phase.make_optimizer(model=job.model))
    test = find_lr(view, train, class_weight=job.class_weight, shuffle=job.shuffle, verbose=job.verbose)
    state.found, state.rule = found_rate(test, phase.name)
    say(job.verbose, f"Learning rate: {state.found:.3g}, found by a range test ({state.rule})")


def _fit(
    job: Job,
    state: RunState,
    run: Audience,
    view: keras.Model,
    train: Any,
    validation: Any,
    clock: Clock,
    after_epoch: AfterEpoch | None,
) -> None:
    """Fit the compiled view of a phase to the end of the phase."""
    phase, adapters = job.phases[state.phase], state.adapters
    assert adapters is not None
    later = [other.make_optimizer() for other in job.phases[state.phase + 1 :]]
    goes_on = any(same_kind(view.optimizer, other) for other in later)
    data = _distribution.training_data(view, train, job.class_weight)
    told = data.loader if job.owns_order else None
    last = state.first_epoch + phase.epochs
    if state.epoch >= last or state.stopped:  # it was killed after its last epoch
        view.optimizer.finalize_variable_values(view.trainable_variables)
        if phase.average is not None:
            adapters.put(state.weights)
        return
    of_phase = Audience(job, phase.callbacks, last, one_fit=True)
    averager = []
    if phase.average is not None:
        images = partial(_images, train)
        averager = [Averager(state, phase.average, last, adapters, images)]
    own = [
        *averager,
        EpochKeeper(state, phase.name, adapters, told, job.seed, job.place.stream, goes_on),
        *run.in_fit(view, adapters),
        *of_phase.in_fit(view, adapters),
        EpochEnd(state, clock, [*job.callbacks, *phase.callbacks], lambda: run.stopped, after_epoch),
    ]
    with _distribution.fitting(view, data):
        view.fit(
            data.x,
            validation_data=_distribution.validation_data(view, validation),
            initial_epoch=state.epoch,
            epochs=last,
            shuffle=job.shuffle,
            class_weight=data.class_weight,
            callbacks=own,
            verbose=job.verbose,
        )


def _images(data: Any, epoch: int) -> Iterator[Any]:
    """Yield the images that training data has in an epoch, batch by batch, once more."""
    if isinstance(data, Loader):
        data = data.replace()  # what the fit reads from goes on
        data.epoch = epoch
    return batches_of(data, 0)
