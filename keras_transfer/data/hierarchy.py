"""Classes within classes: which folders on the way to an image are its class."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_transfer._lib.checks import is_whole
from keras_transfer.data.layout import composed

LEAF = "leaf"
_log = logging.getLogger(__name__)


def check_level(level: Any) -> None:
    """Raise a `ValueError` if a level is neither a number of folders nor "leaf"."""
    if not (isinstance(level, str) and level == LEAF) and not (is_whole(level) and level > 0):
        raise ValueError(
            "level must be how many of the folders around an image are its class, from 1 on, or "
            f"{LEAF!r} for all of them. Received: level={level!r}"
        )


def at_level(
    within: Callable[[Path], tuple[str, ...]], images: Mapping[str, Sequence[Path]], level: int | str
) -> dict[str, list[Path]]:
    """Return images by the names of as many of their folders, with slashes between them.

    Args:
        within: gives the names on the way to an image from the folder of all classes on, its own last.
        images: the images, by the first folder.
        level: how many folders; "leaf": all of each image.

    Returns:
        The images of each class, in their order; the classes in the order of their folders' names.

    Raises:
        ValueError: an image has not as many folders.
    """
    found: dict[tuple[str, ...], list[Path]] = {}
    shallow: list[Path] = []
    for path in (path for paths in images.values() for path in paths):
        way = tuple(map(composed, within(path)[:-1]))
        if level != LEAF and len(way) < int(level):
            shallow.append(path)
        found.setdefault(way if level == LEAF else way[: int(level)], []).append(path)
    if shallow:
        depth = len(within(shallow[0])) - 1
        raise ValueError(
            f"level must be no more than the number of folders around each image; {len(shallow)} images "
            f"have fewer than {level}, such as {str(shallow[0])!r} with {depth}: move them, or say "
            f"level={LEAF!r}. Received: level={level!r}"
        )
    inner = [way for way in found if any(way[:k] in found for k in range(1, len(way)))]
    if inner:
        _log.warning(
            "%d classes are within others that have images of their own, such as %s",
            len(inner),
            "/".join(inner[0]),
        )
    return {"/".join(way): found[way] for way in sorted(found)}
