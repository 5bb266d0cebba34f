"""Arrays in files whose names tell which rows they hold and what their bytes are."""

import hashlib
import io
import re
from pathlib import Path

import ml_dtypes
import numpy as np

from keras_transfer._lib.files import replacing

_NAME = re.compile(r"(\d{10})-(\d{10})\.([0-9a-f]{32})\.npy")
_UNFINISHED = re.compile(r"\.\d{10}-\d{10}\.[0-9a-f]{32}-.{8}\.npy")  # as `replacing` calls them
# What NumPy's files have no type for stands in them as integers of the same width.
_STORED = {"bfloat16": np.dtype("uint16")}
DTYPES = {
    "float32": np.dtype("float32"),
    "float16": np.dtype("float16"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def write_shard(folder: Path, start: int, rows: np.ndarray) -> Path:
    """Write rows to a file of `folder`, whole or not at all, and return its path.

    Args:
        folder: a folder that exists.
        start: the number of the first row.
        rows: an array of shape (rows, ...).
    """
    stored = rows.view(_STORED.get(rows.dtype.name, rows.dtype))
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(stored), allow_pickle=False)
    name = f"{start:010d}-{start + len(rows):010d}.{_digest(buffer.getbuffer())}.npy"
    with replacing(folder / name) as path:
        path.write_bytes(buffer.getbuffer())
    return folder / name


def open_shard(path: Path, dtype: np.dtype) -> np.ndarray:
    """Map the rows in a file into memory.

    Args:
        path: a file that `write_shard` wrote.
        dtype: the type of its numbers.
    """
    return np.lib.format.open_memmap(path, mode="r").view(dtype)


def whole_shards(
    folder: Path, plan: list[tuple[int, int]], shape: tuple[int, ...], dtype: np.dtype
) -> dict[tuple[int, int], Path]:
    """Return the files of `folder` that are whole, and remove the others.

    Those are files that are damaged, or that a process was writing when it was killed. Nobody else may
    write meanwhile.

    Args:
        folder: a folder that exists; files with other names are left alone.
        plan: the ranges of rows that are wanted.
        shape: the shape of a row.
        dtype: the type of the numbers.

    Returns:
        For each range that there is, its file.
    """
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match:
            span = int(match[1]), int(match[2])
            wanted = span in plan and span not in found and not path.is_symlink()
            if wanted and _is_whole(path, match[3], (span[1] - span[0], *shape), dtype):
                found[span] = path
            else:
                path.unlink()
        elif _UNFINISHED.fullmatch(path.name):
            path.unlink()
    return found


def named_spans(folder: Path) -> set[tuple[int, int]]:
    """Return the ranges of rows that `folder` has finished files of, be they whole or not."""
    matches = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return {(int(match[1]), int(match[2])) for match in matches if match}


def whole_shard(folder: Path, span: tuple[int, int], shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether `folder` has the file of some rows, and it is whole.

    Args:
        folder: a folder that exists.
        span: the first row and the one behind the last.
        shape: the shape of a row.
        dtype: the type of the numbers.
    """
    rows = (span[1] - span[0], *shape)
    names = ((path, _NAME.fullmatch(path.name)) for path in folder.iterdir())
    return any(
        _is_whole(path, match[3], rows, dtype)
        for path, match in names
        if match and (int(match[1]), int(match[2])) == span
    )


def count_attempt(folder: Path, span: tuple[int, int]) -> int:
    """Note that a process begins with the rows of a file, and return how many have, this one included.

    The notes are in `folder`; `whole_shards` removes them.
    """
    name = f".{span[0]:010d}-{span[1]:010d}.{0:032x}-"
    number = 1 + sum(1 for _ in folder.glob(f"{name}*.npy"))
    (folder / f"{name}{number:08d}.npy").touch()
    return number


def is_shard(path: Path) -> bool:
    """Whether a file has the name of a shard, be it finished or not."""
    return bool(_NAME.fullmatch(path.name) or _UNFINISHED.fullmatch(path.name))


def _is_whole(path: Path, digest: str, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether a file has the bytes that it was written with, and these are of such an array."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest()[: len(digest)] != digest:
            return False
    try:
        return open_shard(path, dtype).shape == shape
    except (EOFError, ValueError):
        return False


def _digest(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
