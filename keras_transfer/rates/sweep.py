"""A sweep of the learning rate over one run of `fit`."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_transfer._lib.attributes import attributes
from keras_transfer._lib.checks import checked_choice, checked_integer, checked_number
from keras_transfer._lib.keras_private.optimizer import iteration_variable
from keras_transfer._lib.keras_private.trainer import LOSS_TRACKER
from keras_transfer._lib.variables import assign_variables, copy_variables, forget_gradients
from keras_transfer.optimizers.layerwise_lr import with_learning_rate
from keras_transfer.rates.in_step import another_train_function, batches_per_update
from keras_transfer.results.range_test import Ending, LRFinderResult

Sweep = Literal["exponential", "linear"]
_SWEEPS: dict[str, Callable[..., np.ndarray]] = {"exponential": np.geomspace, "linear": np.linspace}
_FEWEST_STEPS = 5


class LRRecorder(keras.callbacks.Callback):
    """Keeps the loss of every update of a sweep, and stops training at its end or when it diverges.

    Args:
        min_lr: the first rate.
        max_lr: the last rate.
        num_steps: how many there are.
        sweep: "exponential" or "linear".
        smoothing: the weight of the past in the moving average of the losses.
        stop_factor: the loss has diverged where the smoothed loss exceeds its lowest value times this.
    """

    losses: list[float]
    smoothed_losses: list[float]
    stopped: Ending
    _batches: list[float]  # losses of the point in the making
    _average: float

    def __init__(
        self,
        min_lr: float = 1e-7,
        max_lr: float = 1.0,
        num_steps: int = 100,
        *,
        sweep: Sweep = "exponential",
        smoothing: float = 0.98,
        stop_factor: float = 4.0,
    ) -> None:
        super().__init__()
        num_steps = checked_integer("num_steps", num_steps, _FEWEST_STEPS)
        min_lr, max_lr = checked_number("min_lr", min_lr), checked_number("max_lr", max_lr)
        if min_lr >= max_lr:
            raise ValueError(
                f"min_lr must be below max_lr. Received: min_lr={min_lr!r}, max_lr={max_lr!r}"
            )
        self.rates = _SWEEPS[checked_choice("sweep", sweep, _SWEEPS)](min_lr, max_lr, num_steps)
        self._smoothing = checked_number("smoothing", smoothing, high=1, closed="left")
        self._stop_factor = checked_number("stop_factor", stop_factor, low=1, closed="right")
        self._batches_per_point = 1
        self._resets_metrics = False
        self._forget()

    @property
    def result(self) -> LRFinderResult:
        """What was found so far, also after an exception."""
        losses, smoothed = np.array(self.losses), np.array(self.smoothed_losses)
        rates, asked_for = self.rates[: len(losses)].copy(), len(self.rates)
        return LRFinderResult(rates, losses, smoothed, asked_for, self._smoothing, self.stopped)

    @contextlib.contextmanager
    def sweep(self, model: keras.Model) -> Iterator[None]:
        """Let a compiled model train with a new optimizer that goes through the rates, inside the block.

        All its variables are then put back; its own optimizer is not touched.
        """
        kept = [*model.variables, *model.metrics_variables]
        values = copy_variables(kept)
        try:
            given, train_function = self.begin(model)
            with attributes(model, train_function=train_function, **given):
                yield
        finally:
            assign_variables(kept, values)
            forget_gradients(model.variables)

    def begin(self, model: keras.Model) -> tuple[dict[str, Any], Callable[..., Any]]:
        """Forget the sweep before, and return what `model` trains with in the next one.

        Returns:
            Attributes for the model, with a new optimizer that goes through the rates; and a train
            function that is to be called where the model has these.
        """
        self._forget()
        optimizer = sweeping(model.optimizer, self.rates)
        tracker = _BatchLoss(getattr(model, LOSS_TRACKER))
        given = {"optimizer": optimizer, LOSS_TRACKER: tracker}
        with attributes(model, **given):
            optimizer.build(model.trainable_variables)
            self._batches_per_point = batches_per_update(optimizer)
            own_step = type(model).train_step is not keras.Model.train_step
            own_metrics = all(metric is not tracker for metric in model.metrics)
            self._resets_metrics = own_step or own_metrics
            return given, another_train_function(model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._empty = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._empty:
            raise ValueError("data must have at least one batch. Received: data without any")

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._resets_metrics:
            # A training step with a running loss of its own: this makes it that of the batch.
            self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._empty = False
        if not logs or "loss" not in logs:
            raise ValueError(
                f"the training step of the model must return its 'loss'. Received: {sorted(logs or {})}"
            )
        self._batches.append(float(keras.ops.convert_to_numpy(logs["loss"])))
        if len(self._batches) == self._batches_per_point or not math.isfinite(self._batches[-1]):
            self.add_point(float(np.mean(self._batches)))
            self._batches.clear()

    def add_point(self, loss: float) -> None:
        """Take in the loss of an update, and stop training where it is the last."""
        if math.isfinite(loss):
            self.losses.append(loss)
            count = len(self.losses)
            self._average += (1 - self._smoothing) * (loss - self._average)
            smoothed = self._average / (1 - self._smoothing**count)
            self.smoothed_losses.append(smoothed)
            # The first tenth is an average of too few: a lucky first batch is no lowest loss.
            lowest = min(self.smoothed_losses[len(self.rates) // 10 :], default=math.inf)
            if smoothed > lowest + (self._stop_factor - 1) * abs(lowest):  # a loss may be negative
                self.stopped = "diverged"
            elif count == len(self.rates):
                self.stopped = "end"
        else:
            self.stopped = "not finite"
        if self.stopped != "interrupted":
            self.model.stop_training = True

    def _forget(self) -> None:
        self.losses, self.smoothed_losses, self._batches = [], [], []
        self.stopped, self._average = "interrupted", 0.0


def sweeping(optimizer: keras.optimizers.Optimizer, rates: np.ndarray) -> keras.optimizers.Optimizer:
    """Return a new optimizer with the settings of `optimizer` that takes one rate after the other.

    Args:
        optimizer: a Keras optimizer, a `LayerwiseLR`, or a `LossScaleOptimizer` around either, with any
            learning rate or schedule. It is not changed.
        rates: the rates, one an update.

    Raises:
        ValueError: the optimizer has no learning rate to sweep.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        scale = optimizer.initial_scale
        if optimizer.built:
            scale = float(keras.ops.convert_to_numpy(optimizer.dynamic_scale))
        inner = sweeping(optimizer.inner_optimizer, rates)
        return _CountingLossScale(inner, scale, optimizer.dynamic_growth_steps)
    return with_learning_rate(optimizer, _RateByRate(rates.tolist(), batches_per_update(optimizer)))


