"""What an evaluation and a calibration give back."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import rich.text

from keras_transfer._lib.checks import checked_integer, checked_number
from keras_transfer._lib.intervals import wilson
from keras_transfer._lib.tables import PrintsAsTable


@dataclass(frozen=True)
class ClassScore:
    """What a classifier reaches for one class.

    Attributes:
        name: of the class.
        samples: how many images there are of it.
        precision: the part of the images that are said to be of it which are.
        recall: the part of its images that are said to be of it.
        f1: the harmonic mean of the two.
    """

    name: str
    samples: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, repr=False)
class Evaluation(PrintsAsTable):
    """What `evaluate` found; prints as a table.

    Attributes:
        samples: how many images there were.
        accuracy: the part of them whose class is the most probable one.
        interval: where the accuracy on all images of this kind is, with a confidence of 95 %: Wilson's
            interval, which says what few images can tell. Where there are groups it is as wide as of so
            many images: those of one may be right or wrong together.
        macro_accuracy: the mean recall of the classes that there are images of (also called balanced
            accuracy): a rare class counts as much as a common one.
        rarest: what it reaches for the class of which there are the fewest images, but some.
        error: the standard error of the accuracy, of as many groups where there are such; 0 where all or
            none are right, however few.
        calibration_error: the expected calibration error of the probabilities, in [0, 1].
        uncalibrated_error: the same without the temperature, for a calibrated model; otherwise None.
        log_loss: the mean of minus the logarithm of the true class's probability. Calibration is for it,
            and with few images it tells more of it than the calibration error.
        uncalibrated_log_loss: the same without the temperature, for a calibrated model; otherwise None.
        promised: the coverage that the calibration promises, or None.
        coverage: the part of the images whose true class is among the candidates, or None.
        unsure: the part for which the candidates are not exactly one, or None.
        classes: what it reaches for each class.
        confusion: how many images of each class (rows) are said to be of each (columns).
        seconds: how long reading the images and predicting took.
        probabilities: what the model gave, of shape (samples, classes), in the order of the data; not
            part of `to_dict`.
        labels: the true classes, of shape (samples,); not part of `to_dict`.
        groups: how many groups the images are in, or None.
    """

    samples: int
    accuracy: float
    error: float
    calibration_error: float
    uncalibrated_error: float | None
    log_loss: float
    uncalibrated_log_loss: float | None
    promised: float | None
    coverage: float | None
    unsure: float | None
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    seconds: float = field(compare=False)
    probabilities: np.ndarray = field(compare=False)
    labels: np.ndarray = field(compare=False)
    groups: int | None = None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.accuracy, self.groups or self.samples)

    @property
    def macro_accuracy(self) -> float:
        return float(np.mean([each.recall for each in self._met]))

    @property
    def rarest(self) -> ClassScore:
        return min(self._met, key=lambda each: each.samples)

    @property
    def _met(self) -> list[ClassScore]:
        return [each for each in self.classes if each.samples]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it but probabilities and labels as plain data."""
        found = asdict(replace(self, probabilities=np.empty(0), labels=np.empty(0)))
        del found["probabilities"], found["labels"]
        more = {"macro_accuracy": self.macro_accuracy, "rarest": asdict(self.rarest)}
        return {**found, **more, "interval": list(self.interval)}

    def __rich__(self) -> rich.console.Group:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        table.add_column("class")
        for column in ("images", "precision", "recall", "F1"):
            table.add_column(column, justify="right", no_wrap=True)
        for each in self.classes:
            scores = (each.precision, each.recall, each.f1)
            name = "".join(c if c.isprintable() else " " for c in each.name)
            table.add_row(rich.text.Text(name), f"{each.samples:,}", *(f"{s:.1%}" for s in scores))
        low, high = self.interval
        within = "" if self.groups is None else f" in {self.groups:,} groups"
        lines = [
            f"Accuracy {self.accuracy:.1%} on {self.samples:,} images{within} (95% interval: {low:.1%} "
            f"to {high:.1%})"
        ]
        rare = self.rarest
        name = "".join(c if c.isprintable() else " " for c in rare.name)
        lines.append(
            f"Macro accuracy {self.macro_accuracy:.1%} (mean recall of the classes); of the rarest, "
            f"{name!r} with {rare.samples:,} images, {rare.recall:.1%}"
        )
        lines.append(
            f"Log-loss {_after(self.log_loss, self.uncalibrated_log_loss)}, expected calibration error "
            f"{_after(self.calibration_error, self.uncalibrated_error)}"
        )
        if self.coverage is not None:
            lines.append(
                f"Candidates include the true class for {self.coverage:.1%} (promised: "
                f"{self.promised:.0%}); unsure of {self.unsure:.1%}"
            )
        return rich.console.Group(table, rich.text.Text("\n".join(lines)))


def _after(value: float, before: float | None) -> str:
    return f"{value:.3f}" if before is None else f"{value:.3f} ({before:.3f} before calibration)"


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
            "temperature": checked_number("temperature", self.temperature),
            "threshold": checked_number("threshold", self.threshold, high=1, closed="both"),
            "coverage": checked_number("coverage", self.coverage, high=1),
            "samples": checked_integer("samples", self.samples, 1),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
