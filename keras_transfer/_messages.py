"""Parts of error messages that every module words the same way."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, choices: Iterable[str], limit: int = 3) -> str:
    """Return the end of a sentence: "; did you mean a, b?", or "." if no choice is near `name`."""
    by_lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), by_lower, n=limit, cutoff=0.6)
    return f"; did you mean {', '.join(by_lower[match] for match in near)}?" if near else "."


def one_of(choices: Iterable[str]) -> str:
    """Return the choices as they stand in a message: 'a', 'b' or 'c'."""
    quoted = [repr(choice) for choice in choices]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)
