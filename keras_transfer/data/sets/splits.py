"""Splits of data sets as TFDS writes them: names, parts of them, and sums of these."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keras_transfer._lib.checks import did_you_mean, one_of

_PART = re.compile(r"(\w+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?")


@dataclass(frozen=True)
class Part:
    """A split, or some of its samples.

    Attributes:
        split: the name of the split.
        first: the number of the first sample, or a percentage such as "10%"; None is the start.
        last: the same of the sample behind the last; None is the end.
    """

    split: str
    first: str | None = None
    last: str | None = None

    def positions(self, size: int) -> range:
        """Return which of the `size` samples of the split are in the part."""
        return range(size)[_position(self.first, size) : _position(self.last, size)]


def parse_split(split: str, names: Sequence[str], data_set: str) -> list[Part]:
    """Return the parts that `split` is the sum of, in its order.

    Args:
        split: such as "train", "train[:1000]", "train[90%:]" or "train[:50%]+test".
        names: the splits that there are.
        data_set: whose splits they are, for the message.

    Raises:
        ValueError: `split` is written in another way, or names a split that there isn't.

    Example:
        >>> parse_split("train[:90%]", ["train", "test"], "cifar10")
        [Part(split='train', first=None, last='90%')]
    """
    matches = [_PART.fullmatch(summand.strip()) for summand in split.split("+")]
    found = [Part(*match.groups()) for match in matches if match]
    unknown = [part.split for part in found if part.split not in names]
    if unknown or len(found) < len(matches):
        if len(names) > 1:
            choices = f"{one_of(names)}, or a part such as 'train[:80%]' or 'train[1000:]', or a sum"
            choices = f"{choices} such as '{names[0]}+{names[1]}'"
        else:
            choices = f"'{names[0]}' or a part such as '{names[0]}[:80%]' and '{names[0]}[80%:]'"
            choices = f"{choices}, as {data_set} has only '{names[0]}'"
        raise ValueError(
            f"split must be {choices}{did_you_mean(unknown[0], names) if unknown else '.'} "
            f"Received: split={split!r}"
        )
    return found


def chosen_positions(split: str, parts: Sequence[Part], sizes: Mapping[str, int]) -> np.ndarray:
    """Return where the samples of the parts are in a source of whole splits, one after another.

    Args:
        split: what the parts were made of, for messages.
        parts: the parts.
        sizes: the number of samples of each split, in the order of the source.

    Raises:
        ValueError: a part is empty, or two parts have samples in common.
    """
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
    positions = []
    for part in parts:
        size = sizes[part.split]
        within = part.positions(size)
        if not within:
            raise ValueError(
                f"split must name at least one of the {size} samples. Received: split={split!r}"
            )
        positions.append(starts[part.split] + np.array(within))
    joined = np.concatenate(positions)
    if len(np.unique(joined)) < len(joined):
        raise ValueError(
            f"split must be a sum of parts without common samples. Received: split={split!r}"
        )
    return joined


def _position(bound: str | None, size: int) -> int | None:
    if bound is None:
        return None
    return round(int(bound[:-1]) * size / 100) if bound.endswith("%") else int(bound)
