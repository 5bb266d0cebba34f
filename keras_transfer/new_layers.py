"""Which layers of a model have no pretrained weights."""

from collections.abc import Iterable

import keras

from keras_transfer.groups import leaf_layers

_MARK = "keras_transfer_new"


def mark_new(layers: Iterable[keras.Layer]) -> None:
    """Remember that `layers` begin with random weights. Files don't keep it."""
    for layer in layers:
        setattr(layer, _MARK, True)


def new_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the leaf layers of `model` that began with random weights, in depth order.

    Args:
        model: a model from `keras_transfer.classifier` or `keras_transfer.replace_head`, or one that
            holds their layers.

    Returns:
        The layers.

    Raises:
        ValueError: none is known to be new.
    """
    found = [layer for layer in leaf_layers(model) if getattr(layer, _MARK, False)]
    if not found:
        raise ValueError(
            f"no layer of model {model.name!r} is known to be new: kt.classifier and kt.replace_head "
            "know which ones they make, but files don't keep it. Say 'head', 'from:<layer>' or "
            f"'groups:<n>' instead. Received: model {model.name!r}"
        )
    return found
