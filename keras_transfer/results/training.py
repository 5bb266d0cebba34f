"""What a run of `fine_tune` gives back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from keras_transfer._lib.files import write_json

Logs = dict[str, float]
FORMAT = 1


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
        phases: where each phase begins and how long it took; those that a callback has left out by
            ending the run are not among them.
        best: the epoch whose weights were kept; None without validation data.
    """

    model: keras.Model
    history: dict[str, list[float]] = field(default_factory=dict)
    phases: list[PhaseResult] = field(default_factory=list)
    best: Best | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return history, phases and best as plain data."""
        return {
            "format": FORMAT,
            "model": self.model.name,
            "history": self.history,
            "phases": [vars(phase) for phase in self.phases],
            "best": None if self.best is None else vars(self.best),
        }

    def save_history(self, path: Path) -> None:
        """Write `to_dict()` to a JSON file, whole or not at all."""
        write_json(path, self.to_dict())
