"""What a cross-validation of linear heads and `rank_backbones` give back."""

from dataclasses import dataclass

import numpy as np
import rich.table

from keras_transfer._lib.tables import PrintsAsTable


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
            probe = "-" if row.probe is None else f"{row.probe.mean:.3f} +- {row.probe.std:.3f}"
            size, speed = f"{row.parameters:,}", f"{row.milliseconds:.1f}"
            table.add_row(row.name, f"{row.logme:.3f}", probe, size, f"{row.megabytes:,.0f}", speed)
        return table
