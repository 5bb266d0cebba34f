"""The graph of a model: its layers in order, those of nested models in their place."""

import math
import re
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

import keras

from keras_transfer._lib.keras_private.graph import graph_nodes, own_variables


def leaf_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the layers of `model` from input to output, those of nested models in their place.

    Every layer that is neither a model nor an input is there once, by depth. A layer made of other
    layers (an attention layer, say) counts as one, and so does a nested model with variables of its own
    (such as the class token of a transformer), which couldn't be frozen otherwise.
    """
    found = {id(leaf): leaf for layer in model.layers for leaf in leaves_of(layer)}
    return list(found.values())


def leaves_of(layer: keras.Operation) -> list[keras.Layer]:
    """Return the leaf layers that an operation consists of; it may be one itself."""
    if isinstance(layer, keras.Model) and not own_variables(layer):
        return leaf_layers(layer)
    return [] if isinstance(layer, keras.layers.InputLayer) else [layer]


def nested_models(model: keras.Model) -> list[keras.Model]:
    """Return `model` and every model inside it, outer ones first."""
    inner = [
        layer for layer in model.layers if isinstance(layer, keras.Model) and not own_variables(layer)
    ]
    return [model, *(deeper for layer in inner for deeper in nested_models(layer))]


class Call(NamedTuple):
    """A call in the graph of a model.

    Attributes:
        node: the call as Keras knows it.
        path: the calls of the nested models that it is in, outer ones first.
        on_trunk: whether every path from input to output runs through it.
        last: whether it gives an output of the model.
    """

    node: Any
    path: tuple[Any, ...]
    on_trunk: bool
    last: bool

    @property
    def operation(self) -> keras.Operation:
        """What is called: a layer or another operation."""
        return self.node.operation


def walk(model: keras.Model) -> Iterator[Call]:
    """Yield the calls that a model with a graph consists of, from input to output.

    Those of a nested model stand in the place of its call. Inputs are no calls.
    """

    def visit(graph: keras.Model, outputs: list[Any], path: tuple[Any, ...], on: bool) -> Iterator[Call]:
        common = {id(node) for node in own_trunk(graph)}
        ends = {id(tensor) for tensor in outputs}
        for node in graph_nodes(graph) or []:
            operation, here = node.operation, on and id(node) in common
            last = [index for index, tensor in enumerate(node.outputs) if id(tensor) in ends]
            if is_graph(operation):
                inner = [operation.outputs[index] for index in last]
                yield from visit(operation, inner, (*path, node), here)
            elif not isinstance(operation, keras.layers.InputLayer):
                yield Call(node, path, here, bool(last))

    return visit(model, model.outputs, (), True)


def along(model: keras.Model, start: float, step: Callable[[keras.Operation, float], float]) -> float:
    """Hand a value along each path through a model; where paths meet and at the end the greatest counts.

    No `walk`, as a call takes up what its parents gave, wherever they stand.

    Args:
        model: any model; what of it has no graph hands on what it is given.
        start: the value at the input.
        step: from an operation, or a nested model behind its inside, and the value before to the one
            after it.
    """
    values: dict[int, float] = {}
    for node in graph_nodes(model) or []:
        value = max((values[id(parent)] for parent in node.parent_nodes), default=start)
        if isinstance(node.operation, keras.Model):
            value = along(node.operation, value, step)
        values[id(node)] = step(node.operation, value)
    return max(values.values(), default=start)


def has_graph(model: keras.Model) -> bool:
    """Whether Keras knows the graph of `model`: it is functional, or sequential and built."""
    return graph_nodes(model) is not None


def check_built(model: keras.Model) -> None:
    """Raise a `ValueError` if `model` has no weights yet, a `TypeError` if it is no model."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model. Received: model={model!r}")
    if not model.built:
        raise ValueError(
            f"model {model.name!r} is not built: its weights don't exist yet. Call it on a batch, or "
            "model.build((None, height, width, channels)), or begin it with keras.Input. "
            f"Received: model of class {type(model).__name__}"
        )


