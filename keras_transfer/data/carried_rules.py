"""By what rules the files were read on which a model trained: it carries them into its own file."""

import logging
import os
from typing import Any

import keras

from keras_transfer.data.images.rules import Rules, checked_rules
from keras_transfer.data.loader import Loader
from keras_transfer.layers import carried

_log = logging.getLogger(__name__)


def attach_rules(model: keras.Model, data: Any) -> None:
    """Make `model` carry how the files of the data that it trained on are read.

    Args:
        model: the model.
        data: what it trained on; where it isn't a loader of files, nothing changes.
    """
    if isinstance(data, Loader) and data.rules is not None:
        carried.attach(model, carried.RULES, data.rules.to_dict())


def rules_of(model: keras.Model | str | os.PathLike[str]) -> Rules | None:
    """Return how the files were read on which a model trained, or None where that isn't known.

    Args:
        model: a model, or the path of a `.keras` file.

    Raises:
        ValueError: the path is no `.keras` file, or what it holds are no rules.
    """
    return carried.of(model, carried.RULES, "how images are read", _from_content)


def _from_content(content: Any) -> Rules:
    if not isinstance(content, dict) or set(content) != set(Rules().to_dict()):
        raise ValueError(f"how images are read is no object with {', '.join(Rules().to_dict())}")
    return checked_rules(**content)


def check_rules(loader: Loader, model: keras.Model, argument: str) -> None:
    """Warn of files that are read by other rules than those on which `model` trained."""
    known = rules_of(model)
    if known is None or loader.rules is None:
        return
    before, now = known.to_dict(), loader.rules.to_dict()
    others = {name: value for name, value in before.items() if value != now[name]}
    if others and loader.first_time("rules"):
        found = {name: now[name] for name in others}
        _log.warning(
            "%s is read with %s, but model %r trained on files that were read with %s; tell "
            "kt.data.from_directory the same",
            *(argument, found, model.name, others),
        )
