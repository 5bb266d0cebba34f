"""What callbacks that drive the learning rate step by step have in common."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_transfer._lib.checks import checked_integer, checked_number
from keras_transfer.layers.guard import guard
from keras_transfer.rates.in_step import (
    FromStep,
    ScheduledStep,
    batches_per_update,
    micro_steps,
    scheduled_optimizer,
)

Logs = dict[str, Any]

_SHORTEST_EPOCH = Fraction(1, 100)  # parts of an epoch are told apart down to this


class ScheduledLR(keras.callbacks.Callback):
    """Lets a schedule give the learning rate of every step, while `fit` runs.

    The schedule is part of the compiled step, which costs nothing (see `ScheduledStep`), and counts
    updates: under gradient accumulation several batches are one. It begins at the first epoch, or where
    the epoch that `fit` begins with is in it. `optimizer.learning_rate` stays what it is.

    Args:
        make: from a number of updates, which may be a Fraction, to the schedule.
        first_epoch: the epoch that the schedule begins with, as `fit` counts.
        lengths: the length in updates and in epochs, by the names of these arguments, of which one is
            None.

    Raises:
        ValueError, TypeError: not exactly one of the lengths is given, or an argument makes no sense.
    """

    def __init__(
        self, make: Callable[[Any], LearningRateSchedule], first_epoch: int = 0, **lengths: float | None
    ) -> None:
        super().__init__()
        given = {name: value for name, value in lengths.items() if value is not None}
        if len(given) != 1:
            raise ValueError(
                f"exactly one of {' and '.join(lengths)} must be given. "
                f"Received: {', '.join(f'{name}={value!r}' for name, value in lengths.items())}"
            )
        first_epoch = checked_integer("first_epoch", first_epoch, 0)
        ((self._length_name, self._length),) = given.items()
        self._in_epochs = self._length_name.endswith("epochs")
        if self._in_epochs:
            shortest = float(_SHORTEST_EPOCH)
            self._length = checked_number(self._length_name, self._length, low=shortest, closed="left")
        make(2 if self._in_epochs else self._length)  # raises now if an argument makes no sense
        self._make, self._first_epoch = make, first_epoch
        self._optimizer: keras.optimizers.Optimizer | None = None  # that the running fit trains with
        self._step: ScheduledStep | None = None
        self._made_for: tuple[Any, ...] = ()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Check that the rate of the model can be driven."""
        self._trained = self.model  # to ask the callback for it costs a copy of all weights on JAX
        self._optimizer = None
        self._schedule(scheduled_optimizer(self._trained))

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Put the schedule in, where the first epoch of this `fit` is in it."""
        if self._optimizer is None:
            self._check_first(epoch)
            optimizer = scheduled_optimizer(self._trained)
            done = (epoch - self._first_epoch) * (self._batches() or 0)
            self._put_in(optimizer, micro_steps(optimizer) - done)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Put the schedule in again where another callback has compiled or trained the model."""
        if self._trained.train_function is not self._step:
            optimizer = scheduled_optimizer(self._trained)
            first = self._first
            if optimizer is not self._optimizer:
                first += micro_steps(optimizer) - micro_steps(self._optimizer)
            self._put_in(optimizer, first)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write the rate of the epoch's last step into the logs."""
        if logs is not None and self._step is not None:
            rate = self._step.schedule(micro_steps(self._step.optimizer) - 1)
            logs["learning_rate"] = float(ops.convert_to_numpy(rate))

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Give the model its own step again; after an exception `guard` does that."""
        guard(self._trained).take_back()

    def _batches(self) -> int | None:
        """Return how many batches an epoch has, if that is known."""
        return self.params.get("steps")

    def _check_first(self, epoch: int) -> None:
        if epoch < self._first_epoch:
            raise ValueError(
                "first_epoch must not be after the epoch that fit begins with, "
                f"{epoch}. Received: first_epoch={self._first_epoch}"
            )
        if epoch > self._first_epoch and self._batches() is None:
            raise ValueError(
                f"to go on at epoch {epoch}, data must tell how many batches an epoch has; pass "
                "steps_per_epoch to fit. Received: data of unknown length"
            )

    def _schedule(self, optimizer: keras.optimizers.Optimizer) -> LearningRateSchedule:
        """Return the schedule, of the number of updates."""
        if not self._in_epochs:
            return self._make(self._length)
        batches = self._batches()
        if batches is None:
            raise ValueError(
                f"{self._length_name} needs data that tell how many batches an epoch has; pass "
                "steps_per_epoch to fit, or give the length in steps. "
                f"Received: {self._length_name}={self._length!r} and data of unknown length"
            )
        epochs = Fraction(self._length).limit_denominator(_SHORTEST_EPOCH.denominator)
        return self._make(epochs * batches / batches_per_update(optimizer))

    def _put_in(self, optimizer: keras.optimizers.Optimizer, first: int) -> None:
        """Let the model train by the schedule, whose first batch `optimizer` counts as `first`."""
        model = self._trained
        if model.train_function is None:  # another callback has compiled the model
            model.make_train_function()
        made_for = (model.train_function, optimizer, first, self._batches())
        if self._step is None or made_for != self._made_for:
            schedule = FromStep(self._schedule(optimizer), first, batches_per_update(optimizer))
            self._step, self._made_for = ScheduledStep(model, optimizer, schedule), made_for
        guard(model).lend(self._step)
        self._optimizer, self._first = optimizer, first
