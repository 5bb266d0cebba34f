"""Fine-tuning in phases: freeze, compile on the logits, fit, keep the best."""

import contextlib
import dataclasses
import functools
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import rich.console
import rich.markup

from keras_transfer import _assets, _distribution, calibration
from keras_transfer._files import replacing, writable_directory, write_json
from keras_transfer._variables import assign_variables, copy_variables, forget_gradients
from keras_transfer.backbones import load_weights
from keras_transfer.data.augmentation import (
    Augmentation,
    augmentation_name,
    mixes,
    resolve_augmentation,
)
from keras_transfer.data.inputs import training_data
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache import CacheOptions
from keras_transfer.freezing import restore_trainable_state, trainable_state, trainable_table
from keras_transfer.heads import attach_class_names, class_names
from keras_transfer.lr_finder import find_lr
from keras_transfer.optimizers.carry_over import carry_over, same_kind
from keras_transfer.training.checks import (
    FILES,
    check_averages,
    check_mixing,
    check_repeatable,
    check_together,
    checked_cache,
    checked_phases,
    checked_steps,
)
from keras_transfer.training.frozen_part import FrozenPart
from keras_transfer.training.objective import Objective
from keras_transfer.training.phase import FIND, FOUND, Phase
from keras_transfer.training.range_test import found_rate
from keras_transfer.training.result import FineTuneResult, PhaseResult, read_finished
from keras_transfer.training.resuming import Checkpointer, Progress, Recorder, check_same
from keras_transfer.training.settings import run_settings
from keras_transfer.training.state import EpochKeeper, RunState, seed_everything

# The head alone, then everything at a rate that doesn't undo the pretraining.
DEFAULT_PHASES = (
    Phase("head", 5, train="head", learning_rate=1e-3),
    Phase("fine-tuning", 5, train="all", learning_rate=1e-5),
)


