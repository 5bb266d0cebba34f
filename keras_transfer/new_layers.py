"""Which layers of a model have no pretrained weights."""

from collections.abc import Iterable

import keras

from keras_transfer.groups import leaf_layers, nested_models

_RECORD = "keras_transfer_new_layers"


def mark_new(model: keras.Model, layers: Iterable[keras.Layer]) -> None:
    """Remember that `layers` of `model` begin with random weights. Files don't keep it."""
    vars(model)[_RECORD] = tuple(layers)  # past Keras' tracking, which would take them for its own


def new_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the leaf layers of `model` that began with random weights, in depth order.

    Args:
        model: a model from `keras_transfer.classifier` or `keras_transfer.replace_head`, or one around
            such a model.

    Returns:
        The layers.

    Raises:
        ValueError: none is known to be new.
    """
    new = {id(layer) for inner in nested_models(model) for layer in vars(inner).get(_RECORD, ())}
    found = [layer for layer in leaf_layers(model) if id(layer) in new]
    if not found:
        raise ValueError(
            f"no layer of model {model.name!r} is known to be new: kt.classifier and kt.replace_head "
            "know which ones they make, but files don't keep it. Say 'head', 'from:<layer>' or "
            f"'groups:<n>' instead. Received: model {model.name!r}"
        )
    return found
