"""Packages that not everyone has."""

import importlib
from typing import Any


def optional(module: str, who_needs_it: str, extra: str) -> Any:
    """Import a module of an optional package, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{who_needs_it}: pip install 'keras-transfer[{extra}]'") from error
