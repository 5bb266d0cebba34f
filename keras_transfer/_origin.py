"""Where the weights that a model began with come from; travels in its `.keras` file."""

import os
from dataclasses import asdict, dataclass, fields
from typing import Any

import keras

from keras_transfer import _assets


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


def attach_origin(model: keras.Model, origin: Origin) -> None:
    """Make `model` carry its origin into every `.keras` file that it is saved to."""
    _assets.attach(model, _assets.ORIGIN, asdict(origin))


def origin_of(model: keras.Model | str | os.PathLike[str]) -> Origin | None:
    """Return the origin of a model or of a `.keras` file, or None where it isn't known.

    Raises:
        ValueError: the path is no `.keras` file, or what it holds as origin is none.
    """
    if isinstance(model, (str, os.PathLike)):
        return _assets.read(model, _assets.ORIGIN, "the origin of the weights", _from_content)
    content = _assets.attached(model, _assets.ORIGIN)
    return None if content is None else _from_content(content)


def _from_content(content: Any) -> Origin:
    names = {field.name for field in fields(Origin)}
    if (
        not isinstance(content, dict)
        or set(content) != names
        or not all(isinstance(value, str) for value in content.values())
    ):
        raise ValueError(f"the origin is no object with the texts {', '.join(sorted(names))}")
    return Origin(**content)
