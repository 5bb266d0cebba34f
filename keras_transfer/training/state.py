"""The state of a run: what it knows between two epochs."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.variables import assign_variables, copy_variables
from keras_transfer.layers.adapters import Adapters
from keras_transfer.results.training import Best, FineTuneResult, Logs, PhaseResult


@dataclass
class RunState:
    """All that a run knows between two epochs; with its job, all that is needed to go on from there.

    Attributes:
        weights: the model's variables after the last finished epoch, averaged where the phase averages,
            with what adapters (LoRA) add to kernels.
        logs: the metrics of every finished epoch.
        best: the best epoch so far, by validation.
        best_weights: the same after it.
        kept: the optimizer of the weights to go on from, the best, else the last; None where no later
            phase can go on with it.
        slots: its variables then; None if they are those that it has.
        done: the phases that are over.
        phase: the number of the phase that the run is in.
        first_epoch: the epoch of the run with which the phase began.
        seconds: how long the phase took until the last finished epoch, in other processes, too.
        found: the rate that the last range test found.
        rule: by which rule.
        runtime: by what the features of frozen parts are computed.
        settings: what trains in the phase and how, once it has begun.
        stopped: whether a callback has ended the phase.
        ended: whether a callback of the run has ended the run.
        optimizer: that of the phase, once it has finished an epoch.
        flags: what was trainable after the last finished epoch, where the run comes from a file.
        callbacks: for each callback its numbers then, where the run comes from a file.
        adapters: those of the phase, in which there may be none; None before it.
        raw: the variables to train on from, those of adapters behind the model's, while it has averaged
            ones.
        mean: the mean of them over the epochs of the phase that count, where it takes such a mean.
        averaged: how many epochs that are so far.
        start: the model's variables when the run began, where a phase needs them.
    """

    weights: list[np.ndarray]
    logs: list[Logs] = field(default_factory=list)
    best: Best | None = None
    best_weights: list[np.ndarray] | None = None
    kept: keras.optimizers.Optimizer | None = None
    slots: list[np.ndarray] | None = None
    done: list[PhaseResult] = field(default_factory=list)
    phase: int = 0
    first_epoch: int = 0
    seconds: float = 0.0
    found: float = math.nan
    rule: str = ""
    runtime: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False
    ended: bool = False
    optimizer: keras.optimizers.Optimizer | None = None
    flags: list[bool] = field(default_factory=list)
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    adapters: Adapters | None = None
    raw: list[np.ndarray] | None = None
    mean: list[np.ndarray] | None = None
    averaged: int = 0
    start: list[np.ndarray] | None = None

    @property
    def epoch(self) -> int:
        """The number of the next epoch."""
        return len(self.logs)

    def result(self, model: keras.Model) -> FineTuneResult:
        """Return what the run has come to so far, with the model that it trains."""
        names = dict.fromkeys(name for logs in self.logs for name in logs)
        history = {name: [logs.get(name, math.nan) for logs in self.logs] for name in names}
        return FineTuneResult(model, history, list(self.done), self.best)

    def take(self, result: FineTuneResult) -> None:
        """Be the state of a run that is over, with this result."""
        self.weights = copy_variables(result.model.variables)
        values = zip(*result.history.values(), strict=True)
        self.logs = [dict(zip(result.history, epoch, strict=True)) for epoch in values]
        self.done, self.best = list(result.phases), result.best

    def finish_epoch(
        self,
        phase: str,
        weights: list[np.ndarray],
        optimizer: keras.optimizers.Optimizer | None,
        logs: Logs,
    ) -> None:
        """Take in a finished epoch."""
        self.weights = weights
        if "val_loss" in logs and (self.best is None or _merit(logs) > _merit(self.best.metrics)):
            self.best = Best(phase, self.epoch, logs)
            self.best_weights = weights
            self.kept = optimizer
            self.slots = None if optimizer is None else copy_variables(optimizer.variables)
        elif self.best is None:
            self.kept, self.slots = optimizer, None
        self.logs.append(logs)

    def go_back_to_best(self, model: keras.Model) -> None:
        """Give `model` and the optimizer the values to go on from: the best, else those they have."""
        if self.best_weights is not None:
            assign_variables(model.variables, self.best_weights)
        self.weights = copy_variables(model.variables)
        if self.kept is not None and self.slots is not None:
            assign_variables(self.kept.variables, self.slots)

    def finish_phase(self, name: str, seconds: float) -> PhaseResult:
        """Count the phase among those that are over, and stand before the next."""
        epochs = self.epoch - self.first_epoch
        done = PhaseResult(name, self.first_epoch, epochs, seconds, self.settings)
        self.done.append(done)
        self.phase, self.first_epoch, self.seconds = self.phase + 1, self.epoch, 0.0
        self.settings, self.stopped, self.optimizer = {}, False, None
        self.flags, self.callbacks = [], []
        self.adapters, self.raw, self.mean, self.averaged = None, None, None, 0
        return done


class Clock:
    """Counts the seconds of a phase, those of earlier processes included."""

    def __init__(self, state: RunState) -> None:
        self._started = time.perf_counter() - state.seconds

    @property
    def seconds(self) -> float:
        """How long the phase has taken so far."""
        return time.perf_counter() - self._started


def _merit(logs: Logs) -> tuple[float, float]:
    """Order epochs: a higher validation accuracy first, then a lower validation loss."""
    accuracies = [logs[name] for name in ("val_accuracy", "val_acc") if name in logs]
    accuracies += [value for name, value in logs.items() if name.startswith("val_") and "acc" in name]
    loss = logs["val_loss"]
    return accuracies[0] if accuracies else 0.0, -loss if np.isfinite(loss) else -np.inf
