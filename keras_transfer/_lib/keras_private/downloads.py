"""Private names of Keras for the files that it fetches, and keeps."""

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from keras.src.utils import file_utils

from keras_transfer._lib.attributes import attributes
from keras_transfer._lib.keras_private.process import home


class Asked(NamedTuple):
    """A file that Keras asks for.

    Attributes:
        path: where it is, once it was fetched.
        digest: what it must have, or None.
    """

    path: Path
    digest: str | None

    def is_there(self) -> bool:
        """Whether the file is there, and whole, so that Keras needs no network for it."""
        if not self.path.is_file():
            return False
        return self.digest is None or bool(file_utils.validate_file(self.path, self.digest))


class _Found(Exception):  # noqa: N818  not an error
    """Leaves what Keras was about to do; its argument is what it has asked for."""


def first_asked(act: Callable[[], Any]) -> Asked | None:
    """Return the first file that Keras asks for in `act`, which ends there; nothing is fetched.

    Args:
        act: runs in this thread. Others fetch what they want meanwhile.

    Returns:
        The file, or None where `act` asks for none.
    """
    thread, usual = threading.get_ident(), file_utils.get_file

    def get_file(*arguments: Any, **named: Any) -> Any:
        if threading.get_ident() != thread:
            return usual(*arguments, **named)
        name = arguments[0] if arguments else named["fname"]
        folder = fetched_folder() / named.get("cache_subdir", "datasets")
        raise _Found(Asked(folder / name, named.get("file_hash")))

    with attributes(file_utils, get_file=get_file):
        try:
            act()
        except _Found as found:
            return found.args[0]
    return None


def fetched_folder() -> Path:
    """Return where Keras keeps what it fetches: its home, or elsewhere if that can't be written."""
    if os.access(home(), os.W_OK):
        return home()
    return Path("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir(), ".keras")
