"""Files that are written whole or not at all."""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it takes the place of `path` in one step.

    Args:
        path: the file to write; its folder exists.

    Yields:
        A path in the same folder, with the same suffix. If the block raises, it is removed and `path`
        is as it was.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp's 0600 would hide the file from other users
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what processes that were killed in `replacing` have left; nobody may be writing `path`."""
    name = re.compile(rf"\.{re.escape(path.stem)}-\w{{8}}{re.escape(path.suffix)}")
    for left in path.parent.iterdir():
        if name.fullmatch(left.name) and not left.is_dir():
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


def writable_directory(directory: str | os.PathLike[str]) -> Path:
    """Make a folder, with its parents, and check that files can be written into it.

    Args:
        directory: the folder; it may exist.

    Returns:
        Its path.

    Raises:
        ValueError: it can't be made or written.
    """
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"directory must be a folder that can be written ({error}). "
            f"Received: directory={str(directory)!r}"
        ) from error
    return path


def check_writable(path: str | os.PathLike[str], argument: str) -> Path:
    """Check that a file or folder can be made, without making it.

    Args:
        path: of the file or folder, whose parents need not exist.
        argument: what it is called in messages.

    Returns:
        The path.

    Raises:
        ValueError: it can't be made.
    """
    there = path = Path(path)
    try:
        while not there.is_dir():
            if there != path and there.exists():
                raise NotADirectoryError(f"{str(there)!r} is no folder")
            there = there.parent
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ValueError(
            f"{argument} must be where files can be written ({error}). "
            f"Received: {argument}={str(path)!r}"
        ) from error
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
