"""The folder that caches of features stand in: its mark, what is in it, and who may write."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from keras_transfer._lib.checks import one_of
from keras_transfer._lib.files import (
    final_name,
    remove_unfinished,
    replacing,
    writable_directory,
    write_json,
)
from keras_transfer._lib.messages import SILENT, say
from keras_transfer.features.cache.shards import is_shard

_KEY = re.compile(r"[0-9a-f]{32}")
_MANIFEST = "manifest.json"
# The mark of a folder that holds nothing but caches, which backup programs know: bford.info/cachedir.
_TAG = "CACHEDIR.TAG"
_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# Feature caches of keras_transfer.\n"


@dataclass(frozen=True)
class CacheInfo:
    """What a finished cache holds.

    Attributes:
        key: the digest of all that its features hang on, and the name of its folder.
        prefix: the name of the model that made them.
        samples: how many samples.
        views: how many augmented versions of each.
        shape: the shape of the features of one.
        dtype: the type of its numbers.
        megabytes: its size in units of 10**6 bytes.
    """

    key: str
    prefix: str
    samples: int
    views: int
    shape: tuple[int, ...]
    dtype: str
    megabytes: float


def cache_folder(cache: str | os.PathLike[str]) -> Path:
    """Make a folder for caches, or check that one is.

    Raises:
        ValueError: it can't be made or written, or it holds other things.
    """
    path = writable_directory(cache, "cache")
    # Listed before the mark is looked for: another process may be making both.
    others = sorted(
        each.name for each in path.iterdir() if each.name == _TAG or final_name(each) != _TAG
    )
    if not _is_marked(path):
        if others:
            raise ValueError(
                "cache must be a folder for feature caches alone: a new or empty one, or one that "
                f"was made for them. Received: cache={str(cache)!r}, which holds {others[:3]}"
            )
        with replacing(path / _TAG) as temporary:
            temporary.write_text(_SIGNATURE, encoding="utf-8")
    return path


def caches(cache: str | os.PathLike[str]) -> list[CacheInfo]:
    """Return the finished caches of a folder.

    Args:
        cache: as in `FeatureCache`.

    Raises:
        ValueError: it isn't a folder for caches.
    """
    found = []
    for folder in _folders(cache):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            about = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            size = sum(path.stat().st_size for path in folder.iterdir() if is_shard(path))
            told = {name: about[name] for name in ("prefix", "samples", "views", "dtype")}
            shape = tuple(about["shape"])
            found.append(CacheInfo(folder.name, shape=shape, megabytes=size / 1e6, **told))
    return found


def clear(cache: str | os.PathLike[str], key: str | None = None) -> int:
    """Remove the caches of a folder, and leave everything else in it.

    Args:
        cache: as in `FeatureCache`.
        key: which one; all, if it is None.

    Returns:
        How many bytes were freed.

    Raises:
        ValueError: it isn't a folder for caches, or there is no such cache.
    """
    folders = {folder.name: folder for folder in _folders(cache)}
    if key is not None and key not in folders:
        raise ValueError(
            f"key must be that of a cache in {str(cache)!r}: {one_of(folders)}. Received: key={key!r}"
        )
    freed = 0
    for folder in folders.values() if key is None else [folders[key]]:
        with alone(folder.with_suffix(".lock"), SILENT):
            for path in folder.iterdir():
                if is_shard(path) or final_name(path) == _MANIFEST:
                    freed += path.lstat().st_size
                    path.unlink()
            with contextlib.suppress(OSError):  # other things are in it
                folder.rmdir()
    return freed


def _folders(cache: str | os.PathLike[str]) -> list[Path]:
    path = Path(cache)
    if not _is_marked(path):
        raise ValueError(f"cache must be a folder for feature caches. Received: cache={str(cache)!r}")
    return [
        each
        for each in sorted(path.iterdir())
        if _KEY.fullmatch(each.name) and each.is_dir() and not each.is_symlink()
    ]


def _is_marked(path: Path) -> bool:
    """Whether a folder is for our caches: other programs mark theirs with a file of the same name."""
    try:
        return (path / _TAG).read_text(encoding="utf-8") == _SIGNATURE
    except (OSError, ValueError):
        return False


def is_described(folder: Path) -> bool:
    """Whether the cache in a folder was finished once."""
    return (folder / _MANIFEST).exists()


def describe(folder: Path, **about: Any) -> None:
    """Write down what the finished cache in a folder holds: fields of `CacheInfo`."""
    remove_unfinished(folder / _MANIFEST)
    write_json(folder / _MANIFEST, about)


@contextlib.contextmanager
def alone(path: Path, verbose: int) -> Iterator[None]:
    """Let one process at a time into the block; `verbose` is as `verbosity` returns it."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        say(verbose, "Feature cache: another process is computing it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
