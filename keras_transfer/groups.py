"""The layers of a model in depth order, the groups they form, and where its head begins."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from keras_transfer._keras_private import graph_nodes, own_variables
from keras_transfer._messages import did_you_mean

Split = Sequence[str] | Callable[[keras.Layer], str]

_POOLING = (
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalMaxPooling3D,
)
_NORMALIZATION = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
)
# How the families name their stages: VGG, EfficientNet and Xception by block, ResNet and DenseNet by
# conv, ConvNeXt by stage, KerasHub's ResNets by stack.
_STAGE = re.compile(r"(?:.*?_)??(stem|top|block\d+|conv\d+|stack\d+|stage_?\d+)[a-z]?_.*")


@dataclass(frozen=True)
class LayerGroup:
    """Layers that are frozen, unfrozen and given a learning rate together.

    Attributes:
        name: the name of the group: a stage such as "block5", or "head".
        layers: its leaf layers in depth order.
    """

    name: str
    layers: list[keras.Layer]

    def __repr__(self) -> str:
        names = [layer.name for layer in self.layers]
        shown = names if len(names) < 3 else [names[0], "...", names[-1]]
        return f"LayerGroup({self.name!r}, {', '.join(shown)})"


def layer_groups(model: keras.Model, *, split: Split | None = None) -> list[LayerGroup]:
    """Return the groups of layers of a model, from input to output, the head last.

    Each leaf layer is in exactly one group, and the groups follow one another in depth order. The
    backbone falls into the stages that the names of its layers tell (VGG's block1 to block5, ResNet's
    conv1 to conv5), where most of them tell one; else into the models nested in it, where these hold
    most of its weights; else it is cut where strides lower the resolution; else, as in transformers
    and plain chains, where all paths through the network meet.

    Args:
        model: a functional or sequential model.
        split: how to divide the backbone instead: the layers at which groups begin, each by name or by
            a regular expression that matches a whole name (the first match counts), or a function from
            a layer to the name of its group; these groups stand in the order in which they first occur.
            With a split a subclassed model will do, too: it has no head then, and its layers stand in
            the order in which it was given them.

    Returns:
        The groups; none is the head where the model has no classification head (see `head_layers`).

    Raises:
        ValueError: the model is not built, or subclassed and not split, or an entry of `split` matches
            no layer of the backbone.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, input_shape=(32, 32, 3), weights=None)
        >>> [group.name for group in kt.layer_groups(model)]
        ['block1', 'block2', 'block3', 'block4', 'block5', 'head']
    """
    check_built(model)
    if split is None:
        check_graph(model, "or divide it with split=...")
    head = head_layers(model) if has_graph(model) else []
    leaves = leaf_layers(model)
    body = leaves[: len(leaves) - len(head)]
    if callable(split):
        named: dict[str, list[keras.Layer]] = {}
        for layer in body:
            name = split(layer)
            if not isinstance(name, str) or name == "head":
                raise ValueError(
                    "split must return the name of a group of the backbone, other than 'head'. "
                    f"Received: {name!r} for layer {layer.name!r}"
                )
            named.setdefault(name, []).append(layer)
        groups = [LayerGroup(name, layers) for name, layers in named.items()]
    else:
        starts = _default_starts(model, body) if split is None else _given_starts(body, split)
        groups = [
            LayerGroup(name, body[start:end])
            for (start, name), (end, _) in pairwise([*sorted(starts.items()), (len(body), "")])
        ]
    return [*groups, LayerGroup("head", head)] if head else groups


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
        for leaf in _leaves_of(layer):
            found.setdefault(id(leaf), leaf)
    return list(found.values())


def _leaves_of(layer: keras.Operation) -> list[keras.Layer]:
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
        indices = _matches(pattern, names)
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


def groups_from(model: keras.Model, n: int, *, split: Split | None = None) -> list[keras.Layer]:
    """Return the leaf layers of the groups of `model` from index `n` on.

    Args:
        model: as in `layer_groups`.
        n: the index of the first group; negative ones count from the end, as in a list.
        split: as in `layer_groups`.

    Returns:
        The layers in depth order.

    Raises:
        ValueError: there is no such group.
    """
    groups = layer_groups(model, split=split)
    if isinstance(n, bool) or not hasattr(n, "__index__") or not -len(groups) <= n < len(groups):
        names = ", ".join(f"{index} {group.name}" for index, group in enumerate(groups))
        raise ValueError(
            f"n must be the index of a group of model {model.name!r}, from {-len(groups)} to "
            f"{len(groups) - 1} ({names}). Received: n={n!r}"
        )
    return [layer for group in groups[n:] for layer in group.layers]


def head_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the leaf layers of the classification head of `model`; the others are the backbone.

    A model that classifies gives one vector an image. Its head begins at the first global pooling or
    `Flatten` layer after the first weights that every path from the input to the output runs through
    (the pooling inside a squeeze-and-excitation block is by-passed, so it doesn't count). Pooling that
    ends a nested backbone belongs to it, and the head begins after it. Without pooling, it begins after
    the last nested model that further weights follow, else at the last layer with weights. Of a model
    with several outputs all that comes after the last layer they share is head.

    Args:
        model: a functional or sequential model.

    Returns:
        The layers of the head in depth order; none if there is no classification head.

    Raises:
        ValueError: the model is subclassed or not built.
    """
    check_graph(model)
    if any(len(output.shape) != 2 for output in model.outputs):
        return []
    leaves = leaf_layers(model)
    start = _head_start(model, leaves)
    head = leaves[start:]
    return head if any(layer.weights for layer in head) else []


