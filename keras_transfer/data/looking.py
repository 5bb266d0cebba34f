"""What is wrong with image files, and what is odd about them, found by decoding each once."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from keras_transfer._lib.messages import progress
from keras_transfer.data.images.kept import Kept
from keras_transfer.data.images.reading import naming, opened, reason, small
from keras_transfer.data.images.rules import USUAL, Rules
from keras_transfer.data.images.stored import ImageFile, version
from keras_transfer.data.sources import default_threads

File = TypeVar("File", bound=ImageFile)

_AT_A_TIME = 4096  # files
_APART = 7  # of the rows and columns that are compared first


class Look(NamedTuple):
    """What was found in a file.

    Attributes:
        problem: why it can't be used, or None.
        notes: what is odd about it, though it can be used.
        bits: how many bits its values use, where they have 16 whose range nobody tells; else None.
    """

    problem: str | None = None
    notes: tuple[str, ...] = ()
    bits: int | None = None


def damage(path: ImageFile, rules: Rules = USUAL) -> str | None:
    """Return what is wrong with an image file, or None if `read_image` will read it.

    Args:
        path: the file.
        rules: how it is read.
    """
    return look(path, rules).problem


def look(path: ImageFile, rules: Rules = USUAL, kept: Kept | None = None) -> Look:
    """Decode all of a file, a JPEG to a small image, and return what was found.

    Args:
        path: the file.
        rules: how it is read.
        kept: is given the image, in its size, as long as it has room.
    """
    before = version(path) if kept is not None and kept.has_room() else None
    try:
        with naming(path), opened(path, rules) as image:
            if kept is None or before is None:
                pixels = np.asarray(image.decode(np.inf)[0])
            else:
                pixels = small(image, kept.size)
                kept.put(path, before, pixels)
            one = _one_colour(pixels)
            if one:  # it may be the mean of a pattern, or of the middle alone
                one = _one_colour(np.asarray(image.decode(1.0)[0]))
            bits = 8 + int(np.max(image.decode(1.0)[0])).bit_length() if image.unstated else None
    except ValueError as error:
        return Look(reason(error.__cause__ or error))
    warned = (f"its decoder warns: {message}" for message in dict.fromkeys(image.warnings))
    return Look(None, ("all of one colour",) * one + tuple(warned), bits)


def _one_colour(pixels: np.ndarray) -> bool:
    """Whether all pixels of an image of shape (height, width, channels) are equal."""
    few = pixels[::_APART, ::_APART]
    return bool((few == pixels[0, 0]).all() and (pixels == pixels[0, 0]).all())


def looked_at(
    paths: Sequence[File], verbose: int, rules: Rules = USUAL, kept: Kept | None = None
) -> tuple[dict[File, str], dict[File, str]]:
    """Decode files, by several threads, and return what is wrong and what is odd about some.

    Args:
        paths: the files.
        verbose: as `verbosity` returns it.
        rules: how they are read.
        kept: as in `look`.

    Returns:
        Files that are no good, with what is wrong; and others with what is odd about them.
    """

    def found() -> Iterator[Look]:
        # Each thread has an image in memory. A part of the files at a time: of a million there would be
        # as many tasks.
        with ThreadPoolExecutor(default_threads()) as pool:
            for start in range(0, len(paths), _AT_A_TIME):
                yield from pool.map(
                    lambda path: look(path, rules, kept), paths[start : start + _AT_A_TIME]
                )

    problems: dict[File, str] = {}
    notes: dict[File, str] = {}
    bits: dict[File, int] = {}
    with progress(verbose, f"Looking at {len(paths):,} images", len(paths), "image") as advance:
        for path, one in zip(paths, found(), strict=True):
            if one.problem:
                problems[path] = one.problem
            if one.notes:
                notes[path] = "; ".join(one.notes)
            if one.bits is not None:
                bits[path] = one.bits
            advance()
    for path, note in _too_dark(bits).items():
        notes[path] = f"{notes[path]}; {note}" if path in notes else note
    return problems, notes


def _too_dark(bits: Mapping[File, int]) -> dict[File, str]:
    """Return a note for each file of 16 bits, if none of these files uses all of them.

    Args:
        bits: how many each uses. One may be dark; that all are is no chance.
    """
    used = max(bits.values(), default=16)
    if used == 16:
        return {}
    kept = max(used - 8, 0)
    note = (
        f"of its 16 bits no file uses more than {used}, of which {kept} are kept; "
        f"value_range=(0, {2**used - 1}) keeps 8"
    )
    return dict.fromkeys(bits, note)
