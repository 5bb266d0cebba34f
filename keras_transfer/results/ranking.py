"""What `rank_backbones` gives back."""

from dataclasses import dataclass

import rich.table

from keras_transfer._lib.tables import PrintsAsTable
from keras_transfer.results.linear_head import HeadScore


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
