"""What a cross-validation of linear heads and `rank_backbones` give back."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table
import rich.text

from keras_transfer._lib.intervals import wilson
from keras_transfer._lib.tables import PrintsAsTable
from keras_transfer.results.automatic import LeftOut


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
            Where there are groups it is as wide as of so many samples: those of one may be right or
            wrong together.
        groups: how many groups the samples are in, or None.
    """

    accuracies: tuple[float, ...]
    values: tuple[float, ...]
    samples: int
    groups: int | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        return float(np.std(self.accuracies, ddof=1))

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.mean, self.groups or self.samples)

    def __str__(self) -> str:
        folds = f"{len(self.accuracies)} folds of {self.samples:,} samples"
        folds += "" if self.groups is None else f" in {self.groups:,} groups"
        return f"accuracy {_with_interval(self, '; ' + folds)}"


@dataclass(frozen=True)
class RankedBackbone:
    """One backbone of a `BackboneRanking`.

    Attributes:
        name: its name.
        logme: the logarithm of the maximum evidence for the labels, where "logme" or "probe" was asked
            for; higher is better.
        probe: what a linear head on its features reaches, where "probe" or "ridge" was asked for.
        parameters: how many numbers its weights hold, without a classifier.
        megabytes: their size, in units of 10**6 bytes.
        milliseconds: what it takes for an image, in batches, on this machine; not for "ridge".
        image_size: height and width of the images that it was given.
        seconds: how long the pass over the images took, or the reading of features that were kept.
        log_loss: of the linear head, by the same folds; for "ridge".
        behind: by how much its accuracy is below that of the first, on the same images; for "ridge".
        error: the standard error of that, if there were no difference.
    """

    name: str
    logme: float | None
    probe: HeadScore | None
    parameters: int
    megabytes: float
    milliseconds: float | None
    image_size: tuple[int, int]
    seconds: float
    log_loss: float | None = None
    behind: float | None = None
    error: float | None = None


class BackboneRanking(PrintsAsTable, tuple[RankedBackbone, ...]):
    """Backbones, the best first: a tuple of `RankedBackbone`s that prints as a table.

    Attributes:
        left_out: what was not tried, as it did not fit into the time, with the time that all would have
            taken with it.
    """

    left_out: tuple[LeftOut, ...]

    def __new__(
        cls, rows: Iterable[RankedBackbone], left_out: Sequence[LeftOut] = ()
    ) -> "BackboneRanking":
        """Make it of rows in their order."""
        made = super().__new__(cls, rows)
        made.left_out = tuple(left_out)
        return made

    def best(self, count: int = 1) -> tuple[tuple[str, tuple[int, int]], ...]:
        """Return the first so many with the size of their images, as `kt.classifier` takes them.

        Different networks come before the same for images of another size.

        Args:
            count: how many.

        Raises:
            ValueError: there are not so many.
        """
        if not 1 <= count <= len(self):
            raise ValueError(f"count must be from 1 to {len(self)}. Received: count={count!r}")
        names = [row.name for row in self]
        again = [names.index(name) < index for index, name in enumerate(names)]
        order = sorted(range(len(self)), key=lambda index: (again[index], index))
        return tuple((self[index].name, self[index].image_size) for index in order[:count])

    def to_dict(self) -> dict[str, Any]:
        """Return all as plain data."""
        rows = [
            {**asdict(row), "image_size": list(row.image_size), "probe": _plain(row.probe)}
            for row in self
        ]
        return {"backbones": rows, "left_out": [asdict(each) for each in self.left_out]}

    def __rich__(self) -> rich.console.Group:
        columns = _BY_RIDGE if any(row.log_loss is not None for row in self) else _BY_OTHERS
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, collapse_padding=True)
        table.add_column("backbone")
        for title in columns:
            table.add_column(title, justify="right", no_wrap=True)
        for row in self:
            table.add_row(row.name, *(_TOLD[title](row) for title in columns))
        lines = [
            f"{each.name} is left out: all would take {each.seconds / 60:.1f} minutes with it"
            for each in self.left_out
        ]
        return rich.console.Group(table, *map(rich.text.Text, lines))


_TOLD: dict[str, Callable[[RankedBackbone], str]] = {
    "pixels": lambda row: "x".join(map(str, dict.fromkeys(row.image_size))),
    "LogME": lambda row: "-" if row.logme is None else f"{row.logme:.3f}",
    "accuracy": lambda row: "-" if row.probe is None else _with_interval(row.probe),
    "behind": lambda row: "-" if row.behind is None else f"{row.behind:.3f} +- {row.error:.3f}",
    "log-loss": lambda row: "-" if row.log_loss is None else f"{row.log_loss:.3f}",
    "parameters": lambda row: f"{row.parameters:,}",
    "weights": lambda row: f"{row.parameters / 1e6:.1f} M",
    "MB": lambda row: f"{row.megabytes:,.0f}",
    "ms/image": lambda row: "-" if row.milliseconds is None else f"{row.milliseconds:.1f}",
    "seconds": lambda row: f"{row.seconds:.1f}",
}
_BY_OTHERS = ("pixels", "LogME", "accuracy", "parameters", "MB", "ms/image")
_BY_RIDGE = ("pixels", "accuracy", "behind", "log-loss", "weights", "seconds")


def _plain(score: HeadScore | None) -> dict[str, Any] | None:
    if score is None:
        return None
    return {**asdict(score), "mean": score.mean, "interval": list(score.interval)}


def _with_interval(score: HeadScore, more: str = "") -> str:
    low, high = score.interval
    return f"{score.mean:.3f} ({low:.3f} to {high:.3f}{more})"
