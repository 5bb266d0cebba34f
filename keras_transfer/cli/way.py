"""How a command trains: what its options come to."""

import dataclasses
import inspect
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.table

from keras_transfer.cli import backbones, logs
from keras_transfer.cli.common import Parts, Reading, check_outside, listed, loaders

if TYPE_CHECKING:
    import keras
    import typer

    from keras_transfer.data.loader import Loader
    from keras_transfer.results.automatic import Trained
    from keras_transfer.results.evaluation import Evaluation
    from keras_transfer.training.phase import Phase

AUTO = "auto"  # instead of a recipe
SEVERAL = "several"  # features
_FILES_TAKE = 4.0  # seconds, for curves and report of some hundred images


@dataclass(frozen=True)
class Way:
    """How a command trains; its options are described there.

    Attributes:
        reading: how images are read.
        started: when the command began, or with this network, in seconds of `time.perf_counter`.
        networks: the names of networks with the size of their images, once they are settled on.
    """

    backbone: str
    weights: str
    features: str
    recipe: str
    fast: bool
    minutes: float
    seed: int
    coverage: float
    class_weight: str | None
    logit_adjustment: float
    cache: Path | None
    quiet: bool
    reading: Reading
    ensemble: int = 1
    mirrored: bool | None = None
    resume: bool = False
    early_stopping: int | None = None
    csv_log: Path | None = None
    tensorboard: Path | None = None
    started: float = field(default_factory=time.perf_counter)
    networks: tuple[backbones.Sized, ...] = ()

    @classmethod
    def of(cls, context: "typer.Context", backbone: str) -> "Way":
        """Return what the options of a command come to for a backbone."""
        given: dict[str, Any] = {"features": SEVERAL, **context.params, "backbone": backbone}
        backbones.check(backbone, given.get("ensemble", 1), given["image_size"], given["weights"])
        given["image_size"] = backbones.size_of(backbone, given["image_size"])
        given["reading"] = Reading.of(context, given["image_size"])
        names = [each.name for each in dataclasses.fields(cls) if each.name in given]
        return cls(**{name: given[name] for name in names}, started=context.obj)

    def check(self, directory: Path) -> None:
        """Raise before anything is computed if options don't fit each other or logs can't be written."""
        from keras_transfer.tasks.imbalance import checked_adjustment

        folders = {"cache": self.cache, "csv-log": self.csv_log, "tensorboard": self.tensorboard}
        for option, folder in folders.items():
            check_outside(option, folder, directory)
        if self.reading.label_separator is not None:
            raise ValueError(
                "label_separator must not be given to train, which knows one class an image; in Python, "
                "kt.classifier(..., task='multi-label') with kt.fit_linear_head or kt.fine_tune is for "
                "several, and `keras-transfer evaluate` and `predict` take the model. "
                f"Received: label_separator={self.reading.label_separator!r}"
            )
        if self.cache is not None and self.recipe != AUTO:
            raise ValueError(
                "cache must not be given with a recipe, which keeps no features for other runs. "
                f"Received: cache={str(self.cache)!r}, recipe={self.recipe!r}"
            )
        if self.early_stopping is not None and self.recipe == AUTO:
            raise ValueError(
                "early-stopping must be given with a recipe: what recipe='auto' tries has one cycle of "
                "the learning rate, which takes all its epochs. "
                f"Received: early_stopping={self.early_stopping}, recipe={self.recipe!r}"
            )
        checked_adjustment(self.logit_adjustment, class_weights(self.class_weight))
        if self.logit_adjustment and self.recipe != AUTO:
            raise ValueError(
                "logit-adjustment must be given with recipe='auto'. Received: "
                f"logit_adjustment={self.logit_adjustment}, recipe={self.recipe!r}"
            )
        logs.check(self.csv_log, self.tensorboard)

    @property
    def verbose(self) -> str | int:
        return 0 if self.quiet else "auto"

    def prepared(
        self, directory: Path, checkpoint: Path | None = None
    ) -> "tuple[Way, keras.Model, Parts]":
        """Read images, settle on the networks, and return all with a new model on them.

        Args:
            directory: the images.
            checkpoint: the folder for what the run needs to go on, or None.
        """
        import keras

        import keras_transfer as kt

        data = loaders(directory, self.reading)
        if self.backbone == backbones.AUTO:
            options: dict[str, Any] = {"minutes": self.minutes, "seed": self.seed}
            options |= {"cache": self.cache, "verbose": self.verbose}
            networks = backbones.chosen(data.training, self.ensemble, checkpoint, self.resume, **options)
        else:
            networks = backbones.named(self.backbone, self.reading.image_size)
        size = backbones.largest(networks)
        data = data.of_size(size)
        keras.utils.set_random_seed(self.seed)
        names = data.training.class_names or []
        model = kt.classifier(
            networks if len(networks) > 1 else networks[0][0],
            len(names),
            image_size=size,
            weights=None if self.weights == "none" else self.weights,
            class_names=names,
            features=listed(self.features),
        )
        return dataclasses.replace(self, networks=tuple(networks)), model, data

    def plan(self, model: "keras.Model", data: "Loader") -> Any:
        """Return what is going to be tried, or the phases of the recipe, to be shown."""
        if self.recipe == AUTO:
            from keras_transfer.runs import automatic

            return automatic.propose(model, data, cache=self.cache, verbose=self.verbose)
        table = rich.table.Table("phase", "epochs", "trains", "learning rate", "optimizer")
        for phase in self.phases(model, data.batch_size):
            about = phase.describe()
            row = [about[name] for name in ("name", "epochs", "train", "learning_rate", "optimizer")]
            table.add_row(*map(str, row))
        return table

    def train(self, model: "keras.Model", data: Parts, checkpoint: Path | None = None) -> "Trained":
        """Train a network on the first images; the others will be looked at afterwards.

        Args:
            model: the network.
            data: images for training, and those to report on.
            checkpoint: the folder for what the run needs to go on, or None.
        """
        from keras_transfer.runs import automatic
        from keras_transfer.runs.budget import Budget

        train, test = data.training, data.measured
        shared: dict[str, Any] = {
            "class_weight": class_weights(self.class_weight),
            "seed": self.seed,
            "coverage": self.coverage,
            "checkpoint": checkpoint,
            "resume": self.resume,
            "verbose": self.verbose,
        }
        if self.recipe == AUTO:
            budget = Budget(self.minutes, test.num_samples, _FILES_TAKE, self.started)
            shared |= {"minutes": budget, "cache": self.cache, "callbacks": self._callbacks}
            shared["logit_adjustment"] = self.logit_adjustment
            views = not self.fast if self.mirrored is None else self.mirrored
            return automatic.train(model, train, fast=self.fast, views=views, **shared)
        phases, callbacks = self.phases(model, train.batch_size), self._callbacks(self.recipe)
        return automatic.follow(model, train, phases, callbacks=callbacks, **shared)

    def evaluate(self, model: "keras.Model", data: "Loader") -> "Evaluation":
        """Measure a model on images on which nothing was chosen."""
        from keras_transfer.probabilities.evaluation import evaluate_classes

        return evaluate_classes(model, data, verbose=self.verbose)

    def tested(self, model: "keras.Model", data: Parts) -> "Evaluation | None":
        """Measure a model on the images that were cut off for a test, if any were."""
        return None if data.test is None else self.evaluate(model, data.test)

    def phases(self, model: "keras.Model", batch_size: int) -> "list[Phase]":
        """Return the phases of the recipe; each may end early, where its validation loss stays."""
        import keras

        from keras_transfer.runs import recipes

        function = getattr(recipes, self.recipe)
        given = {"model": model, "batch_size": batch_size}
        asked = inspect.signature(function).parameters
        phases = function(**{name: value for name, value in given.items() if name in asked})
        if self.early_stopping is None:
            return phases
        return [
            dataclasses.replace(
                phase,
                callbacks=(
                    *phase.callbacks,
                    keras.callbacks.EarlyStopping(patience=self.early_stopping),
                ),
            )
            for phase in phases
        ]

    def settings(self, directory: Path) -> dict[str, Any]:
        """Return what was asked for, as plain data."""
        return {
            "command": sys.argv[1:],
            "images": directory.resolve().name,
            "backbone": backbones.called(self.networks),
            "networks": [list(each) for each in self.networks],
            "recipe": self.recipe,
            "image_size": max(backbones.largest(self.networks)),
            "features": listed(self.features),
            "seed": self.seed,
            "class_weight": class_weights(self.class_weight),
            "logit_adjustment": self.logit_adjustment,
        }

    def _callbacks(self, training: str) -> "list[keras.callbacks.Callback]":
        return logs.callbacks(training, self.csv_log, self.tensorboard, self.resume)


def class_weights(text: str | None) -> Any:
    """Return weights as `fine_tune` takes them; whether there are such classes shows with the images."""
    if text is None or text == "balanced":
        return text
    pair = r"([^=]+)=([0-9]*[.]?[0-9]+)"  # a name may have commas
    if not re.fullmatch(rf"{pair}(,{pair})*", text):
        raise ValueError(
            "class-weight must be 'balanced', or names of classes with numbers, such as "
            f"'ants=2,bees=0.5'. Received: {text!r}"
        )
    found = [(name.strip(), float(number)) for name, number in re.findall(rf"{pair}(?:,|$)", text)]
    if len(dict(found)) < len(found):
        raise ValueError(f"class-weight must have each class once. Received: {text!r}")
    return dict(found)
