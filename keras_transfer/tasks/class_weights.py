"""Weights of classes: by name, by index, or in inverse proportion to how often each is met."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from keras_transfer._lib.checks import checked_number, did_you_mean, is_whole
from keras_transfer.tasks.multi_label import MULTI_LABEL
from keras_transfer.tasks.task import Task

BALANCED = "balanced"

# By the indices or the names of classes.
ClassWeight: TypeAlias = Mapping[Any, float] | Literal["balanced"]


def checked_class_weight(
    class_weight: Any,
    num_classes: int,
    names: Sequence[str] | None = None,
    count: Callable[[], np.ndarray] | None = None,
) -> dict[int, float] | None:
    """Return weights by the index of the class, as Keras takes them, or raise.

    Args:
        class_weight: a dict from names or indices of classes to weights, where a class that is not in
            it has the weight 1; "balanced": n / (classes * count), as in scikit-learn, with the number
            of samples, of classes that have some, and of samples of the class; or None.
        num_classes: how many classes there are.
        names: their names in order, where they are known.
        count: returns how many samples each class has, of shape (num_classes,); None: nobody knows.

    Returns:
        The weights by index, of each class that is met; None if there are none.

    Raises:
        ValueError, TypeError: a key is no class, two keys are the same class, a weight is no number of
            at least 0, or "balanced" where nobody knows how often each class is met.

    Example:
        >>> import numpy as np
        >>> from keras_transfer.tasks.class_weights import checked_class_weight
        >>> checked_class_weight({"bee": 2}, 2, ["ant", "bee"])
        {0: 1.0, 1: 2.0}
        >>> checked_class_weight("balanced", 2, count=lambda: np.array([3, 1]))
        {0: 0.6666666666666666, 1: 2.0}
    """
    if class_weight is None:
        return None
    if isinstance(class_weight, str) and class_weight == BALANCED:
        if count is None:
            raise ValueError(
                "class_weight can be 'balanced' only where labels can be counted before training: for "
                "(x, y) arrays or a kt.Loader. Received: class_weight='balanced' and other data"
            )
        counts = count()
        there = np.flatnonzero(counts)
        return {int(i): float(counts.sum() / (len(there) * counts[i])) for i in there}
    if not isinstance(class_weight, Mapping):
        raise TypeError(
            "class_weight must be 'balanced', a dict from classes to weights, such as "
            f"{{{_example(names)}: 2.0}}, or None. Received: class_weight={class_weight!r:.200}"
        )
    found: dict[int, float] = {}
    for key, weight in class_weight.items():
        index = _index(key, num_classes, names, class_weight)
        if index in found:
            raise ValueError(
                f"class_weight must have each class once, but {key!r} is class {index}, which it has "
                f"already. Received: class_weight={dict(class_weight)!r:.200}"
            )
        found[index] = checked_number(f"class_weight[{key!r}]", weight, closed="left")
    # Of tf.data, Keras passes over no class that isn't in it.
    return {index: found.get(index, 1.0) for index in range(num_classes)}


def check_weighable(class_weight: Any, task: Task | None) -> None:
    """Raise a `ValueError` if classes shall have weights where an image has several of them.

    Keras would give an image the weight of its first class.
    """
    if class_weight is not None and task is MULTI_LABEL:
        raise ValueError(
            "class_weight must be None where an image has several labels, as Keras gives a weight to an "
            "image by one class; keras.losses.BinaryFocalCrossentropy as loss, or thresholds of "
            f"kt.calibration.find_thresholds, help rare labels. Received: class_weight={class_weight!r}"
        )


def _index(key: Any, num_classes: int, names: Sequence[str] | None, given: Mapping[Any, Any]) -> int:
    """Return the index of the class that a key names."""
    if isinstance(key, str) and names is not None and key in names:
        return list(names).index(key)
    if is_whole(key) and 0 <= key < num_classes:
        return int(key)
    choices = f"integers from 0 to {num_classes - 1}"
    near = "."
    if isinstance(key, str) and names is not None:
        near = did_you_mean(key, names)
    elif isinstance(key, str):
        choices += ", as no names of classes are known (kt.classifier(class_names=...))"
    if names is not None:
        choices = f"names of classes or {choices}"
    raise ValueError(
        f"class_weight must have {choices} as keys, and {key!r} is none{near} "
        f"Received: class_weight={dict(given)!r:.200}"
    )


def _example(names: Sequence[str] | None) -> str:
    return repr(names[0]) if names else "0"
