"""Arrays in files whose names tell which rows they hold and what their digest is."""

import itertools
import re
from pathlib import Path

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by it
import numpy as np

from keras_transfer._lib.arrays import DamagedError, array_digest, read_array, write_arrays
from keras_transfer._lib.files import final_name

_NAME = re.compile(r"(\d{10})-(\d{10})\.([0-9a-f]{32})\.bin")
DTYPES = {name: np.dtype(name) for name in ("float32", "float16", "bfloat16")}


def write_shard(folder: Path, start: int, rows: np.ndarray) -> Path:
    """Write rows, of which the first has the number `start`, to a file, whole or not at all."""
    path = folder / f"{start:010d}-{start + len(rows):010d}.{array_digest(rows)}.bin"
    write_arrays(path, [rows])
    return path


def open_shard(path: Path, span: tuple[int, int], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Map the rows of a whole file, each of `shape`, into memory."""
    return np.memmap(path, dtype, "r", shape=(span[1] - span[0], *shape))


def whole_shards(
    folder: Path, plan: list[tuple[int, int]], shape: tuple[int, ...], dtype: np.dtype
) -> dict[tuple[int, int], Path]:
    """Return the whole files of `folder` for the ranges of rows in `plan`, and remove others.

    Those are files that are damaged, or that a process was writing when it was killed. Nobody else may
    write meanwhile. What has other names is left alone.
    """
    found: dict[tuple[int, int], Path] = {}
    wanted = set(plan)
    for path in sorted(filter(is_shard, folder.iterdir())):
        span = _span(path)
        if span and span in wanted and span not in found and _is_whole(path, span, shape, dtype):
            found[span] = path
        else:
            path.unlink()
    return found


def named_spans(folder: Path) -> set[tuple[int, int]]:
    """Return the ranges of rows that `folder` has finished files of, be they whole or not."""
    return {span for path in folder.iterdir() if (span := _span(path))}


def whole_shard(folder: Path, span: tuple[int, int], shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether `folder` has the file of some rows, and it is whole."""
    files = (path for path in folder.iterdir() if _span(path) == span)
    return any(_is_whole(path, span, shape, dtype) for path in files)


def count_attempt(folder: Path, span: tuple[int, int]) -> int:
    """Note that a process begins with the rows of a file, and return how many have, this one included.

    The notes are in `folder`; `whole_shards` removes them.
    """
    name = f".{span[0]:010d}-{span[1]:010d}.{0:032x}-"
    numbers = itertools.count(1)  # tried one by one: the folder has the files of all rows
    number = next(number for number in numbers if not (folder / f"{name}{number:08d}.bin").exists())
    (folder / f"{name}{number:08d}.bin").touch()
    return number


def is_shard(path: Path) -> bool:
    """Whether a file has the name of a shard, be it finished or not."""
    return bool(_NAME.fullmatch(final_name(path)))


def _span(path: Path) -> tuple[int, int] | None:
    """Return the range of rows of a finished file, or None if it is none."""
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2])) if match else None


def _is_whole(path: Path, span: tuple[int, int], shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether a finished file has the rows that it was written with, of this shape, and nothing else."""
    _, digest, _ = path.name.split(".")
    try:
        rows = read_array(path, dtype, (span[1] - span[0], *shape), digest)
    except DamagedError:
        return False
    return rows.nbytes == path.stat().st_size