class _RateByRate(keras.optimizers.schedules.LearningRateSchedule):
    """One rate after the other, each for as many steps as gradients are accumulated in."""

    def __init__(self, rates: Sequence[float], steps: int) -> None:
        self._rates = rates
        self._steps = steps

    def __call__(self, step: Any) -> Any:
        index = keras.ops.minimum(step // self._steps, len(self._rates) - 1)
        return keras.ops.take(np.array(self._rates, keras.config.floatx()), index)

    def get_config(self) -> dict[str, Any]:
        return {"rates": self._rates, "steps": self._steps}


class _CountingLossScale(keras.optimizers.LossScaleOptimizer):
    """Counts the steps it leaves out as gradients overflow, so that a rate is that of its batch."""

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        count = iteration_variable(self.inner_optimizer)
        next_count = count + 1
        super().apply(grads, trainable_variables)
        count.assign(next_count)

    def stateless_apply(
        self,
        optimizer_variables: Sequence[Any],
        grads: Sequence[Any],
        trainable_variables: Sequence[Any],
    ) -> tuple[list[Any], list[Any]]:
        count = iteration_variable(self.inner_optimizer)
        (index,) = (i for i, variable in enumerate(self.variables) if variable is count)
        weights, state = super().stateless_apply(optimizer_variables, grads, trainable_variables)
        state[index] = optimizer_variables[index] + 1
        return weights, state


class _BatchLoss(keras.metrics.Metric):
    """The loss of the last batch, in the place of the running mean, which goes on as well."""

    def __init__(self, mean: keras.metrics.Metric) -> None:
        super().__init__(name="loss")
        self._loss = self.add_variable((), initializer="zeros", name="loss")
        self._mean = mean

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        self._loss.assign(keras.ops.cast(values, self.dtype))
        self._mean.update_state(values, sample_weight)

    def result(self) -> Any:
        return keras.ops.copy(self._loss)
