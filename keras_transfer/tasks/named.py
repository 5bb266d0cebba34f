"""The tasks by their names."""

from typing import Any, Literal, TypeAlias

from keras_transfer._lib.checks import checked_choice
from keras_transfer.tasks.multi_label import MULTI_LABEL
from keras_transfer.tasks.single_label import SINGLE_LABEL
from keras_transfer.tasks.task import Task

TaskName: TypeAlias = Literal["single-label", "multi-label"]

_TASKS: dict[str, Task] = {task.name: task for task in (SINGLE_LABEL, MULTI_LABEL)}


def checked_task(task: Any) -> Task:
    """Return the task of a name, or raise a `ValueError` if there is none."""
    return _TASKS[checked_choice("task", task, _TASKS)]
