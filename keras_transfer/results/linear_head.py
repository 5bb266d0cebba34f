"""What a cross-validation of linear heads gives back."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HeadScore:
    """What a linear head reaches on data that it was not fitted to, by cross-validation.

    `str` tells mean and deviation: "accuracy 0.954 +- 0.012 (5 folds)".

    Attributes:
        accuracies: the accuracy of each fold.
        values: the C that was chosen in each fold.
        mean: their mean accuracy.
        std: their standard deviation.
    """

    accuracies: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        return float(np.std(self.accuracies, ddof=1))

    def __str__(self) -> str:
        return f"accuracy {self.mean:.3f} +- {self.std:.3f} ({len(self.accuracies)} folds)"
