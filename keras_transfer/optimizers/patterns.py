"""Multipliers by pattern: which variable of a model gets which."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras

from keras_transfer._lib.checks import checked_number, did_you_mean

Multipliers = Mapping[str, float] | Callable[[keras.Variable], float]
_OF_KERNEL = ("lora_kernel_a", "lora_kernel_b")


def resolve(
    multipliers: Multipliers, variables: Sequence[keras.Variable], *, strict: bool
) -> list[float]:
    """Return the multiplier of each variable, in their order.

    Args:
        multipliers: as in `LayerwiseLR`.
        variables: variables of a model.
        strict: whether a pattern that matches no variable is an error.

    Variables of LoRA that no pattern matches have the multiplier of the kernel which they add to.

    Raises:
        ValueError: a pattern matches no variable, or a function returns no finite number of at least 0.
    """
    if not isinstance(multipliers, Mapping):
        return [
            checked_number(f"multipliers({variable.path!r})", multipliers(variable), closed="left")
            for variable in variables
        ]
    used, found = set(), []
    for variable in variables:
        names = [variable.path]
        if variable.name in _OF_KERNEL:
            names.append(f"{variable.path.removesuffix(variable.name)}kernel")
        pattern = next(
            (p for p in (_pattern(multipliers, name) for name in names) if p is not None), None
        )
        used.add(pattern)
        found.append(1.0 if pattern is None else float(multipliers[pattern]))
    unmatched = [pattern for pattern in multipliers if pattern not in used]
    if strict and unmatched:
        # A pattern behind another that took all its matches is as useless as one without any.
        paths = [variable.path for variable in variables]
        raise ValueError(
            "multipliers must match variables that train; no variable is left for the pattern "
            f"{unmatched[0]!r}{did_you_mean(unmatched[0], paths)} "
            f"Received: multipliers={dict(multipliers)!r}"
        )
    return found


def _pattern(multipliers: Mapping[str, float], path: str) -> str | None:
    """Return the first pattern that matches a path, or the path itself where that is one."""
    if path in multipliers:
        return path
    return next((pattern for pattern in multipliers if re.fullmatch(pattern, path)), None)


def checked_multipliers(multipliers: Any) -> Any:
    """Return a copy of multipliers, or raise if they make no sense."""
    if callable(multipliers):
        return multipliers
    if not isinstance(multipliers, Mapping):
        raise TypeError(
            "multipliers must be a dict {pattern: multiplier} or a function from a variable to its "
            f"multiplier. Received: multipliers={multipliers!r}"
        )
    for pattern, multiplier in multipliers.items():
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(
                "multipliers must have paths of variables or regular expressions as keys "
                f"({error}). Received: {pattern!r}"
            ) from error
        checked_number(f"multipliers[{pattern!r}]", multiplier, closed="left")
    return type(multipliers)(multipliers) if isinstance(multipliers, dict) else dict(multipliers)


def known_paths(paths: Sequence[str], in_file: Collection[str]) -> dict[str, str]:
    """Return for the paths of variables those that a file has for them, where it has any.

    Keras leaves the name of a Sequential model out of the paths of its variables when it loads one. So a
    path that the file hasn't got stands for the one there that it ends, or that ends it, if only one
    does and no other variable has that very path.
    """
    found = {path: path for path in paths if path in in_file}
    free = [each for each in in_file if each not in found]
    for path in paths:
        ends = [each for each in free if each.endswith(f"/{path}") or path.endswith(f"/{each}")]
        if path not in found and len(ends) == 1:
            found[path] = ends[0]
    return found
