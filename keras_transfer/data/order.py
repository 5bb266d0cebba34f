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


def _divides(fraction: float, samples: int) -> bool:
    return 0 < round(fraction * samples) < samples


def _least(fraction: float) -> int:
    """Return how many samples there must be for some on both sides."""
    # Half a sample is rounded to none or one, by the side.
    smallest = max(int(0.5 / min(fraction, 1 - fraction)), 2)
    return next(samples for samples in range(smallest, smallest + 3) if _divides(fraction, samples))
