"""The layers of a model in depth order, and where its classification head begins."""

from itertools import pairwise

import keras

from keras_transfer._messages import did_you_mean

_POOLING = (
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalMaxPooling3D,
)


def leaf_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the layers of `model` from input to output, those of nested models in their place.

    Args:
        model: a functional, sequential or subclassed model.

    Returns:
        Every layer that is neither a model nor an input, once, by depth. A layer made of other layers
        (an attention layer, say) counts as one.
    """
    found: dict[int, keras.Layer] = {}

    def visit(layer: keras.Layer) -> None:
        if isinstance(layer, keras.Model):
            for inner in layer.layers:
                visit(inner)
        elif not isinstance(layer, keras.layers.InputLayer):
            found.setdefault(id(layer), layer)

    visit(model)
    return list(found.values())


def nested_models(model: keras.Model) -> list[keras.Model]:
    """Return `model` and every model inside it, outer ones first."""
    inner = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    return [model, *(deeper for layer in inner for deeper in nested_models(layer))]


def layers_from(model: keras.Model, name: str) -> list[keras.Layer]:
    """Return the leaf layers of `model` from the one called `name` to the output.

    Args:
        model: any model.
        name: the name of a leaf layer.

    Returns:
        The layer of that name and all that stand after it in depth order.

    Raises:
        ValueError: no leaf layer, or more than one, has this name; the message names near misses.
    """
    leaves = leaf_layers(model)
    positions = [index for index, layer in enumerate(leaves) if layer.name == name]
    if len(positions) != 1:
        problem = (
            f"no layer {name!r} in model {model.name!r}"
            + did_you_mean(name, (layer.name for layer in leaves))
            if not positions
            else f"{len(positions)} layers of model {model.name!r} are called {name!r}; rename them"
        )
        raise ValueError(f"{problem} Received: layer name {name!r}")
    return leaves[positions[0] :]


def head_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the leaf layers of the classification head of `model`; the others are the backbone.

    The head begins after the nested model that holds the backbone, where there is one; else at the
    first global pooling or `Flatten` layer that every path from the input to the output runs through
    (the pooling inside a squeeze-and-excitation block is by-passed, so it doesn't count); else at
    the last layer that has weights.

    Args:
        model: any model.

    Returns:
        The layers of the head in depth order; at least one for a model that has weights.
    """
    leaves = leaf_layers(model)
    trunk = _trunk(model)
    nested = [layer for layer in trunk if isinstance(layer, keras.Model)]
    if nested:
        backbone = max(nested, key=lambda layer: layer.count_params())
        last = max(leaves.index(layer) for layer in leaf_layers(backbone))
        head = leaves[last + 1 :]
        holds_classifier = not any(layer.weights for layer in head)
        return [*head_layers(backbone), *head] if holds_classifier else head
    for layer in trunk:
        if isinstance(layer, _POOLING):
            return leaves[leaves.index(layer) :]
    weighted = [index for index, layer in enumerate(leaves) if layer.weights]
    return leaves[weighted[-1] :] if weighted else leaves[-1:]


def backbone_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the leaf layers of `model` that don't belong to its head (see `head_layers`)."""
    head = {id(layer) for layer in head_layers(model)}
    return [layer for layer in leaf_layers(model) if id(layer) not in head]


def _trunk(model: keras.Model) -> list[keras.Operation]:
    """Return the operations of `model` that every path from input to output runs through.

    With the nodes in topological order, a node is one of them if no edge leads past it.
    """
    if isinstance(model, keras.Sequential):
        return list(model.layers)
    by_depth = getattr(model, "_nodes_by_depth", None)
    if by_depth is None:  # a subclassed model: Keras knows no graph of it
        return []
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    position = {id(node): index for index, node in enumerate(nodes)}
    reach = [0] * len(nodes)  # how far the edges reach that start at or before each position
    for node in nodes:
        for parent in node.parent_nodes:
            start = position[id(parent)]
            reach[start] = max(reach[start], position[id(node)])
    for before, here in pairwise(range(len(nodes))):
        reach[here] = max(reach[here], reach[before])
    return [
        node.operation for index, node in enumerate(nodes) if index == 0 or reach[index - 1] <= index
    ]
