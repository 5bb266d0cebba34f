"""What a calibration gives back."""

import math
from dataclasses import dataclass

from keras_transfer._lib.checks import checked_integer, checked_number


@dataclass(frozen=True)
class Calibration:
    """What is known of the probabilities of a model, and travels in its `.keras` file.

    Attributes:
        temperature: by what the logits of the model as it was trained have been divided, in all.
        threshold: the lowest probability with which a class is in the prediction set, in [0, 1].
        coverage: the share of images whose set has the true class in it, as it was asked for.
        samples: how many samples were held back to find this out.

    Raises:
        ValueError, TypeError: a number is none, or has no sensible meaning.
    """

    temperature: float
    threshold: float
    coverage: float
    samples: int

    def __post_init__(self) -> None:
        checked = {
            "temperature": checked_number("temperature", self.temperature, math.inf),
            "threshold": checked_number("threshold", self.threshold, 1.0, closed=True),
            "coverage": checked_number("coverage", self.coverage, 1.0),
            "samples": checked_integer("samples", self.samples, 1),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
