"""Callbacks that drive the learning rate of a model that was compiled with a number."""

import math
from typing import Any

from keras_transfer.callbacks.scheduled_lr import ScheduledLR
from keras_transfer.rates.schedules import Annealing, Cyclic, CyclicMode, OneCycle, WarmRestarts


class CyclicLR(ScheduledLR):
    """Lets the rate climb from `base_lr` to `max_lr` and back, again and again, while `fit` runs.

    The rates are those of `keras_transfer.schedules.Cyclic`, and with a `LayerwiseLR` every layer has
    its multiple of them. What holds for all three callbacks of this kind:

    - A step is an update of the weights: under gradient accumulation several batches are one.
    - The schedule starts in each `fit` where `fit` starts: `fit(initial_epoch=3)` goes on as if three
      epochs had run, in another process, too.
    - The schedule is part of the compiled step. `optimizer.learning_rate` stays the number that it was,
      for the time after, also after an exception; what other callbacks set it to counts from then on.
    - Logs and history have the rate of the last step of each epoch as "learning_rate".
    - A model saved meanwhile has its plain optimizer.

    Args:
        base_lr: the rate at the ends of a cycle, at least 0.
        max_lr: the rate in the middle of the first cycle.
        step_size: steps of half a cycle; give either this or `step_epochs`.
        mode: "triangular", "triangular2" or "exp_range".
        gamma: for "exp_range", the factor of a single step.
        step_epochs: epochs of half a cycle, which may be a fraction.
        first_epoch: the epoch, as `fit` counts, that the first cycle begins with.

    Raises:
        ValueError: an argument makes no sense. When `fit` begins: the model isn't compiled with one
            number as learning rate; another callback drives it, too; an epoch's length is needed and
            the data don't tell it.

    Example:
        >>> import keras, numpy as np, keras_transfer as kt
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> cycles = kt.callbacks.CyclicLR(0.001, 0.005, step_epochs=1)
        >>> x, y = np.zeros((8, 2)), np.zeros((8, 1))
        >>> history = model.fit(x, y, batch_size=2, epochs=2, callbacks=[cycles], verbose=0)
        >>> [round(rate, 4) for rate in history.history["learning_rate"]]
        [0.004, 0.002]

    References:
        Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.
    """

    def __init__(
        self,
        base_lr: float,
        max_lr: float,
        step_size: int | None = None,
        mode: CyclicMode = "triangular",
        gamma: float = 1.0,
        *,
        step_epochs: float | None = None,
        first_epoch: int = 0,
    ) -> None:
        lengths = {"step_size": step_size, "step_epochs": step_epochs}
        super().__init__(lambda n: Cyclic(base_lr, max_lr, n, mode, gamma), first_epoch, **lengths)


class WarmRestartsLR(ScheduledLR):
    """Lets the rate fall along half a cosine, then start again from the top, while `fit` runs (SGDR).

    The rates are those of `keras_transfer.schedules.WarmRestarts`; see `CyclicLR` for all that the three
    callbacks have in common.

    Args:
        max_lr: the rate that the first cycle begins with.
        cycle_steps: steps of the first cycle; give either this or `cycle_epochs`.
        cycle_mult: how many times longer each cycle is than the one before: 1, or at least 1.01.
        min_lr: the rate that each cycle falls towards, at least 0.
        cycle_decay: the factor by which each cycle begins nearer to `min_lr` than the one before.
        cycle_epochs: epochs of the first cycle, which may be a fraction.
        first_epoch: the epoch, as `fit` counts, that the first cycle begins with.

    Raises:
        ValueError: as `CyclicLR`.

    Example:
        >>> import keras, numpy as np, keras_transfer as kt
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> restarts = kt.callbacks.WarmRestartsLR(0.1, cycle_epochs=1, cycle_mult=2)
        >>> x, y = np.zeros((8, 2)), np.zeros((8, 1))
        >>> history = model.fit(x, y, batch_size=2, epochs=3, callbacks=[restarts], verbose=0)
        >>> [round(rate, 4) for rate in history.history["learning_rate"]]
        [0.0146, 0.0691, 0.0038]

    References:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017,
        section 3.
    """

    def __init__(
        self,
        max_lr: float,
        cycle_steps: int | None = None,
        cycle_mult: float = 1.0,
        min_lr: float = 0.0,
        cycle_decay: float = 1.0,
        *,
        cycle_epochs: float | None = None,
        first_epoch: int = 0,
    ) -> None:
        lengths = {"cycle_steps": cycle_steps, "cycle_epochs": cycle_epochs}
        further = cycle_mult, min_lr, cycle_decay
        super().__init__(lambda n: WarmRestarts(max_lr, n, *further), first_epoch, **lengths)


class OneCycleLR(ScheduledLR):
    """Lets the rate climb once to `max_lr`, and fall far below where it began, while `fit` runs.

    The rates are those of `keras_transfer.schedules.OneCycle`; see `CyclicLR` for all that the three
    callbacks have in common.

    Args:
        max_lr: the highest rate.
        total_steps: steps of the whole cycle, at least 2; give either this or `total_epochs`.
        pct_start: the fraction of the steps in which the rate climbs, in [0, 1).
        anneal_strategy: "cosine" or "linear".
        div_factor: how many times higher `max_lr` is than the first rate, at least 1.
        final_div_factor: how many times higher the first rate is than the last, at least 1.
        total_epochs: epochs of the whole cycle, which may be a fraction; the last update that is
            complete in them has the last rate.
        first_epoch: the epoch, as `fit` counts, that the cycle begins with.

    Raises:
        ValueError: as `CyclicLR`.

    Example:
        >>> import keras, numpy as np, keras_transfer as kt
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> cycle = kt.callbacks.OneCycleLR(0.1, total_epochs=3, anneal_strategy="linear")
        >>> x, y = np.zeros((8, 2)), np.zeros((8, 1))
        >>> history = model.fit(x, y, batch_size=2, epochs=3, callbacks=[cycle], verbose=0)
        >>> [round(rate, 4) for rate in history.history["learning_rate"]]
        [0.0952, 0.0476, 0.0]

    References:
        Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
        Rates", 2018, section 3.
    """

    def __init__(
        self,
        max_lr: float,
        total_steps: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Annealing = "cosine",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        *,
        total_epochs: float | None = None,
        first_epoch: int = 0,
    ) -> None:
        def cycle(n: Any) -> OneCycle:
            length = math.floor(n) if total_steps is None else n
            return OneCycle(max_lr, length, pct_start, anneal_strategy, div_factor, final_div_factor)

        super().__init__(cycle, first_epoch, total_steps=total_steps, total_epochs=total_epochs)
