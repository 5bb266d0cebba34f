"""Fine-tuning in phases: freeze, compile on the logits, fit, keep the best."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import keras

from keras_transfer import _distribution
from keras_transfer._lib.files import folder_or_temporary, replacing, writable_directory, write_json
from keras_transfer._lib.messages import say
from keras_transfer._lib.variables import assign_variables, copy_variables
from keras_transfer.backbones.applications import load_weights
from keras_transfer.data.carried_rules import attach_rules
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.features.cache.cache import CacheOptions
from keras_transfer.layers.about import attach_class_names
from keras_transfer.layers.freezing import restore_trainable_state, trainable_state
from keras_transfer.probabilities import calibration
from keras_transfer.probabilities.thresholds import attach_thresholds
from keras_transfer.results.training import FineTuneResult
from keras_transfer.tasks.class_weights import ClassWeight
from keras_transfer.training.checks import FILES, check_repeatable
from keras_transfer.training.engine import trained_phases
from keras_transfer.training.frozen_part import FrozenPart, runtime_of
from keras_transfer.training.job import Job, checked_job
from keras_transfer.training.phase import Phase
from keras_transfer.training.resuming import Recorder, check_same
from keras_transfer.training.settings import run_settings
from keras_transfer.training.state import RunState
from keras_transfer.training.told import bare
from keras_transfer.training.written import read_finished

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
    class_weight: ClassWeight | None = None,
    augmentation: str | Augmentation | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    seed: int = 0,
    cache: bool | Literal["auto"] | CacheOptions = "auto",
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    verbose: str | int = "auto",
) -> FineTuneResult:
    """Train a classifier phase by phase and keep its best weights.

    Each phase freezes and unfreezes layers, compiles and fits. An optimizer of the same kind as in the
    phase before goes on with the slots of what trained there; what joins has its own bias correction
    (see `keras_transfer.recompile`). The loss is taken on the logits (see
    `keras_transfer.training.objective`). With validation data every phase begins with
    the best weights so far, and the model ends with the best of all: highest validation accuracy, then
    lowest validation loss. Without, each goes on from the last. Where a phase averages weights, all of
    that is about averaged ones (see `keras_transfer.Phase`).

    Epochs are numbered through all phases, for the data order, callbacks and history alike. The
    process's random generators are seeded (`keras.utils.set_random_seed`), so that a run can be
    repeated. A calibration is forgotten (see `keras_transfer.calibration`).

    If it raises, or is stopped by Ctrl-C, the model has the weights of the last finished epoch (those
    it came with, if none was finished), and what was trainable and how the model was compiled are as
    before.

    Args:
        model: a classifier with one input and one output, from `classifier` or any other.
        train: (x, y) arrays, a `Loader`, a `PyDataset`, or anything else that Keras' `fit` takes as `x`.
        validation: the same for validation, or None.
        phases: what to train, one after the other; by default 5 epochs of the head at 1e-3 and 5 of
            everything at 1e-5, with Adam.
        batch_size: samples a batch, for arrays; other data comes in batches of its own.
        loss: a Keras loss; by default cross-entropy for integer or one-hot labels. Keras' categorical
            cross-entropies are taken on the logits; any other loss gets what the model gives, or the
            logits if it has `from_logits=True`.
        metrics: Keras metrics of the model's output; by default accuracy.
        class_weight: a dict from classes, by name or index, to weights, of which those that are not in
            it have 1; or "balanced", for n / (classes * count), with the number of samples, of classes
            that have some, and of samples of the class, as in scikit-learn. A mixed image has the weight
            of its larger part.
        augmentation: for training images, if `train` is arrays or a `Loader`: as in `Loader`; a phase
            may have its own. None leaves a `Loader`'s own.
        callbacks: Keras callbacks of the run, which see all phases as one training: it begins and ends
            once, epochs are numbered through, and `stop_training` ends the run, whatever phases were to
            come (for that of a phase alone there is `Phase(callbacks=...)`). It ends when the model has
            its best weights; what a callback puts in their place then, as `EarlyStopping` with
            `restore_best_weights`, stays. Their `model` is the whole one, from the images to the
            probabilities, with the optimizer that trains; what it saves, as by `ModelCheckpoint`, is the
            whole with its class names, not compiled, and opens in stock Keras on any backend. Those of
            `keras_transfer.callbacks`, and `SwapEMAWeights`, belong to the fit of each phase.
            `BackupAndRestore` brings weights and epoch back; `resume` brings all.
        seed: decides order, augmentation and dropout; a `Loader` keeps its own seed.
        cache: "auto" or True: where the first part of the network is frozen, what it makes of the images
            is computed once and kept on disk while the run lasts (see `keras_transfer.FeatureCache`),
            and only the rest is trained, on the same features in the same order; a line for each phase
            tells where, or why not. `keras_transfer.CacheOptions`: the same with another folder or
            precision, or for augmented images. False: every epoch computes all.
        output: a folder for `model.keras` (the weights kept so far, not compiled), `history.json`
            and `curves.png`, each written whole or not at all after every phase; files of these names
            are replaced. None writes nothing. While a run on arrays or a `Loader` lasts, the folder
            `checkpoint` in it has what `resume` needs. Two runs can't share a folder.
        resume: go on with the run that `output` holds, after its last finished epoch, whatever ended
            it; with the same model, data, arguments and versions the result is that of a run that was
            never stopped. The backend may be another one; the result is then the same but for
            rounding. Where there is no run to go on with, it begins; where it is over, its result comes
            back. Of callbacks, numbers among their attributes are taken along.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        A `FineTuneResult`. The model in it is the given one, compiled for `evaluate` with the loss and
        metrics on its probabilities and a fresh optimizer of the last phase. For other backends take the
        file in `output`: Keras saves some optimizers so that only their backend can read them.

    Raises:
        ValueError, TypeError: an argument doesn't fit, such as an optimizer with moving averages of its
            own (`use_ema`) together with validation data; nothing has changed.
        ValueError: the run in `output` had other settings, data or versions (the message says which),
            or its checkpoints are damaged, or another process is writing into it; nothing has changed.
        FloatingPointError: the loss of an epoch is not a finite number.
        ValueError: when a phase with `learning_rate="find"` begins, the range test suggests no rate;
            the model has the weights of the last finished epoch.
        ImportError: `output` is given and matplotlib is not installed.

    Example:
        >>> import numpy as np, keras, keras_transfer as kt
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.integers(0, 256, (8, 32, 32, 3), "uint8"), np.arange(8) % 2
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> result = kt.fine_tune(model, (x, y), phases=[kt.Phase("head", 2)], verbose=0)
        >>> len(result.history["loss"])
        2
    """
    job = checked_job(
        model,
        train,
        validation,
        DEFAULT_PHASES if phases is None else phases,
        batch_size=batch_size,
        loss=loss,
        metrics=metrics,
        class_weight=class_weight,
        augmentation=augmentation,
        callbacks=callbacks,
        seed=seed,
        cache=cache,
        verbose=verbose,
        output="none" if output is None else "given",
        resume=resume,
    )
    folder = None if output is None else output_folder(output)
    settings = None
    if check_repeatable(job.train, job.validation, folder, resume) and folder is not None:
        settings = run_settings(job, loss=loss, metrics=metrics)
    _distribution.start_equal(model)
    state = RunState(copy_variables(model.variables))
    with _distribution.scope(model), unharmed(model, state), contextlib.ExitStack() as stack:
        recorder = None
        if folder is not None and settings is not None:
            recorder = stack.enter_context(contextlib.closing(Recorder(folder, job, settings)))
            _begin(job, state, recorder, folder, settings, resume)
        after_epoch = None if recorder is None else recorder.save
        with contextlib.ExitStack() as features:
            frozen = _frozen_part(job, state, recorder, features)
            for _ in trained_phases(job, state, frozen, after_epoch):
                _attach_what_is_known(job)
                if folder is not None and job.place.index == 0:
                    finished = state.phase == len(job.phases)
                    _write(state.result(model), folder, settings, finished)
        if recorder is not None:
            _distribution.agreed(model, state.epoch)  # nobody reads features any more
            recorder.finish()
        job.objective.compile_model(model, job.phases[-1].make_optimizer(model=model), job.one_hot)
    return state.result(model)


def _begin(
    job: Job,
    state: RunState,
    recorder: Recorder,
    folder: Path,
    settings: dict[str, Any],
    resume: bool,
) -> None:
    """Bring the state to where the run in a folder was, or begin the run there."""
    resumed = resume and recorder.resume(state)
    finished = _finished(job, folder, settings) if resume and not resumed else None
    # Each has read before the first process writes.
    if not _distribution.agreed(job.model, state.epoch if finished is None else -1):
        raise ValueError(
            "output must be the same folder for all processes, so that they go on alike. "
            f"Received: output={str(folder)!r}, resume={resume!r}"
        )
    if finished is not None:
        state.take(finished)
        state.phase = len(job.phases)
        say(job.verbose, "The run is over: this is its result")
        _attach_what_is_known(job)
    elif not resumed:
        recorder.begin(state)


def _attach_what_is_known(job: Job) -> None:
    """Make the model carry what the data tells of its classes, and of how images are read."""
    if job.names is not None:
        attach_class_names(job.model, job.names)
    attach_rules(job.model, job.train)


def _finished(job: Job, folder: Path, settings: dict[str, Any]) -> FineTuneResult | None:
    """Return the result of the run in a folder, with its weights in the model, if that run is over."""
    model_file, history_file, _ = (folder / name for name in FILES)
    found = read_finished(history_file, job.model)
    if found is None:
        return None
    before, result = found
    check_same(before, settings, folder)
    load_weights(bare(job.model), model_file)  # a compiled one would want its optimizer's state
    return result


def _frozen_part(
    job: Job, state: RunState, recorder: Recorder | None, stack: contextlib.ExitStack
) -> FrozenPart | None:
    """Return what computes the frozen part once, with a folder, as long as the stack is open."""
    if job.cache is None or state.phase == len(job.phases):
        return None
    place = job.cache.folder or (recorder.features if recorder else None)
    folder = stack.enter_context(folder_or_temporary(place))
    runtime, state.runtime = runtime_of(job, state.runtime)
    options = dataclasses.replace(job.cache, folder=folder, runtime=runtime)
    return stack.enter_context(contextlib.closing(FrozenPart(job, options)))


@contextlib.contextmanager
def unharmed(model: keras.Model, state: RunState) -> Iterator[None]:
    """Put weights and `trainable` flags back if the block raises, and forget the calibration of others.

    On JAX an exception inside `fit` leaves a model without weights, as the step was given their memory.
    """
    flags, calibrated = trainable_state(model), calibration.of(model)
    thresholds = calibration.thresholds_of(model)
    calibration.forget_calibration(model)
    try:
        yield
    except BaseException:
        restore_trainable_state(flags)
        assign_variables(model.variables, state.weights)
        if calibrated is not None and state.epoch == 0:
            calibration.attach_calibration(model, calibrated)
        if state.epoch == 0:
            attach_thresholds(model, thresholds)
        raise


def output_folder(output: str | os.PathLike[str]) -> Path:
    """Make the folder of a run, or raise if its files can't be written into it."""
    from keras_transfer.reports import plots  # noqa: F401  fails now, not after hours, if it must

    folder = writable_directory(output, "output")
    for name in FILES:
        if (folder / name).is_dir():
            raise ValueError(
                f"output must be a folder in which {name} can be written, but that is a folder "
                f"itself. Received: output={str(output)!r}"
            )
    return folder


def _write(
    result: FineTuneResult, folder: Path, settings: dict[str, Any] | None, finished: bool
) -> None:
    from keras_transfer.reports import plots

    model = result.model
    model_file, history_file, curves_file = (folder / name for name in FILES)
    with replacing(model_file) as path:
        bare(model).save(path)
    write_json(history_file, {**result.to_dict(), "run": settings, "finished": finished})
    with replacing(curves_file) as path:
        plots.history(result).savefig(path, dpi=120)
