"""Tensors in files of safetensors, read one by one, in NumPy alone.

The package of that name can't give bfloat16 to NumPy, in which larger checkpoints are published; and so
a local folder needs no further package.
"""

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

_LARGEST_HEADER = 100_000_000  # bytes, as in the format's own library
_TYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class _Place(NamedTuple):
    """Where a tensor is."""

    path: Path
    kind: Any
    shape: tuple[int, ...]
    begin: int


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of one or several files by name; each is read when it is asked for.

    Args:
        paths: the files.

    Raises:
        ValueError: a file is damaged, or has a tensor that another one has, too.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._places: dict[str, _Place] = {}
        for path in paths:
            found = _places(path)
            again = sorted(found.keys() & self._places.keys())
            if again:
                raise ValueError(f"{again[0]!r} is in two files. Received: {str(path)!r}")
            self._places |= found

    def __getitem__(self, name: str) -> np.ndarray:
        path, kind, shape, begin = self._places[name]
        found = np.fromfile(path, np.dtype(kind).newbyteorder("<"), prod(shape), offset=begin)
        return found.reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _places(path: Path) -> dict[str, _Place]:
    """Read the header of a file: eight bytes with its length, then JSON."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise _damaged(path, "its header ends behind the file")
        header = file.read(length)
    try:
        content = json.loads(header)
        entries = {name: _entry(about) for name, about in content.items() if name != "__metadata__"}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, f"its header can't be read: {error}") from error
    found = {}
    for name, (kind, shape, begin, end) in entries.items():
        if kind not in _TYPES:
            raise _damaged(path, f"{name!r} is of type {kind!r}")
        bytes_ = prod(shape) * np.dtype(_TYPES[kind]).itemsize
        if end - begin != bytes_ or begin < 0 or 8 + length + end > size:
            raise _damaged(path, f"{name!r} isn't where the header says")
        found[name] = _Place(path, _TYPES[kind], shape, 8 + length + begin)
    return found


def _entry(about: Any) -> tuple[str, tuple[int, ...], int, int]:
    begin, end = map(_whole, about["data_offsets"])
    return str(about["dtype"]), tuple(map(_whole, about["shape"])), begin, end


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"{number!r} is no size")
    return number


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(
        f"the file must be one of safetensors, but {what}; fetch it again. Received: {str(path)!r}"
    )
