"""The head of a classifier: where it begins, and what it ends in."""

from collections.abc import Collection
from itertools import chain, count
from typing import Any, NamedTuple

import keras

from keras_transfer.layers.graph import Call, check_graph, leaf_layers, leaves_of, own_trunk, walk

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
    (the pooling inside a squeeze-and-excitation block is by-passed, so it doesn't count). Where several
    maps are pooled, it begins after the layer that puts these vectors side by side. Pooling that
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

    def span(operation: keras.Operation) -> tuple[int, int]:
        """Return the index of the first leaf of an operation, and that behind its last."""
        found = [position[id(leaf)] for leaf in leaves_of(operation) if id(leaf) in position]
        return min(found, default=0), 1 + max(found, default=-1)

    for call in walk(model):
        joins = _joins_pooled(call.node)
        first = position.get(id(call.operation), 0) + joins
        begins_here = joins or isinstance(call.operation, _POOLING)
        if call.on_trunk and begins_here and first > weighted[0]:
            for outer in reversed(call.path):
                begins, after = span(outer.operation)
                if after <= weighted[-1] and any(begins <= index < first for index in weighted):
                    first = after
            return first
    trunk = [node.operation for node in own_trunk(model)]
    if len(model.outputs) > 1:
        return max((after for _, after in map(span, trunk)), default=0)
    ends = [span(operation)[1] for operation in trunk if isinstance(operation, keras.Model)]
    return max(
        (after for after in ends if weighted[0] < after <= weighted[-1]),
        default=weighted[-1],
    )


def _joins_pooled(node: Any) -> bool:
    """Whether a call puts vectors side by side that are pooled maps, or what nested models end in."""
    kinds = (*_POOLING, keras.Model)
    return (
        isinstance(node.operation, keras.layers.Concatenate)
        and len(node.outputs[0].shape) == 2
        and all(
            isinstance(before.operation, kinds) or _joins_pooled(before) for before in node.parent_nodes
        )
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


def is_plain(layer: keras.layers.Layer) -> bool:
    """Whether the weights of a `Dense` layer or a convolution are its kernel and its bias alone.

    LoRA and quantization add some, and the kernel is then no variable that can be given values: they
    would be cut to integers, or come on top of what LoRA adds.
    """
    return len(layer.weights) == 1 + layer.use_bias


_SOFTMAX, _SIGMOID = keras.activations.softmax, keras.activations.sigmoid


class Ending(NamedTuple):
    """A call among those that a model ends in.

    Attributes:
        call: the call.
        activation: the function that is its activation, also of a softmax or sigmoid that is a layer or
            an operation of its own; None of another operation.
    """

    call: Call
    activation: Any

    @property
    def name(self) -> str:
        """What to call it in a message."""
        named = getattr(self.call.operation, "activation", None) or self.call.operation
        return getattr(named, "name", getattr(named, "__name__", "something else"))


def endings(model: keras.Model, layer: keras.Layer | None = None) -> list[Ending]:
    """Return what a model with a graph ends in.

    Args:
        model: the model.
        layer: the one that gives the logits; None: the last that changes anything.

    Returns:
        The last call of `layer` and all calls after it, or those that give an output; an
        `Activation("linear")` at the end is passed over for what comes before it.
    """
    calls = list(walk(model))
    if layer is None:
        last = [index for index, call in enumerate(calls) if call.last]
        # What comes before the only end, in an order in which all that is made is used, is its input.
        while len(last) == 1 and last[0] and _changes_nothing(calls[last[0]].operation):
            last = [last[0] - 1]
        calls = [calls[index] for index in last]
    else:
        indices = [index for index, call in enumerate(calls) if call.operation is layer]
        calls = calls[max(indices, default=len(calls)) :]
    return [Ending(call, _activation(call.operation)) for call in calls]


def _changes_nothing(operation: keras.Operation) -> bool:
    alone = isinstance(operation, keras.layers.Activation)
    return alone and operation.activation is keras.activations.linear


def _activation(operation: keras.Operation) -> Any:
    own = getattr(operation, "activation", None)
    return {"Softmax": _SOFTMAX, "Sigmoid": _SIGMOID}.get(type(own or operation).__name__, own)


def single_dense(model: keras.Model, several: bool = False) -> keras.layers.Dense:
    """Return the `Dense` layer that the head of a classifier consists of, or raise a `ValueError`.

    Args:
        model: the classifier.
        several: as in `check_ending`.
    """
    check_graph(model)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            "model must have one input and one output. "
            f"Received: {model.name!r} with {len(model.inputs)} and {len(model.outputs)}"
        )
    weighted = [layer for layer in required_head(model) if layer.weights]
    dense = weighted[-1]
    if len(weighted) > 1:
        before = [layer.name for layer in weighted[:-1]]
        raise ValueError(
            "the head must have one layer with weights. Give the model a new head with "
            "kt.replace_head(model, num_classes, part='head'), or with kt.fit_linear_head one on what "
            f"an earlier layer gives, at={before[-1]!r}. "
            f"Received: model {model.name!r} with {', '.join(before)} before {dense.name!r}"
        )
    if not isinstance(dense, keras.layers.Dense) or not dense.use_bias or len(dense.input.shape) != 2:
        raise ValueError(
            "the head must be one Dense layer with a bias, on a vector for each image. Give the model "
            "one with kt.replace_head(model, num_classes, part='head'). "
            f"Received: model {model.name!r} with {type(dense).__name__} {dense.name!r}"
        )
    check_ending(model, dense, several)
    return dense


def check_ending(model: keras.Model, last: keras.Layer, several: bool = False) -> None:
    """Raise a `ValueError` unless a model ends in logits of its last layer, or a softmax of them.

    Args:
        model: the classifier.
        last: its last layer with weights.
        several: whether a sigmoid for each class will do, too.
    """
    usual = (keras.activations.linear, _SOFTMAX, *([_SIGMOID] if several else []))
    strange = [ending.name for ending in endings(model, last) if ending.activation not in usual]
    if strange or model.output_shape[-1] < 2:
        raise ValueError(
            "model must end in logits or a softmax, with an output for each of at least two classes; "
            "kt.replace_head(model, num_classes) makes one that does of a model with one output. "
            f"Received: model {model.name!r} with {model.output_shape[-1]} outputs that ends in "
            f"{', '.join(strange) or last.name}"
        )


def sigmoid(logits: keras.KerasTensor, taken: Collection[str] = ()) -> keras.KerasTensor:
    """Return an independent probability for each class."""
    name = free_name("sigmoid", taken)
    return keras.layers.Activation("sigmoid", name=name, dtype="float32")(logits)


def softmax(logits: keras.KerasTensor, taken: Collection[str] = ()) -> keras.KerasTensor:
    """Return the probabilities of classes of which an image has one."""
    return keras.layers.Softmax(name=free_name("softmax", taken), dtype="float32")(logits)


def ended(
    logits: keras.KerasTensor, model: keras.Model, output: keras.Layer, taken: Collection[str]
) -> keras.KerasTensor:
    """Return what a model with these logits gives, ended as `model` is."""
    done = [ending.activation for ending in endings(model, output)]
    found = [a for a in done if a not in (None, keras.activations.linear)]
    several = model.output_shape[-1] > 1
    if found and found[-1] not in (_SOFTMAX, _SIGMOID):
        raise ValueError(
            "model must end in logits, a softmax or a sigmoid for its head to be replaced. "
            f"Received: model {model.name!r}, which ends in {getattr(found[-1], '__name__', found[-1])}"
        )
    if not found and several:
        return logits
    if found and found[-1] is _SIGMOID and several:
        return sigmoid(logits, taken)
    return softmax(logits, taken)


def free_name(name: str, taken: Collection[str]) -> str:
    """Return `name`, or with the first number behind it that makes it none of `taken`."""
    numbered = (f"{name}_{number}" for number in count(1))
    return next(n for n in chain([name], numbered) if n not in taken)
