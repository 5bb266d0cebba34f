"""What libraries in C print to standard error, past everything that Python could do about it."""

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

_ERROR = 2  # the number of the file
_alone = threading.Lock()
_shown: int | None = None  # what standard error is otherwise, while it goes to a file


def _after_fork() -> None:
    """Give a child its standard error back, as the thread that would do it is none of its own."""
    global _alone, _shown
    _alone = threading.Lock()
    if _shown is not None:
        os.dup2(_shown, _ERROR)
        _shown = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def printed_heard(pattern: str) -> Iterator[list[str]]:
    """Give the lines of a pattern that are printed to standard error inside the block, at its end.

    Standard error is that of the process: what other threads print meanwhile is printed at the end of
    the block, and one such block waits for another. It goes to a file meanwhile, so that a process that
    is started then has something to write to.

    Args:
        pattern: a regular expression that such a line begins with.
    """
    global _shown
    heard: list[str] = []
    with _alone, contextlib.ExitStack() as stack:
        try:
            shown = os.dup(_ERROR)
        except OSError:  # there is none
            yield heard
            return
        stack.callback(os.close, shown)
        file = stack.enter_context(tempfile.TemporaryFile())
        _flush()
        _shown = shown
        os.dup2(file.fileno(), _ERROR)
        try:
            yield heard
        finally:
            _flush()
            os.dup2(shown, _ERROR)
            _shown = None
            file.seek(0)
            for line in file.read().splitlines(keepends=True):
                text = line.decode(errors="replace").strip()
                if re.match(pattern, text):
                    heard.append(text)
                else:
                    os.write(_ERROR, line)


def _flush() -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # None, or closed
        sys.stderr.flush()
