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

import numpy as np

from keras_transfer._lib.arrays import DamagedError, array_digest, read_array, read_bytes, write_arrays
from keras_transfer._lib.files import final_name, replacing

_FORMAT = 2
_KEPT = 2
_MANIFEST = re.compile(r"checkpoint_\d{8}\.json")
_NUMBERS = re.compile(r"arrays_\d{8}\.bin")

# What reading a file with anything in it may raise.
UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(OverflowError, RecursionError, MemoryError),
)


class Checkpoints:
    """The checkpoints of one run in a folder.

    Arrays that are as they were in an earlier checkpoint, such as those of frozen layers, are not
    written again. The last two checkpoints are kept.

    Args:
        folder: a folder that exists and holds checkpoints alone; nobody else may write to it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Those that are kept, the last one last: the file of each, and the places of its arrays.
        self._kept: list[tuple[str, dict[str, Any]]] = []

    def save(self, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Write a checkpoint, whole or not at all, and remove those before the last.

        Args:
            arrays: the arrays by their names.
            about: plain data.

        Raises:
            OSError: it can't be written; the earlier ones stay.
        """
        number = max((int(path.stem[-8:]) for path in self._manifests()), default=0) + 1
        file, manifest = f"arrays_{number:08d}.bin", f"checkpoint_{number:08d}.json"
        known = {place["digest"]: place for _, places in self._kept[-1:] for place in places.values()}
        places: dict[str, Any] = {}
        new: list[np.ndarray] = []
        end = 0
        for name, array in arrays.items():
            digest = array_digest(array)
            if digest not in known:
                kind = {"dtype": array.dtype.name, "shape": array.shape}
                known[digest] = {"file": file, "start": end, "digest": digest, **kind}
                new.append(array)
                end += array.nbytes
            places[name] = known[digest]
        if new:
            write_arrays(self._folder / file, new)
        text = json.dumps({"format": _FORMAT, "about": about, "arrays": places})
        with replacing(self._folder / manifest) as path:
            path.write_text(json.dumps([hashlib.sha256(text.encode()).hexdigest(), text]))
        _sync(self._folder)
        self._kept = [*self._kept, (manifest, places)][-_KEPT:]
        self._remove_others()

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]] | None:
        """Return the last checkpoint that is whole.

        Returns:
            Its arrays and its plain data, and what is wrong with later ones; None if there is none.

        Raises:
            DamagedError: there are checkpoints, but none that is whole.
        """
        problems = []
        for path in self._manifests():
            try:
                arrays, about, places = self._read(path)
            except UNREADABLE as error:
                problems.append(f"{path.name}: {error}")
            else:
                self._kept = [(path.name, places)]
                return arrays, about, problems
        if problems:
            raise DamagedError("; ".join(problems))
        return None

    def clear(self) -> None:
        """Remove all checkpoints."""
        self._kept = []
        self._remove_others()

    def _read(self, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
        """Return the arrays of a checkpoint, its plain data, and the places of the arrays."""
        digest, text = json.loads(read_bytes(path))
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise DamagedError("its text is not what was written")
        content = json.loads(text)
        if content["format"] != _FORMAT:
            raise DamagedError(f"it has the format {content['format']}, not {_FORMAT}")
        places = content["arrays"]
        return {name: self._array(**places[name]) for name in places}, content["about"], places

    def _array(self, file: str, **place: Any) -> np.ndarray:
        if not _NUMBERS.fullmatch(file):
            raise DamagedError(f"{file!r} is no file of it")
        return read_array(self._folder / file, **place)

    def _manifests(self) -> list[Path]:
        """Return the file of each checkpoint, that of the last one first."""
        found = (path for path in self._folder.iterdir() if _MANIFEST.fullmatch(path.name))
        return sorted(found, reverse=True)

    def _remove_others(self) -> None:
        """Remove all but what is kept, and what a process was writing when it was killed."""
        needed = {manifest for manifest, _ in self._kept}
        needed |= {place["file"] for _, places in self._kept for place in places.values()}
        for path in sorted(self._folder.iterdir(), reverse=True):  # manifests before numbers
            name = final_name(path)
            ours = _MANIFEST.fullmatch(name) or _NUMBERS.fullmatch(name)
            if ours and path.name not in needed:
                path.unlink()


def _sync(folder: Path) -> None:
    """Let the names in a folder reach the disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
