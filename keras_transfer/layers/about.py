"""What a model knows of itself: its classes, where its weights come from, which layers are new."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import keras

from keras_transfer.layers import carried
from keras_transfer.layers.graph import leaf_layers, nested_models


def class_names(model: keras.Model | str | os.PathLike[str]) -> list[str] | None:
    """Return the names of the classes of a model or of a `.keras` file.

    Names given to `classifier` are written into every `.keras` file that the model's own `save` makes,
    as a member of the archive that stock Keras passes over. A model that stock Keras loaded knows them
    no more; `load_model` keeps them.

    Args:
        model: a model from `classifier` or `load_model`, or the path of a `.keras` file.

    Returns:
        The names in the order of the labels, or None where there are none.

    Raises:
        ValueError: the path is no `.keras` file, or what it holds as class names is no list of names.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None,
        ...                       class_names=["ant", "bee"])
        >>> kt.class_names(model)
        ['ant', 'bee']
    """
    return carried.of(model, carried.CLASS_NAMES, "class names", _checked_strings)


def _checked_strings(names: Any) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("the class names are no list of strings")
    return list(names)


def attach_class_names(model: keras.Model, names: list[str] | None) -> None:
    """Make `model` carry `names`, if there are any, into every `.keras` file that it is saved to."""
    if names is not None:
        carried.attach(model, carried.CLASS_NAMES, names)


def checked_class_names(names: Sequence[str], num_classes: int) -> list[str]:
    """Return class names as a list, or raise if they are not `num_classes` different strings."""
    found = None if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    if found is None or not all(isinstance(name, str) for name in found):
        raise TypeError(f"class_names must be a sequence of strings. Received: class_names={names!r}")
    if len(found) != num_classes or len(set(found)) != num_classes:
        raise ValueError(
            f"class_names must be {num_classes} different names, one a class. "
            f"Received: class_names={found}"
        )
    return found


@dataclass(frozen=True)
class Origin:
    """What a classifier was made of.

    Attributes:
        backbone: the name of the backbone.
        weights: "imagenet", "random", "preset" (those of KerasHub's), or "file: " and its name.
    """

    backbone: str
    weights: str


def named_origin(backbone: str, weights: str | os.PathLike[str] | None, preset: bool) -> Origin:
    """Return the origin of a backbone that was given by name."""
    if weights is None:
        return Origin(backbone, "random")
    if isinstance(weights, str) and weights == "imagenet":
        return Origin(backbone, "preset" if preset else "imagenet")
    return Origin(backbone, f"file: {os.path.basename(weights)}")


def attach_origin(model: keras.Model, origin: Origin | None) -> None:
    """Make `model` carry its origin, if that is known, into every `.keras` file that it is saved to."""
    if origin is not None:
        carried.attach(model, carried.ORIGIN, asdict(origin))


def origin_of(model: keras.Model | str | os.PathLike[str]) -> Origin | None:
    """Return the origin of a model or of a `.keras` file, or None where it isn't known.

    Raises:
        ValueError: the path is no `.keras` file, or what it holds as origin is none.
    """
    return carried.of(model, carried.ORIGIN, "the origin of the weights", _from_content)


def _from_content(content: Any) -> Origin:
    names = {field.name for field in fields(Origin)}
    told = content.keys() if isinstance(content, dict) else None
    if told != names or not all(isinstance(value, str) for value in content.values()):
        raise ValueError(f"the origin is no object with the texts {', '.join(sorted(names))}")
    return Origin(**content)


_RECORD = "keras_transfer_new_layers"


def mark_new(model: keras.Model, layers: Iterable[keras.Layer]) -> None:
    """Remember that `layers` of `model` begin with random weights. Files don't keep it."""
    vars(model)[_RECORD] = tuple(layers)  # past Keras' tracking, which would take them for its own


def hand_on_new(model: keras.Model, other: keras.Model) -> None:
    """Let `other` know which of the layers that it shares with `model` are new."""
    mark_new(other, (each for inner in nested_models(model) for each in vars(inner).get(_RECORD, ())))


def new_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the leaf layers of `model`, and of models inside it, that began with random weights.

    Raises:
        ValueError: none is known to be new.
    """
    new = {id(layer) for inner in nested_models(model) for layer in vars(inner).get(_RECORD, ())}
    found = [layer for layer in leaf_layers(model) if id(layer) in new]
    if not found:
        raise ValueError(
            f"no layer of model {model.name!r} is known to be new: kt.classifier and kt.replace_head "
            "know which ones they make, but files don't keep it. Say 'head', 'from:<layer>' or the "
            f"index of a group instead. Received: model {model.name!r}"
        )
    return found
