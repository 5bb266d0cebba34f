"""In which order samples come, a pure function of seed and epoch, and which of them go where."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from keras_transfer._lib.checks import checked_number

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


def epoch_rows(samples: int, views: int, seed: int, shuffle: bool, epoch: int) -> np.ndarray:
    """Return the rows of an epoch, in their order, of a source with `views` versions of each sample.

    Args:
        samples: how many there are; version v of sample i is row i + v * samples.
        views: how many versions there are; one of each sample is drawn.
        seed: decides with the epoch what is drawn.
        shuffle: whether the samples come in an order that is drawn, too.
        epoch: the number of the epoch, from 0.

    Returns:
        Integers of shape (samples,), not to be written to.
    """
    # The key tells these random numbers from those that augment a sample.
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch], spawn_key=(0,)))
    rows = rng.permutation(samples) if shuffle else np.arange(samples)
    if views > 1:
        rows = rows + samples * rng.integers(views, size=samples)[rows]
    rows.flags.writeable = False
    return rows


def stratified(
    labels: np.ndarray, fraction: float, seed: int, names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the samples that stay and of those that are held back, each in order.

    Args:
        labels: of shape (samples,); equal ones are divided by themselves.
        fraction: the part of each class that is held back, in (0, 1).
        seed: decides which samples are.
        names: of the classes, for messages; by default they are numbers.

    Raises:
        ValueError: `fraction` is none, or a class would have no sample on one of the sides.
    """
    fraction = checked_number("fraction", fraction, high=1)
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


def divided(rows: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Return in which part each sample is, so that each part has its share of each class.

    Samples of several classes are divided by iterative stratification: those of the rarest class that
    is left come first, each to the part that lacks most of this class.

    Args:
        rows: of 0 and 1, of shape (samples, classes).
        shares: of the parts; they add up to 1.
        seed: decides which samples are where.

    Returns:
        Integers of shape (samples,).

    References:
        Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data", 2011.
    """
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
    rows: np.ndarray, fraction: float, seed: int, names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `stratified` does, for samples of several classes: rows of 0 and 1."""
    fraction = checked_number("fraction", fraction, high=1)
    held_back = divided(rows, (1 - fraction, fraction), seed) == 1
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
