"""Private names of Keras for low-rank adapters (LoRA), which it can put on, but not take off."""

from typing import Any

import keras

_A, _B = "lora_kernel_a", "lora_kernel_b"


def base_kernel(layer: keras.Layer) -> keras.Variable:
    """Return the kernel of a built `Dense` or `EinsumDense` layer, without what LoRA adds to it."""
    return layer._kernel


def take_off(layer: keras.Layer) -> None:
    """Make `layer` what it was before `enable_lora`: nothing in it, and in its files, tells of that.

    The kernel stays as it is, without what the adapter adds, and trains where the layer does.
    """
    for name in (_A, _B):
        layer._untrack_variable(getattr(layer, name))
        # As Keras deletes, but for its collection of garbage, which takes long for many layers.
        super(keras.Layer, layer).__delattr__(name)
    layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
    layer._kernel.trainable = layer.trainable


def put_back(layer: keras.Layer, a: keras.Variable, b: keras.Variable, alpha: float) -> None:
    """Give `layer` the adapter again that `take_off` took, in the place it had among its variables."""
    tracker: Any = layer._tracker
    tracker.unlock()
    for name, variable in ((_A, a), (_B, b)):
        layer._track_variable(variable)
        setattr(layer, name, variable)
    tracker.lock()
    layer._kernel.trainable = False
    layer.lora_enabled, layer.lora_rank, layer.lora_alpha = True, b.shape[0], alpha
