"""Groups of layers: the stages of a backbone, and its head."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import keras
import numpy as np

from keras_transfer._lib.checks import did_you_mean
from keras_transfer.layers.graph import (
    along,
    check_built,
    check_graph,
    has_graph,
    leaf_layers,
    leaves_of,
    matching,
    walk,
)
from keras_transfer.layers.head import head_layers

Split = Sequence[str] | Callable[[keras.Layer], str]
_NORMALIZATION = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
)
_OF_VECTORS = (keras.layers.LayerNormalization, keras.layers.RMSNormalization)
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
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
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


def after_the_stages(group: LayerGroup) -> list[keras.Layer]:
    """Return the layers at the end of the last group of a backbone that are behind its last stage.

    Where names tell the stages these are the layers behind the last one whose name tells it, such as the
    final norm of a transformer; else layer norm behind the last other layer with weights.
    """
    found = [(index, layer) for index, layer in enumerate(group.layers) if layer.weights]
    stages = {index: match[1] for index, layer in found if (match := _STAGE.fullmatch(layer.name))}
    own = [index for index, stage in stages.items() if stage == group.name]
    if not own:
        own = [index for index, layer in found if not isinstance(layer, _OF_VECTORS)]
    return group.layers[own[-1] + 1 :] if own else []


def _given_starts(body: list[keras.Layer], split: Sequence[str]) -> dict[int, str]:
    if isinstance(split, str) or not isinstance(split, Iterable):
        raise TypeError(
            "split must be a list of names or patterns of layers, or a function from a layer to the "
            f"name of its group. Received: split={split!r}"
        )
    starts = {0: body[0].name} if body else {}
    names = [layer.name for layer in body]
    for entry in split:
        found = matching(entry, names)
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
        inner = [block for block in inner if any(id(leaf) in members for leaf in leaves_of(block))]
        if len(inner) == 1 and 2 * inner[0].count_params() > total:
            return blocks(inner[0])
        return inner

    found = blocks(model)
    if 2 * sum(block.count_params() for block in found) <= total:
        return {}
    position = {id(layer): index for index, layer in enumerate(body)}
    return {
        min(position[id(leaf)] for leaf in leaves_of(block) if id(leaf) in position): block.name
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

    def stride(operation: keras.Operation, scale: float) -> float:
        if "Transpose" not in type(operation).__name__:
            scale *= float(np.prod(getattr(operation, "strides", None) or 1))
        scales[id(operation)] = max(scale, scales.get(id(operation), 0.0))
        return scale

    along(model, 1.0, stride)
    return scales


def _meeting_points(model: keras.Model, body: list[keras.Layer]) -> dict[int, str]:
    """Start a group at the first weights after each point that all paths run through."""
    common = {id(call.operation) for call in walk(model) if call.on_trunk}
    starts: dict[int, str] = {}
    open_ = True
    for index, layer in enumerate(body):
        begins = layer.weights and not isinstance(layer, _NORMALIZATION)
        if begins and open_:
            starts[index] = f"block{len(starts) + 1}"
            open_ = False
        open_ = open_ or id(layer) in common
    return starts
