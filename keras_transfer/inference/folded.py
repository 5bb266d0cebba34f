"""A copy of a model for inference: batch norm goes into the weights of the layer before it."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.keras_private.graph import graph_nodes
from keras_transfer._lib.keras_private.variables import loaded_at_once
from keras_transfer.layers.graph import has_graph, nested_models, walk

_WEIGHTED = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


def folded(model: keras.Model) -> keras.Model | None:
    """Return a copy of a model without the batch norm that folds, or None where there is none of it.

    It has weights of its own, and what it gives differs from what the model gives in inference mode by
    rounding alone.

    Args:
        model: any model; of what isn't a graph in float32 nothing folds.
    """
    if not has_graph(model):
        return None
    # A nested model that is called several times, as for several views of an image, counts once.
    graphs = {id(graph): graph for graph in nested_models(model)}.values()
    calls = Counter(id(node.operation) for graph in graphs for node in graph_nodes(graph) or [])
    pairs = {
        id(before): (before, norm)
        for graph in graphs
        for before, norm in _neighbours(graph)
        if calls[id(before)] == calls[id(norm)] == 1
    }
    if not pairs:
        return None
    norms = {id(norm) for _, norm in pairs.values()}
    made: dict[int, keras.Layer] = {}

    def copied(layer: keras.Operation) -> keras.Operation:
        if not isinstance(layer, keras.Layer):
            return layer
        if id(layer) in norms:
            return _Nothing(name=layer.name)
        config: dict[str, Any] = layer.get_config()
        if id(layer) in pairs:
            config["use_bias"] = True
        made[id(layer)] = type(layer).from_config(config)
        return made[id(layer)]

    with loaded_at_once():
        copy = keras.models.clone_model(model, clone_function=copied, recursive=True)
        originals = {id(call.operation): call.operation for call in walk(model)}
        for place, layer in made.items():
            if layer.weights:
                norm = pairs[place][1] if place in pairs else None
                layer.set_weights(_weights(originals[place], norm))
    return copy


class _Nothing(keras.layers.Layer):
    """Takes the place of a batch norm, and gives what it is given."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return inputs


def _neighbours(graph: keras.Model) -> Iterator[tuple[keras.Layer, keras.Layer]]:
    """Yield each layer with weights that one batch norm of the same graph alone follows, and this."""
    nodes = graph_nodes(graph) or []
    used = Counter(id(tensor) for node in nodes for tensor in node.input_tensors)
    used.update(id(tensor) for tensor in graph.outputs)
    made_by = {id(tensor): node for node in nodes for tensor in node.outputs}
    for node in nodes:
        norm = node.operation
        if type(norm) is not keras.layers.BatchNormalization:
            continue
        (tensor,) = node.input_tensors
        before: Any = made_by[id(tensor)].operation
        if (
            type(before) in _WEIGHTED
            and used[id(tensor)] == 1
            and before.activation is keras.activations.linear
            and norm.axis in (-1, len(tensor.shape) - 1)
            and before.quantization_mode is None
            and not getattr(before, "lora_enabled", False)
            and before.compute_dtype == norm.compute_dtype == "float32"
            and getattr(before, "data_format", "channels_last") == "channels_last"
        ):
            yield before, norm


def numbers(variable: Any) -> np.ndarray:
    """Return the values of a variable or a tensor, exact enough to be folded: in float64."""
    return keras.ops.convert_to_numpy(variable).astype("float64")


def norm_as_numbers(norm: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Return what a batch norm multiplies each channel by in inference mode, and what it adds."""
    scale = 1.0 / np.sqrt(numbers(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale = scale * numbers(norm.gamma)
    shift = -numbers(norm.moving_mean) * scale
    return scale, shift + numbers(norm.beta) if norm.center else shift


def _weights(layer: Any, norm: Any) -> list[np.ndarray]:
    """Return the weights of a copy of a layer, with those of a norm in them."""
    if norm is None:
        return layer.get_weights()
    kernel = numbers(layer.kernel)
    scale, shift = norm_as_numbers(norm)
    bias = shift
    if layer.use_bias:
        bias = numbers(layer.bias) * scale + shift
    if isinstance(layer, keras.layers.DepthwiseConv2D):  # whose channels are the last two axes
        scale = scale.reshape(kernel.shape[2:])
    return [(kernel * scale).astype("float32"), bias.astype("float32")]
