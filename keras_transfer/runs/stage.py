"""A depth at which automatic training trains: its training, the average of its weights, its time."""

import math
import os
import time
from collections.abc import Callable

import keras
import numpy as np

from keras_transfer._lib.messages import SILENT
from keras_transfer._lib.variables import assign_variables, copy_variables
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache.cache import FeatureCache
from keras_transfer.features.one_pass import Seen
from keras_transfer.features.probe.linear_head import single_dense
from keras_transfer.inference.predictions import predictions
from keras_transfer.layers.splitting import split_model
from keras_transfer.models.averages import mixed
from keras_transfer.optimizers import multipliers
from keras_transfer.rates.schedules import OneCycle
from keras_transfer.results.automatic import Depth
from keras_transfer.results.training import FineTuneResult
from keras_transfer.runs.fine_tune import fine_tune
from keras_transfer.tasks.scores import log_loss
from keras_transfer.tasks.single_label import SINGLE_LABEL
from keras_transfer.training.phase import FIND, Phase

# Of the weights after training in the average with those before: Wortsman et al., "Robust fine-tuning of
# zero-shot models" (WiSE-FT), 2022.
_SHARES = (0.25, 0.5, 0.75, 1.0)
_FINDS = 100  # steps of a range test
_FORWARD = 3  # so many times as long takes a step of training


class Stage:
    """What trains at a depth, and on what: behind a cut on features, which are computed once.

    Attributes:
        depth: the depth.
        share: of the weights of the training in their average with those before it; 1 until `average`
            has chosen one.
    """

    def __init__(
        self,
        model: keras.Model,
        depth: Depth,
        loader: Loader,
        seen: Seen,
        augmentation: str | Augmentation | None,
        class_weight: dict[int, float] | None,
        folder: str | os.PathLike[str],
        verbose: int,
    ) -> None:
        self.depth, self._weights, self._verbose = depth, class_weight, verbose
        self.share = 1.0
        self._rate: float | str = FIND if depth.find else depth.learning_rate
        dense = single_dense(model)
        self.close: Callable[[], None] = lambda: None
        self._gives_probabilities = dense.activation is keras.activations.softmax
        end = keras.Model(model.inputs[0], dense.output, name=model.name)
        if depth.at is None:
            self._tail, self._seen = end, loader
            self._data = loader.replace(augmentation=augmentation, shuffle=True)
        else:
            prefix, self._tail = split_model(end, depth.at)
            if depth.at == seen.cut and seen.behind_cut is not None:
                self._seen = seen.behind_cut
            else:  # a plan of the user's own
                cache = FeatureCache(prefix, folder)
                self._seen = cache.build(loader, loader.batch_size, verbose=verbose)
                self.close = self._seen.close
            self._data = self._seen.replace(shuffle=True)

    def train(self, samples: np.ndarray, seed: int) -> FineTuneResult:
        """Train on some of the samples, at the learning rate that was found the first time."""
        if self._rate != FIND:
            return self._run(samples, seed)
        try:
            run = self._run(samples, seed)
            self._rate = run.phases[0].settings["found"]
        except ValueError:  # the loss neither falls nor rises within the range test
            self._rate = self.depth.learning_rate
            run = self._run(samples, seed)
        return run

    def _run(self, samples: np.ndarray, seed: int) -> FineTuneResult:
        self._before = copy_variables(self._tail.variables)
        data = self._data.subset(samples).replace(seed=seed)
        run = self._fit(data, self.depth.epochs, self._rate, seed, self._verbose)
        self._after = copy_variables(self._tail.variables)
        return run

    def _fit(
        self, data: Loader, epochs: int, rate: float | str, seed: int = 0, verbose: int = SILENT
    ) -> FineTuneResult:
        def one_cycle(highest: float, steps_per_epoch: int) -> OneCycle:
            return OneCycle(highest, max(epochs * steps_per_epoch, 2))

        phase = Phase(
            self.depth.name,
            epochs,
            train="all",
            learning_rate=rate,
            multipliers=multipliers.geometric(self._tail, self.depth.factor),
            schedule=one_cycle,
        )
        return fine_tune(
            self._tail,
            data,
            phases=[phase],
            class_weight=self._weights,
            seed=seed,
            cache=False,
            verbose=verbose,
        )

    def mix(self, share: float) -> None:
        """Give the model the average of the weights before the last training and after it."""
        assign_variables(self._tail.variables, mixed(self._before, self._after, share))

    def average(self, samples: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Choose the share by samples that have not trained, and return their logits with it.

        The best has the highest accuracy, then the lowest log-loss.

        Args:
            samples: their indices.
            y: the classes of all samples.
        """
        found = []
        for share in _SHARES:
            self.mix(share)
            logits = self.logits(samples)
            right = SINGLE_LABEL.correct(logits, y[samples]).mean()
            found.append((right, -log_loss(logits, y[samples]), share, logits))
        *_, self.share, logits = max(found, key=lambda each: each[:2])
        self.mix(self.share)
        return logits

    def seconds(self, kept: np.ndarray, everyone: int, tried: int) -> float:
        """Return what it takes to train on some samples, look at others, and train on all.

        One batch and three tell how long a step takes, and how long it takes to begin. The weights move.

        Args:
            kept: the indices of those on which it is trained first.
            everyone: how many there are.
            tried: how many it looks at.
        """
        size, steps, took = self._data.batch_size, [], []
        for batches in (1, 3):
            some = kept[: batches * size]
            start = time.perf_counter()
            self._fit(self._data.subset(some), 1, self.depth.learning_rate)
            took.append(time.perf_counter() - start)
            steps.append(math.ceil(len(some) / size))
        a_step = max(took[1] - took[0], 0.0) / max(steps[1] - steps[0], 1) or took[0]
        trained = sum(math.ceil(each / size) for each in (len(kept), everyone)) * self.depth.epochs
        found = _FINDS * (self._rate == FIND)
        looks = len(_SHARES) * math.ceil(tried / size) / _FORWARD
        return 2 * took[0] + a_step * (trained + found + looks)

    def logits(self, samples: np.ndarray) -> np.ndarray:
        """Return logits of some of the samples, as they are without augmentation."""
        given = predictions(self._tail, self._seen.subset(samples), SILENT)
        return SINGLE_LABEL.logits(given) if self._gives_probabilities else given
