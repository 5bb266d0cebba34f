"""Checks of arguments, and the parts of error messages that every module words the same way."""

import difflib
import numbers
import operator
from collections.abc import Iterable
from typing import Any


def did_you_mean(name: str, choices: Iterable[str], limit: int = 3) -> str:
    """Return the end of a sentence: "; did you mean a, b?", or "." if no choice is near `name`."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), by_lower, n=limit, cutoff=0.6)
    return f"; did you mean {', '.join(by_lower[match] for match in near)}?" if near else "."


def one_of(choices: Iterable[str]) -> str:
    """Return the choices as they stand in a message: 'a', 'b' or 'c'."""
    quoted = [repr(choice) for choice in choices]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def checked_integer(argument: str, value: Any, minimum: int) -> int:
    """Return an argument as a Python integer, or raise if it is none of at least `minimum`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{argument} must be an integer. Received: {argument}={value!r}")
    if value < minimum:
        raise ValueError(f"{argument} must be at least {minimum}. Received: {argument}={value!r}")
    return operator.index(value)


def checked_number(argument: str, value: Any, highest: float, closed: bool = False) -> float:
    """Return an argument as a float, or raise if it is not between 0 and `highest`, or one of these."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
        if 0.0 < number < highest or (closed and number in (0.0, highest)):
            return number
    bounds = f"[0, {highest:g}]" if closed else f"(0, {highest:g})"
    raise ValueError(f"{argument} must be a number in {bounds}. Received: {argument}={value!r}")