def fine_tune(
    model: keras.Model,
    train: Any,
    validation: Any = None,
    phases: Sequence[Phase] | None = None,
    *,
    batch_size: int = 32,
    loss: Any = None,
    metrics: Sequence[Any] | None = None,
    class_weight: dict[int, float] | None = None,
    augmentation: str | Augmentation | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    seed: int = 0,
    cache: Literal["auto", False] | CacheOptions = "auto",
    directory: str | os.PathLike[str] | None = None,
    resume: bool = False,
    verbose: str | int = "auto",
) -> FineTuneResult:
    """Train a classifier phase by phase and keep its best weights.

    Each phase freezes and unfreezes layers, compiles and fits. An optimizer of the same kind as in the
    phase before goes on with the slots of what trained there; what joins has its own bias correction
    (see `keras_transfer.recompile`). The loss is taken on the logits (see
    `keras_transfer.training.objective`). With validation data every phase begins with
    the best weights so far, and the model ends with the best of all: highest validation accuracy, then
    lowest validation loss. Without, each goes on from the last.

    Epochs are numbered through all phases, for the data order, callbacks and history alike. The
    process's random generators are seeded (`keras.utils.set_random_seed`), so that a run can be
    repeated. A calibration is forgotten (see `keras_transfer.calibration`).

    If it raises, or is stopped by Ctrl-C, the model has the weights of the last finished epoch (those
    it came with, if none was finished), and what was trainable and how the model was compiled are as
    before.

    Args:
        model: a classifier with one input and one output, from `classifier` or any other.
        train: (x, y) arrays, a `Loader`, or anything that Keras' `fit` takes as `x`.
        validation: the same for validation, or None.
        phases: what to train, one after the other; by default 5 epochs of the head at 1e-3 and 5 of
            everything at 1e-5, with Adam.
        batch_size: samples a batch, for arrays; other data comes in batches of its own.
        loss: a Keras loss; by default cross-entropy for integer or one-hot labels. Keras' categorical
            cross-entropies are taken on the logits; any other loss gets what the model gives, or the
            logits if it has `from_logits=True`.
        metrics: Keras metrics of the model's output; by default accuracy.
        class_weight: a weight for each class of integer labels; a mixed image has that of its larger
            part.
        augmentation: for training images, if `train` is arrays or a `Loader`: as in `Loader`; a phase
            may have its own. None leaves a `Loader`'s own.
        callbacks: Keras callbacks for every phase. The model that they see ends in the logits, and
            begins behind the frozen part where that is cached.
        seed: decides order, augmentation and dropout; a `Loader` keeps its own seed.
        cache: "auto": where the first part of the network is frozen, what it makes of the images is
            computed once and kept on disk while the run lasts (see `keras_transfer.FeatureCache`), and
            only the rest is trained, on the same features in the same order; a line for each phase tells
            where, or why not. `keras_transfer.CacheOptions`: the same with another folder or precision,
            or for augmented images. False: every epoch computes all.
        directory: a folder for `model.keras` (the weights kept so far, not compiled), `history.json`
            and `curves.png`, each written whole or not at all after every phase; files of these names
            are replaced. None writes nothing. While a run on arrays or a `Loader` lasts, the folder
            `checkpoint` in it has what `resume` needs. Two runs can't share a folder.
        resume: go on with the run that `directory` holds, after its last finished epoch, whatever ended
            it; with the same model, data, arguments and versions the result is that of a run that was
            never stopped. The backend may be another one; the result is then the same but for
            rounding. Where there is no run to go on with, it begins; where it is over, its result comes
            back. Of callbacks, numbers among their attributes are taken along.
        verbose: as in `fit`; 0 is silent, otherwise each phase also shows what trains.

    Returns:
        A `FineTuneResult`. The model in it is the given one, compiled for `evaluate` with the loss and
        metrics on its probabilities and a fresh optimizer of the last phase. For other backends take the
        file in `directory`: Keras saves some optimizers so that only their backend can read them.

    Raises:
        ValueError, TypeError: an argument doesn't fit, such as moving averages of the weights (EMA)
            together with validation data; nothing has changed.
        ValueError: the run in `directory` had other settings, data or versions (the message says which),
            or its checkpoints are damaged, or another process is writing into it; nothing has changed.
        FloatingPointError: the loss of an epoch is not a finite number.
        ValueError: when a phase with `learning_rate="find"` begins, the range test suggests no rate;
            the model has the weights of the last finished epoch.
        ImportError: `directory` is given and matplotlib is not installed.

    Example:
        >>> import numpy as np, keras, keras_transfer as kt
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.integers(0, 256, (8, 32, 32, 3), "uint8"), np.arange(8) % 2
        >>> model = kt.classifier("mobilenet", 2, input_shape=(32, 32, 3), weights=None)
        >>> result = kt.fine_tune(model, (x, y), phases=[kt.Phase("head", 2)], verbose=0)
        >>> len(result.history["loss"])
        2
    """
    objective = Objective(model, loss, metrics)
    phases = checked_phases(DEFAULT_PHASES if phases is None else phases, model)
    names = class_names(model)
    data = training_data(train, model, batch_size=batch_size, seed=seed, names=names)
    own_order = isinstance(data, Loader)
    if own_order and names is None and len(data.class_names or ()) == model.output_shape[-1]:
        names = data.class_names
    validation_data = validation
    if validation is not None:
        validation_data = training_data(
            validation, model, batch_size=batch_size, seed=seed, argument="validation", names=names
        )
    if augmentation is not None or any(p.augmentation not in ("inherit", None) for p in phases):
        resolve_augmentation(augmentation)
        if not own_order:
            raise ValueError(
                "augmentation needs train to be arrays or a Loader. "
                f"Received: train of type {type(train).__name__}"
            )
    if augmentation is not None:
        data = data.replace(augmentation=augmentation)
    one_hot = None
    if own_order:
        mixed = [data.augmentation if p.augmentation == "inherit" else p.augmentation for p in phases]
        if any(map(mixes, mixed)):
            one_hot = check_mixing(objective, data, validation_data)
    if validation is not None:
        check_averages(phases, callbacks)
    # A Loader owns its order; of the other kinds of data fit shuffles PyDatasets only.
    shuffle = not own_order and isinstance(data, keras.utils.PyDataset)
    here = _distribution.placement(model)
    if here.index:  # one process speaks for all
        verbose = 0
    own_part = check_together(
        model,
        objective,
        phases,
        data,
        validation_data,
        weighted=class_weight is not None,
        seed=seed,
        directory="none" if directory is None else "given",
        resume=resume,
        cache="none" if cache is False else "on",
        class_weight=class_weight,
        augmentation=augmentation_name(augmentation),
    )
    steps = checked_steps(phases, own_part)
    kept = checked_cache(cache)
    folder = None if directory is None else output_folder(directory)
    repeatable = check_repeatable(data, validation_data, folder, resume)
    settings_of_run = None
    if folder is not None and repeatable:
        settings_of_run = run_settings(
            model,
            phases,
            steps,
            data,
            validation_data,
            kept,
            seed=seed,
            loss=loss,
            metrics=metrics,
            class_weight=class_weight,
            callbacks=[type(callback).__name__ for callback in callbacks],
        )
    console = rich.console.Console(quiet=verbose == 0)

    _distribution.start_equal(model)
    state, progress = RunState(copy_variables(model.variables)), Progress()
    result = FineTuneResult(model)
    with _distribution.scope(model), _unharmed(model, state), contextlib.ExitStack() as stack:
        recorder = None
        if folder is not None and settings_of_run is not None:
            recorder = Recorder(
                folder, model, phases, steps, settings_of_run, console, writes=here.index == 0
            )
            stack.callback(recorder.close)
            resumed = recorder.resume(state) if resume else None
            over = resume and not resumed and _take_finished(result, folder, settings_of_run, state)
            # Each has read before the first process writes.
            if not _distribution.agreed(model, -1 if over else state.epoch):
                raise ValueError(
                    "directory must be the same folder for all processes, so that they go on alike. "
                    f"Received: directory={str(directory)!r}, resume={resume!r}"
                )
            if over:
                console.print("The run is over: this is its result")
                progress.phase = len(phases)
                if names is not None:
                    attach_class_names(model, names)
            else:
                progress = resumed or recorder.begin(state)
        frozen = None
        if kept is not None and progress.phase < len(phases):
            if kept.directory is None:
                place = recorder.features if recorder else stack.enter_context(_temporary_folder())
                kept = dataclasses.replace(kept, directory=place)
            frozen = FrozenPart(
                model, objective, phases, data, validation_data, kept, callbacks, console
            )
        result.phases += progress.done
        for number in range(progress.phase, len(phases)):
            phase, started = phases[number], time.perf_counter() - progress.seconds
            phase.set_trainable(model)
            seed_everything(model, seed, state.epoch, here.stream)
            console.print(f"Phase {number + 1} of {len(phases)}: [bold]{rich.markup.escape(phase.name)}")
            phase_data = data
            if own_order and phase.augmentation != "inherit":
                phase_data = data.replace(augmentation=phase.augmentation)
            augmented = augmentation_name(phase_data.augmentation) if own_order else None
            later = [other.make_optimizer() for other in phases[number + 1 :]]
            last = progress.first_epoch + phase.epochs
            with objective.view(model) as view:
                phase_validation = validation_data
                if own_order and phase_data.one_hot and isinstance(validation_data, Loader):
                    phase_validation = validation_data.replace(one_hot=True)
                if frozen is not None:
                    view, phase_data, phase_validation = frozen.tail(
                        number, view, phase_data, phase_validation
                    )
                view = _distribution.joined(view)
                optimizer = progress.optimizer
                if optimizer is not None and recorder is not None:
                    recorder.set_trainable(progress)
                else:
                    if phase.learning_rate == FIND:
                        objective.compile_view(view, phase.make_optimizer())
                        test = find_lr(
                            view, phase_data, class_weight=class_weight, shuffle=shuffle, verbose=verbose
                        )
                        progress.found, progress.rule = found_rate(test, phase.name)
                        console.print(
                            f"Learning rate: {progress.found:.3g}, found by a range test "
                            f"({progress.rule})"
                        )
                    optimizer = _new_optimizer(phase, model, view, state, progress, steps, console)
                    if own_order:
                        progress.settings |= {"augmentation": augmented, "images": data.num_samples}
                goes_on = any(same_kind(optimizer, other) for other in later)
                objective.compile_view(view, optimizer)
                others = [*callbacks, *phase.callbacks]
                fit_data = _distribution.training_data(view, phase_data, class_weight)
                keeper = EpochKeeper(
                    state,
                    phase.name,
                    model,
                    fit_data.loader if own_order else None,
                    seed,
                    here.stream,
                    goes_on,
                )
                own = [keeper, *others]
                if recorder is not None:
                    clock = functools.partial(_seconds_since, started)
                    own.append(Checkpointer(recorder, progress, state, clock, others))
                if state.epoch < last and not progress.stopped:
                    with _distribution.fitting(view, fit_data):
                        view.fit(
                            fit_data.x,
                            validation_data=_distribution.validation_data(view, phase_validation),
                            initial_epoch=state.epoch,
                            epochs=last,
                            shuffle=shuffle,
                            class_weight=fit_data.class_weight,
                            callbacks=own,
                            verbose=verbose,
                        )
                else:  # it was killed after its last epoch
                    view.optimizer.finalize_variable_values(view.trainable_variables)
            forget_gradients(model.variables)
            state.go_back_to_best(model)
            epochs, seconds = state.epoch - progress.first_epoch, _seconds_since(started)
            done = PhaseResult(phase.name, progress.first_epoch, epochs, seconds, progress.settings)
            result.phases.append(done)
            progress = Progress(
                number + 1, state.epoch, 0.0, progress.found, progress.rule, done=list(result.phases)
            )
            result.history, result.best = state.history, state.best
            if names is not None:
                attach_class_names(model, names)
            if folder is not None and here.index == 0:
                _write(result, folder, settings_of_run, finished=number + 1 == len(phases))
        if recorder is not None:
            _distribution.agreed(model, state.epoch)  # nobody reads features any more
            recorder.finish()
        objective.compile_model(model, phases[-1].make_optimizer(), one_hot)
    return result


