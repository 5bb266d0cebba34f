"""Files that are written whole or not at all."""

import contextlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_UNFINISHED = re.compile(r"\.(.+)-\w{8}((?:\.\w+)?)")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it takes the place of `path` in one step.

    It is in the same folder and has the same suffix. If the block raises, it is removed and `path` is as
    it was.
    """
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    # Not by `tempfile`, which would hide the file from other users; `open` goes by the umask.
    temporary.open("xb").close()
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def final_name(path: Path) -> str:
    """Return the name of a file, or what it was to be if a process was killed in `replacing`."""
    left = _UNFINISHED.fullmatch(path.name)
    return f"{left[1]}{left[2]}" if left else path.name


def remove_unfinished(path: Path) -> None:
    """Remove what processes that were killed in `replacing` have left; nobody may be writing `path`."""
    for left in path.parent.iterdir():
        if final_name(left) == path.name != left.name and not left.is_dir():
            left.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain data to a JSON file, whole or not at all; what is not a number becomes null."""
    with replacing(path) as temporary:
        text = json.dumps(_finite(content), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value


def folder_or_temporary(
    folder: str | os.PathLike[str] | None,
) -> contextlib.AbstractContextManager[str | os.PathLike[str]]:
    """Give a folder, or where it is None a temporary one that goes away at the end.

    What is read from it is to be closed before: Windows removes no file that is mapped into memory.
    """
    if folder is not None:
        return contextlib.nullcontext(folder)
    # What is open all the same stays, and no error comes of it: what was made of it is there.
    return tempfile.TemporaryDirectory(prefix="keras_transfer-", ignore_cleanup_errors=True)


def writable_directory(path: str | os.PathLike[str], argument: str) -> Path:
    """Make a folder, with its parents, and check that files can be written into it.

    Raises:
        ValueError: it can't be made or written; messages call it `argument`.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"{argument} must be a folder that can be written ({error}). "
            f"Received: {argument}={str(path)!r}"
        ) from error
    return folder


def check_writable(path: str | os.PathLike[str], argument: str) -> Path:
    """Check that a file or folder can be made, with its parents, without making it.

    Raises:
        ValueError: it can't be made; messages call it `argument`.
    """
    there = path = Path(path)
    try:
        while not there.is_dir():
            if there != path and there.exists():
                raise NotADirectoryError(f"{str(there)!r} is no folder")
            there = there.parent
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ValueError(
            f"{argument} must be where files can be written ({error}). "
            f"Received: {argument}={str(path)!r}"
        ) from error
    return path
