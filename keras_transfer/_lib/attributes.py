"""Attributes that a thing has for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def attributes(thing: Any, **values: Any) -> Iterator[None]:
    """Give `thing` other attributes inside the block, past the tracking that assignment brings."""
    own = vars(thing)
    before = {name: own[name] for name in values if name in own}
    own.update(values)
    try:
        yield
    finally:
        for name in values.keys() - before.keys():
            own.pop(name, None)
        own.update(before)
