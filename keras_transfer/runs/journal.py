"""What automatic training has decided so far, in files, so that it goes on where it was stopped.

All but the decisions that hang on time is computed again: features and finished trainings are there, and
from the same numbers follow the same heads and scores, bit for bit.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import keras
import numpy as np

from keras_transfer._lib.files import (
    final_name,
    folder_or_temporary,
    remove_unfinished,
    writable_directory,
    write_json,
)
from keras_transfer._version import __version__
from keras_transfer.runs.budget import Budget
from keras_transfer.training.resuming import check_same
from keras_transfer.training.settings import plain

_DECISIONS, _LOCK, _TRAININGS, _FEATURES = "decisions.json", "lock", "trainings", "features"
CHOICE = "backbones.json"  # of the command line
_OURS = {_DECISIONS, _LOCK, _TRAININGS, _FEATURES, CHOICE}

Decision = dict[str, int | float | bool]


class Journal:
    """The decisions of a run, by name.

    Args:
        folder: where they are kept; None: nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._decisions: dict[str, Decision] = {}
        self._settings: Any = None
        self._budget = Budget(None)

    @property
    def features(self) -> Path | None:
        """A folder for features."""
        return None if self._folder is None else self._folder / _FEATURES

    def __contains__(self, name: str) -> bool:
        return name in self._decisions

    def begin(self, budget: Budget, resume: bool, settings: dict[str, Any]) -> None:
        """Read what was decided before, if the run is to go on.

        Args:
            budget: the time that all may take; what was gone at the last decision is gone.
            resume: whether it is to go on.
            settings: what must be the same, of any kind.

        Raises:
            ValueError: the settings were others, or the file is damaged.
        """
        self._budget = budget
        if self._folder is None:
            return
        versions = {"keras_transfer": __version__, "keras": keras.__version__, "numpy": np.__version__}
        self._settings = json.loads(json.dumps(plain({**versions, **settings})))
        file = self._folder / _DECISIONS
        if resume and file.exists():
            about = _read(file)
            check_same(about["run"], self._settings, self._folder)
            self._decisions = about["decisions"]
            budget.started -= about["spent"]
            return
        # Features may be of another run: they are known by what they are made of.
        shutil.rmtree(self._folder / _TRAININGS, ignore_errors=True)
        self._write()

    def decided(self, name: str, decide: Callable[[], Decision]) -> Decision:
        """Return what was decided before, or decide now and write it down."""
        if name not in self._decisions:
            self._decisions[name] = decide()
            self._write()
        return self._decisions[name]

    def folder_of(self, name: str) -> Path | None:
        """Return the folder of a training, in which it keeps what it needs to go on."""
        if self._folder is None:
            return None
        folder = self._folder / _TRAININGS
        folder.mkdir(exist_ok=True)
        return folder / re.sub(r"\W+", "_", name)

    def _write(self) -> None:
        if self._folder is not None:
            spent = self._budget.spent
            about = {"run": self._settings, "spent": spent, "decisions": self._decisions}
            write_json(self._folder / _DECISIONS, about)


@contextlib.contextmanager
def opened(
    checkpoint: str | os.PathLike[str] | None, cache: str | os.PathLike[str] | None
) -> Iterator[tuple[Journal, str | os.PathLike[str]]]:
    """Give the journal of a run, and a folder for features, as long as the block lasts.

    Args:
        checkpoint: the folder of the journal; None: nothing is kept.
        cache: the folder for features; None: one that the checkpoint has, or a temporary one.

    Raises:
        ValueError: the folder has other things in it, or another run uses it.
    """
    folder = None if checkpoint is None else _checked(checkpoint)
    journal = Journal(folder)
    with contextlib.ExitStack() as stack:
        if folder is not None:
            lock = filelock.FileLock(folder / _LOCK, blocking=False)
            try:
                stack.enter_context(lock)
            except filelock.Timeout as error:
                raise ValueError(
                    "checkpoint must be that of one run at a time; another one is using it. "
                    f"Received: checkpoint={str(checkpoint)!r}"
                ) from error
            remove_unfinished(folder / _DECISIONS)
            stack.callback(_forget_nothing, folder)
        yield journal, stack.enter_context(folder_or_temporary(cache or journal.features))


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a run that was stopped."""
    return (folder / _DECISIONS).is_file()


def forget(folder: Path) -> None:
    """Remove the checkpoint of a run, and nothing else that may be in its folder."""
    for name in (_TRAININGS, _FEATURES):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (_DECISIONS, _LOCK, CHOICE):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else is in it, or it isn't there
        folder.rmdir()


def _forget_nothing(folder: Path) -> None:
    """Remove a checkpoint in which there is nothing to go on with."""
    if not is_checkpoint(folder) and not (folder / _FEATURES).exists():
        forget(folder)


def _checked(checkpoint: str | os.PathLike[str]) -> Path:
    folder = writable_directory(checkpoint, "checkpoint")
    others = sorted({final_name(path) for path in folder.iterdir()} - _OURS)
    if others:
        raise ValueError(
            "checkpoint must be a folder of its own: a new one, or that of a run before. "
            f"Received: checkpoint={str(checkpoint)!r}, which has {', '.join(others[:5])}"
        )
    return folder


def _read(file: Path) -> dict[str, Any]:
    """Return what a journal has written, or raise a `ValueError`."""
    try:
        about = json.loads(file.read_text("utf-8"))
        decisions, spent = about["decisions"], about["spent"]
        fits = isinstance(spent, (int, float)) and all(
            isinstance(value, (int, float))
            for decision in decisions.values()
            for value in decision.values()
        )
        if not fits or "run" not in about:
            raise ValueError("it has something else in it")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the run in {str(file.parent)!r} can't be resumed: {file.name} is damaged ({error}); begin "
            "anew with resume=False. Received: resume=True"
        ) from error
    return about
