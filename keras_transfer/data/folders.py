"""Which files in a folder are images, and why others are left out: one rule for all that reads them."""

import functools
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from keras_transfer.data.images.kinds import NEEDS, NO_IMAGE, NOT_READ, why_not

HIDDEN = "hidden"
OTHERS = "a folder of another program"
OWN = "written by keras_transfer"
STRANGE = "neither a file nor a folder"
CIRCLE = "a link in a circle"
UNREADABLE = "can't be read"
NO_CLASS = "an image in no class's folder"
_LINK, _DAMAGED = "a link out or to nowhere", "damaged"
_UNMISSED = frozenset({HIDDEN, OTHERS, OWN, STRANGE, CIRCLE, NO_IMAGE})
_PASSED_OVER = _UNMISSED | {NO_CLASS, NOT_READ, UNREADABLE, *NEEDS}

# What macOS' zip, Synology, Python, Windows and Linux leave among people's folders.
_OF_OTHERS = frozenset(
    {
        "__MACOSX",
        "@eaDir",
        "#recycle",
        "__pycache__",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
    }
)
_ACCOUNTS = ("metrics.json", "history.json")  # what a run writes beside its model
_NAMED = 10  # files in a message


class Found(NamedTuple):
    """What is in a folder.

    Attributes:
        images: the files that are to be decoded, in the order of the names on the way to them.
        left_out: what doesn't count, with the reason.
        problems: links that are not followed, with what is wrong with each.
    """

    images: list[Path]
    left_out: dict[Path, str]
    problems: dict[Path, str]

    def add(self, other: "Found") -> None:
        """Take in what was found elsewhere."""
        self.images.extend(other.images)
        self.left_out.update(other.left_out)
        self.problems.update(other.problems)


class _Place(NamedTuple):
    """An entry of a folder, and the real paths of the folders that lead to it from the first on."""

    entry: os.DirEntry[str]
    way: tuple[str, ...]


def images_in(folder: Path, inside: Iterable[str], follow_links: bool) -> Found:
    """Return the images in a folder and in the folders within it.

    Args:
        folder: where to look.
        inside: real paths of folders; a link that leads out of all of them is a problem.
        follow_links: whether such links are good.

    Returns:
        The images and all that is left out. A hidden folder, or one of another program, is one entry.

    Raises:
        ValueError: a folder can't be listed.
    """
    found = Found([], {}, {})
    inside, real = tuple(inside), os.path.realpath(folder)
    todo = _in_order(folder, (real,))
    while todo:
        place = todo.pop()
        path, name = Path(place.entry.path), place.entry.name
        if name.startswith("."):
            found.left_out[path] = HIDDEN
        elif os.path.isdir(place.entry) if place.entry.is_symlink() else place.entry.is_dir():
            todo += _within(place, found, inside, follow_links)
        else:
            _sort_in(place, found, inside, follow_links)
    return found


def _within(place: _Place, found: Found, inside: tuple[str, ...], follow_links: bool) -> list[_Place]:
    """Return what is in a folder, or note why it is not looked into."""
    path, above = Path(place.entry.path), place.way[-1]
    linked = place.entry.is_symlink()
    real = os.path.realpath(path) if linked else os.path.join(above, place.entry.name)
    if (reason := passed_over(path)) is not None:
        found.left_out[path] = reason
    elif any(Path(each).is_relative_to(real) for each in place.way):
        found.left_out[path] = CIRCLE
    elif not follow_links and not _is_inside(real, inside):
        found.problems[path] = f"a link to {real!r}, out of the folder"
    else:
        return _in_order(path, (*place.way, real))
    return []


def _sort_in(place: _Place, found: Found, inside: tuple[str, ...], follow_links: bool) -> None:
    """Note what a file is, or anything else that is no folder."""
    path = Path(place.entry.path)
    reason = left_out(place.entry)
    if reason is not None:
        found.left_out[path] = reason
        return
    real = os.path.realpath(path) if place.entry.is_symlink() else place.way[-1]
    if not follow_links and not _is_inside(real, inside):
        found.problems[path] = f"a link to {real!r}, out of the folder"
    else:
        found.images.append(path)


def left_out(entry: os.DirEntry[str]) -> str | None:
    """Return why something that is no folder is left out, or None of a file that is to be decoded."""
    if entry.name.startswith("."):
        return HIDDEN
    if not entry.is_symlink() and not entry.is_file(follow_symlinks=False):
        return STRANGE
    try:
        # What a link leads to is looked at when it is decoded: a broken one is to be told.
        return why_not(entry.path)
    except OSError:
        return UNREADABLE


@functools.lru_cache(maxsize=4096)  # the folders in hand
def _is_inside(real: str, inside: tuple[str, ...]) -> bool:
    return any(Path(real).is_relative_to(each) for each in inside)


def _in_order(folder: Path, way: tuple[str, ...]) -> list[_Place]:
    """Return the entries of a folder, the last name first, to be taken from the end of a list."""
    return [_Place(entry, way) for entry in sorted(entries(folder), key=_by_name, reverse=True)]


def _by_name(entry: os.DirEntry[str]) -> str:
    return entry.name  # paths themselves sort by another rule on Windows


def passed_over(folder: Path) -> str | None:
    """Return why a folder is none of images, whatever is in it, or None.

    A folder that a run has written holds pictures of curves, but none to train on.
    """
    if folder.name.startswith("."):
        return HIDDEN
    if folder.name in _OF_OTHERS or os.path.isfile(folder / "CACHEDIR.TAG"):  # bford.info/cachedir
        return OTHERS
    if not os.path.isfile(folder / "model.keras"):
        return None
    return OWN if any(os.path.isfile(folder / name) for name in _ACCOUNTS) else None


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in a folder, or raise a `ValueError` if it can't be listed."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        raise ValueError(
            f"directory must have folders that can be read ({error.strerror}). Received: {str(folder)!r}"
        ) from error


def is_missed(reason: str) -> bool:
    """Whether what was left out for a reason may be an image that someone misses."""
    return reason not in _UNMISSED


def by_reason(reasons: Iterable[str]) -> dict[str, int]:
    """Return how many files were left out for each reason, the commonest first.

    Args:
        reasons: that of each file, as `Loader.skipped` has them.
    """

    def kind(reason: str) -> str:
        if reason in _PASSED_OVER:
            return reason
        return _LINK if reason.startswith("a link ") else _DAMAGED

    return dict(Counter(map(kind, reasons)).most_common())


def counted(reasons: Iterable[str]) -> str:
    """Return in words how many files were left out for each reason: "3 hidden; 1 not an image"."""
    return "; ".join(f"{count:,} {reason}" for reason, count in by_reason(reasons).items())


def listed(problems: Mapping[Path, str]) -> str:
    """Return the first of some files, with what is wrong with each, and how many more there are."""
    first = [f"{str(path)!r} ({problem})" for path, problem in list(problems.items())[:_NAMED]]
    more = len(problems) - len(first)
    return "; ".join(first) + (f"; and {more} more" if more else "")
