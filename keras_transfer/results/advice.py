"""What `advise` gives back."""

from dataclasses import dataclass
from typing import Literal

import rich.text

from keras_transfer._lib.tables import PrintsAsTable


@dataclass(frozen=True)
class LayerScore:
    """What the features of one layer tell of the labels.

    Attributes:
        layer: the name of the layer, at the end of a group.
        logme: the logarithm of the maximum evidence; higher is better.
        explained: the part of the spread of the labels that the features explain, from 0 to 1.
    """

    layer: str
    logme: float
    explained: float


@dataclass(frozen=True, repr=False)
class Advice(PrintsAsTable):
    """How to go about transfer to a data set; prints as a table and words.

    Attributes:
        size: "small" or "large".
        distance: "near" or "far" from the images of pretraining.
        samples: how many images there are.
        per_class: how many of them on average in a class.
        layers: what each group's last layer tells, from input to output.
        at: the layer on which to put a linear head, for `keras_transfer.fit_linear_head`; None: the
            model's own place for it.
        train: what to train from this head on, for `keras_transfer.Phase`: None for nothing, or "all".
        learning_rate: of the head, with Adam.
        factor: what the rate is divided by from each group to the one before it, for
            `keras_transfer.multipliers.geometric`; 1 for one rate.
        text: all this in words, and why.
    """

    size: Literal["small", "large"]
    distance: Literal["near", "far"]
    samples: int
    per_class: float
    layers: tuple[LayerScore, ...]
    at: str | None
    train: Literal["all"] | None
    learning_rate: float
    factor: float
    text: str

    def __rich__(self) -> rich.console.Group:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        table.add_column("features of")
        for column in ("LogME", "explained"):
            table.add_column(column, justify="right", no_wrap=True)
        for score in self.layers:
            table.add_row(score.layer, f"{score.logme:.3f}", f"{score.explained:.0%}")
        return rich.console.Group(table, rich.text.Text(self.text))
