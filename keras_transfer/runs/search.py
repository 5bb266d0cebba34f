"""Which depth of training is best for a data set: what is tried, in which time, and what is taken."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.messages import say
from keras_transfer.results.automatic import Depth, DepthScore, LeftOut
from keras_transfer.results.training import FineTuneResult
from keras_transfer.runs.budget import OutOfTimeError
from keras_transfer.runs.journal import Decision
from keras_transfer.runs.scoring import is_better, score_of
from keras_transfer.runs.stage import Context, Stage, best_share

_NO_GAIN = DepthScore("", 0.0, 0.0, 0.0, 0)
# Of its epochs, where there isn't time for all.
_PARTS = (1, 2, 4)

Fold = tuple[np.ndarray, np.ndarray]


@dataclass
class Taken:
    """The best depth so far, which is better than the linear head beyond chance.

    Attributes:
        stage: what trains there.
        epochs: how many epochs it trains.
        whole: whether it is to be trained on all samples, or is as the last fold has left it.
        share: of the trained weights in their average with those before.
        samples: those on which it was tried.
        logits: what it gave for them.
        cost: the seconds of the training on all samples.
    """

    stage: Stage
    epochs: int
    whole: bool
    share: float
    samples: np.ndarray
    logits: np.ndarray
    cost: float


@dataclass
class Search:
    """Tries depths, and keeps the best.

    Attributes:
        folds: samples for training and those held back, for each try of a depth.
        context: what all depths share.
        start_from: gives the model the pretrained weights and a linear head fitted to some of the
            samples, and returns the head.
        scores: of the depths that were tried.
        left_out: those that were not.
        taken: the best depth, or None for the linear head.
    """

    folds: Sequence[Fold]
    context: Context
    start_from: Callable[[np.ndarray], Any]
    scores: list[DepthScore] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    taken: Taken | None = None

    @property
    def y(self) -> np.ndarray:
        """The classes of all samples."""
        return self.context.seen.labels

    def look_at(self, stage: Stage) -> None:
        """Try a depth, as well as there is time for it."""
        name, budget = stage.depth.name, self.context.budget
        began = budget.spent
        decision = self.context.journal.decided(name, lambda: self._affordable(stage))
        if "folds" not in decision:
            self._leave_out(name, decision["seconds"])
            return
        epochs, folds = int(decision["epochs"]), self.folds[: int(decision["folds"])]
        shorter = f", {epochs} of {stage.depth.epochs} epochs" if epochs < stage.depth.epochs else ""
        often = f", {len(folds)} times" if len(folds) > 1 else ""
        on = f"on {len(folds[0][0])} of {len(self.y)} images"
        say(self.context.verbose, f"Trying: {name}{shorter}, {on}{often}")
        tried = list(self._tried(stage, epochs, folds))
        if not tried:
            self._leave_out(name, budget.in_all(0.0))
            return
        samples = np.concatenate([held_back for _, held_back in folds[: len(tried)]])
        beside = np.concatenate([linear for linear, _ in tried])
        by_share = {
            share: np.concatenate([logits[share] for _, logits in tried]) for share in tried[0][1]
        }
        best = best_share(by_share, self.y[samples])
        score = score_of(name, samples, by_share[best], beside, self.y, self.context.loader.groups)
        score = replace(score, share=best, epochs=epochs, seconds=budget.spent - began)
        highest = max((each.gain, each.loss_gain) for each in [_NO_GAIN, *self.scores])
        if is_better(score) and (score.gain, score.loss_gain) > highest:
            whole, cost = bool(decision["whole"]), float(decision["seconds"])
            self.taken = Taken(stage, epochs, whole, best, samples, by_share[best], cost)
        self.scores.append(score)

    def best_of(self, model: keras.Model, depths: Sequence[Depth]) -> FineTuneResult | None:
        """Try depths of a model, give it the weights of the best, and return how these were made."""
        with contextlib.ExitStack() as stack:
            for depth in depths:
                stage = Stage(model, depth, self.context)
                stack.callback(stage.close)
                self.look_at(stage)
            return self._train_best()

    def _train_best(self) -> FineTuneResult | None:
        """Give the model the weights of the best depth: trained on all samples, and averaged."""
        everyone, taken, verbose = np.arange(len(self.y)), self.taken, self.context.verbose
        self.start_from(everyone)
        if taken is None:
            return None
        stage = taken.stage
        if taken.whole:
            say(verbose, f"Training: {stage.depth.name}, on all images")
            if not self._trains(stage, everyone, taken.epochs, "all images"):
                say(verbose, "There is no time left for it: the weights of the last try are kept")
        stage.mix(taken.share)
        return stage.run

    def _tried(
        self, stage: Stage, epochs: int, folds: Sequence[Fold]
    ) -> Iterator[tuple[np.ndarray, dict[float, np.ndarray]]]:
        """Yield for each fold what the linear head gives, and the depth with each share."""
        for number, (kept, held_back) in enumerate(folds):
            linear = self.start_from(kept)
            if not self._trains(stage, kept, epochs, f"fold {number}"):
                return
            yield linear.logits(self.context.x[held_back]), stage.logits_by_share(held_back)

    def _trains(self, stage: Stage, samples: np.ndarray, epochs: int, name: str) -> bool:
        """Train, and return whether there was time for it."""
        journal, key = self.context.journal, f"{stage.depth.name}, {name}"
        if key in journal:  # only what there was no time for
            return False
        try:
            stage.train(samples, epochs, name)
        except OutOfTimeError:
            journal.decided(key, lambda: {"ended": False})
            return False
        return True

    def _leave_out(self, name: str, seconds: float) -> None:
        self.left_out.append(LeftOut(name, seconds))
        text = f"{name} is left out: all would take {seconds / 60:.1f} minutes with it"
        say(self.context.verbose, text)

    def _affordable(self, stage: Stage) -> Decision:
        """Return how well there is time to try a depth: in how many folds, for how many epochs.

        Where there is least time, it isn't trained again on all samples, and for fewer epochs.
        """
        budget, epochs = self.context.budget, stage.depth.epochs
        if budget.minutes is None:
            return {"folds": len(self.folds), "epochs": epochs, "whole": True, "seconds": 0.0}
        kept, held_back = self.folds[0]
        least = stage.least_seconds(len(kept), max(epochs // max(_PARTS), 1))
        if not budget.fits(least):
            return {"seconds": budget.in_all(least)}
        self.start_from(kept)
        pace, others = stage.pace(kept), 0.0 if self.taken is None else self.taken.cost
        ways = [(count, epochs, True) for count in range(len(self.folds), 0, -1)]
        ways += [(1, max(epochs // part, 1), False) for part in _PARTS]
        for folds, count, whole in ways:
            steps = stage.steps(len(kept), count) + stage.steps_beside(len(held_back))
            again = pace.seconds(stage.steps(len(self.y), count)) if whole else 0.0
            seconds = folds * pace.seconds(steps) + max(again, others)
            if budget.fits(seconds):
                return {"folds": folds, "epochs": count, "whole": whole, "seconds": again}
        return {"seconds": budget.in_all(seconds)}
