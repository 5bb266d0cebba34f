"""Arrays in files whose names tell which rows they hold and what their bytes are."""

import hashlib
import io
import re
from pathlib import Path

import ml_dtypes
import numpy as np

from keras_transfer._files import replacing

_NAME = re.compile(r"(\d{10})-(\d{10})\.([0-9a-f]{32})\.npy")
# What NumPy's files have no type for stands in them as integers of the same width.
_STORED = {"bfloat16": np.dtype("uint16")}
DTYPES = {
    "float32": np.dtype("float32"),
    "float16": np.dtype("float16"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def write_shard(folder: Path, start: int, rows: np.ndarray) -> np.ndarray:
    """Write rows to a file of `folder`, whole or not at all.

    Args:
        folder: a folder that exists.
        start: the number of the first row.
        rows: an array of shape (rows, ...).

    Returns:
        The same rows, mapped into memory from the file.
    """
    stored = rows.view(_STORED.get(rows.dtype.name, rows.dtype))
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(stored), allow_pickle=False)
    name = f"{start:010d}-{start + len(rows):010d}.{_digest(buffer.getbuffer())}.npy"
    with replacing(folder / name) as path:
        path.write_bytes(buffer.getbuffer())
    return np.load(folder / name, mmap_mode="r", allow_pickle=False).view(rows.dtype)


def read_shards(
    folder: Path, plan: list[tuple[int, int]], shape: tuple[int, ...], dtype: np.dtype
) -> dict[tuple[int, int], np.ndarray]:
    """Map the files of `folder` that are whole into memory, and remove those that are damaged.

    Args:
        folder: a folder that exists; files with other names are left alone.
        plan: the ranges of rows that are wanted.
        shape: the shape of a row.
        dtype: the type of the numbers.

    Returns:
        For each range that there is, a memory-mapped array.
    """
    found = {}
    for path in sorted(folder.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        span = int(match[1]), int(match[2])
        array = _mapped(path, match[3]) if span in plan and not path.is_symlink() else None
        stored = _STORED.get(dtype.name, dtype)
        if array is None or array.shape != (span[1] - span[0], *shape) or array.dtype != stored:
            path.unlink()
        else:
            found[span] = array.view(dtype)
    return found


def is_shard(path: Path) -> bool:
    """Whether a file has the name of a shard."""
    return _NAME.fullmatch(path.name) is not None


def _mapped(path: Path, digest: str) -> np.ndarray | None:
    """Return the array of a file, or None if its bytes aren't those that it was written with."""
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest()[: len(digest)] != digest:
                return None
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None


def _digest(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
