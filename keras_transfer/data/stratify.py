"""Dividing samples so that each part has its share of every class."""

import numpy as np


def stratified(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the samples that stay and of those that are held back, each in order.

    Args:
        labels: the classes of shape (samples,): integers.
        fraction: the part of each class that is held back, in (0, 1).
        seed: decides which samples are.

    Raises:
        ValueError: a class would have no sample on one of the sides.
    """
    rng = np.random.default_rng(seed)
    held_back = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = round(fraction * len(members))
        if not 0 < count < len(members):
            raise ValueError(
                f"split must leave images of every class on both sides; class {label} has "
                f"{len(members)}. Received: split={fraction!r}"
            )
        held_back[members[:count]] = True
    return np.flatnonzero(~held_back), np.flatnonzero(held_back)
