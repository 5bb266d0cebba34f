"""The files that a killed run goes on from: written whole, checked by digests, an earlier one kept.

Keras' own files don't do here: `.weights.h5` and `.keras` hold no seed generators, name torch's
optimizers so that other backends can't read them, and don't tell that they are damaged; HDF5 may crash
the process after a write that found no room. Orbax, which has most of this, needs JAX. So a checkpoint
is a JSON file that says what stands where in files of plain numbers.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by it
import numpy as np

from keras_transfer._lib.files import replacing

_FORMAT = 1
_KEPT = 2
_MANIFEST = re.compile(r"checkpoint_(\d{8})\.json")
_NUMBERS = re.compile(r"arrays_\d{8}\.bin")
_UNFINISHED = re.compile(r"\.(checkpoint|arrays)_\d{8}-.{8}\.(json|bin)")  # as `replacing` calls them
_KINDS = "biuf"  # of dtypes: no objects

# What reading a file with anything in it may raise.
UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(OverflowError, RecursionError, MemoryError),
)


class DamagedError(ValueError):
    """A checkpoint that can't be used."""


class Checkpoints:
    """The checkpoints of one run in a folder.

    Arrays that are as they were in an earlier checkpoint, such as those of frozen layers, are not
    written again. The last two checkpoints are kept.

    Args:
        folder: a folder that exists and holds checkpoints alone; nobody else may write to it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, dict[str, Any]] = {}  # of arrays in files, by their digests

    def save(self, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Write a checkpoint, whole or not at all, and remove those before the last.

        Args:
            arrays: the arrays by their names.
            about: plain data.

        Raises:
            OSError: it can't be written; the earlier ones stay.
        """
        number = max((number for number, _ in self._manifests()), default=0) + 1
        file = f"arrays_{number:08d}.bin"
        digests = {name: _digest(array) for name, array in arrays.items()}
        places: dict[str, dict[str, Any]] = {}
        new: list[np.ndarray] = []
        end = 0
        for name, digest in digests.items():
            array = arrays[name]
            if digest not in places and digest not in self._places:
                places[digest] = {"file": file, "start": end, "digest": digest}
                places[digest] |= {"dtype": array.dtype.name, "shape": array.shape}
                new.append(array)
                end += array.nbytes
            places.setdefault(digest, self._places.get(digest, {}))
        if new:
            with replacing(self._folder / file) as path, path.open("wb") as target:
                for array in new:
                    target.write(array.tobytes())
        named = {name: places[digest] for name, digest in digests.items()}
        content = {"format": _FORMAT, "about": about, "arrays": named}
        text = json.dumps(content)
        with replacing(self._folder / f"checkpoint_{number:08d}.json") as path:
            path.write_text(json.dumps([hashlib.sha256(text.encode()).hexdigest(), text]))
        _sync(self._folder)
        self._places = places
        self._remove_old()

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]] | None:
        """Return the last checkpoint that is whole.

        Returns:
            Its arrays and its plain data, and what is wrong with later ones; None if there is none.

        Raises:
            DamagedError: there are checkpoints, but none that is whole.
        """
        problems = []
        for _, path in self._manifests():
            try:
                arrays, about, self._places = self._read(path)
            except UNREADABLE as error:
                problems.append(f"{path.name}: {error}")
            else:
                return arrays, about, problems
        if problems:
            raise DamagedError("; ".join(problems))
        return None

    def _read(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
        digest, text = json.loads(_bytes(path))
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise DamagedError("its text is not what was written")
        content = json.loads(text)
        if content["format"] != _FORMAT:
            raise DamagedError(f"it has the format {content['format']}, not {_FORMAT}")
        arrays = {name: self._array(place) for name, place in content["arrays"].items()}
        return arrays, content["about"], {p["digest"]: p for p in content["arrays"].values()}

    def _array(self, place: Mapping[str, Any]) -> np.ndarray:
        if not _NUMBERS.fullmatch(place["file"]):
            raise DamagedError(f"{place['file']!r} is no file of it")
        dtype = np.dtype(place["dtype"])
        shape = tuple(place["shape"])
        count = 1
        for length in shape:
            if not isinstance(length, int) or length < 0:
                raise DamagedError(f"it has an array of shape {shape}")
            count *= length
        if dtype.hasobject or (dtype.kind not in _KINDS and dtype.name != "bfloat16"):
            raise DamagedError(f"it has an array of {dtype}")
        data = _bytes(self._folder / place["file"], place["start"], count * dtype.itemsize)
        array = np.frombuffer(data, dtype).reshape(shape)
        if _digest(array) != place["digest"]:
            raise DamagedError(f"{place['file']} is not what was written")
        return array

    def _manifests(self) -> list[tuple[int, Path]]:
        """Return the number and the path of each checkpoint, the last one first."""
        matches = ((_MANIFEST.fullmatch(path.name), path) for path in self._folder.iterdir())
        return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)

    def _remove_old(self) -> None:
        """Remove all but the last checkpoints, and what a process was writing when it was killed."""
        kept = [path for _, path in self._manifests()[:_KEPT]]
        needed = {path.name for path in kept}
        for path in kept:
            try:
                content = json.loads(json.loads(_bytes(path))[1])
                needed |= {place["file"] for place in content["arrays"].values()}
            except UNREADABLE:
                continue  # a damaged one needs nothing
        for path in self._folder.iterdir():
            ours = any(p.fullmatch(path.name) for p in (_MANIFEST, _NUMBERS, _UNFINISHED))
            if ours and path.name not in needed:
                path.unlink()

    def clear(self) -> None:
        """Remove all checkpoints."""
        self._places = {}
        for path in sorted(self._folder.iterdir(), reverse=True):  # manifests before numbers
            if any(p.fullmatch(path.name) for p in (_MANIFEST, _NUMBERS, _UNFINISHED)):
                path.unlink()


def _bytes(path: Path, start: int = 0, count: int | None = None) -> bytes:
    """Return bytes of a file; more than it has are refused before there is memory for them."""
    if path.is_symlink() or not path.is_file():
        raise DamagedError(f"{path.name} is no file")
    size = path.stat().st_size
    count = size if count is None else count
    if not isinstance(start, int) or start < 0 or start + count > size:
        raise DamagedError(f"{path.name} is shorter than it was")
    with path.open("rb") as file:
        file.seek(start)
        return file.read(count)


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).view("uint8").reshape(-1).data if array.size else b"")
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    """Let the names in a folder reach the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
