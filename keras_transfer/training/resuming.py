"""Going on with a run that was killed: what a process must know of it, to files and back."""

import contextlib
import inspect
import logging
import math
import numbers
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import keras
import numpy as np
import rich.console

from keras_transfer._files import remove_unfinished
from keras_transfer._keras_private import optimized_variables
from keras_transfer._variables import assign_variables, copy_variables
from keras_transfer.freezing import restore_trainable_state, trainable_state
from keras_transfer.optimizers.carry_over import inner_optimizer
from keras_transfer.optimizers.layerwise_lr import LayerwiseLR, with_births
from keras_transfer.training.checkpoints import UNREADABLE, Checkpoints, DamagedError
from keras_transfer.training.checks import FILES
from keras_transfer.training.phase import Phase
from keras_transfer.training.result import (
    PhaseResult,
    best_from,
    is_count,
    logs_from,
    number_from,
    phase_from,
)
from keras_transfer.training.settings import backend_of, differences
from keras_transfer.training.state import RunState

_FOLDER = "checkpoint"
_FEATURES = "features"
_LOCK = "lock"

_log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run is, beside its state.

    Attributes:
        phase: the number of the phase that it is in.
        first_epoch: the epoch of the run with which the phase began.
        seconds: how long the phase took in processes before this one.
        found: the rate that the last range test found.
        rule: by which rule.
        settings: what trains in the phase and how, once it has begun.
        stopped: whether a callback has ended the phase.
        done: the phases before.
        optimizer: of the phase, where it is resumed in the middle.
        flags: what is trainable then.
        callbacks: for each callback its attributes that are numbers.
    """

    phase: int = 0
    first_epoch: int = 0
    seconds: float = 0.0
    found: float = math.nan
    rule: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False
    done: list[PhaseResult] = field(default_factory=list)
    optimizer: keras.optimizers.Optimizer | None = None
    flags: list[bool] = field(default_factory=list)
    callbacks: list[dict[str, Any]] = field(default_factory=list)


class Recorder:
    """Writes down after every epoch what another process needs to go on with a run.

    Args:
        directory: the folder of the run; what is written stands in a folder of it that `finish` removes.
        model: the model that trains.
        phases: the phases of the run.
        steps: how many batches an epoch has, where a phase asks for it.
        settings: what must be the same to go on, as plain data.
        console: where to say what is done.
        writes: whether this is the process that writes, of several that train together.

    Raises:
        ValueError: another run is writing into the folder.
    """

    def __init__(
        self,
        directory: Path,
        model: keras.Model,
        phases: Sequence[Phase],
        steps: int,
        settings: dict[str, Any],
        console: rich.console.Console,
        writes: bool = True,
    ) -> None:
        self._writes = writes
        self._model, self._phases, self._steps = model, phases, steps
        self._settings, self._console = settings, console
        self._folder = directory / _FOLDER
        self._folder.mkdir(exist_ok=True)
        self._lock = filelock.FileLock(self._folder / _LOCK, blocking=False)
        try:
            if writes:
                self._lock.acquire()
        except filelock.Timeout as error:
            raise ValueError(
                "directory must be that of one run at a time; another one is writing into it. "
                f"Received: directory={str(directory)!r}"
            ) from error
        self._checkpoints = Checkpoints(self._folder)
        # The optimizers that the state or the phase goes on with, and what they can be made from.
        self._known: list[tuple[keras.optimizers.Optimizer, dict[str, Any]]] = []

    @property
    def features(self) -> Path:
        """A folder for the features of the run, which go away with it."""
        return self._folder / _FEATURES

    def begin(self, state: RunState) -> Progress:
        """Forget any run before, and write down what this one begins with."""
        progress = Progress()
        if self._writes:
            self._checkpoints.clear()
        self.save(progress, state, None, ())
        return progress

    def resume(self, state: RunState) -> Progress | None:
        """Bring a state and the model to where the run was, and return how far it is.

        Returns:
            None if there is nothing to go on from.

        Raises:
            ValueError: the checkpoints are damaged, or of a run with other settings; nothing has
                changed.
        """
        try:
            loaded = self._checkpoints.load()
        except DamagedError as error:
            raise self._refusal(f"every checkpoint there is damaged ({error})") from error
        if loaded is None:
            return None
        arrays, about, problems = loaded
        for problem in problems:
            self._say(f"Passed over a damaged checkpoint: {problem}")
        before = about.get("run") if isinstance(about, dict) else None
        check_same(before, self._settings, self._folder.parent)
        try:
            progress = self._restored(arrays, about, state)
        except UNREADABLE as error:
            raise self._refusal(f"the checkpoint doesn't fit ({error})") from error
        begun = backend_of(about["run"])
        moved = "" if begun == backend_of(self._settings) else f", begun on {begun}"
        self._say(f"Resumed after {state.epoch} finished epochs{moved}")
        return progress

    def save(
        self,
        progress: Progress,
        state: RunState,
        optimizer: keras.optimizers.Optimizer | None,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        """Write a checkpoint; where that fails, say so and let the run go on.

        Args:
            progress: how far the run is.
            state: its state.
            optimizer: the one of the phase, or None before its first epoch.
            callbacks: those of the phase.
        """
        if not self._writes:
            return
        arrays = _named("weights", copy_variables(self._model.variables))
        about: dict[str, Any] = {
            "run": self._settings,
            "progress": {
                name: getattr(progress, name)
                for name in ("phase", "first_epoch", "seconds", "found", "rule", "settings", "stopped")
            },
            "done": [vars(phase) for phase in progress.done],
            "logs": state.logs,
            "best": None if state.best is None else vars(state.best),
            "flags": [trainable for _, trainable in trainable_state(self._model)],
            "callbacks": [_scalars(callback) for callback in callbacks],
            "optimizer": None,
            "kept": None,
        }
        if state.best_weights is not None:
            arrays |= _named("best", state.best_weights)
        if optimizer is not None:
            about["optimizer"] = self._described(optimizer, progress.phase, progress.found)
            arrays |= _named("optimizer", copy_variables(optimizer.variables))
        kept = state.optimizer
        if kept is not None:
            about["kept"] = self._described(kept, progress.phase, progress.found)
            about["kept is optimizer"] = kept is optimizer
            values = copy_variables(kept.variables) if state.slots is None else state.slots
            arrays |= _named("kept", values)
        self._known = [known for known in self._known if known[0] is optimizer or known[0] is kept]
        try:
            self._checkpoints.save(arrays, about)
        except OSError as error:
            message = f"no checkpoint of epoch {state.epoch} was written ({error})"
            _log.warning(message)
            self._say(message)

    def set_trainable(self, progress: Progress) -> None:
        """Let those layers train that did when the checkpoint was written."""
        things = [thing for thing, _ in trainable_state(self._model)]
        restore_trainable_state(list(zip(things, progress.flags, strict=True)))

    def finish(self) -> None:
        """Remove what was written, as the run is over and its result in files."""
        if self.features.is_dir() and not self.features.is_symlink():
            shutil.rmtree(self.features, ignore_errors=True)
        if not self._writes:
            return
        for name in FILES:
            remove_unfinished(self._folder.parent / name)
        self._checkpoints.clear()

    def close(self) -> None:
        """Let other runs write into the folder; it goes away if there is nothing to go on with."""
        if not self._writes:
            with contextlib.suppress(OSError):  # others use it, or its run isn't over
                self._folder.rmdir()
            return
        with contextlib.suppress(OSError):  # as on Windows, where nobody can remove an open file
            if [path.name for path in self._folder.iterdir()] == [_LOCK]:
                (self._folder / _LOCK).unlink()
                self._folder.rmdir()
        self._lock.release()

    def _described(
        self, optimizer: keras.optimizers.Optimizer, phase: int, found: float
    ) -> dict[str, Any]:
        """Return what an optimizer of a phase can be made again from, but for its numbers."""
        for known, about in self._known:
            if known is optimizer:
                return about
        inner = inner_optimizer(optimizer)
        place = {id(variable): index for index, variable in enumerate(self._model.variables)}
        about = {
            "phase": phase,
            "found": found,
            "variables": [place[id(variable)] for variable in optimized_variables(inner)],
            "births": inner.births if isinstance(inner, LayerwiseLR) else None,
            "scaled": inner is not optimizer,
        }
        self._known.append((optimizer, about))
        return about

    def _made(self, about: dict[str, Any], values: list[np.ndarray]) -> keras.optimizers.Optimizer:
        """Return the optimizer that `_described` has described, with its numbers."""
        phase = self._phases[about["phase"]]
        made = phase.make_optimizer(phase.rate(about["found"], self._steps))
        if about["births"] is not None:
            made = with_births(made, [int(birth) for birth in about["births"]])
        if about["scaled"]:
            made = keras.optimizers.LossScaleOptimizer(made)
        variables = self._model.variables
        made.build([variables[index] for index in about["variables"]])
        _check_shapes(made.variables, values)
        assign_variables(made.variables, values)
        self._known.append((made, about))
        return made

    def _restored(
        self, arrays: dict[str, np.ndarray], about: dict[str, Any], state: RunState
    ) -> Progress:
        weights = _listed(arrays, "weights")
        _check_shapes(self._model.variables, weights)
        best = _listed(arrays, "best") or None
        if best is not None:
            _check_shapes(self._model.variables, best)
        logs = [logs_from(each) for each in about["logs"]]
        found_best = None if about["best"] is None else best_from(about["best"])
        progress = Progress(
            **about["progress"],
            done=[phase_from(phase) for phase in about["done"]],
            flags=about["flags"],
            callbacks=about["callbacks"],
        )
        self._check(progress, len(logs))
        if about["optimizer"] is not None:
            progress.optimizer = self._made(about["optimizer"], _listed(arrays, "optimizer"))
        kept, slots = None, None
        if about["kept"] is not None:
            slots = _listed(arrays, "kept")
            kept = progress.optimizer
            if not about["kept is optimizer"]:
                kept = self._made(about["kept"], slots)
        assign_variables(self._model.variables, weights)
        state.weights = copy_variables(self._model.variables)
        state.logs, state.best = logs, found_best
        state.best_weights = best
        state.optimizer, state.slots = kept, slots if best is not None else None
        return progress

    def _check(self, progress: Progress, epochs: int) -> None:
        """Raise a `ValueError` or `TypeError` if something of what a file tells is of another kind."""
        progress.seconds, progress.found = number_from(progress.seconds), number_from(progress.found)
        fits = {
            "phase": is_count(progress.phase) and progress.phase < len(self._phases),
            "first_epoch": is_count(progress.first_epoch) and progress.first_epoch <= epochs,
            "rule": isinstance(progress.rule, str),
            "settings": isinstance(progress.settings, dict),
            "stopped": isinstance(progress.stopped, bool),
            "flags": isinstance(progress.flags, list)
            and len(progress.flags) == len(trainable_state(self._model))
            and all(isinstance(flag, bool) for flag in progress.flags),
            "callbacks": isinstance(progress.callbacks, list)
            and all(isinstance(known, dict) for known in progress.callbacks),
        }
        for name, fit in fits.items():
            if not fit:
                raise ValueError(f"its {name} can't be {getattr(progress, name)!r:.80}")

    def _refusal(self, why: str) -> ValueError:
        return ValueError(
            f"the run in {str(self._folder.parent)!r} can't be resumed: {why}; begin it anew with "
            "resume=False. Received: resume=True"
        )

    def _say(self, what: str) -> None:
        self._console.print(what, highlight=False, markup=False)


def check_same(before: Any, now: dict[str, Any], directory: Path) -> None:
    """Raise a `ValueError` that says in what a run differs from the one in a folder."""
    other = differences(before, now)
    if other:
        shown = "; ".join(other[:5]) + (f"; and {len(other) - 5} more" if len(other) > 5 else "")
        raise ValueError(
            "resume=True needs model, data, settings and versions as they were; give them again, or "
            f"begin anew with resume=False. Received: for {str(directory)!r} {shown}"
        )


class Checkpointer(keras.callbacks.Callback):
    """Has a checkpoint written at the end of each epoch, after all other callbacks.

    Args:
        recorder: what writes it.
        progress: how far the run is.
        state: the state of the run.
        seconds: a function that returns how long the phase took so far.
        callbacks: the other callbacks of the phase, whose numbers it puts back where it is resumed.
    """

    def __init__(
        self,
        recorder: Recorder,
        progress: Progress,
        state: RunState,
        seconds: Callable[[], float],
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        super().__init__()
        self._recorder, self._progress, self._state = recorder, progress, state
        self._seconds, self._others = seconds, callbacks

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Give the other callbacks what they knew."""
        for callback, known in zip(self._others, self._progress.callbacks, strict=False):
            for name, value in known.items():
                now = getattr(callback, name, value)
                if _is_scalar(value) and (name in _scalars(callback) or now is None):
                    setattr(callback, name, value)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write a checkpoint."""
        view = self.model
        self._progress.stopped = bool(view.stop_training)
        self._progress.seconds = self._seconds()
        self._progress.optimizer = view.optimizer
        self._recorder.save(self._progress, self._state, view.optimizer, self._others)


def _scalars(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return the attributes of a callback that are numbers or nothing, but for its arguments.

    Some change with use: the first look at a metric turns the sign of EarlyStopping's `min_delta`. Texts
    stay what they are: some tell where a callback writes, which a file must not decide.
    """
    arguments = inspect.signature(type(callback).__init__).parameters
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in vars(callback).items()
        if name not in arguments and _is_scalar(value)
    }


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, numbers.Real)


def _named(prefix: str, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}.{index}": np.asarray(array) for index, array in enumerate(arrays)}


def _listed(arrays: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    names = (f"{prefix}.{index}" for index in range(len(arrays)))
    return [arrays[name] for name in names if name in arrays]


def _check_shapes(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    shapes = [tuple(variable.shape) for variable in variables]
    found = [value.shape for value in values]
    if shapes != found:
        raise ValueError(f"it has {len(found)} arrays of other shapes than the {len(shapes)} needed")