@contextlib.contextmanager
def _unharmed(model: keras.Model, state: RunState) -> Iterator[None]:
    """Put weights and `trainable` flags back if the block raises, and forget the calibration of others.

    On JAX an exception inside `fit` leaves a model without weights, as the step was given their memory.
    """
    flags, calibrated = trainable_state(model), calibration.of(model)
    calibration.forget_calibration(model)
    try:
        yield
    except BaseException:
        restore_trainable_state(flags)
        assign_variables(model.variables, state.weights)
        if calibrated is not None and state.epoch == 0:
            calibration.attach_calibration(model, calibrated)
        raise


def _temporary_folder() -> contextlib.AbstractContextManager[str]:
    # Where files can't be removed while they are mapped into memory, they stay.
    return tempfile.TemporaryDirectory(prefix="keras_transfer-", ignore_cleanup_errors=True)


def _new_optimizer(
    phase: Phase,
    model: keras.Model,
    view: keras.Model,
    state: RunState,
    progress: Progress,
    steps: int,
    console: rich.console.Console,
) -> keras.optimizers.Optimizer:
    """Return what a phase begins to train with, and tell the user and `progress` what that is."""
    rate = phase.rate(progress.found, steps)
    optimizer = phase.make_optimizer(rate)
    settings = phase.describe(rate)
    table = trainable_table(model, settings["learning_rate"], getattr(optimizer, "multiplier_of", None))
    console.print(table.summary())
    progress.settings = settings | {
        "range_test": progress.rule if phase.learning_rate == FIND else None,
        "found": progress.found if phase.learning_rate in (FIND, FOUND) else None,
        "groups": table.by_group(),
    }
    if state.optimizer is not None and same_kind(state.optimizer, optimizer):
        return carry_over(state.optimizer, view.trainable_variables, settings=optimizer)
    return optimizer


