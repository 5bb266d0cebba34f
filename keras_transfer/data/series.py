"""Groups by the names of files: those that a pattern tells, and bursts that nobody has told of."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from keras_transfer.data.sources import FileSource

_log = logging.getLogger(__name__)
# A running number at the end. Not four digits and more, as times and cameras write them.
_NUMBERED = re.compile(r"(.+?)([ _.-]+\(?)(\d{1,3})\)?")
_COUNTED = re.compile(r"\d\)?$")
_YEAR = re.compile(r"(^|\D)(19|20)\d\d([-_.]?\d\d)?$")  # counts nothing that is in the picture
_FEWEST = 5  # stems that have several files, below which chance may have done it


class Series(NamedTuple):
    """Files that look like several of one thing.

    Attributes:
        pattern: for `group_pattern`, which tells them.
        stems: how many things there are of which there are several files.
        files: how many these are.
        example: the names of two files of one thing.
    """

    pattern: str
    stems: int
    files: int
    example: tuple[str, str]


def groups_of(pattern: str, paths: Sequence[Path]) -> np.ndarray:
    """Return the group of each file: what the part of a pattern in brackets finds in its name.

    A file in whose name it finds nothing is a group of its own; the log says how many these are.

    Args:
        pattern: a regular expression with one part in brackets.
        paths: the files.

    Returns:
        Texts of shape (files,).

    Raises:
        ValueError: the pattern is none, has not one part in brackets, finds nothing in any name or the
            same in all.
    """
    received = f"Received: group_pattern={pattern!r}"
    try:
        expression = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            rf"group_pattern must be a regular expression, such as '(.*)_\d+\.jpg' ({error}). {received}"
        ) from error
    if expression.groups != 1:
        raise ValueError(
            "group_pattern must have one part in brackets, which is what the files of a group have in "
            rf"common, such as '(.*)_\d+\.jpg'; (?:...) are brackets that don't count. {received}, with "
            f"{expression.groups} such parts"
        )
    matches = [expression.search(path.name) for path in paths]
    found = [match and match[1] for match in matches]
    unmatched = [path for path, group in zip(paths, found, strict=True) if group is None]
    if len(unmatched) == len(paths):
        raise ValueError(
            "group_pattern must find something in the names of files, without their folders; it finds "
            f"nothing in {paths[0].name!r}, nor in any of the other {len(paths) - 1}. {received}"
        )
    if len({*found}) == 1:
        raise ValueError(
            "group_pattern must tell groups apart; it finds the same in the name of each of the "
            f"{len(paths)} files, {found[0]!r}. {received}"
        )
    if unmatched:
        _log.warning(
            "group_pattern finds nothing in the names of %d of %d files, such as %r: each of them is a "
            "group of its own",
            len(unmatched),
            len(paths),
            unmatched[0].name,
        )
    # No name of a file has a slash, so that a path is the group of no other file.
    return np.array(
        [path.as_posix() if group is None else group for path, group in zip(paths, found, strict=True)]
    )


def groups_asked(pattern: str | None, source: FileSource, for_training: bool) -> np.ndarray | None:
    """Return the groups that a pattern tells, or tell where names of files to train on look like series.

    Args:
        pattern: as in `groups_of`, or None.
        source: the files.
        for_training: whether somebody trains on them.
    """
    if pattern is not None:
        return groups_of(pattern, source.paths)
    if for_training:
        labels = source.labels
        if labels.ndim == 2:  # those with the same classes are alike
            labels = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
        tell_series(source.paths, labels)
    return None


def series_in(paths: Sequence[Path], labels: Sequence[int] | np.ndarray) -> Series | None:
    """Return what looks like bursts or other series of single things, or None.

    It is that where names end in a running number behind a stem, as `heron_07_1.jpg`, most files of a
    class share their stem with some but not with all of it, and the stems are counted themselves or are
    more than a stem has files. `IMG_0001.jpg`, `IMG_0002.jpg`, ... are one long row of photos.

    Args:
        paths: the files.
        labels: the class of each.
    """
    stems: dict[tuple[int, str], list[str]] = defaultdict(list)
    ends: Counter[str] = Counter()
    for path, label in zip(paths, labels, strict=True):
        if match := _NUMBERED.fullmatch(path.stem):
            stems[int(label), match[1]].append(path.name)
            ends[match[2]] += 1
    several = {key: names for key, names in stems.items() if len(names) > 1}
    of_class = Counter(label for label, _ in several)
    several = {key: names for key, names in several.items() if of_class[key[0]] > 1}
    files = sum(map(len, several.values()))
    if len(several) < _FEWEST or 2 * files < len(paths):
        return None
    counted = sum(bool(_COUNTED.search(stem) and not _YEAR.search(stem)) for _, stem in several)
    # Not "google_1", "google_2", ..., "bing_1", ...: where somebody found photos is no series.
    if 2 * counted <= len(several) and median(map(len, several.values())) > len(several):
        return None
    end = ends.most_common(1)[0][0]
    behind = r"\)?\." if "(" in end else r"\."
    example = sorted(next(iter(several.values())))[:2]
    return Series(f"(.*){re.escape(end)}\\d+{behind}", len(several), files, (example[0], example[1]))


def tell_series(paths: Sequence[Path], labels: Sequence[int] | np.ndarray) -> None:
    """Say in the log where the names of files look like series, and what keeps them together."""
    found = series_in(paths, labels)
    if found is not None:
        _log.warning(
            "%d of %d files look like series of %d things, such as %r and %r: if these show the same, "
            "they must not stand on two sides of a division; group_pattern=r'%s' keeps them together",
            found.files,
            len(paths),
            found.stems,
            *found.example,
            found.pattern,
        )
