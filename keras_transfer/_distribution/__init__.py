"""Training on several devices and in several processes, by the engines that the backends have.

Nothing is started or chosen here: what the user has set up (`keras.distribution`, a strategy of
`tf.distribute`, `torchrun`) is found and followed. There is a module for each backend.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import keras
import numpy as np

from keras_transfer._distribution.placement import FitData as FitData
from keras_transfer._distribution.placement import Placement as Placement
from keras_transfer._lib.keras_private.convolutions import quick_convolutions


def placement(model: keras.Model) -> Placement:
    """Return where `model` trains, as far as the user has set that up.

    Raises:
        ValueError: what was set up can't train.
    """
    return _engine().placement(model)


def refusal(
    model: keras.Model, accumulates: bool, pulls: bool, reduction: str | None, weighted: bool
) -> str | None:
    """Return what the engine would do wrong, without a word or with one that doesn't help, or None.

    Args:
        model: what trains.
        accumulates: whether an optimizer accumulates gradients.
        pulls: whether an optimizer has an L2 penalty in its steps.
        reduction: how the loss of a batch is made of that of its samples, in Keras' words.
        weighted: whether classes have weights.
    """
    alone = placement(model).devices == 1
    return None if alone else _engine().refusal(model, accumulates, pulls, reduction, weighted)


def scope(model: keras.Model) -> AbstractContextManager[Any]:
    """Return the context in which variables are made that train with `model`."""
    return _engine().scope(model)


def start_equal(model: keras.Model) -> None:
    """Give the model of each process the values that the first process has."""
    _engine().start_equal(model)


def joined(model: keras.Model) -> keras.Model:
    """Return a model on the same layers whose `fit` trains together with those of other processes."""
    return _engine().joined(model)


def training_data(
    model: keras.Model, loader: Any, class_weight: dict[int, float] | None = None
) -> FitData:
    """Return what the `fit` of a joined model is given in this process for the batches of all."""
    return _engine().training_data(model, loader, class_weight)


def validation_data(model: keras.Model, loader: Any) -> Any:
    """Return what the `fit` of a joined model is given in this process to validate with."""
    return _engine().validation_data(model, loader)


@contextlib.contextmanager
def fitting(model: keras.Model, data: FitData | None = None) -> Iterator[None]:
    """Be the context in which the `fit` of a joined model takes what the functions before return."""
    with quick_convolutions(), _engine().fitting(model, data):
        yield


def gathered(model: keras.Model, number: int) -> list[int]:
    """Wait for the other processes, and return the numbers with which each has come."""
    alone = placement(model).processes == 1
    return [number] if alone else _engine().gathered(model, number)


def agreed(model: keras.Model, number: int) -> bool:
    """Wait for the other processes, and return whether each has come with the same number."""
    return len(set(gathered(model, number))) == 1


def accelerated(model: keras.Model) -> bool:
    """Whether the backend computes `model` on something quicker than the processor."""
    return _engine().accelerated(model)


def compiles_networks() -> bool:
    """Whether the backend compiles a network as a whole.

    That folds batch norm, and even a single call takes less time than one operation after the other.
    """
    return _engine().COMPILES_NETWORKS


def forward(model: keras.Model) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Return what computes the output of `model` on devices of this process, without the others.

    Returns:
        A function of a batch, and what its samples must be a multiple of.
    """
    return _engine().forward(model)


def _engine() -> ModuleType:
    return importlib.import_module(f"{__name__}.{keras.backend.backend()}")
