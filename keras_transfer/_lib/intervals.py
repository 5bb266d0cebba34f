"""How far what was counted on some samples may be from what holds of all."""

import math

import numpy as np

_Z = 1.959963984540054  # of the normal distribution, between whose values +-_Z there is 95 %


def wilson(part: float, samples: int) -> tuple[float, float]:
    """Return the interval that has a proportion in it, with a confidence of 95 %: Wilson's.

    It is right for few samples and at 0 and 1, where the standard error is 0, and stays in [0, 1].

    Args:
        part: the part of the samples of which something was true, in [0, 1].
        samples: how many there were, at least 1.

    Returns:
        The lower and the upper end.

    Example:
        >>> from keras_transfer._lib.intervals import wilson
        >>> [round(end, 3) for end in wilson(1.0, 4)]
        [0.51, 1.0]

    References:
        Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927; Brown, Cai
        and DasGupta, "Interval Estimation for a Binomial Proportion", 2001.
    """
    spread = _Z**2 / samples
    centre = part + spread / 2
    half = _Z * math.sqrt(part * (1 - part) / samples + spread / (4 * samples))
    low, high = np.clip([(centre - half) / (1 + spread), (centre + half) / (1 + spread)], 0.0, 1.0)
    return float(low), float(high)


def with_interval(part: float, interval: tuple[float, float]) -> str:
    """Return a proportion with its interval in words, such as "100.0% (51.0% to 100.0%)"."""
    return f"{part:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"
