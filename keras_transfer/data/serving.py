"""Where a loader stands in the passes that Keras makes over it."""


class Passes:
    """Follows the passes of Keras' `fit`, `evaluate` and `predict` over data, by what Keras calls.

    A pass is in one of three states. Keras tells them apart by nothing else:

    - *outside*: no pass has begun, or the last has come to its end;
    - *entered*: a pass has begun and ended no epoch so far. Keras asks then, and only then, with how
      many threads of its own it shall read (`PyDataset.workers`);
    - *serving*: an epoch has begun, and so many of its batches are out.

    A pass that was broken off, by an error or by `stop_training`, ends where the next is entered.
    """

    def __init__(self) -> None:
        self._served: int | None = None
        self._entered = False

    def enter(self) -> None:
        """Begin a pass."""
        self._served, self._entered = None, True

    def begin_epoch(self) -> None:
        """Begin to serve an epoch."""
        self._served = 0

    def position(self) -> int | None:
        """Return which batch of the epoch is next, and count it; None outside of an epoch."""
        if self._served is None:
            return None
        self._served += 1
        return self._served - 1

    def end_epoch(self) -> bool:
        """End an epoch, and return whether the data moves on to the next.

        `fit` and `evaluate` end one before their first: on torch and JAX, a model that was never fitted
        has then drawn a batch to learn its shapes, and starts over.
        """
        moves_on = bool(self._served) and not self._entered
        self._served, self._entered = None, False
        return moves_on
