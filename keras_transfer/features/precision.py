"""A model that computes in half the precision."""

from typing import Any

import keras

from keras_transfer.groups import leaf_layers


def in_precision(model: keras.Model, dtype: str) -> keras.Model:
    """Return a copy of `model` that computes in 16 bits, with variables in float32.

    What comes before the first weights, which is the preprocessing of the images, stays as it is: pixels
    up to 255 have no room in 16 bits for what is subtracted from them.

    Args:
        model: a functional model. It stays as it is.
        dtype: "bfloat16" or "float16".
    """
    leaves = leaf_layers(model)
    first = next((index for index, layer in enumerate(leaves) if layer.weights), len(leaves))
    kept = {layer.name for layer in leaves[:first]}

    def converted(layer: keras.Operation) -> keras.Operation:
        if not isinstance(layer, keras.Layer):  # such as a sum: it computes in what it is given
            return layer
        config: dict[str, Any] = layer.get_config()
        if layer.name not in kept:
            config["dtype"] = keras.DTypePolicy(f"mixed_{dtype}")
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=converted, recursive=True)
    copy.set_weights(model.get_weights())
    return copy
