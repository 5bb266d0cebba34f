"""The graph of a model: its layers in order, those of nested models in their place."""

import math
import re
from collections.abc import Iterable
from itertools import pairwise

import keras

from keras_transfer._lib.checks import did_you_mean
from keras_transfer._lib.keras_private.graph import graph_nodes, own_variables


def leaf_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the layers of `model` from input to output, those of nested models in their place.

    Args:
        model: a functional, sequential or subclassed model.

    Returns:
        Every layer that is neither a model nor an input, once, by depth. A layer made of other layers
        (an attention layer, say) counts as one, and so does a nested model with variables of its own
        (such as the class token of a transformer), which couldn't be frozen otherwise.
    """
    found: dict[int, keras.Layer] = {}

    for layer in model.layers:
        for leaf in leaves_of(layer):
            found.setdefault(id(leaf), leaf)
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


def find_layer(model: keras.Model, name: str) -> keras.Layer:
    """Return the leaf layer of `model` called `name`, in whichever nested model it is.

    Args:
        model: any model.
        name: the name of a leaf layer.

    Returns:
        The layer.

    Raises:
        ValueError: no leaf layer, or more than one, has this name; the message names near misses.
    """
    leaves = leaf_layers(model)
    found = [layer for layer in leaves if layer.name == name]
    if len(found) != 1:
        problem = (
            f"no layer {name!r} in model {model.name!r}"
            + did_you_mean(name, (layer.name for layer in leaves))
            if not found
            else f"{len(found)} layers of model {model.name!r} are called {name!r}; rename them."
        )
        raise ValueError(f"{problem} Received: layer name {name!r}")
    return found[0]


def find_layers(model: keras.Model, patterns: Iterable[str]) -> list[keras.Layer]:
    """Return the leaf layers of `model` that are meant by names or patterns.

    Args:
        model: any model.
        patterns: names of layers or of nested models, or regular expressions that match whole names of
            layers.

    Returns:
        The layers in depth order, all of a nested model that is named.

    Raises:
        ValueError: an entry matches no layer, or is the name of more than one.
    """
    leaves = leaf_layers(model)
    names = [layer.name for layer in leaves]
    nested = {inner.name: inner for inner in nested_models(model)}
    wanted: set[int] = set()
    for pattern in patterns:
        indices = matching(pattern, names)
        if not indices and pattern in nested:
            wanted.update(id(layer) for layer in leaf_layers(nested[pattern]))
            continue
        if not indices or pattern in names:
            find_layer(model, pattern)
        wanted.update(id(leaves[index]) for index in indices)
    return [layer for layer in leaves if id(layer) in wanted]


def layers_from(model: keras.Model, name: str) -> list[keras.Layer]:
    """Return the leaf layers of `model` from the one called `name` to the output.

    Args:
        model: a functional or sequential model.
        name: the name of a leaf layer.

    Returns:
        The layer of that name and all that stand after it in depth order.

    Raises:
        ValueError: the model is subclassed or not built; no leaf layer, or more than one, has this name
            (the message names near misses).
    """
    check_graph(model)
    leaves = leaf_layers(model)
    return leaves[leaves.index(find_layer(model, name)) :]


def trunk(model: keras.Model) -> list[keras.Operation]:
    """Return the operations that every path through `model` runs through, those of nested models too."""
    inside = [
        [operation, *trunk(operation)] if is_graph(operation) else [operation]
        for operation in own_trunk(model)
    ]
    return [operation for operations in inside for operation in operations]


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


def own_trunk(model: keras.Model) -> list[keras.Operation]:
    """Return the operations of `model` that every path from input to output runs through.

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
    for before, here in pairwise(range(len(nodes))):
        reach[here] = max(reach[here], reach[before])
    ends = {id(tensor) for tensor in model.outputs}
    last = [i for i, node in enumerate(nodes) if any(id(out) in ends for out in node.outputs)]
    return [
        node.operation
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
    nodes = graph_nodes(model) or []
    for node in nodes:
        operation, inputs = node.operation, node.input_tensors
        if operation is layer:
            if sum(other.operation is layer for other in nodes) > 1 or len(inputs) != 1:
                raise ValueError(
                    f"the head must begin at a layer that is called once, on one tensor. "
                    f"Received: layer {layer.name!r}"
                )
            return inputs[0]
        if isinstance(operation, keras.Model) and any(layer is leaf for leaf in leaf_layers(operation)):
            inner = input_of(operation, layer)
            if any(inner is tensor for tensor in operation.inputs):
                return inputs[0]
            return keras.Model(operation.inputs, inner, name=operation.name)(inputs)
    raise AssertionError(f"{layer.name} is on the trunk of {model.name}")


def flat_operations(model: keras.Model) -> list[keras.Operation]:
    """Return the operations of a model, one for each call, those of nested models in their place."""
    operations: list[keras.Operation] = []
    for node in graph_nodes(model) or []:
        operation = node.operation
        operations += flat_operations(operation) if is_graph(operation) else [operation]
    return operations


def operations_after(model: keras.Model, layer: keras.Layer) -> list[keras.Operation]:
    """Return the operations that follow a layer of the trunk, those of nested models in their place."""
    operations = flat_operations(model)
    positions = [index for index, operation in enumerate(operations) if operation is layer]
    return operations[max(positions, default=len(operations)) + 1 :]


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
