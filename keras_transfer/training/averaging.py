"""Averages of the weights in the course of a phase: which there are, and when the model has them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras

from keras_transfer._lib.checks import checked_integer, checked_number
from keras_transfer._lib.keras_private.graph import sublayers
from keras_transfer._lib.keras_private.optimizer import moving_averages
from keras_transfer._lib.variables import assign_variables, copy_variables
from keras_transfer.layers.adapters import Adapters
from keras_transfer.models.averages import Statistics, mixed
from keras_transfer.optimizers.carry_over import inner_optimizer
from keras_transfer.results.training import Logs
from keras_transfer.training.state import RunState


@dataclass(frozen=True)
class EMA:
    """The exponential moving average of the weights over the steps of a phase.

    After the first step it is the weights; after each further one it is `decay` times what it was plus
    (1 - decay) times the weights. A step is a batch, also where an optimizer accumulates gradients. It
    looks back about 1 / (1 - decay) steps: in a phase of fewer it is little more than the weights after
    the first step.

    Attributes:
        decay: above 0 and below 1.

    Raises:
        ValueError: `decay` is no such number.

    Example:
        >>> import keras_transfer as kt
        >>> kt.Phase("all", 10, train="all", average=kt.EMA(0.99)).average
        EMA(decay=0.99)

    References:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992. Tarvainen and
        Valpola, "Mean teachers are better role models", 2017.
    """

    decay: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay", checked_number("decay", self.decay, high=1))


@dataclass(frozen=True)
class SWA:
    """The mean of the weights at the ends of the last epochs of a phase (stochastic weight averaging).

    Until these begin there is nothing to average, and the weights count as they are.

    Attributes:
        epochs: over how many of the last epochs, at least 2; a phase must have more.

    Raises:
        ValueError, TypeError: `epochs` is no such number.

    Example:
        >>> import keras_transfer as kt
        >>> kt.Phase("all", 10, train="all", average=kt.SWA(4)).average
        SWA(epochs=4)

    References:
        Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018.
    """

    epochs: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", checked_integer("epochs", self.epochs, 2))


class Averager(keras.callbacks.Callback):
    """Has the model be averaged from the end of an epoch, before validation, until the next begins.

    So validation, the state of the run and other callbacks see averaged weights, and training goes on
    from the raw ones. It must come before all other callbacks.

    Args:
        state: the state of the run, which keeps the raw weights meanwhile.
        average: what to average. That of `EMA` is in the optimizer, whose steps take it.
        last: the epoch with which the phase ends.
        adapters: those of the phase, and the model, whose variables are averaged.
        images: gives the batches of images of an epoch, on which batch norm that trains is measured.
    """

    def __init__(
        self,
        state: RunState,
        average: EMA | SWA,
        last: int,
        adapters: Adapters,
        images: Callable[[int], Iterable[Any]],
    ) -> None:
        super().__init__()
        self._state, self._average, self._averaged, self._images = state, average, adapters, images
        self._first = last - average.epochs if isinstance(average, SWA) else 0
        self._epoch = 0
        self._statistics: Statistics | None = None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Go on with the raw weights."""
        self._epoch = epoch
        if self._state.raw is not None:
            assign_variables(self._averaged.variables, self._state.raw)
            self._state.raw = None

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Have what is validated be averaged."""
        self._put_in()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Have what other callbacks see be averaged."""
        self._put_in()

    def _put_in(self) -> None:
        if self._state.raw is not None:  # since validation
            return
        view = self.model  # on JAX this brings the variables up to date
        self._state.raw = copy_variables(self._averaged.variables)
        if self._epoch < self._first:
            return
        if isinstance(self._average, EMA):
            pairs = moving_averages(inner_optimizer(view.optimizer))
            assign_variables([each for each, _ in pairs], copy_variables([mean for _, mean in pairs]))
        else:
            self._state.averaged += 1
            self._state.mean = mixed(self._state.mean or [], self._state.raw, 1 / self._state.averaged)
            assign_variables(self._averaged.variables, self._state.mean)
        norms = trained_norms(view)
        if norms:
            if self._statistics is None or self._statistics.norms != norms:
                self._statistics = Statistics(view, norms)  # whose step is compiled once
            self._statistics.measure(self._images(self._epoch))


def trained_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Return the layers of batch norm that train, whose statistics the average of weights needs anew."""
    layers = [each for each in sublayers(model) if isinstance(each, keras.layers.BatchNormalization)]
    return [layer for layer in layers if layer.trainable]
