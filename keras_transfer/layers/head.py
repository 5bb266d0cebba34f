"""The head of a classifier: where it begins, and what it ends in."""

from collections.abc import Collection
from itertools import chain, count
from typing import Any

import keras

from keras_transfer.layers.graph import (
    check_graph,
    is_graph,
    leaf_layers,
    leaves_of,
    operations_after,
    own_trunk,
)

_POOLING = (
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalMaxPooling3D,
)


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


def _head_start(model: keras.Model, leaves: list[keras.Layer]) -> int:
    """Return the index of the first leaf of the head."""
    position = {id(layer): index for index, layer in enumerate(leaves)}
    weighted = [index for index, layer in enumerate(leaves) if layer.weights]
    if not weighted:
        return len(leaves)

    def end(operation: keras.Operation) -> int:
        inner = leaves_of(operation)
        return 1 + max((position.get(id(layer), -1) for layer in inner), default=-1)

    def pooling(graph: keras.Model) -> int | None:
        for operation in own_trunk(graph):
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
    trunk = own_trunk(model)
    if len(model.outputs) > 1:
        return max((end(operation) for operation in trunk), default=0)
    ends = [end(operation) for operation in trunk if isinstance(operation, keras.Model)]
    return max(
        (after for after in ends if weighted[0] < after <= weighted[-1]),
        default=weighted[-1],
    )


def required_head(model: keras.Model) -> list[keras.Layer]:
    """Return the layers of the head of `model`, or raise a `ValueError` if it has none."""
    head = head_layers(model)
    if not head:
        shapes = ", ".join(str(output.shape) for output in model.outputs)
        raise ValueError(
            f"model {model.name!r} has no classification head that can be told from its backbone: add "
            "one with kt.classifier(model, num_classes), or say what trains with kt.unfreeze_from, "
            f"kt.freeze_to or kt.unfreeze(model, layers=[...]). Received: a model with output {shapes}"
        )
    return head


def last_weighted(model: keras.Model) -> keras.Layer:
    """Return the last layer of the head of a classifier that has weights."""
    return [layer for layer in required_head(model) if layer.weights][-1]


_SOFTMAX, _SIGMOID = keras.activations.softmax, keras.activations.sigmoid


def endings(model: keras.Model, output: keras.Layer) -> list[Any]:
    """Return what is done to the values of a layer: activations that aren't linear, other operations."""
    operations = [output, *operations_after(model, output)]
    found = [getattr(operation, "activation", None) or operation for operation in operations]
    return [ending for ending in found if ending is not keras.activations.linear]


def is_softmax(ending: Any) -> bool:
    """Whether one of `endings` is a softmax: as an activation, a layer or an operation."""
    return ending is _SOFTMAX or type(ending).__name__ == "Softmax"


def ending_name(ending: Any) -> str:
    """Return what to call one of `endings` in a message."""
    return getattr(ending, "name", getattr(ending, "__name__", "something else"))


def ended(
    logits: keras.KerasTensor, model: keras.Model, output: keras.Layer, taken: Collection[str]
) -> keras.KerasTensor:
    """Return what a model with these logits gives, ended as `model` is."""
    found = []
    for operation in [output, *operations_after(model, output)]:
        kind = type(operation).__name__
        activation = {"Softmax": _SOFTMAX, "Sigmoid": _SIGMOID}.get(kind)
        found.append(activation or getattr(operation, "activation", None))
    found = [a for a in found if a not in (None, keras.activations.linear)]
    several = model.output_shape[-1] > 1
    if found and found[-1] not in (_SOFTMAX, _SIGMOID):
        raise ValueError(
            "model must end in logits, a softmax or a sigmoid for its head to be replaced. "
            f"Received: model {model.name!r}, which ends in {getattr(found[-1], '__name__', found[-1])}"
        )
    if not found and several:
        return logits
    if found and found[-1] is _SIGMOID and several:
        name = free_name("sigmoid", taken)
        return keras.layers.Activation("sigmoid", name=name, dtype="float32")(logits)
    return keras.layers.Softmax(name=free_name("softmax", taken), dtype="float32")(logits)


def free_name(name: str, taken: Collection[str]) -> str:
    """Return `name`, or with the first number behind it that makes it none of `taken`."""
    numbered = (f"{name}_{number}" for number in count(1))
    return next(n for n in chain([name], numbered) if n not in taken)
