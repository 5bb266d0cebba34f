"""Copies of the layers of one network in the graph of another."""

from typing import Any

import keras

from keras_transfer._lib.keras_private.variables import loaded_at_once


def add_copies(
    network: keras.Model, inputs: keras.KerasTensor, images: keras.KerasTensor, prefix: str = ""
) -> keras.KerasTensor:
    """Add the layers of a network to a graph, one by one, and return what they end in.

    They are copies with the same weights, each with its own name behind the prefix. Models inside the
    network are no copies: they become a part of both, under their own names.

    Args:
        network: a functional or sequential model with one input and one output.
        inputs: the symbolic input of the graph.
        images: what the network is to see, made from `inputs`.
        prefix: what the names of the copies begin with.
    """
    plain = keras.Model(network.inputs, network.outputs)
    copies: list[tuple[keras.Layer, keras.Layer]] = []

    def copied(operation: Any) -> Any:
        if isinstance(operation, keras.Model):
            return operation
        config = operation.get_config()
        if "name" in config:  # some operations that are no layers can't be given one
            config["name"] = f"{prefix}{operation.name}"
        copy = type(operation).from_config(config)
        copies.append((operation, copy))
        return copy

    def call(operation: Any, *arguments: Any, **named: Any) -> Any:
        # Keras copies on the inputs of a graph only, so they are exchanged for `images` at each call.
        arguments, named = keras.tree.map_structure(
            lambda value: images if value is inputs else value, (arguments, named)
        )
        return operation(*arguments, **named)

    with loaded_at_once():
        copy = keras.models.clone_model(
            plain, input_tensors=[inputs], clone_function=copied, call_function=call
        )
        for before, after in copies:
            if isinstance(before, keras.Layer) and before.weights:
                after.set_weights(before.get_weights())
            if isinstance(before, keras.layers.Normalization) and before.built:
                after.finalize_state()  # what it has read from its weights is older than these
    return copy.outputs[0]
