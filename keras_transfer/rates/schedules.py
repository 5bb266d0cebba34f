"""Cyclic learning rates: pure functions of the step, for any Keras optimizer.

Positions in a cycle are whole numbers until the last moment, so that no restart comes a step early or
late, and the cosine is a squared sine of what is left, so that small rates keep all their digits.
`CosineDecayRestarts` of Keras takes a float32 logarithm instead: with 10 steps and a factor of 2 it
misses the restarts at steps 81,910 and 327,670.

Keras counts the batches, not the updates, of an optimizer that accumulates gradients: lengths are in
batches there. The callbacks of the same names count updates.
"""

import inspect
import math
from fractions import Fraction
from typing import Any, Literal, get_args

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_transfer._lib.checks import checked_choice, checked_number

__all__ = ["Cyclic", "OneCycle", "WarmRestarts"]

CyclicMode = Literal["triangular", "triangular2", "exp_range"]
Annealing = Literal["cosine", "linear"]

Steps = int | Fraction

_LAST_STEP = 2**31 - 1  # that the counter of an optimizer can hold


class _Schedule(LearningRateSchedule):
    """A schedule that keeps each of its arguments as an attribute of that name."""

    def get_config(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}


@keras.saving.register_keras_serializable(package="keras_transfer")
class Cyclic(_Schedule):
    """A rate that climbs from `base_lr` to `max_lr` and back, in straight lines, again and again.

    With `cycle = step // (2 * step_size)` and x the distance of `step` to the nearer end of its cycle,

        base_lr + (max_lr - base_lr) * x / step_size * scale

    where scale is 1 ("triangular"), 1 / 2 ** cycle ("triangular2") or gamma ** step ("exp_range").

    Args:
        base_lr: the rate at the ends of a cycle, at least 0.
        max_lr: the rate in the middle of the first cycle.
        step_size: steps of half a cycle.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: for "exp_range", the factor of a single step.

    Raises:
        ValueError: a rate is not finite or `base_lr` not below `max_lr`; `step_size` is no whole number
            of at least 1; there is no such mode; `gamma` is not in (0, 1].

    Example:
        >>> import keras_transfer as kt
        >>> schedule = kt.schedules.Cyclic(1e-4, 1e-2, 100, mode="triangular2")
        >>> [round(float(schedule(step)), 6) for step in (0, 100, 200, 300)]
        [0.0001, 0.01, 0.0001, 0.00505]

    References:
        Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.
    """

    def __init__(
        self,
        base_lr: float,
        max_lr: float,
        step_size: int,
        mode: CyclicMode = "triangular",
        gamma: float = 1.0,
    ) -> None:
        super().__init__()
        self.base_lr, self.max_lr = _bounds("base_lr", base_lr, max_lr)
        self.step_size = _steps("step_size", step_size)
        self.mode = checked_choice("mode", mode, get_args(CyclicMode))
        self.gamma = checked_number("gamma", gamma, high=1, closed="right")

    def __call__(self, step: Any) -> Any:
        step = _whole(step)
        period = 2 * self.step_size
        cycle, done, left = _cycle(step, period)
        height = ops.minimum(done, left) / (period.numerator / 2)
        if self.mode == "triangular2":
            height = height * ops.power(0.5, _real(cycle))
        elif self.mode == "exp_range":
            height = height * _power(self.gamma, step)
        return self.base_lr + (self.max_lr - self.base_lr) * height


