"""Private names of Keras for how its backends convolve."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_transfer._lib.attributes import attributes

_within = threading.local()  # whether this thread is in a convolution


@contextlib.contextmanager
def quick_convolutions() -> Iterator[None]:
    """Let convolutions on torch and on JAX take less time, inside the block.

    On torch they take feature maps as they lie in memory, and give the same bits. On JAX without an
    accelerator depthwise and pointwise ones are products, and differ by rounding. On TensorFlow nothing
    changes.
    """
    contexts = {"torch": _maps_not_copied, "jax": _by_products}
    with contexts.get(keras.backend.backend(), contextlib.nullcontext)():
        yield


@contextlib.contextmanager
def _maps_not_copied() -> Iterator[None]:
    """Let torch see the same numbers in the same places, without Keras' copies.

    Keras copies what has its channels last to channels first and back again, for each convolution and
    for its gradient. Pooling stays as it is, as it would sum in another order.
    """
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


@contextlib.contextmanager
def _by_products() -> Iterator[None]:
    """Let JAX compute on a processor by `_lib.jax_convolutions` what that can."""
    import jax
    from keras.src.backend.jax import nn

    from keras_transfer._lib import jax_convolutions as ours

    if jax.default_backend() != "cpu":
        yield
        return

    def instead_of(usual: Any, fits: Any, compute: Any) -> Any:
        """Return a convolution of Keras' arguments that computes by ours what fits it."""

        def convolve(
            inputs: Any,
            kernel: Any,
            strides: Any = 1,
            padding: str = "valid",
            data_format: str | None = None,
            dilation_rate: Any = 1,
        ) -> Any:
            maps, weights = nn.convert_to_tensor(inputs), nn.convert_to_tensor(kernel)
            if _has_channels_last(data_format) and fits(maps, weights):
                return compute(maps, weights, _pair(strides), padding, _pair(dilation_rate))
            return usual(inputs, kernel, strides, padding, data_format, dilation_rate)

        return convolve

    with attributes(
        nn,
        conv=instead_of(nn.conv, ours.is_pointwise, ours.pointwise),
        depthwise_conv=instead_of(nn.depthwise_conv, ours.is_depthwise, ours.depthwise),
    ):
        yield


def _has_channels_last(data_format: str | None) -> bool:
    return (data_format or keras.config.image_data_format()) == "channels_last"


def _pair(given: int | Sequence[int]) -> tuple[int, int]:
    down, across = (given, given) if isinstance(given, int) else given
    return down, across
