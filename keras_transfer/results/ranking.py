"""What a cross-validation of linear heads and `rank_backbones` give back."""

from dataclasses import dataclass

import numpy as np
import rich.table

from keras_transfer._lib.intervals import wilson
from keras_transfer._lib.tables import PrintsAsTable


@dataclass(frozen=True)
class HeadScore:
    """What a linear head reaches on data that it was not fitted to, by cross-validation.

    `str` tells mean and interval: "accuracy 0.954 (0.917 to 0.975; 5 folds of 240 samples)".

    Attributes:
        accuracies: the accuracy of each fold.
        values: the C that was chosen in each fold.
        samples: how many samples there are in all folds together.
        mean: their mean accuracy.
        std: their standard deviation; 0 where all are right, however few.
        interval: where the accuracy on all samples of this kind is, with a confidence of 95 % (Wilson).
    """

    accuracies: tuple[float, ...]
    values: tuple[float, ...]
    samples: int

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        return float(np.std(self.accuracies, ddof=1))

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.mean, self.samples)

    def __str__(self) -> str:
        folds = f"{len(self.accuracies)} folds of {self.samples:,} samples"
        return f"accuracy {_with_interval(self, '; ' + folds)}"


@dataclass(frozen=True)
class RankedBackbone:
    """One backbone of a `BackboneRanking`.

    Attributes:
        name: its name.
        logme: the logarithm of the maximum evidence for the labels; higher is better.
        probe: what logistic regression on its features reaches, or None where that wasn't asked for.
        parameters: how many numbers its weights hold, without a classifier.
        megabytes: their size, in units of 10**6 bytes.
        milliseconds: what it takes for an image, in batches, on this machine.
    """

    name: str
    logme: float
    probe: HeadScore | None
    parameters: int
    megabytes: float
    milliseconds: float


class BackboneRanking(PrintsAsTable, tuple[RankedBackbone, ...]):
    """Backbones, the best first: a tuple of `RankedBackbone`s that prints as a table."""

    def __rich__(self) -> rich.table.Table:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        table.add_column("backbone")
        for column in ("LogME", "accuracy", "parameters", "MB", "ms/image"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in self:
            probe = "-" if row.probe is None else _with_interval(row.probe)
            size, speed = f"{row.parameters:,}", f"{row.milliseconds:.1f}"
            table.add_row(row.name, f"{row.logme:.3f}", probe, size, f"{row.megabytes:,.0f}", speed)
        return table


def _with_interval(score: HeadScore, more: str = "") -> str:
    low, high = score.interval
    return f"{score.mean:.3f} ({low:.3f} to {high:.3f}{more})"