@keras.saving.register_keras_serializable(package="keras_transfer")
class WarmRestarts(_Schedule):
    """A rate that falls along half a cosine, then starts again from the top (SGDR).

    Cycle i = 0, 1, ... has `cycle_steps * cycle_mult ** i` steps; t steps after its beginning, the
    rate is

        min_lr + (max_lr - min_lr) * cycle_decay ** i * (1 + cos(pi * t / length of the cycle)) / 2

    Args:
        max_lr: the rate that the first cycle begins with.
        cycle_steps: steps of the first cycle.
        cycle_mult: how many times longer each cycle is than the one before: 1, or at least 1.01.
        min_lr: the rate that each cycle falls towards, at least 0. The last step of a cycle stands
            just above it.
        cycle_decay: the factor by which each cycle begins nearer to `min_lr` than the one before.

    Raises:
        ValueError: a rate is not finite or `min_lr` not below `max_lr`; `cycle_steps` is no whole number
            of at least 1; `cycle_mult` or `cycle_decay` is not in its range.

    Example:
        >>> import keras_transfer as kt
        >>> schedule = kt.schedules.WarmRestarts(0.1, 100, cycle_mult=2)
        >>> [round(float(schedule(step)), 6) for step in (0, 50, 99, 100, 200, 300)]
        [0.1, 0.05, 2.5e-05, 0.1, 0.05, 0.1]

    References:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017,
        section 3.
    """

    def __init__(
        self,
        max_lr: float,
        cycle_steps: int,
        cycle_mult: float = 1.0,
        min_lr: float = 0.0,
        cycle_decay: float = 1.0,
    ) -> None:
        super().__init__()
        self.min_lr, self.max_lr = _bounds("min_lr", min_lr, max_lr)
        self.cycle_steps = _steps("cycle_steps", cycle_steps)
        self.cycle_mult = checked_number("cycle_mult", cycle_mult, low=1, closed="left")
        if 1.0 < self.cycle_mult < 1.01:
            raise ValueError(
                f"cycle_mult must be 1, or at least 1.01. Received: cycle_mult={cycle_mult!r}"
            )
        self.cycle_decay = checked_number("cycle_decay", cycle_decay, high=1, closed="right")
        if self.cycle_mult > 1.0:
            tables = _growing(self.cycle_steps, self.cycle_mult)
            self._starts, self._rests, self._parts, self._lengths = tables

    def __call__(self, step: Any) -> Any:
        step = _whole(step)
        if self.cycle_mult > 1.0:
            cycle = ops.sum(_whole(step >= ops.convert_to_tensor(self._starts[1:])))
            # Not table[cycle], for which XLA compiles anew at every step on TensorFlow.
            start, rest = (ops.take(table, cycle) for table in (self._starts, self._rests))
            part, length = (ops.take(_real(table), cycle) for table in (self._parts, self._lengths))
            left = (_real(rest - (step - start)) + part) / length
        else:
            cycle, _, left = _cycle(step, self.cycle_steps)
            left = left / self.cycle_steps.numerator
        height = _half_cosine(left)
        if self.cycle_decay < 1.0:
            height = height * _power(self.cycle_decay, cycle)
        return self.min_lr + (self.max_lr - self.min_lr) * height


