"""A train function in which a schedule gives the learning rate that is the optimizer's own elsewhere."""

from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_transfer._lib.keras_private.optimizer import (
    iteration_variable,
    learning_rate_from,
    learning_rate_source,
)
from keras_transfer.optimizers.carry_over import inner_optimizer


def scheduled_optimizer(model: keras.Model) -> keras.optimizers.Optimizer:
    """Return the optimizer of `model` whose learning rate a schedule can take the place of.

    Raises:
        ValueError: the model is not compiled with an optimizer that has one rate, a number.
    """
    optimizer = model.optimizer
    if optimizer is None or isinstance(optimizer, keras.optimizers.MultiOptimizer):
        raise ValueError(
            f"model {model.name!r} must be compiled with an optimizer that has one learning rate; for "
            "one a layer take kt.optimizers.LayerwiseLR. "
            f"Received: optimizer of type {type(optimizer).__name__}"
        )
    optimizer = inner_optimizer(optimizer)
    source = learning_rate_source(optimizer)
    if not isinstance(source, keras.Variable):
        raise ValueError(
            f"model {model.name!r} must be compiled with a number as learning rate, or else with one of "
            "kt.schedules and without this callback. "
            f"Received: learning_rate of type {type(source).__name__}"
        )
    return optimizer


def micro_steps(optimizer: keras.optimizers.Optimizer) -> int:
    """Return how many batches `optimizer` has seen, those that it only accumulated included."""
    return int(ops.convert_to_numpy(iteration_variable(optimizer)))


class FromStep(LearningRateSchedule):
    """A schedule that begins at a later step, and counts the updates of an optimizer that accumulates.

    Args:
        schedule: the schedule, of the number of updates.
        first: the count of batches at which it begins.
        accumulation: how many batches an update takes.
    """

    def __init__(self, schedule: LearningRateSchedule, first: int, accumulation: int) -> None:
        self.schedule, self.first, self.accumulation = schedule, first, accumulation

    def __call__(self, step: Any) -> Any:
        return self.schedule((ops.cast(step, "int32") - self.first) // self.accumulation)


class ScheduledStep:
    """A train function of `model` like its own, but with the learning rate of a schedule.

    The schedule is part of the compiled step. The optimizer has it only while the step runs: before and
    after, and after any exception, it has its own rate, to be read, set and saved.

    Args:
        model: a model with a train function.
        optimizer: its `scheduled_optimizer`.
        schedule: from the step to the rate.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        schedule: LearningRateSchedule,
    ) -> None:
        self.optimizer, self.schedule = optimizer, schedule
        self._train_function = _another_train_function(model)

    def __call__(self, *arguments: Any) -> Any:
        with learning_rate_from(self.optimizer, self.schedule):
            return self._train_function(*arguments)


def _another_train_function(model: keras.Model) -> Any:
    """Return a train function of `model` that shares nothing compiled with its own."""
    own = vars(model)
    before = {name: own[name] for name in ("train_function", "train_step") if name in own}
    train_step = model.train_step

    # JAX takes a method of the same object for the function that it has compiled already.
    def another_step(*arguments: Any) -> Any:
        return train_step(*arguments)

    own["train_step"] = another_step
    try:
        model.make_train_function(force=True)
        return model.train_function
    finally:
        del own["train_step"]
        own.update(before)
