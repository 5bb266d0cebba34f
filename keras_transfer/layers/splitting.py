"""Cutting a model in two, and where a cut leaves the training of the second part as it is."""

import inspect
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import keras

from keras_transfer._lib.checks import did_you_mean
from keras_transfer._lib.keras_private.graph import call_arguments, seed_generators, sublayers
from keras_transfer.layers.graph import check_graph, walk

# Keras' own layers that change or draw something in training without a seed generator of their own.
_ACTIVE = ("FlaxLayer", "JaxLayer", "SpectralNormalization", "TFSMLayer", "TorchModuleWrapper")
# Where layers that take `training` are known to mean nothing else by it than dropout and batch norm.
_KNOWN = ("keras.src.layers.", "keras.src.models.", "keras_hub.")


@dataclass(frozen=True)
class Cut:
    """Where a model may be cut, and why not later.

    Attributes:
        at: the name of the layer whose output is kept, or None if there is no place.
        obstacle: what forbids a later cut, in words.
    """

    at: str | None
    obstacle: str


def split_model(model: keras.Model, at: str) -> tuple[keras.Model, keras.Model]:
    """Cut a model after one of its layers.

    Args:
        model: a functional or sequential model, flat or nested. It stays as it is.
        at: the name of a layer, in whichever nested model it is, that every path from the input to the
            output runs through.

    Returns:
        (prefix, tail): two functional models which share layers and variables with `model`. The prefix
        gives what the layer `at` gives, the tail makes of it what `model` gives.

    Raises:
        ValueError: there is no such layer, some path by-passes it, it gives several tensors, or it is
            the last; the message names places where a cut is possible.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> prefix, tail = kt.split_model(model, "block4_pool")
        >>> prefix.output_shape, tail.input_shape
        ((None, 2, 2, 512), (None, 2, 2, 512))
    """
    check_graph(model)
    possible = places(model)
    if at not in possible:
        problem = (
            f"some paths by-pass layer {at!r}, or the name is that of several, or it is the last"
            if any(call.operation.name == at for call in walk(model))
            else f"no layer {at!r} in model {model.name!r}"
        )
        near = did_you_mean(str(at), possible)
        raise ValueError(f"{problem}; {_shown(possible)}{near} Received: at={at!r}")
    return _split(model, at)


def frozen_prefix(model: keras.Model) -> str | None:
    """Return the last place where `model` may be cut so that its first part need be computed only once.

    That is the deepest layer on all paths before which everything is frozen and gives the same in
    training as otherwise: no dropout, no stochastic depth, no augmentation and no batch norm that
    trains. `keras_transfer.features.deepest_cut` also tells what forbids a later one.

    Args:
        model: a functional or sequential model.

    Returns:
        The name of a layer for `split_model`, or None.

    Raises:
        ValueError: the model is subclassed or not built.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> table = kt.unfreeze_from(model, "block5_conv1")
        >>> kt.frozen_prefix(model)
        'block4_pool'
    """
    return deepest_cut(model).at


def deepest_cut(model: keras.Model) -> Cut:
    """Return the last place where `model` may be cut, and what forbids a later one.

    Args:
        model: as in `frozen_prefix`.

    Raises:
        ValueError: the model is subclassed or not built.
    """
    check_graph(model)
    possible = set(places(model))
    at: str | None = None
    for name, obstacle in ((c.operation.name, _obstacle(c.operation)) for c in walk(model)):
        if obstacle is not None:
            return Cut(at, f"layer {name!r} {obstacle}")
        at = name if name in possible else at
    return Cut(at, "nothing trains")


def places(model: keras.Model) -> list[str]:
    """Return the names of the layers after which `model` can be cut, from input to output."""
    calls = list(walk(model))
    count = Counter(call.operation.name for call in calls)
    return [
        call.operation.name
        for call in calls
        if call.on_trunk
        and not call.last
        and isinstance(call.operation, keras.Layer)
        and len(call.node.outputs) == 1
        and count[call.operation.name] == 1
    ]


def _split(model: keras.Model, at: str) -> tuple[keras.Model, keras.Model]:
    """Cut `model` after the layer `at`, which may be in a nested model, and not the last."""
    inputs, outputs = _one_or_all(model.inputs), _one_or_all(model.outputs)
    call = next(c for c in walk(model) if c.operation.name == at)
    node = [*call.path, call.node][0]
    operation, result = node.operation, _one_or_all(node.outputs)
    if not call.path or next(c for c in walk(operation) if c.operation.name == at).last:
        features, tail = result, keras.Model(result, outputs, name=model.name)
    else:
        first, second = _split(operation, at)
        training = call_arguments(node)[1].get("training")
        features = first(_one_or_all(node.input_tensors), training=training)
        start = keras.Input(batch_shape=second.input_shape, dtype=second.inputs[0].dtype)
        end = second(start, training=training)
        if any(a is not b for a, b in zip_longest(node.outputs, model.outputs)):
            end = keras.Model(result, outputs, name=f"{model.name}_rest")(end)
        tail = keras.Model(start, end, name=model.name)
    return keras.Model(inputs, features, name=f"{model.name}_prefix"), tail


def _one_or_all(tensors: list[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else tensors


def _shown(possible: list[str]) -> str:
    if not possible:
        return "there is no place where this model can be cut"
    earlier = len(possible) - 5
    more = f", or {earlier} layers before them" if earlier > 0 else ""
    return f"the model can be cut after {', '.join(possible[-5:])}{more}"


def _obstacle(operation: keras.Operation) -> str | None:
    """Return what of an operation keeps its output from being computed once, or None."""
    if not isinstance(operation, keras.Layer):
        return None
    if operation.trainable_variables:
        return "trains"
    for layer in sublayers(operation):
        if isinstance(layer, keras.layers.BatchNormalization):
            if layer.trainable:
                return "is batch norm whose statistics move in training"
        elif seed_generators(layer):
            return "draws random numbers in training"
        elif type(layer).__name__ in _ACTIVE or (
            not type(layer).__module__.startswith(_KNOWN)
            and "training" in inspect.signature(layer.call).parameters
        ):
            return f"may act otherwise in training (class {type(layer).__name__})"
        if layer.activity_regularizer is not None:
            return "adds to the loss (activity_regularizer)"
    return None
