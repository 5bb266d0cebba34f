"""What all transformers are made of, added to a graph in stock Keras layers."""

from collections.abc import Callable
from typing import Any

import keras

_SPREAD = 0.02  # of initial weights, as in all of these networks

# By the names that configurations of checkpoints have.
ACTIVATIONS: dict[str, Callable[[keras.KerasTensor], keras.KerasTensor]] = {
    "gelu": lambda x: keras.ops.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: keras.ops.gelu(x, approximate=True),
    "gelu_new": lambda x: keras.ops.gelu(x, approximate=True),
    "quick_gelu": lambda x: keras.ops.multiply(x, keras.ops.sigmoid(keras.ops.multiply(x, 1.702))),
    "relu": keras.ops.relu,
    "silu": keras.ops.silu,
    "swish": keras.ops.silu,
}


def dense(units: int, name: str, bias: bool = True) -> keras.Layer:
    """Return a dense layer with the initial weights of transformers."""
    initial = keras.initializers.TruncatedNormal(stddev=_SPREAD)  # one for each: it draws once
    return keras.layers.Dense(units, use_bias=bias, kernel_initializer=initial, name=name)


def norm(epsilon: float, name: str) -> keras.Layer:
    """Return a layer norm."""
    return keras.layers.LayerNormalization(epsilon=epsilon, name=name)


def one(x: keras.KerasTensor) -> keras.KerasTensor:
    """Return a one with as many axes as `x`, of the first sample alone: what tables are multiplied by.

    It is made from `x`, so that every path of the network still runs through that.
    """
    return keras.ops.ones_like(x[(slice(0, 1),) * len(x.shape)])


def table(ones: keras.KerasTensor, shape: tuple[int, ...], name: str) -> keras.KerasTensor:
    """Return numbers of a shape that train, such as positions, behind an axis for the batch.

    They are the kernel of a dense layer that is given a one. An `Embedding` would do, too, but on
    TensorFlow its gradient is of a kind that optimizers treat in their own way, and on GPUs its sum has
    no fixed order; and rounding to integers changes no number here, as each has a scale of its own.
    """
    number = 1
    for size in shape:
        number *= size
    return keras.layers.Reshape(shape, name=f"{name}_table")(dense(number, name, bias=False)(ones))


def mlp(
    x: keras.KerasTensor,
    width: int,
    activation: str,
    name: str,
    *,
    gated: bool = False,
    bias: bool = True,
) -> keras.KerasTensor:
    """Add two dense layers with an activation between; `gated`: times what a third gives."""
    activate, channels = ACTIVATIONS[activation], x.shape[-1]
    inner = dense(width, f"{name}_in", bias)(x)
    if gated:
        gate = activate(dense(width, f"{name}_gate", bias)(x))
        inner = keras.layers.Multiply(name=f"{name}_gated")([gate, inner])
    else:
        inner = activate(inner)
    return dense(channels, f"{name}_out", bias)(inner)


def heads_of(x: keras.KerasTensor, heads: int, name: str, bias: bool = True) -> keras.KerasTensor:
    """Add a dense layer whose output falls into the vectors of heads."""
    width = x.shape[-1]
    found = dense(width, name, bias)(x)
    return keras.layers.Reshape((*x.shape[1:-1], heads, width // heads), name=f"{name}_heads")(found)


def dropped(x: keras.KerasTensor, rate: float, name: str) -> keras.KerasTensor:
    """Add stochastic depth: the branch of a sample is left out as a whole, in training."""
    if not rate:
        return x
    shape = (None, *[1] * (len(x.shape) - 1))
    return keras.layers.Dropout(rate, noise_shape=shape, name=name)(x)


def weighted_layers(inputs: keras.KerasTensor, outputs: keras.KerasTensor) -> dict[str, Any]:
    """Return the layers with weights between two tensors of a graph, by name."""
    operations = keras.Function(inputs, outputs).operations
    return {each.name: each for each in operations if isinstance(each, keras.Layer) and each.weights}
