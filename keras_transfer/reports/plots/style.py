"""How plots look: colours that the colour-blind can tell apart, names cut to a length."""

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

# From the palette of Okabe and Ito. What is drawn in two colours differs in print, too: by dashes,
# markers or words.
BLACK, BLUE, GREEN, PURPLE, VERMILION = "black", "#0072B2", "#009E73", "#CC79A7", "#D55E00"
TRAINING: dict[str, Any] = {"color": BLUE, "linestyle": "--", "marker": "o", "markersize": 3}
VALIDATION: dict[str, Any] = {"color": VERMILION, "linestyle": "-", "marker": "s", "markersize": 3}

_LONGEST = 24


def panel(width: float, height: float) -> tuple[Figure, Any]:
    """Return a figure of a size in inches, and the axes that fill it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def shortened(name: str) -> str:
    """Return a name on one line, its end left out where it is long."""
    printable = "".join(c if c.isprintable() else " " for c in name)
    return printable if len(printable) <= _LONGEST else printable[: _LONGEST - 1] + "\u2026"


def shades(count: int) -> list[Any]:
    """Return colours from dark to light, for what comes in an order."""
    return list(colormaps["cividis"](np.linspace(0.0, 0.9, count)))
