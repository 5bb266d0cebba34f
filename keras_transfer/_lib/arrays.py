"""Arrays in files of plain numbers, which are written whole and read only as they were written.

Such a file has nothing but the bytes of its arrays. What stands where, and the digest of each, its
reader knows from elsewhere: there is no header that could lie, and nothing to unpickle.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by it
import numpy as np

from keras_transfer._lib.files import replacing

_KINDS = "biuf"  # of dtypes: no objects


class DamagedError(ValueError):
    """A file that is not what was written."""


def array_digest(array: np.ndarray) -> str:
    """Return what tells an array from others: 32 hexadecimal digits of its dtype, shape and numbers."""
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(_bytes(array))
    return digest.hexdigest()[:32]


def write_arrays(path: Path, arrays: Iterable[np.ndarray]) -> None:
    """Write arrays into a file one after the other, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        for array in arrays:
            file.write(_bytes(array))


def read_array(
    path: Path, dtype: str | np.dtype, shape: Sequence[int], digest: str, start: int = 0
) -> np.ndarray:
    """Read the array of this `array_digest` that `write_arrays` wrote behind `start` bytes.

    Raises:
        DamagedError: the file has not this array there.
    """
    dtype, shape = np.dtype(dtype), tuple(shape)
    if dtype.kind not in _KINDS and dtype.name != "bfloat16":
        raise DamagedError(f"it has an array of {dtype}")
    if not all(isinstance(length, int) and length >= 0 for length in shape):
        raise DamagedError(f"it has an array of shape {shape}")
    data = read_bytes(path, start, math.prod(shape) * dtype.itemsize)
    array = np.frombuffer(data, dtype).reshape(shape)
    if array_digest(array) != digest:
        raise DamagedError(f"{path.name} is not what was written")
    return array


def read_bytes(path: Path, start: int = 0, count: int | None = None) -> bytes:
    """Return bytes of a file; more than it has are refused before there is memory for them.

    Raises:
        DamagedError: it is shorter, or no file, or a link to one.
    """
    if path.is_symlink() or not path.is_file():
        raise DamagedError(f"{path.name} is no file")
    size = path.stat().st_size
    count = size if count is None else count
    if not isinstance(start, int) or start < 0 or start + count > size:
        raise DamagedError(f"{path.name} is shorter than it was")
    with path.open("rb") as file:
        file.seek(start)
        return file.read(count)


def _bytes(array: np.ndarray) -> memoryview | bytes:
    return np.ascontiguousarray(array).view("uint8").reshape(-1).data if array.size else b""
