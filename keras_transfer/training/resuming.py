"""Going on with a run that was killed: its state, to files and back."""

import contextlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock
import keras
import numpy as np

from keras_transfer._lib.arrays import DamagedError
from keras_transfer._lib.files import remove_unfinished
from keras_transfer._lib.keras_private.optimizer import optimized_variables
from keras_transfer._lib.messages import say
from keras_transfer._lib.variables import assign_variables, copy_variables
from keras_transfer.layers.adapters import Adapters
from keras_transfer.layers.freezing import trainable_state
from keras_transfer.optimizers.carry_over import inner_optimizer
from keras_transfer.optimizers.layerwise_lr import LayerwiseLR, with_births
from keras_transfer.training.checkpoints import UNREADABLE, Checkpoints
from keras_transfer.training.checks import FILES
from keras_transfer.training.epochs import numbers_of
from keras_transfer.training.job import Job
from keras_transfer.training.settings import backend_of, differences
from keras_transfer.training.state import RunState
from keras_transfer.training.written import best_from, is_count, logs_from, number_from, phase_from

_FOLDER = "checkpoint"
_FEATURES = "features"
_LOCK = "lock"
# The fields of a state that a checkpoint has as they are.
_PROGRESS = (
    "phase",
    "first_epoch",
    "seconds",
    "found",
    "rule",
    "settings",
    "stopped",
    "ended",
    "runtime",
    "averaged",
)

_log = logging.getLogger(__name__)


