"""A depth at which automatic training trains: its training, the average of its weights, its pace."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.messages import SILENT
from keras_transfer._lib.variables import assign_variables, copy_variables
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache.cache import FeatureCache
from keras_transfer.features.one_pass import Seen
from keras_transfer.inference.predictions import predictions
from keras_transfer.layers.head import endings, single_dense
from keras_transfer.layers.splitting import split_model
from keras_transfer.models.averages import mixed
from keras_transfer.models.views import of_mirror_images
from keras_transfer.optimizers import multipliers
from keras_transfer.optimizers.patterns import Multipliers
from keras_transfer.rates.schedules import OneCycle
from keras_transfer.results.automatic import Depth
from keras_transfer.results.training import FineTuneResult
from keras_transfer.runs.budget import Budget, Deadline, Pace, Stopwatch
from keras_transfer.runs.fine_tune import fine_tune
from keras_transfer.runs.journal import Journal
from keras_transfer.tasks.scores import log_loss
from keras_transfer.tasks.single_label import SINGLE_LABEL
from keras_transfer.training.phase import FIND, Phase

# Of the weights after training in the average with those before: Wortsman et al., "Robust fine-tuning of
# zero-shot models" (WiSE-FT), 2022.
_SHARES = (0.25, 0.5, 0.75, 1.0)
_FINDS = 100  # steps of a range test
_FORWARD = 3  # so many times as long takes a step of training
_BATCHES = 3  # tell the pace


Callbacks = Callable[[str], Sequence[keras.callbacks.Callback]]


@dataclass(frozen=True)
class Context:
    """What all depths share.

    Attributes:
        loader: the images.
        seen: what a pass over them has kept.
        mirrored: what a pass over the mirror images has kept, if they are views of the model; or None.
        x: what the linear head is given of all samples.
        augmentation: for training everything.
        class_weight: of the losses of a class's samples, by its index.
        folder: for features behind other cuts.
        budget: the time that all may take.
        journal: what has been decided, and where trainings keep what they need to go on.
        callbacks: gives Keras callbacks for a training by its name, or None.
        seed: decides order, augmentation and dropout.
        verbose: as `verbosity` returns it.
    """

    loader: Loader
    seen: Seen
    mirrored: Seen | None
    x: Any
    augmentation: str | Augmentation | None
    class_weight: dict[int, float] | None
    folder: str | os.PathLike[str]
    budget: Budget
    journal: Journal
    callbacks: Callbacks | None
    seed: int
    verbose: int


class Stage:
    """What trains at a depth, and on what: behind a cut on features, which are computed once.

    Attributes:
        depth: the depth.
        run: the last training, or None.
    """

    def __init__(self, model: keras.Model, depth: Depth, context: Context) -> None:
        self.depth, self._context = depth, context
        self.run: FineTuneResult | None = None
        self._rate: float | str = FIND if depth.find else depth.learning_rate
        dense = single_dense(model)
        self._open: list[Loader] = []
        self._gives_probabilities = dense.activation is keras.activations.softmax
        loader, seen = context.loader, context.seen
        (logits,) = endings(model, dense)[0].call.node.outputs  # of this model: others may share it
        end = keras.Model(model.inputs[0], logits, name=model.name)
        mirrored = context.mirrored
        self._mirrored: tuple[keras.Model, Loader] | None = None
        if depth.at is None:
            self._tail, self._seen = end, loader
            self._data = loader.replace(augmentation=context.augmentation, shuffle=True)
            if mirrored is not None:
                self._mirrored = of_mirror_images(end), loader
        else:
            prefix, self._tail = split_model(end, depth.at)
            self._seen = self._behind(prefix, seen)
            self._data = self._seen.replace(shuffle=True)
            if mirrored is not None:
                self._mirrored = self._tail, self._behind(of_mirror_images(prefix), mirrored)

    def _behind(self, prefix: keras.Model, seen: Seen) -> Loader:
        """Return what the part before the cut makes of all samples, computed now or before."""
        if self.depth.at == seen.cut and seen.behind_cut is not None:
            return seen.behind_cut
        context = self._context  # a plan of the user's own
        cache, loader = FeatureCache(prefix, context.folder), context.loader
        features = cache.build(loader, loader.batch_size, verbose=context.verbose)
        self._open.append(features)
        return features

    def close(self) -> None:
        """Close files that are not needed any more."""
        for features in self._open:
            features.close()

    def train(self, samples: np.ndarray, epochs: int, name: str) -> None:
        """Train on some of the samples, at the learning rate that was found the first time.

        Args:
            samples: their indices.
            epochs: how many.
            name: what the training is called in the journal.

        Raises:
            OutOfTimeError: there was no time for all of it; the weights are as they were.
        """
        before = copy_variables(self._tail.variables)
        deadline = Deadline(self._context.budget)
        if self._rate == FIND:
            try:
                self.run = self._fit(samples, epochs, deadline, f"{name}, found")
                self._rate = self.run.phases[0].settings["found"]
            except ValueError:  # the loss neither falls nor rises within the range test
                self._rate = self.depth.learning_rate
                self.run = self._fit(samples, epochs, deadline, name)
        else:
            self.run = self._fit(samples, epochs, deadline, name)
        self._before, self._after = before, copy_variables(self._tail.variables)

    def pace(self, samples: np.ndarray) -> Pace:
        """Return how quickly some of the samples train, by their first batches. The weights move."""
        size = self._data.batch_size
        watch = Stopwatch()
        self._fit(samples[: _BATCHES * size + len(samples) % size], 1, watch, None)
        return watch.pace()

    def steps(self, samples: int, epochs: int) -> int:
        """Return how many steps a training takes."""
        return epochs * math.ceil(samples / self._data.batch_size)

    def least_seconds(self, samples: int, epochs: int) -> float:
        """Return what a training of all layers takes at least, by the rate of the pass."""
        images = samples * epochs * _FORWARD if self.depth.at is None else 0
        return images * self._context.budget.an_image

    def steps_beside(self, samples: int) -> float:
        """Return how many steps take as long as a range test and looks at so many samples."""
        looks = len(_SHARES) * self.steps(samples, 1) / _FORWARD * (1 if self._mirrored is None else 2)
        return looks + _FINDS * (self._rate == FIND)

    def _multipliers(self) -> Multipliers | None:
        """Return a rate for each group, or None for one rate.

        They go by the paths of variables, which two given models with layers of equal names share.
        """
        paths = [variable.path for variable in self._tail.variables]
        if self.depth.factor == 1 or len(set(paths)) < len(paths):
            return None
        return multipliers.geometric(self._tail, self.depth.factor)

    def _fit(
        self, samples: np.ndarray, epochs: int, callback: keras.callbacks.Callback, name: str | None
    ) -> FineTuneResult:
        """Train with one cycle; without a name for a look alone, at the rate of the plan."""
        context = self._context

        def one_cycle(highest: float, steps_per_epoch: int) -> OneCycle:
            return OneCycle(highest, max(epochs * steps_per_epoch, 2))

        phase = Phase(
            self.depth.name,
            epochs,
            train="all",
            learning_rate=self.depth.learning_rate if name is None else self._rate,
            multipliers=self._multipliers(),
            schedule=one_cycle,
            callbacks=[callback],
        )
        called = f"{self.depth.name}, {name}"
        output = None if name is None else context.journal.folder_of(called)
        return fine_tune(
            self._tail,
            self._data.subset(samples).replace(seed=context.seed),
            phases=[phase],
            class_weight=context.class_weight,
            callbacks=[] if name is None or not context.callbacks else context.callbacks(called),
            seed=context.seed,
            cache=False,
            output=output,
            resume=output is not None,
            verbose=SILENT if name is None else context.verbose,
        )

    def mix(self, share: float) -> None:
        """Give the model the average of the weights before the last training and after it."""
        assign_variables(self._tail.variables, mixed(self._before, self._after, share))

    def logits_by_share(self, samples: np.ndarray) -> dict[float, np.ndarray]:
        """Return logits of samples that have not trained, by the share of the weights after training."""
        found = {}
        for share in _SHARES:
            self.mix(share)
            found[share] = self.logits(samples)
        return found

    def logits(self, samples: np.ndarray) -> np.ndarray:
        """Return logits of some of the samples, as they are without augmentation, over all views."""
        views = [(self._tail, self._seen)] + ([self._mirrored] if self._mirrored else [])
        given = [predictions(model, data.subset(samples), SILENT) for model, data in views]
        if self._gives_probabilities:
            given = [SINGLE_LABEL.logits(each) for each in given]
        return np.mean(given, axis=0)


def best_share(logits: Mapping[float, np.ndarray], y: np.ndarray) -> float:
    """Return the share with the highest accuracy, then the lowest log-loss.

    Args:
        logits: by share, of shape (samples, classes).
        y: the classes of the samples.
    """

    def worth(share: float) -> tuple[float, float]:
        return SINGLE_LABEL.correct(logits[share], y).mean(), -log_loss(logits[share], y)

    return max(logits, key=worth)
