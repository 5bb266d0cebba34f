"""How much work a model is, estimated from its shapes."""

import math

import keras

from keras_transfer._keras_private import graph_nodes
from keras_transfer.groups import is_graph


def multiplications(model: keras.Model) -> int:
    """Return about how many multiplications the forward pass of one sample takes.

    Of each call of a layer these are the entries of its kernels, times the places that they are laid on.
    What unknown sizes hide counts once.

    Args:
        model: a functional model.
    """
    total = 0
    for node in graph_nodes(model) or []:
        operation = node.operation
        if is_graph(operation):
            total += multiplications(operation)
        elif isinstance(operation, keras.Layer) and node.outputs:
            shape = node.outputs[0].shape
            channels = -1 if keras.config.image_data_format() == "channels_last" else 1
            places = math.prod(size or 1 for size in shape[1:]) // (shape[channels] or 1)
            kernels = sum(math.prod(v.shape) for v in operation.weights if len(v.shape) > 1)
            total += kernels * max(places, 1)
    return total