class Recorder:
    """Writes down after every epoch what another process needs to go on with a run.

    Args:
        output: the folder of the run; what is written stands in a folder of it that `finish` removes.
        job: what the run is told.
        settings: what must be the same to go on, as plain data.

    Raises:
        ValueError: another run is writing into the folder.
    """

    def __init__(
        self,
        output: Path,
        job: Job,
        settings: dict[str, Any],
    ) -> None:
        self._job, self._model, self._settings = job, job.model, settings
        self._writes = job.place.index == 0  # of several processes that train together
        self._folder = output / _FOLDER
        self._folder.mkdir(exist_ok=True)
        self._lock = filelock.FileLock(self._folder / _LOCK, blocking=False)
        try:
            if self._writes:
                self._lock.acquire()
        except filelock.Timeout as error:
            raise ValueError(
                "output must be that of one run at a time; another one is writing into it. "
                f"Received: output={str(output)!r}"
            ) from error
        self._checkpoints = Checkpoints(self._folder)
        # The optimizers that the state or the phase goes on with, and what they can be made from.
        self._known: list[tuple[keras.optimizers.Optimizer, dict[str, Any]]] = []

    @property
    def features(self) -> Path:
        """A folder for the features of the run, which go away with it."""
        return self._folder / _FEATURES

    def begin(self, state: RunState) -> None:
        """Forget any run before, and write down what this one begins with."""
        if self._writes:
            self._checkpoints.clear()
        self.save(state, ())

    def resume(self, state: RunState) -> bool:
        """Bring a state and the model to where the run was.

        Returns:
            Whether there was something to go on from.

        Raises:
            ValueError: the checkpoints are damaged, or of a run with other settings; nothing has
                changed.
        """
        try:
            loaded = self._checkpoints.load()
        except DamagedError as error:
            raise self._refusal(f"every checkpoint there is damaged ({error})") from error
        if loaded is None:
            return False
        arrays, about, problems = loaded
        for problem in problems:
            self._say(f"Passed over a damaged checkpoint: {problem}")
        before = about.get("run") if isinstance(about, dict) else None
        check_same(before, self._settings, self._folder.parent)
        try:
            self._restore(arrays, about, state)
        except UNREADABLE as error:
            raise self._refusal(f"the checkpoint doesn't fit ({error})") from error
        begun = backend_of(about["run"])
        moved = "" if begun == backend_of(self._settings) else f", begun on {begun}"
        self._say(f"Resumed after {state.epoch} finished epochs{moved}")
        return True

    def save(self, state: RunState, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        """Write a checkpoint; where that fails, say so and let the run go on.

        Args:
            state: that of the run, after an epoch or before the first one.
            callbacks: those of the run and of the phase.
        """
        if not self._writes:
            return
        # The model may have averaged weights, from which training doesn't go on.
        adapters = state.adapters or Adapters(self._model)
        values, plain = state.raw or copy_variables(adapters.variables), len(adapters.plain)
        arrays = _named("weights", values[:plain])
        arrays |= _named("adapters", values[plain:])
        arrays |= _named("averaged", [] if state.raw is None else state.weights)
        arrays |= _named("mean", state.mean or [])
        arrays |= _named("start", state.start or [])
        about: dict[str, Any] = {
            "run": self._settings,
            "progress": {name: getattr(state, name) for name in _PROGRESS},
            "done": [vars(phase) for phase in state.done],
            "logs": state.logs,
            "best": None if state.best is None else vars(state.best),
            "flags": [trainable for _, trainable in trainable_state(self._model)],
            "callbacks": [numbers_of(callback) for callback in callbacks],
            "optimizer": None,
            "kept": None,
        }
        if state.best_weights is not None:
            arrays |= _named("best", state.best_weights)
        optimizer, kept = state.optimizer, state.kept
        if optimizer is not None:
            about["optimizer"] = self._described(optimizer, state, adapters)
            arrays |= _named("optimizer", copy_variables(optimizer.variables))
        if kept is not None:
            about["kept"] = self._described(kept, state, adapters)
            about["kept is optimizer"] = kept is optimizer
            values = copy_variables(kept.variables) if state.slots is None else state.slots
            arrays |= _named("kept", values)
        self._known = [known for known in self._known if known[0] is optimizer or known[0] is kept]
        try:
            self._checkpoints.save(arrays, about)
        except OSError as error:
            _log.warning("no checkpoint of epoch %d was written (%s)", state.epoch, error)

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
        self, optimizer: keras.optimizers.Optimizer, state: RunState, adapters: Adapters
    ) -> dict[str, Any]:
        """Return what an optimizer of a phase can be made again from, but for its numbers."""
        for known, about in self._known:
            if known is optimizer:
                return about
        inner = inner_optimizer(optimizer)
        place = {id(variable): index for index, variable in enumerate(adapters.variables)}
        about = {
            "phase": state.phase,
            "found": state.found,
            "variables": [place[id(variable)] for variable in optimized_variables(inner)],
            "births": inner.births if isinstance(inner, LayerwiseLR) else None,
            "scaled": inner is not optimizer,
        }
        self._known.append((optimizer, about))
        return about

    def _made(
        self,
        about: dict[str, Any],
        values: list[np.ndarray],
        state: RunState,
    ) -> keras.optimizers.Optimizer:
        """Return the optimizer that `_described` has described, with its numbers."""
        phase = self._job.phases[about["phase"]]
        rate = phase.rate(about["found"], self._job.steps)
        made = phase.training_optimizer(rate, self._model, state.start)
        if any(about["births"] or ()):
            made = with_births(made, [int(birth) for birth in about["births"]])
        if about["scaled"]:
            made = keras.optimizers.LossScaleOptimizer(made)
        current = state.adapters is not None and about["phase"] == state.phase
        # Adapters of a phase before are gone; its optimizer knows more than them.
        adapters = state.adapters if current else phase.adapters(self._model)
        assert adapters is not None
        variables = adapters.variables
        made.build([variables[index] for index in about["variables"]])
        _check_shapes(made.variables, values)
        assign_variables(made.variables, values)
        self._known.append((made, about))
        return made

    def _restore(self, arrays: dict[str, np.ndarray], about: dict[str, Any], state: RunState) -> None:
        """Put a checkpoint into the state and the model, once all of it is known to fit."""
        names = ("weights", "best", "averaged", "start")
        weights, *others = (_listed(arrays, name) for name in names)
        for values in (weights, *filter(None, others)):
            _check_shapes(self._model.variables, values)
        best, averaged, start = (values or None for values in others)
        adapters, own = None, _listed(arrays, "adapters")
        if own:
            adapters = self._job.phases[about["progress"]["phase"]].adapters(self._model)
            _check_shapes(adapters.own, own)
            assign_variables(adapters.own, own)
        mean = _listed(arrays, "mean") or None
        if mean is not None:
            _check_shapes((adapters or Adapters(self._model)).variables, mean)
        found = RunState(
            weights,
            logs=[logs_from(each) for each in about["logs"]],
            best=None if about["best"] is None else best_from(about["best"]),
            best_weights=best,
            mean=mean,
            start=start,
            adapters=adapters,
            done=[phase_from(phase) for phase in about["done"]],
            flags=about["flags"],
            callbacks=about["callbacks"],
            **{name: about["progress"][name] for name in _PROGRESS},
        )
        with (adapters or Adapters(self._model)).shown():  # as they were when it was written
            self._check(found)
        if about["optimizer"] is not None:
            found.optimizer = self._made(about["optimizer"], _listed(arrays, "optimizer"), found)
        if about["kept"] is not None:
            slots = _listed(arrays, "kept")
            same = about["kept is optimizer"]
            found.kept = found.optimizer if same else self._made(about["kept"], slots, found)
            found.slots = slots if best is not None else None
        assign_variables(self._model.variables, weights)
        found.weights = averaged or (adapters or Adapters(self._model)).weights()
        vars(state).update(vars(found))

    def _check(self, state: RunState) -> None:
        """Raise a `ValueError` or `TypeError` if something of what a file tells is of another kind."""
        state.seconds, state.found = number_from(state.seconds), number_from(state.found)
        fits = {
            "phase": is_count(state.phase) and state.phase < len(self._job.phases),
            "first_epoch": is_count(state.first_epoch) and state.first_epoch <= state.epoch,
            "rule": isinstance(state.rule, str),
            "averaged": is_count(state.averaged) and bool(state.averaged) == (state.mean is not None),
            "settings": isinstance(state.settings, dict),
            "runtime": state.runtime is None or isinstance(state.runtime, str),
            "stopped": isinstance(state.stopped, bool),
            "ended": isinstance(state.ended, bool),
            "flags": isinstance(state.flags, list)
            and len(state.flags) == len(trainable_state(self._model))
            and all(isinstance(flag, bool) for flag in state.flags),
            "callbacks": isinstance(state.callbacks, list)
            and all(isinstance(known, dict) for known in state.callbacks),
        }
        for name, fit in fits.items():
            if not fit:
                raise ValueError(f"its {name} can't be {getattr(state, name)!r:.80}")

    def _refusal(self, why: str) -> ValueError:
        return ValueError(
            f"the run in {str(self._folder.parent)!r} can't be resumed: {why}; begin it anew with "
            "resume=False. Received: resume=True"
        )

    def _say(self, what: str) -> None:
        say(self._job.verbose, what)


def check_same(before: Any, now: dict[str, Any], output: Path) -> None:
    """Raise a `ValueError` that says in what a run differs from the one in a folder."""
    other = differences(before, now)
    if other:
        shown = "; ".join(other[:5]) + (f"; and {len(other) - 5} more" if len(other) > 5 else "")
        raise ValueError(
            "resume=True needs model, data, settings and versions as they were; give them again, or "
            f"begin anew with resume=False. Received: for {str(output)!r} {shown}"
        )


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