def is_graph(operation: keras.Operation) -> bool:
    """Whether an operation is a nested model whose inside is part of the graph."""
    return isinstance(operation, keras.Model) and has_graph(operation) and not own_variables(operation)


def check_graph(model: keras.Model, remedy: str = "") -> None:
    """Raise a `ValueError` if `model` is not built, or subclassed, so that its layers have no order."""
    check_built(model)
    if not has_graph(model):
        raise ValueError(
            f"model {model.name!r} is subclassed: Keras knows its layers, but not their order nor which "
            "are its head. What works is kt.unfreeze(model), kt.unfreeze(model, layers=[...]) by name "
            "after model.trainable = False, kt.trainable_table and kt.recompile. Name the layers"
            f"{', ' + remedy if remedy else ''}, or build it from functional parts. "
            f"Received: model of class {type(model).__name__}"
        )


def own_trunk(model: keras.Model) -> list[Any]:
    """Return the nodes of `model` that every path from input to output runs through.

    With the nodes in topological order, a node is one of them if no edge leads past it.
    """
    nodes = graph_nodes(model) or []
    position = {id(node): index for index, node in enumerate(nodes)}
    reach = [0] * len(nodes)  # how far the edges reach that start at or before each position
    # All inputs come from before the first node, wherever they stand.
    reach[0] = max(position[id(node)] for node in nodes if not node.parent_nodes)
    for node in nodes:
        for parent in node.parent_nodes:
            start = position[id(parent)]
            reach[start] = max(reach[start], position[id(node)])
    reach = list(accumulate(reach, max))
    ends = {id(tensor) for tensor in model.outputs}
    last = [i for i, node in enumerate(nodes) if any(id(out) in ends for out in node.outputs)]
    return [
        node
        for index, node in enumerate(nodes)
        # Past the first of several outputs nothing is common to all.
        if index <= min(last) and (index == 0 or reach[index - 1] <= index)
    ]


def matching(pattern: str, names: list[str]) -> list[int]:
    """Return the indices of the names that a name or a regular expression means."""
    exact = [i for i, name in enumerate(names) if name == pattern]
    try:
        return exact or [i for i, name in enumerate(names) if re.fullmatch(pattern, name)]
    except (re.error, TypeError) as error:
        raise ValueError(
            f"a layer must be meant by its name or a regular expression ({error}). Received: {pattern!r}"
        ) from error


def input_of(model: keras.Model, layer: keras.Layer) -> keras.KerasTensor:
    """Return the symbolic input of a layer, in the graph of `model`, also if it is in a nested one."""
    calls = [call for call in walk(model) if call.operation is layer]
    if len(calls) != 1 or len(calls[0].node.input_tensors) != 1:
        raise ValueError(
            f"the head must begin at a layer that is called once, on one tensor. "
            f"Received: layer {layer.name!r}"
        )
    (found,) = calls[0].node.input_tensors
    for node in reversed(calls[0].path):
        inner, inputs = node.operation, node.input_tensors
        if any(found is tensor for tensor in inner.inputs):
            found = inputs[0]
        else:
            found = keras.Model(inner.inputs, found, name=inner.name)(inputs)
    return found


def up_to(model: keras.Model, layer: keras.Layer) -> keras.Model:
    """Return what of a model comes before a layer that all paths run through."""
    return keras.Model(model.inputs[0], input_of(model, layer), name=f"{model.name}_features")


def multiplications(model: keras.Model) -> int:
    """Return about how many multiplications the forward pass of one sample takes.

    Of each call of a layer these are the entries of its kernels, times the places that they are laid on.
    What unknown sizes hide counts once.
    """
    total = 0
    for call in walk(model):
        if isinstance(call.operation, keras.Layer):
            shape = call.node.outputs[0].shape
            channels = -1 if keras.config.image_data_format() == "channels_last" else 1
            places = math.prod(size or 1 for size in shape[1:]) // (shape[channels] or 1)
            kernels = sum(math.prod(v.shape) for v in call.operation.weights if len(v.shape) > 1)
            total += kernels * max(places, 1)
    return total
