"""What functions tell while they work: where `fit` tells it, and by one meaning of `verbose`.

- 0: nothing.
- 2: lines.
- 1 and "auto": progress bars as well, where the output is a terminal or a notebook. Keras would draw
  them into files, too, with all the control characters that move a cursor.

All goes through Keras, to where its own bars go: standard output, or the log of absl after
`keras.config.disable_interactive_logging()`. What must be known whatever `verbose` is, is a warning of
Python's logging.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_transfer._lib.keras_private.process import print_message

SILENT, LINES, BARS = 0, 2, 1  # in Keras' numbers


def verbosity(verbose: Any) -> int:
    """Return what an argument `verbose` comes to here: `SILENT`, `LINES` or `BARS`.

    What was returned once comes back as it is, so it can be passed on.

    Raises:
        ValueError: it is none of "auto", 0, 1 and 2.
    """
    if not isinstance(verbose, (str, int)) or verbose not in ("auto", SILENT, LINES, BARS):
        raise ValueError(f"verbose must be 'auto', 0, 1 or 2. Received: verbose={verbose!r}")
    if verbose in (SILENT, LINES):
        return int(verbose)
    return BARS if _draws() else LINES


def say(verbose: int, what: object) -> None:
    """Print something, such as a line or a table, unless it is to be `SILENT`."""
    if verbose != SILENT:
        print_message(what)


@contextlib.contextmanager
def progress(verbose: int, what: str, total: int, unit: str = "step") -> Iterator[Callable[..., None]]:
    """Show how far a long computation is: a line when it begins, and a bar, or a line at the end.

    Args:
        verbose: as `verbosity` returns it.
        what: what is done.
        total: how many units there are.
        unit: what one is, as "image".

    Yields:
        What is told how many more units are done, by default one.
    """
    say(verbose, what)
    bar, done = keras.utils.Progbar(total, verbose=verbose, unit_name=unit), 0

    def advance(count: int = 1) -> None:
        nonlocal done
        done += count
        bar.update(done, finalize=False)

    try:
        yield advance
    finally:
        bar.update(done, finalize=True)


@contextlib.contextmanager
def downloads_in_lines() -> Iterator[Callable[[str], None]]:
    """Keep the bars of Keras' downloads, which have no `verbose`, out of what is no terminal.

    It gives what says a line in their place.
    """
    if not keras.config.is_interactive_logging_enabled() or _draws():
        yield lambda line: None
        return

    def tell(line: str) -> None:
        keras.config.enable_interactive_logging()
        print_message(line)
        keras.config.disable_interactive_logging()

    keras.config.disable_interactive_logging()  # for this thread
    try:
        yield tell
    finally:
        keras.config.enable_interactive_logging()


def _draws() -> bool:
    """Whether the output is one in which a bar can be drawn anew in its place."""
    shown = "ipykernel" in sys.modules or (sys.stdout is not None and sys.stdout.isatty())
    return shown and keras.config.is_interactive_logging_enabled()
