"""Classes of which there are far fewer images than of others."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_transfer._lib.checks import checked_number
from keras_transfer.tasks.class_weights import BALANCED

_RATIO, _SOME = 10, 3  # of the commonest class to the rarest: much, and much where that is rare, too
_RARE = 20  # images


def imbalance_of(counts: np.ndarray, names: Sequence[str] | None = None) -> str:
    """Return in words how unequal classes are and what helps, or nothing where that hardly matters.

    Args:
        counts: how many samples each class has, of shape (classes,).
        names: of the classes; None: they are numbers.

    Example:
        >>> import numpy as np
        >>> from keras_transfer.tasks.imbalance import imbalance_of
        >>> imbalance_of(np.array([2000, 8]), ["ant", "bee"]).split(":")[0]
        "There are 250 times as many images of 'ant' (2,000) as of 'bee' (8)"
    """
    there = np.flatnonzero(counts)
    most, least = (int(there[pick(counts[there])]) for pick in (np.argmax, np.argmin))
    ratio = counts[most] / counts[least]
    if ratio < (_SOME if counts[least] < _RARE else _RATIO):
        return ""
    first, last = (repr(names[k] if names else k) for k in (most, least))
    return (
        f"There are {ratio:,.0f} times as many images of {first} ({counts[most]:,}) as of {last} "
        f"({counts[least]:,}): accuracy tells little of the rare ones, so look at macro accuracy and "
        "their recall. Where all classes shall count alike, a logit adjustment of 1 finds more of the "
        "rare ones; class weights ('balanced') do, too, by less on features that are many."
    )


def checked_adjustment(logit_adjustment: Any, class_weight: Any) -> float:
    """Return the argument `logit_adjustment`, or raise a `ValueError` if it is none, or too much."""
    tau = checked_number("logit_adjustment", logit_adjustment, closed="left")
    if tau and isinstance(class_weight, str) and class_weight == BALANCED:
        raise ValueError(
            "logit_adjustment needs classes that count as often as they are met; leave it or "
            f"class_weight out. Received: logit_adjustment={logit_adjustment!r}, "
            f"class_weight={class_weight!r}"
        )
    return tau


def adjustment(counts: np.ndarray, tau: float) -> np.ndarray:
    """Return what is added to the logits of each class, so that common ones are not preferred.

    It is minus tau times the logarithm of the class's share. Where logits are those of probabilities and
    tau is 1, their highest is then the class of the highest probability among data in which all classes
    are equally common, which is best for macro accuracy.

    Args:
        counts: how many samples each class has, of shape (classes,), at least 1.
        tau: how much; 0 changes nothing.

    Returns:
        Numbers of shape (classes,), whose mean is 0.

    References:
        Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021, section 4.1 (post-hoc).
    """
    added = -tau * np.log(counts / counts.sum())
    return added - added.mean()
