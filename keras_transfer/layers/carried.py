"""What travels in a `.keras` file beside the model: JSON files, which stock Keras passes over."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import keras

CLASS_NAMES = "class_names.json"
CALIBRATION = "calibration.json"
THRESHOLDS = "thresholds.json"
ORIGIN = "origin.json"
RULES = "images.json"

OF_WEIGHTS = (CALIBRATION, THRESHOLDS)  # other weights have others

_LARGEST = 16 * 2**20

T = TypeVar("T")


class _Assets:
    """Writes JSON files into the assets of the model it is attached to.

    Keras calls `save_assets` on every object of a model that has it, and on loading `load_assets`,
    which the stock model hasn't: so the file carries them, and stock Keras ignores them.
    """

    def __init__(self, contents: dict[str, Any]) -> None:
        self.contents = contents

    def __call__(self, directory: str) -> None:
        for name, content in self.contents.items():
            Path(directory, name).write_text(json.dumps(content), encoding="utf-8")


def attach(model: keras.Model, name: str, content: Any) -> None:
    """Make `model` carry `content` as the JSON file `name` into every `.keras` file it is saved to."""
    # A new object, not a changed one: what kept the attributes of the model can put the old one back.
    model.save_assets = _Assets({**_contents(model), name: content})


def detach(model: keras.Model, name: str) -> None:
    """Let `model` carry the file `name` no more, if it did."""
    contents = _contents(model)
    if name in contents:
        others = {other: content for other, content in contents.items() if other != name}
        if others:
            model.save_assets = _Assets(others)
        else:
            del model.save_assets


def hand_on(model: keras.Model, other: keras.Model) -> keras.Model:
    """Make `other` carry what `model` does, but for what is for its weights only."""
    for name, content in _contents(model).items():
        if name not in OF_WEIGHTS:
            attach(other, name, content)
    return other


def of(
    model: keras.Model | str | os.PathLike[str], name: str, what: str, checked: Callable[[Any], T]
) -> T | None:
    """Return what a model or a `.keras` file carries as the file `name`, or None.

    Args:
        model: the model, or the path of a `.keras` file.
        name: the name of the file in its assets.
        what: what that is, for the message.
        checked: returns what it is called with if it can be used, or raises.

    Raises:
        ValueError: the path is no `.keras` file, or it can't be read, or `checked` raised.
    """
    if not isinstance(model, (str, os.PathLike)):
        content = _contents(model).get(name)
        return None if content is None else checked(content)
    member = f"assets/{name}"
    try:
        with zipfile.ZipFile(model) as archive:
            if member not in archive.namelist():
                return None
            if archive.getinfo(member).file_size > _LARGEST:
                raise ValueError(f"{name} has more than {_LARGEST} bytes")
            return checked(json.loads(archive.read(member)))
    except Exception as error:  # each compression has errors of its own for damaged bytes
        raise ValueError(f"can't read {what}: {error}. Received: model={str(model)!r}") from error


def _contents(model: keras.Model) -> dict[str, Any]:
    hook = getattr(model, "save_assets", None)
    return hook.contents if isinstance(hook, _Assets) else {}
