"""What automatic training tries, and what it gives back."""

from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import rich.box
import rich.console
import rich.table
import rich.text

from keras_transfer._lib.intervals import wilson
from keras_transfer._lib.tables import PrintsAsTable
from keras_transfer.results.advice import Advice
from keras_transfer.results.evaluation import Calibration
from keras_transfer.results.training import FineTuneResult


@dataclass(frozen=True)
class Depth:
    """A depth to which a network may be trained.

    Attributes:
        name: "linear head", "last group" or "everything".
        at: the layer behind which all trains; None: all trains, or, for the linear head, nothing else.
        epochs: how many epochs it takes, from the linear head on.
        learning_rate: of the head, with Adam, at the top of the cycle.
        why: what speaks for trying it.
        factor: what the rate is divided by from each group of layers to the one before it.
        find: whether to take the rate that a range test finds instead, if it finds one.
    """

    name: str
    at: str | None
    epochs: int
    learning_rate: float
    why: str
    factor: float = 1.0
    find: bool = False


@dataclass(frozen=True)
class DepthScore:
    """What a depth reached on samples that were held back.

    Attributes:
        name: of the depth.
        accuracy: on these samples.
        interval: where the accuracy on all samples of this kind is, with a confidence of 95 % (Wilson);
            where there are groups, as of so many samples.
        gain: the accuracy beyond that of the linear head on the same samples.
        error: the standard error of the gain if there were none, as in McNemar's test.
        samples: how many samples there were.
        share: of the trained weights in their average with those of the linear head and the pretrained
            network, which was best on these samples.
        loss_gain: by how much its log-loss is lower than that of the linear head, both with the
            temperature that suits them.
        loss_error: the standard error of that, if there were no difference.
        epochs: how many it trained; 0 for the linear head.
        seconds: how long it took to try it.
        groups: how many groups the samples are in, or None.
    """

    name: str
    accuracy: float
    gain: float
    error: float
    samples: int
    share: float = 1.0
    loss_gain: float = 0.0
    loss_error: float = 0.0
    epochs: int = 0
    seconds: float = field(default=0.0, compare=False)
    groups: int | None = None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.accuracy, self.groups or self.samples)


@dataclass(frozen=True, repr=False)
class Plan(PrintsAsTable):
    """What `train` is going to try; prints as a table and words.

    Attributes:
        advice: what the size of the data and its features tell.
        depths: the depths that will be compared, the linear head first.
        folds: how many folds the training images are divided into.
        tries: in how many of them deeper training is tried, where there is time.
        imbalance: where some classes have far fewer images than others, how many, and what helps.
    """

    advice: Advice
    depths: tuple[Depth, ...]
    folds: int
    tries: int = 1
    imbalance: str = ""

    def __rich__(self) -> rich.console.Group:
        table = rich.table.Table("depth", "epochs", "why", box=rich.box.SIMPLE_HEAD)
        for depth in self.depths:
            table.add_row(depth.name, str(depth.epochs or "-"), rich.text.Text(depth.why))
        text = (
            f"The depths are compared on {self.tries} of {self.folds} parts of the training images, "
            "trained on the others; the weights are averaged with those before, by the share that is "
            "best there. A deeper one is taken if it is better than the linear head by more than twice "
            "the standard error of the difference, in accuracy or, where no fewer images are right, in "
            "log-loss. It is then trained on all of them. What was held back calibrates the "
            "probabilities."
        )
        text += f"\n\n{self.imbalance}" if self.imbalance else ""
        return rich.console.Group(self.advice, table, rich.text.Text(text))


@dataclass(frozen=True)
class LinearHead:
    """The linear head that was found best by cross-validation, a ridge regression.

    Attributes:
        C: the inverse of the strength of regularisation, as in `keras_transfer.fit_linear_head` for
            "ridge".
        accuracies: by each C that was tried, the mean accuracy on held-back samples.
        depths: on how many of the last depths it is.
        of: how many depths there were to choose from.
    """

    C: float
    accuracies: dict[float, float]
    depths: int = 1
    of: int = 1

    def __str__(self) -> str:
        where = f" on the last {self.depths} of {self.of} depths" if self.of > 1 else ""
        return f"ridge regression{where}, C = {self.C:g}"


@dataclass(frozen=True)
class LeftOut:
    """What was not tried, as it would have taken too long.

    Attributes:
        name: of the depth or the backbone.
        seconds: how long all would have taken with it, told by its first batches.
    """

    name: str
    seconds: float


@dataclass(frozen=True)
class Trained:
    """What `train` gives back.

    Attributes:
        model: the classifier, trained and calibrated: the given one.
        plan: what was tried.
        scores: what each depth reached, the linear head first.
        chosen: the name of the depth that was taken; "phases" for those of `follow`.
        calibration: what was found of its probabilities.
        fine_tuning: the run that made the weights; None for the linear head.
        linear: the linear head; None for `follow`.
        seconds: how long all took.
        left_out: what was not tried, as it did not fit into the time.
        views: of how many views of an image a prediction takes the mean, each of which costs a pass.
    """

    model: keras.Model
    plan: Plan | None
    scores: tuple[DepthScore, ...]
    chosen: str
    calibration: Calibration
    fine_tuning: FineTuneResult | None
    linear: LinearHead | None
    seconds: float
    left_out: tuple[LeftOut, ...] = ()
    views: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return all but the model as plain data."""
        return {
            "advice": None if self.plan is None else self.plan.advice.text,
            "scores": [{**asdict(score), "interval": list(score.interval)} for score in self.scores],
            "chosen": self.chosen,
            "calibration": asdict(self.calibration),
            "fine_tuning": None if self.fine_tuning is None else self.fine_tuning.to_dict(),
            "linear": self._linear(),
            "seconds": self.seconds,
            "left_out": [asdict(each) for each in self.left_out],
            "views": self.views,
        }

    def _linear(self) -> dict[str, Any] | None:
        if self.linear is None:
            return None
        return {
            **asdict(self.linear),
            "accuracies": {f"{value:g}": each for value, each in self.linear.accuracies.items()},
        }
