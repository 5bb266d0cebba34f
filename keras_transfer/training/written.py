"""Results of runs, read from the files that tell of them."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_transfer.results.training import FORMAT, Best, FineTuneResult, Logs, PhaseResult


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
        if content["format"] != FORMAT or content["finished"] is not True or content["run"] is None:
            return None
        history = {
            name: [number_from(value) for value in values] for name, values in content["history"].items()
        }
        if len({len(values) for values in history.values()}) > 1:
            return None
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