def backbone_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the leaf layers of `model` that don't belong to its head (see `head_layers`)."""
    leaves = leaf_layers(model)
    return leaves[: len(leaves) - len(head_layers(model))]


def trunk(model: keras.Model) -> list[keras.Operation]:
    """Return the operations that every path through `model` runs through, those of nested models too."""
    inside = [
        [operation, *trunk(operation)] if is_graph(operation) else [operation]
        for operation in _trunk(model)
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


def _trunk(model: keras.Model) -> list[keras.Operation]:
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


def _head_start(model: keras.Model, leaves: list[keras.Layer]) -> int:
    """Return the index of the first leaf of the head."""
    position = {id(layer): index for index, layer in enumerate(leaves)}
    weighted = [index for index, layer in enumerate(leaves) if layer.weights]
    if not weighted:
        return len(leaves)

    def end(operation: keras.Operation) -> int:
        inner = _leaves_of(operation)
        return 1 + max((position.get(id(layer), -1) for layer in inner), default=-1)

    def pooling(graph: keras.Model) -> int | None:
        for operation in _trunk(graph):
            if is_graph(operation):
                first, after = pooling(operation), end(operation)
                if first is None:
                    continue
                begins = min(position[id(layer)] for layer in leaf_layers(operation))
                is_backbone = any(begins <= index < first for index in weighted)
                return after if is_backbone and weighted[-1] >= after else first
            if isinstance(operation, _POOLING) and position[id(operation)] > weighted[0]:
                return position[id(operation)]
        return None

    found = pooling(model)
    if found is not None:
        return found
    trunk = _trunk(model)
    if len(model.outputs) > 1:
        return max((end(operation) for operation in trunk), default=0)
    ends = [end(operation) for operation in trunk if isinstance(operation, keras.Model)]
    return max(
        (after for after in ends if weighted[0] < after <= weighted[-1]),
        default=weighted[-1],
    )


def _matches(pattern: str, names: list[str]) -> list[int]:
    exact = [i for i, name in enumerate(names) if name == pattern]
    try:
        return exact or [i for i, name in enumerate(names) if re.fullmatch(pattern, name)]
    except (re.error, TypeError) as error:
        raise ValueError(
            f"a layer must be meant by its name or a regular expression ({error}). Received: {pattern!r}"
        ) from error


def _given_starts(body: list[keras.Layer], split: Sequence[str]) -> dict[int, str]:
    if isinstance(split, str) or not isinstance(split, Iterable):
        raise TypeError(
            "split must be a list of names or patterns of layers, or a function from a layer to the "
            f"name of its group. Received: split={split!r}"
        )
    starts = {0: body[0].name} if body else {}
    names = [layer.name for layer in body]
    for entry in split:
        found = _matches(entry, names)
        if not found:
            raise ValueError(
                f"split must match layers of the backbone; there is none for {entry!r}"
                f"{did_you_mean(entry, names)} Received: split={split!r}"
            )
        starts[found[0]] = entry
    return starts


def _default_starts(model: keras.Model, body: list[keras.Layer]) -> dict[int, str]:
    """Return where the groups of a backbone begin, and their names."""
    if not body:
        return {}
    for rule in (_named_stages, _nested_blocks, _resolutions, _meeting_points):
        starts = rule(model, body)
        if len(starts) > 1:
            # What comes before the first start, input preprocessing mostly, goes with it.
            first = min(starts)
            return {0: starts.pop(first), **starts}
    return {0: "backbone"}


def _named_stages(model: keras.Model, body: list[keras.Layer]) -> dict[int, str]:
    found = [(index, _STAGE.fullmatch(layer.name)) for index, layer in enumerate(body) if layer.weights]
    named = [(index, match[1]) for index, match in found if match]
    starts: dict[int, str] = {}
    for index, name in named:
        if name not in starts.values():
            starts[index] = name
        elif name != list(starts.values())[-1]:
            return {}  # the stages are interleaved: the names mean something else
    return starts if 2 * len(named) > len(found) else {}


def _nested_blocks(model: keras.Model, body: list[keras.Layer]) -> dict[int, str]:
    members = {id(layer) for layer in body}
    total = sum(layer.count_params() for layer in body)

    def blocks(graph: keras.Model) -> list[keras.Model]:
        inner = [layer for layer in graph.layers if isinstance(layer, keras.Model) and layer.weights]
        inner = [block for block in inner if any(id(leaf) in members for leaf in _leaves_of(block))]
        if len(inner) == 1 and 2 * inner[0].count_params() > total:
            return blocks(inner[0])
        return inner

    found = blocks(model)
    if 2 * sum(block.count_params() for block in found) <= total:
        return {}
    position = {id(layer): index for index, layer in enumerate(body)}
    return {
        min(position[id(leaf)] for leaf in _leaves_of(block) if id(leaf) in position): block.name
        for block in found
    }


def _resolutions(model: keras.Model, body: list[keras.Layer]) -> dict[int, str]:
    scales = _downsampling(model)
    starts: dict[int, str] = {}
    lowest = 0.0
    for index, layer in enumerate(body):
        if layer.weights and scales.get(id(layer), 0.0) > lowest:
            lowest = scales[id(layer)]
            starts[index] = f"stage{len(starts) + 1}"
    return starts


def _downsampling(model: keras.Model) -> dict[int, float]:
    """Return by how much each layer's output has been strided down, as a ratio of areas."""
    scales: dict[int, float] = {}

    def visit(graph: keras.Model, start: float) -> float:
        after: dict[int, float] = {}
        scale = start
        for node in graph_nodes(graph) or []:
            operation = node.operation
            scale = max((after[id(parent)] for parent in node.parent_nodes), default=start)
            if isinstance(operation, keras.Model):
                scale = visit(operation, scale)
            elif "Transpose" not in type(operation).__name__:
                strides: Any = getattr(operation, "strides", None) or 1
                scale *= float(np.prod(strides))
            after[id(node)] = scale
            scales[id(operation)] = max(scale, scales.get(id(operation), 0.0))
        return max(after.values(), default=scale)

    visit(model, 1.0)
    return scales


def _meeting_points(model: keras.Model, body: list[keras.Layer]) -> dict[int, str]:
    """Start a group at the first weights after each point that all paths run through."""
    common = {id(operation) for operation in trunk(model)}
    starts: dict[int, str] = {}
    open_ = True
    for index, layer in enumerate(body):
        begins = layer.weights and not isinstance(layer, _NORMALIZATION)
        if begins and open_:
            starts[index] = f"block{len(starts) + 1}"
            open_ = False
        open_ = open_ or id(layer) in common
    return starts
