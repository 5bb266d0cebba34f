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
