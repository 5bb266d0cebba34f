"""What a run of `fine_tune` gives back, and how it is written down."""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from keras_transfer._files import write_json

Logs = dict[str, float]

_FORMAT = 1


@dataclass(frozen=True)
class PhaseResult:
    """What one phase did.

    Attributes:
        name: the phase's name.
        first_epoch: the epoch of the run it began with, from 0.
        epochs: how many epochs of it were trained.
        seconds: how long they took, validation included.
        settings: what trained and how, as plain data.
    """

    name: str
    first_epoch: int
    epochs: int
    seconds: float
    settings: dict[str, Any]


@dataclass(frozen=True)
class Best:
    """The epoch whose weights were kept: highest validation accuracy, then lowest validation loss.

    Attributes:
        phase: the name of its phase.
        epoch: its number in the run, from 0.
        metrics: all its metrics.
    """

    phase: str
    epoch: int
    metrics: Logs


@dataclass
class FineTuneResult:
    """What `fine_tune` gives back.

    Attributes:
        model: the trained model, the same object that was given; with validation data it has the
            weights of `best`, otherwise those of the last epoch.
        history: for each metric its value after every epoch of the run, in order.
        phases: where each phase begins and how long it took.
        best: the epoch whose weights were kept; None without validation data.
    """

    model: keras.Model
    history: dict[str, list[float]] = field(default_factory=dict)
    phases: list[PhaseResult] = field(default_factory=list)
    best: Best | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return history, phases and best as plain data."""
        return {
            "format": _FORMAT,
            "model": self.model.name,
            "history": self.history,
            "phases": [vars(phase) for phase in self.phases],
            "best": None if self.best is None else vars(self.best),
        }

    def save_history(self, path: Path) -> None:
        """Write `to_dict()` to a JSON file, whole or not at all."""
        write_json(path, self.to_dict())


def read_finished(path: Path, model: keras.Model) -> tuple[Any, FineTuneResult] | None:
    """Return what `fine_tune` wrote of a run that is over: its settings, and its result.

    Args:
        path: a file that may hold the history of a run.
        model: the model of the run.

    Returns:
        None where there is no such file, or the run is not over.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT or content["finished"] is not True or content["run"] is None:
            return None
        history = {
            name: [number_from(value) for value in values] for name, values in content["history"].items()
        }
        phases = [phase_from(phase) for phase in content["phases"]]
        best = None if content["best"] is None else best_from(content["best"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return content["run"], FineTuneResult(model, history, phases, best)


def phase_from(content: Any) -> PhaseResult:
    """Return a phase that a file tells of; a `ValueError` or `TypeError` if it is none."""
    phase = PhaseResult(**content)
    if (
        not isinstance(phase.name, str)
        or not is_count(phase.first_epoch)
        or not is_count(phase.epochs)
        or not isinstance(phase.settings, dict)
    ):
        raise ValueError(f"{content} is no phase")
    return replace(phase, seconds=number_from(phase.seconds))


def best_from(content: Any) -> Best:
    """Return a best epoch that a file tells of; a `ValueError` or `TypeError` if it is none."""
    best = Best(**content)
    if not isinstance(best.phase, str) or not is_count(best.epoch):
        raise ValueError(f"{content} is no best epoch")
    return replace(best, metrics=logs_from(best.metrics))


def logs_from(content: Any) -> Logs:
    """Return metrics that a file tells of; a `ValueError` or `TypeError` if they are none."""
    if not isinstance(content, dict):
        raise TypeError(f"{content} is no dict of metrics")
    return {name: number_from(value) for name, value in content.items()}


def number_from(content: Any) -> float:
    """Return a number that a file tells of, where None is one that is not finite."""
    if content is None:
        return math.nan
    if isinstance(content, bool) or not isinstance(content, (int, float)):
        raise TypeError(f"{content!r} is no number")
    return float(content)


def is_count(content: Any) -> bool:
    """Whether what a file tells of is a whole number of at least 0."""
    return type(content) is int and content >= 0