@keras.saving.register_keras_serializable(package="keras_transfer")
class OneCycle(_Schedule):
    """A rate that climbs once to `max_lr`, and falls far below where it began.

    It climbs from `max_lr / div_factor` for the first `pct_start * total_steps - 1` steps, and falls to
    `max_lr / div_factor / final_div_factor` at step `total_steps - 1`, where it stays. Arguments,
    defaults and numbers are those of `torch.optim.lr_scheduler.OneCycleLR`, without its change of
    momentum.

    Args:
        max_lr: the highest rate.
        total_steps: steps of the whole cycle, at least 2.
        pct_start: the fraction of the steps in which the rate climbs, in [0, 1).
        anneal_strategy: "cosine" or "linear".
        div_factor: how many times higher `max_lr` is than the first rate, at least 1.
        final_div_factor: how many times higher the first rate is than the last, at least 1.

    Raises:
        ValueError: a number is not finite or not in its range; there is no such strategy.

    Example:
        >>> import keras_transfer as kt
        >>> schedule = kt.schedules.OneCycle(0.1, 100)
        >>> [round(float(schedule(step)), 6) for step in (0, 29, 64, 99)]
        [0.004, 0.1, 0.05, 0.0]

    References:
        Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
        Rates", 2018, section 3 (its third phase is part of the fall here, as in fastai).
    """

    def __init__(
        self,
        max_lr: float,
        total_steps: int,
        pct_start: float = 0.3,
        anneal_strategy: Annealing = "cosine",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        super().__init__()
        self.max_lr = checked_number("max_lr", max_lr)
        self.total_steps = _steps("total_steps", total_steps, at_least=2)
        self.pct_start = checked_number("pct_start", pct_start, high=1, closed="left")
        self.anneal_strategy = checked_choice("anneal_strategy", anneal_strategy, get_args(Annealing))
        self.div_factor = checked_number("div_factor", div_factor, low=1, closed="left")
        self.final_div_factor = checked_number(
            "final_div_factor", final_div_factor, low=1, closed="left"
        )

    def __call__(self, step: Any) -> Any:
        step = _whole(step)
        last = self.total_steps - 1
        top = self.pct_start * self.total_steps - 1.0
        first_lr = self.max_lr / self.div_factor
        last_lr = first_lr / self.final_div_factor
        height = _real(ops.maximum(last - step, 0)) / (last - top)
        low: Any = last_lr
        if top > 0.0:
            height = ops.minimum(_real(step) / top, height)
            low = ops.where(_real(step) < top, first_lr, last_lr)
        if self.anneal_strategy == "cosine":
            height = _half_cosine(height)
        return low + (self.max_lr - low) * height


def _whole(value: Any) -> Any:
    return ops.cast(value, "int32")


def _real(value: Any) -> Any:
    return ops.cast(value, "float64" if keras.config.floatx() == "float64" else "float32")


def _power(factor: float, exponent: Any) -> Any:
    # The logarithm has more digits here than float32 has for a factor near 1.
    return ops.exp(math.log(factor) * _real(exponent))


def _half_cosine(left: Any) -> Any:
    """Return (1 + cos(pi * (1 - left))) / 2, with all digits near 0."""
    root = ops.sin(math.pi / 2 * left)
    return root * root


def _cycle(step: Any, length: Steps) -> tuple[Any, Any, Any]:
    """Return the number of the cycle that a step is in, and what is done and left of it.

    Of cycles of p / q steps, these are an integer tensor and two float tensors with the sum p.
    """
    p, q = length.numerator, length.denominator
    rounds = step // p  # of p steps, which are q cycles
    within = step - rounds * p
    if q == 1:
        return rounds, _real(within), _real(p - within)
    number = within * q // p
    done = within * q - number * p
    return rounds * q + number, _real(done), _real(p - done)


def _growing(first: Steps, factor: float) -> tuple[np.ndarray, ...]:
    """Return of each cycle its first step, what is left then, whole and in parts, and its length."""
    count = math.ceil(math.log1p(_LAST_STEP * (factor - 1.0) / first) / math.log(factor))
    lengths = float(first) * factor ** np.arange(count)
    ends = np.round(np.cumsum(lengths), 6)  # 1.1 is no binary fraction: 210 steps are not to become 211
    starts = np.ceil(np.append(0.0, ends[:-1]))
    left = ends - starts
    rests = np.minimum(np.floor(left), _LAST_STEP)
    return starts.astype("int32"), rests.astype("int32"), left - rests, lengths


def _bounds(low_name: str, low: Any, high: Any) -> tuple[float, float]:
    low, high = checked_number(low_name, low, closed="left"), checked_number("max_lr", high)
    if high <= low:
        raise ValueError(f"max_lr must be a number above {low_name}={low}. Received: max_lr={high!r}")
    return low, high


def _steps(name: str, value: Any, at_least: int = 1) -> Steps:
    """Return a number of steps: an int, or a Fraction where updates and batches don't come out even."""
    checked_number(name, value, low=at_least, closed="left")
    if value > _LAST_STEP:  # which no counter reaches, and not every backend can hold
        raise ValueError(f"{name} must be at most {_LAST_STEP:,}. Received: {name}={value!r}")
    if isinstance(value, Fraction) and value.denominator > 1:
        return value
    if not float(value).is_integer():
        raise ValueError(f"{name} must be a whole number of steps. Received: {name}={value!r}")
    return int(value)
