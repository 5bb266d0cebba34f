"""What the engines tell: where a model trains, and on what."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Placement:
    """Where a model trains.

    Attributes:
        index: the number of this process, from 0.
        processes: how many train together.
        devices: how many devices they have in all, which is what a batch is divided among.
        stream: which of several streams of random numbers is drawn from here; one for all processes
            where they compute as one.
    """

    index: int = 0
    processes: int = 1
    devices: int = 1
    stream: int = 0


@dataclass(frozen=True)
class FitData:
    """What `fit` is given.

    Attributes:
        x: the data.
        loader: what it is read from, which wants to be told its epoch.
        class_weight: the weights of classes that `x` doesn't have in it.
        first: a first part of a batch of `x`, where that can't be read for it.
    """

    x: Any
    loader: Any
    class_weight: dict[int, float] | None
    first: tuple[Any, ...] | None = None
