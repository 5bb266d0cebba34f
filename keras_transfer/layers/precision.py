"""A model that computes in half the precision, or in full precision again."""

from collections.abc import Callable
from typing import Any

import keras

from keras_transfer._lib.keras_private.graph import sublayers
from keras_transfer._lib.keras_private.variables import loaded_at_once
from keras_transfer.layers.graph import leaf_layers


def in_precision(model: keras.Model, dtype: str) -> keras.Model:
    """Return a copy of `model` that computes in 16 bits, with variables in float32.

    What comes before the first weights, which is the preprocessing of the images, stays as it is: pixels
    up to 255 have no room in 16 bits for what is subtracted from them.
    """
    leaves = leaf_layers(model)
    first = next((index for index, layer in enumerate(leaves) if layer.weights), len(leaves))
    kept = {layer.name for layer in leaves[:first]}

    def policy(layer: keras.Layer) -> Any:
        stays = layer.name in kept or layer.quantization_mode is not None
        return None if stays else keras.DTypePolicy(f"mixed_{dtype}")

    return _with_policies(model, policy)


def in_full_precision(model: keras.Model) -> keras.Model:
    """Return a copy of `model` that computes in the type of its variables, or itself if it does so."""

    def policy(layer: keras.Layer) -> Any:
        mixed = layer.dtype_policy.name.startswith("mixed_")
        return keras.DTypePolicy(layer.variable_dtype) if mixed else None

    layers = [layer for layer in sublayers(model) if not isinstance(layer, keras.Model)]
    return _with_policies(model, policy) if any(map(policy, layers)) else model


def _with_policies(model: keras.Model, policy: Callable[[keras.Layer], Any]) -> keras.Model:
    """Return a copy of `model` whose layers have the policy that a function gives, if it gives one."""

    def converted(layer: keras.Operation) -> keras.Operation:
        if not isinstance(layer, keras.Layer):  # such as a sum: it computes in what it is given
            return layer
        config: dict[str, Any] = layer.get_config()
        own = policy(layer)
        if own is not None:
            config["dtype"] = own
        return type(layer).from_config(config)

    with loaded_at_once():
        copy = keras.models.clone_model(model, clone_function=converted, recursive=True)
        copy.set_weights(model.get_weights())
    return copy
