"""Private names of Keras for how feature maps lie in memory."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras

from keras_transfer._lib.attributes import attributes

_within = threading.local()  # whether this thread is in a convolution


@contextlib.contextmanager
def maps_not_copied() -> Iterator[None]:
    """Let convolutions on torch take feature maps as they lie in memory, inside the block.

    Keras copies what has its channels last to channels first and back again, for each convolution and
    for its gradient. It is the same without: torch sees the same numbers in the same places. Pooling
    stays as it is, as it would sum in another order. On other backends nothing changes.
    """
    if keras.backend.backend() != "torch":
        yield
        return
    from keras.src.backend.torch import nn

    convolve, copied = nn.conv, nn._transpose_spatial_inputs

    def conv(*args: Any, **kwargs: Any) -> Any:
        _within.convolution = True
        try:
            return convolve(*args, **kwargs)
        finally:
            _within.convolution = False

    def seen(inputs: Any) -> Any:
        if inputs.ndim == 4 and getattr(_within, "convolution", False):
            return inputs.permute(0, 3, 1, 2)
        return copied(inputs)

    with attributes(nn, conv=conv, _transpose_spatial_inputs=seen):
        yield
