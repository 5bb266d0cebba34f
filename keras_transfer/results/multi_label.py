"""What an evaluation of several labels an image gives back, and thresholds for them."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table
import rich.text

from keras_transfer._lib.checks import checked_integer, checked_number
from keras_transfer._lib.tables import PrintsAsTable


@dataclass(frozen=True)
class Thresholds:
    """From which probability on a model says that an image has each class; travels in its `.keras` file.

    Attributes:
        values: one a class, in [0, 1].
        samples: how many images were held back to find them.

    Raises:
        ValueError, TypeError: a number is none, or has no sensible meaning.
    """

    values: tuple[float, ...]
    samples: int

    def __post_init__(self) -> None:
        values = (checked_number("values", each, high=1, closed="both") for each in self.values)
        object.__setattr__(self, "values", tuple(values))
        object.__setattr__(self, "samples", checked_integer("samples", self.samples, 1))


@dataclass(frozen=True)
class LabelScore:
    """What a classifier of several labels reaches for one class.

    Attributes:
        name: of the class.
        samples: how many images have it.
        average_precision: the mean precision at the ranks of these images, which no threshold decides;
            None where no image has it.
        precision: the part of the images that are said to have it which do.
        recall: the part of the images that have it which are said to.
        f1: the harmonic mean of the two.
        threshold: from which probability on it is said.
    """

    name: str
    samples: int
    average_precision: float | None
    precision: float
    recall: float
    f1: float
    threshold: float


@dataclass(frozen=True, repr=False)
class MultiLabelEvaluation(PrintsAsTable):
    """What `evaluate` found of a model of several labels an image; prints as a table.

    Attributes:
        samples: how many images there were.
        mean_average_precision: the mean of the average precision over the classes that some images have,
            from 0 to 1; NaN where none has any.
        micro_f1: the F1 score of all decisions together: each class of each image.
        macro_f1: the mean of the F1 scores of the classes; a rare one counts as much as the others.
        exact: the part of the images of which all labels are right.
        log_loss: the mean binary cross-entropy of images and classes.
        found_thresholds: whether the thresholds are those of `find_thresholds`, or 0.5.
        promised: the coverage that the calibration promises, or None.
        coverage: the part of the images of which all classes are among the candidates, or None.
        candidates: how many these are of an image, on average, or None.
        classes: what it reaches for each class.
        seconds: how long reading the images and predicting took.
        probabilities: what the model gave, of shape (samples, classes), in the order of the data; not
            part of `to_dict`.
        labels: the rows of 0 and 1, of shape (samples, classes); not part of `to_dict`.
    """

    samples: int
    mean_average_precision: float
    micro_f1: float
    macro_f1: float
    exact: float
    log_loss: float
    found_thresholds: bool
    promised: float | None
    coverage: float | None
    candidates: float | None
    classes: tuple[LabelScore, ...]
    seconds: float = field(compare=False)
    probabilities: np.ndarray = field(compare=False)
    labels: np.ndarray = field(compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it but probabilities and labels as plain data."""
        found = asdict(replace(self, probabilities=np.empty(0), labels=np.empty(0)))
        del found["probabilities"], found["labels"]
        return found

    def __rich__(self) -> rich.console.Group:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        table.add_column("class")
        for column in ("images", "average precision", "precision", "recall", "F1", "from"):
            table.add_column(column, justify="right", no_wrap=True)
        for each in self.classes:
            average = "-" if each.average_precision is None else f"{each.average_precision:.1%}"
            scores = (f"{score:.1%}" for score in (each.precision, each.recall, each.f1))
            name = "".join(c if c.isprintable() else " " for c in each.name)
            cells = (f"{each.samples:,}", average, *scores, f"{each.threshold:.2f}")
            table.add_row(rich.text.Text(name), *cells)
        known = "found on images that were held back" if self.found_thresholds else "0.5 for each"
        lines = [
            f"Mean average precision {self.mean_average_precision:.1%} on {self.samples:,} images",
            f"F1 {self.micro_f1:.1%} of all labels, {self.macro_f1:.1%} as the mean of the classes; "
            f"thresholds: {known}",
            f"All labels right for {self.exact:.1%}; log-loss {self.log_loss:.3f}",
        ]
        if self.coverage is not None:
            lines.append(
                f"Candidates, {self.candidates:.1f} an image, include all of its classes for "
                f"{self.coverage:.1%} (promised: {self.promised:.0%})"
            )
        return rich.console.Group(table, rich.text.Text("\n".join(lines)))
