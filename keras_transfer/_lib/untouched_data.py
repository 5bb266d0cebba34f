"""Reading data so that the object which the user holds stays as it is."""

import contextlib
import copy
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import keras

_END = object()


@contextlib.contextmanager
def untouched(data: Any) -> Iterator[Any]:
    """Give data for `fit` that reads what `data` holds.

    A `PyDataset` is read in a deep copy, in one thread. A function that makes an iterator of batches is
    called whenever they are used up. When the block is left, nothing of either is read any more;
    TensorFlow's threads would read on until they are collected, and draw random numbers. Other data is
    given as it is.

    Raises:
        TypeError: `data` is an iterator, whose batches would be gone, or can't be copied.
    """
    if hasattr(data, "__next__"):
        raise TypeError(
            "data must be such that can be read again; the batches of an iterator would be gone. Pass "
            f"the function that makes it. Received: data of type {type(data).__name__}"
        )
    gate = _Gate()
    try:
        if isinstance(data, keras.utils.PyDataset):
            yield _Copy(data, gate)
        elif callable(data):
            yield _endless(data, gate)
        else:
            yield data
    finally:
        gate.close()


class _Gate:
    """Lets one thread at a time read, and none when it is closed."""

    def __init__(self) -> None:
        self._lock, self._open = threading.Lock(), True

    def read(self, read: Callable[[], Any], otherwise: Any) -> Any:
        with self._lock:
            return read() if self._open else otherwise

    def close(self) -> None:
        """Wait for who is reading, and let no one in any more."""
        with self._lock:
            self._open = False


class _Copy(keras.utils.PyDataset):
    """A copy of a data set; when the gate is closed it has only the batch that was read last."""

    def __init__(self, data: keras.utils.PyDataset, gate: _Gate) -> None:
        super().__init__()
        try:
            self._data = copy.deepcopy(data)
        except Exception as error:
            raise TypeError(
                "data must be a PyDataset that can be copied, so that reading leaves no trace in it; "
                f"give it a __deepcopy__. Received: data of type {type(data).__name__}, {error}"
            ) from error
        self._gate, self._last = gate, None

    @property
    def workers(self) -> int:
        """No threads: Keras leaves them running where training stops within an epoch."""
        _ = self._data.workers  # a Loader learns from this question that training begins
        return 0

    @property
    def num_batches(self) -> int | None:
        """How many batches an epoch has."""
        return self._data.num_batches

    def __getitem__(self, index: int) -> Any:
        self._last = self._gate.read(lambda: self._data[index], self._last)
        return self._last

    def on_epoch_begin(self) -> None:
        self._data.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._data.on_epoch_end()


def _endless(make: Callable[[], Iterable[Any]], gate: _Gate) -> Iterator[Any]:
    batches, empty = iter(make()), True
    while True:
        batch = gate.read(partial(next, batches, _END), _END)
        if batch is not _END:
            empty = False
            yield batch
        elif empty:
            return
        else:
            batches, empty = gate.read(lambda: iter(make()), iter(())), True
