"""In which order samples come, a pure function of seed and epoch, and which of them go where."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from keras_transfer._lib.checks import check_counts, checked_number
from keras_transfer.data.grouping import divided, divisible

Remainder = Literal["drop", "uneven", "whole"]


@dataclass(frozen=True)
class Share:
    """Which part of each batch a process takes.

    Attributes:
        index: the number of the process, from 0.
        count: how many processes there are.
        multiple: a batch is divided evenly if its samples are a multiple of this.
        remainder: what is done with a last batch that can't be divided evenly, as in `Loader.shard`.
    """

    index: int = 0
    count: int = 1
    multiple: int = 1
    remainder: Remainder = "drop"

    def of(self, samples: int) -> slice:
        """Return the part of a batch of so many samples."""
        if self.remainder == "whole" and samples % self.multiple:
            return slice(0, samples)
        if self.remainder == "drop":
            samples -= samples % self.multiple
        return slice(self.index * samples // self.count, (self.index + 1) * samples // self.count)

    def batches(self, samples: int, batch_size: int) -> int:
        """Return how many batches an epoch has in which the process has a part."""
        whole, rest = divmod(samples, batch_size)
        part = self.of(rest)
        return whole + (part.start < part.stop)


def epoch_rows(
    samples: int,
    views: int,
    seed: int,
    shuffle: bool,
    classes: np.ndarray | None,
    again: bool,
    epoch: int,
) -> np.ndarray:
    """Return the rows of an epoch, in their order, of a source with `views` versions of each sample.

    Args:
        samples: how many there are; version v of sample i is row i + v * samples.
        views: how many versions there are; one of each sample is drawn.
        seed: decides with the epoch what is drawn.
        shuffle: whether the samples come in an order that is drawn, too.
        classes: of shape (samples,), where an epoch is to have as many samples of each; or None.
        again: whether a sample that comes for the n-th time in an epoch is row i + n * samples, from 0
            on, so that it can be told from its other times; else it is row i each time.
        epoch: the number of the epoch, from 0.

    Returns:
        Integers of shape (samples,), not to be written to. As many as there are samples in any case.
    """
    # The key tells these random numbers from those that augment a sample.
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(0,)))
    if shuffle and classes is not None:
        rows = _balanced(classes, rng)
        rows = rows + samples * _times(rows) if again else rows
    else:
        rows = rng.permutation(samples) if shuffle else np.arange(samples)
    if views > 1:
        rows = rows + samples * rng.integers(views, size=samples)[rows]
    rows.flags.writeable = False
    return rows


def _balanced(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return as many indices as there are samples, in random order, as many of each class or one more.

    Of a class, each sample comes as often as any other, or once more.
    """
    found = np.unique(classes)
    each, rest = divmod(len(classes), len(found))
    more = rng.permutation(len(found)) < rest
    drawn = []
    for label, one_more in zip(found, more, strict=True):
        members, count = np.flatnonzero(classes == label), each + one_more
        passes = [rng.permutation(members) for _ in range(-(-count // len(members)))]
        drawn.append(np.concatenate([members[:0], *passes])[:count])
    return rng.permutation(np.concatenate(drawn))


def _times(indices: np.ndarray) -> np.ndarray:
    """Return for each index how often it came before."""
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    first = np.searchsorted(ordered, ordered)
    times = np.empty(len(indices), int)
    times[order] = np.arange(len(indices)) - first
    return times


def stratified(
    labels: np.ndarray,
    fraction: float,
    seed: int,
    names: Sequence[str] | None = None,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the samples that stay and of those that are held back, each in order.

    Args:
        labels: of shape (samples,); equal ones are divided by themselves.
        fraction: the part of each class that is held back, in (0, 1).
        seed: decides which samples are.
        names: of the classes, for messages; by default they are numbers.
        groups: of shape (samples,); samples of one stay together, so that each class has about its
            part. None: each sample stands for itself.

    Raises:
        ValueError: `fraction` is none, or a class would have no sample on one of the sides.
    """
    fraction = checked_number("fraction", fraction, high=1)
    if groups is not None:
        return _by_groups(labels, fraction, seed, names, groups)
    rng = np.random.default_rng(seed)
    held_back = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if not _divides(fraction, len(members)):
            name = repr(names[label]) if names else label
            raise ValueError(
                "fraction must leave samples of every class on both sides, for which there must be "
                f"{_least(fraction):,} of each: add some, or take another fraction; class {name} has "
                f"{len(members)}. Received: fraction={fraction!r}"
            )
        held_back[members[: round(fraction * len(members))]] = True
    return np.flatnonzero(~held_back), np.flatnonzero(held_back)


def _by_groups(
    labels: np.ndarray, fraction: float, seed: int, names: Sequence[str] | None, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `stratified` returns, of whole groups."""
    found, y = np.unique(labels, return_inverse=True)
    named = [names[label] for label in found] if names else found.tolist()
    why, remedy = ", of which one is held back", "add some, or divide the samples without groups"
    check_counts("data", divisible(y, groups), named, 2, why, remedy, "groups")
    held_back = divided(y, groups, (1 - fraction, fraction), seed) == 1
    for side in (held_back, ~held_back):
        missing = np.flatnonzero(np.bincount(y[side], minlength=len(found)) == 0)
        if missing.size:
            raise ValueError(
                "groups must leave samples of every class on both sides, which no way to divide them "
                f"does that was found; add groups of class {named[missing[0]]!r} alone. Received: "
                f"groups that have several classes, and fraction={fraction!r}"
            )
    return np.flatnonzero(~held_back), np.flatnonzero(held_back)


def divided_rows(
    rows: np.ndarray, shares: Sequence[float], seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """Return in which part each sample is, so that each part has its share of each class.

    Samples of several classes are divided by iterative stratification: those of the rarest class that
    is left come first, each to the part that lacks most of this class.

    Args:
        rows: of 0 and 1, of shape (samples, classes).
        shares: of the parts; they add up to 1.
        seed: decides which samples are where.
        groups: of shape (samples,), each of which is divided as one sample with all classes that it has;
            None: each sample stands for itself.

    Returns:
        Integers of shape (samples,).

    References:
        Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data", 2011.
    """
    if groups is not None:
        found, group = np.unique(groups, return_inverse=True)
        of_group = np.zeros((len(found), rows.shape[1]), bool)
        np.logical_or.at(of_group, group, rows.astype(bool))
        return divided_rows(of_group, shares, seed)[group]
    rows, wanted = rows.astype(bool), np.asarray(shares, float)
    order = np.random.default_rng(seed).permutation(len(rows))
    part = np.full(len(rows), -1)
    lacks_samples = wanted * len(rows)
    lacks = wanted[:, None] * rows.sum(axis=0)
    left = rows.sum(axis=0)
    while left.any():
        column = int(np.where(left > 0, left, len(rows) + 1).argmin())
        for index in order[rows[order, column] & (part[order] < 0)]:
            part[index] = _lacking(lacks[:, column], lacks_samples)
            lacks[part[index]] -= rows[index]
            lacks_samples[part[index]] -= 1
            left = left - rows[index]
    for index in order[part[order] < 0]:
        part[index] = _lacking(lacks_samples, lacks_samples)
        lacks_samples[part[index]] -= 1
    return part


def _lacking(most: np.ndarray, then: np.ndarray) -> int:
    """Return the part that lacks most of one thing, among equals of another."""
    return int(np.lexsort((-np.round(then, 9), -np.round(most, 9)))[0])


def stratified_rows(
    rows: np.ndarray,
    fraction: float,
    seed: int,
    names: Sequence[str] | None = None,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `stratified` does, for samples of several classes: rows of 0 and 1."""
    fraction = checked_number("fraction", fraction, high=1)
    held_back = divided_rows(rows, (1 - fraction, fraction), seed, groups) == 1
    counts, held = rows.astype(int).sum(axis=0), rows[held_back].astype(int).sum(axis=0)
    lost = np.flatnonzero((counts > 0) & ((held == 0) | (held == counts)))
    if lost.size or held_back.all() or not held_back.any():
        which = f"class {repr(names[lost[0]]) if names else lost[0]} has" if lost.size else "all have"
        count = counts[lost[0]] if lost.size else len(rows)
        raise ValueError(
            "fraction must leave samples of every class on both sides: add some, take another fraction, "
            f"or divide without looking at classes, stratify=False; {which} {count}. "
            f"Received: fraction={fraction!r}"
        )
    return np.flatnonzero(~held_back), np.flatnonzero(held_back)


def _divides(fraction: float, samples: int) -> bool:
    return 0 < round(fraction * samples) < samples


def _least(fraction: float) -> int:
    """Return how many samples there must be for some on both sides."""
    # Half a sample is rounded to none or one, by the side.
    smallest = max(int(0.5 / min(fraction, 1 - fraction)), 2)
    return next(samples for samples in range(smallest, smallest + 3) if _divides(fraction, samples))
