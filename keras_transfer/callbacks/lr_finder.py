"""The LR range test as a callback: a sweep of rates inside the training step."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_transfer._keras_private import LOSS_TRACKER, attributes, iteration_variable
from keras_transfer._messages import did_you_mean, one_of
from keras_transfer._variables import assign_variables, copy_variables, forget_gradients
from keras_transfer.callbacks.leaving import leaving_fit, watch_fit
from keras_transfer.lr_curve import Ending, LRFinderResult
from keras_transfer.optimizers.layerwise_lr import with_learning_rate

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
        if not isinstance(num_steps, int) or num_steps < _FEWEST_STEPS:
            raise ValueError(
                f"num_steps must be an integer of at least {_FEWEST_STEPS}. "
                f"Received: num_steps={num_steps!r}"
            )
        for name, rate in (("min_lr", min_lr), ("max_lr", max_lr)):
            if not isinstance(rate, (int, float)) or not 0.0 < rate < math.inf:
                raise ValueError(f"{name} must be a finite number above 0. Received: {name}={rate!r}")
        if min_lr >= max_lr:
            raise ValueError(
                f"min_lr must be below max_lr. Received: min_lr={min_lr!r}, max_lr={max_lr!r}"
            )
        if sweep not in _SWEEPS:
            raise ValueError(
                f"sweep must be {one_of(_SWEEPS)}{did_you_mean(str(sweep), _SWEEPS)} "
                f"Received: sweep={sweep!r}"
            )
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"smoothing must be in [0, 1). Received: smoothing={smoothing!r}")
        if not stop_factor > 1.0:
            raise ValueError(f"stop_factor must be above 1. Received: stop_factor={stop_factor!r}")
        self.rates = _SWEEPS[sweep](min_lr, max_lr, num_steps)
        self._smoothing = smoothing
        self._stop_factor = stop_factor
        self._batches_per_point = 1
        self._resets_metrics = False
        self._forget()

    @property
    def result(self) -> LRFinderResult:
        """What was found so far, also after an exception."""
        return LRFinderResult(
            self.rates[: len(self.losses)].copy(),
            np.array(self.losses),
            np.array(self.smoothed_losses),
            len(self.rates),
            self._smoothing,
            self.stopped,
        )

    @contextlib.contextmanager
    def sweep(self, model: keras.Model) -> Iterator[None]:
        """Let `model` train with a new optimizer that goes through the rates, inside the block.

        All its variables are then put back; its own optimizer is not touched.

        Args:
            model: a compiled and built model.
        """
        optimizer = sweeping(model.optimizer, self.rates)
        self._batches_per_point = _accumulation(optimizer)
        self._forget()
        kept = [*model.variables, *model.metrics_variables]
        values = copy_variables(kept)
        tracker = {LOSS_TRACKER: _BatchLoss()}
        # Made anew for optimizer and tracker. JAX takes the compiled step of another optimizer where the
        # method is the same and that step still lives, so the method is another one.
        steps = {
            "train_function": None,
            "test_function": None,
            "train_step": functools.partial(model.train_step),
            "test_step": functools.partial(model.test_step),
        }
        try:
            with attributes(model, optimizer=optimizer, **tracker, **steps):
                optimizer.build(model.trainable_variables)
                own_step = type(model).train_step is not keras.Model.train_step
                own_metrics = all(metric is not tracker[LOSS_TRACKER] for metric in model.metrics)
                self._resets_metrics = own_step or own_metrics
                model.make_train_function()
                yield
        finally:
            assign_variables(kept, values)
            forget_gradients(model.variables)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._empty = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._empty:
            raise ValueError("x must have at least one batch. Received: data without any")

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


class LRFinder(LRRecorder):
    """An LR range test inside a `fit` of your own; `keras_transfer.find_lr` is the shorter way.

    While `fit` runs, the rate rises from `min_lr` to `max_lr` with every update, inside the compiled
    step, in an optimizer of its own with the settings of the model's. Training stops after `num_steps`
    updates, or when the loss diverges. When `fit` is left, also by an exception or Ctrl-C, the model's
    variables, metrics, optimizer and training step are as they were when training began. The order of
    the data and the random generators of the process are where `fit` has left them; `find_lr` puts
    those back as well.

    Give `fit` enough epochs: it ends where its data ends. Make the callback before the line of the
    `fit`: this wraps `keras.Model.fit`, as Keras tells no callback of an exception.

    Args:
        min_lr: the first rate.
        max_lr: the last rate.
        num_steps: how many updates there are, one a rate.
        sweep: "exponential" or "linear".
        smoothing: the weight of the past in the moving average of the losses, 0 to below 1; 0.98 is
            fastai's.
        stop_factor: stop where the smoothed loss exceeds its lowest value times this.

    Attributes:
        result: an `LRFinderResult`.

    Raises:
        ValueError: an argument has no sensible meaning. In `fit`: the optimizer has no learning rate to
            sweep, or the model was compiled with `steps_per_execution` above 1.

    Example:
        >>> import keras, numpy as np, keras_transfer as kt
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((64, 4))
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> finder = kt.callbacks.LRFinder(1e-4, 10.0, 40)
        >>> history = model.fit(x, x.sum(axis=1), epochs=20, verbose=0, callbacks=[finder])
        >>> 1e-3 < finder.result.suggest() < 1.0
        True

    References:
        Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3.
    """

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
        super().__init__(
            min_lr, max_lr, num_steps, sweep=sweep, smoothing=smoothing, stop_factor=stop_factor
        )
        watch_fit()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        model = self.model
        if model.steps_per_execution != 1:
            raise ValueError(
                "model must be compiled with steps_per_execution=1 for LRFinder, as the loss of every "
                "batch is wanted; kt.find_lr sees to that by itself. "
                f"Received: steps_per_execution={model.steps_per_execution}"
            )
        leaving_fit(model).enter_context(self.sweep(model))


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
    accumulation = _accumulation(optimizer)
    return with_learning_rate(optimizer, _RateByRate(rates.tolist(), accumulation))


def _accumulation(optimizer: keras.optimizers.Optimizer) -> int:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return inner.gradient_accumulation_steps or 1


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
    """The loss of the last batch, in the place of the running mean that Keras keeps."""

    def __init__(self) -> None:
        super().__init__(name="loss")
        self._loss = self.add_variable((), initializer="zeros", name="loss")

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        self._loss.assign(keras.ops.cast(values, self.dtype))

    def result(self) -> Any:
        return keras.ops.copy(self._loss)
