"""Files that are written whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
