"""What a thing or the process has for a while, and gets back, also where threads overlap."""

import contextlib
import logging
import re
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any, TypeVar

State = TypeVar("State")
_ABSENT = object()
_lock = threading.RLock()
_found: dict[Hashable, list[list[Any]]] = {}  # what each open block has found, by what it is of


@contextlib.contextmanager
def restored(what: Hashable, read: Callable[[], State], write: Callable[[State], Any]) -> Iterator[None]:
    """Put back at the end of the block what was there at its begin.

    Blocks may overlap in several threads. Where one ends before another that began later, that one puts
    back what both have found; so after the last all is as before the first.

    Args:
        what: the same for blocks that put the same back.
        read: gives what is there.
        write: puts it back.
    """
    with _lock:
        blocks = _found.setdefault(what, [])
        mine = [read()]
        blocks.append(mine)
    try:
        yield
    finally:
        with _lock:
            (place,) = (index for index, block in enumerate(blocks) if block is mine)
            del blocks[place]
            if place < len(blocks):
                blocks[place][:] = mine
            else:
                write(mine[0])
            if not blocks:
                del _found[what]


@contextlib.contextmanager
def attributes(thing: Any, **values: Any) -> Iterator[None]:
    """Give `thing` other attributes inside the block, past the tracking that assignment brings."""
    own = vars(thing)
    with contextlib.ExitStack() as stack:
        with _lock:
            for name in values:
                read, write = partial(own.get, name, _ABSENT), partial(_put, own, name)
                stack.enter_context(restored((id(thing), name), read, write))
            own.update(values)
        yield


def _put(own: dict[str, Any], name: str, value: Any) -> None:
    if value is _ABSENT:
        own.pop(name, None)
    else:
        own[name] = value


@contextlib.contextmanager
def loggers_at(level: int, *names: str) -> Iterator[None]:
    """Let the loggers of these names pass on, inside the block, what is at least of `level`."""
    with contextlib.ExitStack() as stack:
        for name in names:
            log = logging.getLogger(name)
            read = partial(getattr, log, "level")
            stack.enter_context(restored(("level", name), read, log.setLevel))
            log.setLevel(level)
        yield


def _filters_restored() -> contextlib.AbstractContextManager[None]:
    """Put the filters of warnings back at the end of the block."""

    def entered() -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        stack.enter_context(warnings.catch_warnings())
        return stack

    return restored("warnings", entered, contextlib.ExitStack.close)


@contextlib.contextmanager
def warnings_ignored(
    message: str = "", category: type[Warning] = Warning, module: str = ""
) -> Iterator[None]:
    """Ignore warnings inside the block, as `warnings.filterwarnings` chooses them.

    `warnings.catch_warnings` alone leaves the filters of one thread to others.
    """
    with _filters_restored():
        warnings.filterwarnings("ignore", message, category, module)
        yield


_hearing = threading.local()  # what each thread that listens has heard
_shown: Callable[..., None] = warnings.showwarning  # what is done with the warnings of others


@contextlib.contextmanager
def warnings_heard(module: str) -> Iterator[list[str]]:
    """Give what a module warns of in this thread, inside the block, and have nobody else see it.

    Args:
        module: the name of the module or package, or what it begins with.
    """
    global _shown
    outer, _hearing.messages = getattr(_hearing, "messages", None), []
    try:
        with _filters_restored():
            with _lock:
                if warnings.showwarning is not _hear:
                    _shown, warnings.showwarning = warnings.showwarning, _hear
                warnings.filterwarnings("always", module=re.escape(module))
            yield _hearing.messages
    finally:
        _hearing.messages = outer


def _hear(message: Warning | str, *rest: Any, **named: Any) -> None:
    """Take up a warning, or show it where it is of a thread that doesn't listen."""
    messages = getattr(_hearing, "messages", None)
    if messages is None:
        _shown(message, *rest, **named)
    else:
        messages.append(str(message))
