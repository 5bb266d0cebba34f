"""Checks of arguments, and the parts of error messages that every module words the same way."""

import difflib
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

Closed = Literal["left", "right", "both", "neither"]
Choice = TypeVar("Choice", bound=str | None)


def did_you_mean(name: str, choices: Iterable[str], limit: int = 3) -> str:
    """Return the end of a sentence: "; did you mean a, b?", or "." if no choice is near `name`."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), by_lower, n=limit, cutoff=0.6)
    return f"; did you mean {', '.join(by_lower[match] for match in near)}?" if near else "."


def one_of(choices: Iterable[str | None]) -> str:
    """Return the choices as they stand in a message: 'a', 'b' or 'c'."""
    quoted = [repr(choice) for choice in choices]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def is_whole(value: Any) -> bool:
    """Whether a value is an integer, of Python or of NumPy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def checked_choice(
    argument: str, value: Choice, choices: Iterable[str | None], note: str = ""
) -> Choice:
    """Return an argument, or raise if it is none of the choices.

    Args:
        argument: its name.
        value: what was given.
        choices: names, and None where that may be given.
        note: what the message says behind the choices, such as ", or a function".
    """
    choices = tuple(choices)
    if (isinstance(value, str) or value is None) and value in choices:
        return value
    near = did_you_mean(str(value), [choice for choice in choices if choice is not None])
    raise ValueError(f"{argument} must be {one_of(choices)}{note}{near} Received: {argument}={value!r}")


def checked_integer(argument: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Return an argument as a Python integer, or raise if it is none from `minimum` to `maximum`."""
    bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum:,}"
    message = f"{argument} must be an integer {bounds}. Received: {argument}={value!r}"
    if not is_whole(value):
        raise TypeError(message)
    if value < minimum or (maximum is not None and value > maximum):
        raise ValueError(message)
    return int(value)


def checked_number(
    argument: str,
    value: Any,
    *,
    low: float = 0,
    high: float = math.inf,
    closed: Closed = "neither",
    note: str = "",
) -> float:
    """Return an argument as a float, or raise if it is no number in an interval.

    Args:
        argument: its name.
        value: what was given.
        low: the lower end.
        high: the upper end.
        closed: which ends are part of the interval. Infinity is a number where it is one.
        note: what the message says behind the interval, such as ", or None".
    """
    left, right = closed in ("left", "both"), closed in ("right", "both")
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        number = float(value)
        if low < number < high or (left and number == low) or (right and number == high):
            return number
    if high == math.inf:
        expected = f"{'' if right else 'finite '}number {'of at least' if left else 'above'} {low}"
    else:
        expected = f"number in {'[' if left else '('}{low}, {high}{']' if right else ')'}"
    raise ValueError(f"{argument} must be a {expected}{note}. Received: {argument}={value!r}")


def checked_image_size(image_size: Any, argument: str = "image_size") -> tuple[int, int]:
    """Return (height, width) in pixels, or raise if it is neither such nor one number for both."""
    size = image_size if isinstance(image_size, (list, tuple)) else (image_size, image_size)
    if len(size) != 2 or not all(is_whole(pixels) and pixels > 0 for pixels in size):
        raise ValueError(
            f"{argument} must be a number of pixels or (height, width). "
            f"Received: {argument}={image_size!r}"
        )
    height, width = map(int, size)
    return height, width


def check_counts(
    argument: str,
    counts: Iterable[int],
    names: Sequence[str] | None,
    least: int,
    why: str,
    remedy: str,
    of: str = "samples",
) -> int:
    """Return how many samples the smallest class has, or raise if they are too few.

    Args:
        argument: the name of the data.
        counts: how many samples each class has.
        names: the names of the classes, or None where they are numbers.
        least: how many there must be.
        why: what they are needed for, behind "samples", such as " for folds".
        remedy: what to do, as an order.
        of: what is counted: "samples" or "groups".
    """
    every = list(map(int, counts))
    smallest = min(range(len(every)), key=every.__getitem__)
    if every[smallest] < least:
        raise ValueError(
            f"each class must have at least {least} {of}{why}; {remedy}. Received: {argument} with "
            f"{every[smallest]} of class {(names[smallest] if names else smallest)!r}"
        )
    return every[smallest]