def _seconds_since(started: float) -> float:
    return time.perf_counter() - started


def output_folder(directory: str | os.PathLike[str]) -> Path:
    """Make the folder of a run, or raise if its files can't be written into it."""
    from keras_transfer.reports import plots  # noqa: F401  fails now, not after hours, if it must

    folder = writable_directory(directory)
    for name in FILES:
        if (folder / name).is_dir():
            raise ValueError(
                f"directory must be a folder in which {name} can be written, but that is a folder "
                f"itself. Received: directory={str(directory)!r}"
            )
    return folder


def _take_finished(
    result: FineTuneResult, folder: Path, settings: dict[str, Any], state: RunState
) -> bool:
    """Take over the result of a run that is over, if the folder holds one."""
    model_file, history_file, _ = (folder / name for name in FILES)
    found = read_finished(history_file, result.model)
    if found is None:
        return False
    before, other = found
    check_same(before, settings, folder)
    load_weights(result.model, model_file)
    state.weights = copy_variables(result.model.variables)
    result.history, result.phases, result.best = other.history, other.phases, other.best
    return True


def _write(
    result: FineTuneResult, folder: Path, settings: dict[str, Any] | None, finished: bool
) -> None:
    from keras_transfer.reports import plots

    model = result.model
    # A file without optimizer opens on every backend (torch's are saved under a name of their own).
    bare = keras.Model(model.inputs, model.outputs[0], name=model.name)
    _assets.hand_on(model, bare)
    model_file, history_file, curves_file = (folder / name for name in FILES)
    with replacing(model_file) as path:
        bare.save(path)
    write_json(history_file, {**result.to_dict(), "run": settings, "finished": finished})
    with replacing(curves_file) as path:
        plots.history(result).savefig(path, dpi=120)
