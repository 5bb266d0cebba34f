"""Samples that belong together, such as photos of one object, and that no division may part."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def checked_groups(groups: Any, samples: int) -> np.ndarray | None:
    """Return the argument `groups` as an array of shape (samples,), or raise a `ValueError`.

    Args:
        groups: numbers or texts, one a sample; None: there are none.
        samples: how many samples there are.
    """
    if groups is None:
        return None
    found = np.asarray(groups)
    if found.dtype == object:
        missing = np.flatnonzero([each is None or each != each for each in found.flat])
        found = found if missing.size else _of_one_kind(found)
    else:
        missing = np.flatnonzero(found != found)
    if missing.size:
        raise ValueError(
            "groups must tell the group of each sample; give those that belong to no other a group of "
            f"their own. Received: none for {missing.size} samples, the first of them {missing[0]}"
        )
    if found.shape != (samples,) or found.dtype.kind not in "iufbUS":
        raise ValueError(
            f"groups must be {samples} numbers or texts, one a sample, or None. "
            f"Received: an array of shape {found.shape} and dtype {found.dtype}"
        )
    return found


def _of_one_kind(values: np.ndarray) -> np.ndarray:
    """Return an array of objects as one of texts, if that is what they are."""
    texts: Sequence[bool] = [isinstance(each, str) for each in values.flat]
    return values.astype(str) if all(texts) else np.array(values.tolist())


def of_samples(groups: np.ndarray | None, samples: np.ndarray) -> np.ndarray | None:
    """Return the groups of some of the samples, by their indices, or None if there are no groups."""
    return None if groups is None else groups[samples]


def how_many(groups: np.ndarray | None) -> int | None:
    """Return how many groups there are, or None."""
    return None if groups is None else len(np.unique(groups))


def divisible(y: np.ndarray, groups: np.ndarray | None, num_classes: int | None = None) -> np.ndarray:
    """Return in how many pieces each class comes that can't be parted: its groups, or its samples.

    Args:
        y: classes of shape (samples,).
        groups: of shape (samples,), or None.
        num_classes: how many classes there are; None: as many as are met.

    Returns:
        Integers of shape (classes,).
    """
    if groups is not None:
        pairs = np.stack([y, np.unique(groups, return_inverse=True)[1]])
        y = np.unique(pairs, axis=1)[0]
    return np.bincount(y, minlength=num_classes or 0)


def divided(y: np.ndarray, groups: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Return on which side each sample stands, where groups stay whole and each side has its share.

    The groups go, the largest first, to the side that they bring nearest to its share of each class and
    of all samples. That is the rule of scikit-learn's `StratifiedGroupKFold`, for sides of any sizes.
    Then each side is given a group of each class that it has none of, if another has two.

    Args:
        y: classes of shape (samples,): integers from 0.
        groups: of shape (samples,).
        shares: the part of the samples on each side, which add up to 1.
        seed: decides between groups of one size.

    Returns:
        Integers from 0 to len(shares) - 1, of shape (samples,).
    """
    _, group = np.unique(groups, return_inverse=True)
    pairs, counts = np.unique(np.stack([group, y]), axis=1, return_counts=True)
    starts = np.searchsorted(pairs[0], np.arange(group.max() + 2))
    sizes = np.bincount(group)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    everyone = y.max() + 1  # the column of all classes together
    totals = np.append(np.bincount(y), len(y))
    share = np.array(shares)[:, None]
    filled = np.zeros((len(shares), len(totals)))  # by the part of each class that is there
    has = np.zeros((len(shares), len(totals)), int)  # how many groups of each class
    side = np.empty(len(sizes), int)
    for one in order:
        own = slice(starts[one], starts[one + 1])
        columns = np.append(pairs[1, own], everyone)
        part = np.append(counts[own], sizes[one]) / totals[columns]
        # By how much the squared distance from its share grows on each side.
        grows = (2 * (filled[:, columns] / share - 1) * part + part**2 / share).sum(axis=1)
        side[one] = grows.argmin()
        filled[side[one], columns] += part
        has[side[one], columns] += 1
    for lacking, label in np.argwhere(has[:, :-1] == 0):
        for one in order[::-1]:  # the smallest first
            classes = pairs[1, starts[one] : starts[one + 1]]
            if label in classes and (has[side[one], classes] > 1).all():
                has[side[one], classes] -= 1
                has[lacking, classes] += 1
                side[one] = lacking
                break
    return side[group]


def check_apart(one: Any, other: Any, argument: str, others: str) -> None:
    """Raise a `ValueError` if two data sets, of which one is to be judged by, share a group.

    Args:
        one: a `Loader`; others have no groups.
        other: the same.
        argument: what the first is called in messages.
        others: what the other is called.
    """
    here, there = (getattr(each, "groups", None) for each in (one, other))
    if here is None or there is None:
        return
    shared = sorted({*here.tolist()} & {*there.tolist()}, key=str)
    if shared:
        raise ValueError(
            f"{argument} and {others} must not share a group, whose samples would be trained on and "
            f"judged by; move each to one of the two. Received: {len(shared)} groups that are in both, "
            f"such as {', '.join(map(repr, shared[:3]))}"
        )
