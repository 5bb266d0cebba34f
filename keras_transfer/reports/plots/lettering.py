"""Names in pictures: in fonts that have their characters, or as numbers where none is installed."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import rcParams
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from keras_transfer.reports.plots.style import shortened

# Fonts of Chinese, Japanese and Korean that systems bring, before all others are tried.
_FIRST = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans",
    "Hiragino Sans GB",
    "Apple SD Gothic Neo",
    "Arial Unicode MS",
    "Microsoft YaHei",
    "SimHei",
    "Yu Gothic",
    "MS Gothic",
    "Malgun Gothic",
)
_NOT = ("emoji", "last resort", "lastresort")  # pictures of one size, which matplotlib can't draw; boxes


class Lettering(NamedTuple):
    """How names are drawn.

    Attributes:
        labels: what is drawn for each name: the name, cut to a length, or its number.
        family: the fonts, for matplotlib's `fontfamily`.
        numbered: the names for which a number stands, by that number.
    """

    labels: list[str]
    family: list[str]
    numbered: dict[int, str]


def lettering(names: Sequence[str], first: int = 0) -> Lettering:
    """Return how names are drawn, so that none is a row of boxes.

    Args:
        names: names of classes, phases, groups of layers.
        first: the number of the first of them.
    """
    texts = [shortened(name) for name in names]
    default = tuple(rcParams["font.family"])
    more, missing = _fonts(frozenset("".join(texts)), default)
    numbered = {
        number: name
        for number, (name, text) in enumerate(zip(names, texts, strict=True), first)
        if missing.intersection(text)
    }
    labels = [str(k) if k in numbered else text for k, text in enumerate(texts, first)]
    return Lettering(labels, [*default, *more], numbered)


@functools.lru_cache(maxsize=16)
def _fonts(
    characters: frozenset[str], default: tuple[str, ...]
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the fonts that some characters need beside the default ones, and what none has."""
    missing, found = characters, []
    installed = {entry.name: entry.fname for entry in fontManager.ttflist}
    others = [name for name in _FIRST if name in installed]
    others += sorted(name for name in installed.keys() - others if not _is_left_out(name))
    for name in [*default, *others]:
        if not missing:
            break
        rest = _lacks(name, None if name in default else installed[name], missing)
        if rest != missing and name not in default:
            found.append(name)
        missing = rest
    return tuple(found), missing


def _is_left_out(name: str) -> bool:
    return any(part in name.lower() for part in _NOT)


def _lacks(family: str, file: str | None, characters: frozenset[str]) -> frozenset[str]:
    """Return those of some characters that a font doesn't have, whose file may be known.

    To look for each of hundreds of files would print that some have no normal weight.
    """
    try:
        # In a list, as matplotlib takes a bare name for a pattern, in which a hyphen begins a size.
        font = get_font(file or findfont(FontProperties(family=[family]), fallback_to_default=False))
    except (OSError, RuntimeError, ValueError):  # it is gone since matplotlib made its list, or damaged
        return characters
    return frozenset(c for c in characters if not font.get_char_index(ord(c)))
