"""Phases of training, as data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, TypeAlias, get_args

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from keras_transfer._lib.checks import checked_choice, checked_integer, checked_number
from keras_transfer._lib.keras_private.optimizer import weight_decay_exclusions
from keras_transfer.data.images.augmentation import Augmentation, augmentation_name, resolve_augmentation
from keras_transfer.layers.adapters import Adapters
from keras_transfer.layers.freezing import BatchNorm, set_trainable
from keras_transfer.layers.head import required_head
from keras_transfer.layers.selection import Selection, checked_selection, select
from keras_transfer.layers.table import TrainableTable
from keras_transfer.optimizers.decay import decay_kernels
from keras_transfer.optimizers.layerwise_lr import as_layerwise, layerwise, plain_class, plain_config
from keras_transfer.optimizers.patterns import Multipliers, checked_multipliers, resolve
from keras_transfer.training.averaging import EMA, SWA
from keras_transfer.training.low_rank import LoRA, as_lora, described_train
from keras_transfer.training.starting_point import L2SP

DEFAULT_LEARNING_RATE = 1e-3
# A range test when the phase begins, and the rate that the last one of the run found.
FIND, FOUND = "find", "found"

Rate: TypeAlias = float | LearningRateSchedule
Decays = Literal["all", "kernels"]


@dataclass(frozen=True)
class Phase:
    """A stretch of training in which the same layers train with the same optimizer.

    Attributes:
        name: what it is called in tables, histories and plots.
        epochs: how many epochs, at least 1.
        train: "head" (the whole classifier), "new" (only layers without pretrained weights), "all",
            "from:<layer>" (this layer and everything after it), -2 (the last group and the head), or
            whatever else `keras_transfer.unfreeze` takes as `layers`; or "lora:8": low-rank adapters of
            rank 8 of the backbone's dense and attention layers, and the head (see `keras_transfer.LoRA`,
            by which the layers can be chosen).
        learning_rate: a number or a Keras schedule counted in steps of this phase; "find" for
            what a range test suggests of the model and data that the phase begins with (see
            `keras_transfer.find_lr`), or, if the loss doesn't fall any more but rises at last, a tenth
            of the last rate before that; "found" for what the test of an earlier phase has found; None
            for the optimizer's own, or 1e-3 for an optimizer given by name.
        optimizer: the name of a Keras optimizer, or an optimizer whose settings are copied; the given
            object is never changed. Variables that the phase before trained, too, keep their slots if
            its optimizer was the same but for name, learning rate, weight decay and moving averages.
        multipliers: of the learning rate, by variable, as in `keras_transfer.optimizers.LayerwiseLR`: a
            policy such as `keras_transfer.multipliers.geometric(model)`, a dict or a function. Adapters
            (LoRA) have that of the kernel which they add to, unless a pattern matches them.
        schedule: how the rate changes in the course of the phase, where that hangs on the rate or on the
            number of steps: a function (learning rate, steps an epoch) that returns a Keras schedule,
            counted in steps of this phase. A schedule itself means the same as `learning_rate=schedule`.
        batch_norm: "freeze" keeps the backbone's batch norm in inference mode, "train" lets it train.
        decays: what the weight decay of the optimizer acts on: "all" that trains, or "kernels", without
            biases, scales and offsets of norms, and tables of positions and tokens (see
            `keras_transfer.optimizers.decay_kernels`).
        average: `keras_transfer.EMA` or `keras_transfer.SWA`: which average of the weights in the course
            of the phase is validated after each epoch, and kept of the best one, or of the last. In the
            phase training goes on from the raw weights; the next phase begins with the averaged ones
            that were kept. Where batch norm trains, its statistics are measured anew for the averaged
            weights after each epoch, by one more pass over the training data as the epoch had it. Of
            adapters (LoRA) A and B are averaged, each by itself.
        l2_sp: `keras_transfer.L2SP`: a penalty on how far the backbone moves from the weights that the
            run began with. Not for adapters (LoRA), whose kernels stay.
        augmentation: for the training data of this phase: as in `Loader`, or "inherit" for what
            `fine_tune` was given.
        callbacks: Keras callbacks for this phase only: training begins and ends with the phase for
            them, and `stop_training` ends it. The model is that of `fine_tune(callbacks=...)`.

    Raises:
        ValueError, TypeError: a field has no sensible meaning.

    Example:
        >>> import keras_transfer as kt
        >>> kt.Phase("head", 10).learning_rate
        0.001
    """

    name: str
    epochs: int
    train: Selection | LoRA = "head"
    learning_rate: Rate | str | None = None
    optimizer: str | keras.optimizers.Optimizer = "adam"
    _: KW_ONLY
    multipliers: Multipliers | None = None
    schedule: LearningRateSchedule | Callable[[float, int], LearningRateSchedule] | None = None
    batch_norm: BatchNorm = "freeze"
    decays: Decays = "all"
    average: EMA | SWA | None = None
    l2_sp: L2SP | None = None
    augmentation: str | Augmentation | None = "inherit"
    callbacks: Sequence[keras.callbacks.Callback] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", checked_integer("epochs", self.epochs, 1))
        if self.lora is None:
            object.__setattr__(self, "train", checked_selection(self.train, "train"))
        checked_choice("batch_norm", self.batch_norm, get_args(BatchNorm))
        checked_choice("decays", self.decays, get_args(Decays))
        if self.augmentation != "inherit":
            resolve_augmentation(self.augmentation)
        rate: Any = self.learning_rate
        if rate is None:
            fixed = isinstance(self.schedule, LearningRateSchedule)
            rate = self.schedule if fixed else self._own_learning_rate()
        if not isinstance(rate, LearningRateSchedule) and rate not in (FIND, FOUND):
            note = ", a LearningRateSchedule, 'find', 'found' or None"
            rate = checked_number("learning_rate", rate, closed="left", note=note)
        object.__setattr__(self, "learning_rate", rate)
        self._check_schedule()
        self._check_average()
        if self.l2_sp is not None and not isinstance(self.l2_sp, L2SP):
            raise TypeError(
                "l2_sp must be a kt.L2SP, such as kt.L2SP(alpha=0.1, beta=0.01), or None. "
                f"Received: l2_sp={self.l2_sp!r}"
            )
        if self.l2_sp is not None and self.lora is not None:
            raise ValueError(
                "l2_sp must be left out where adapters train: it holds kernels near the start, and "
                f"those stay there. Received: l2_sp={self.l2_sp!r} and train={self.train!r}"
            )
        # So that a wrong name or rate is an error here, not hours later.
        made = self.make_optimizer()
        if self.decays == "kernels" and not made.weight_decay:
            raise ValueError(
                "decays='kernels' needs an optimizer that has a weight decay, such as 'adamw'. "
                f"Received: optimizer={self.optimizer!r}"
            )

    @property
    def lora(self) -> LoRA | None:
        """What the phase trains by low-rank adapters; None where it trains layers themselves."""
        return as_lora(self.train)

    def check(self, model: keras.Model) -> None:
        """Check that the phase can be applied to `model`, without changing it.

        Raises:
            ValueError: the model has no such layers, or none that can have adapters where they shall, or
                a pattern of `multipliers` matches none of them; or it has no head, and the phase a
                penalty that tells it from the backbone.
        """
        if self.l2_sp is not None:
            select(model, "head", argument="l2_sp")
        layers = self.layers(model)
        if self.multipliers is not None:
            with self.adapters(model).shown():
                variables = [variable for layer in layers for variable in layer.weights]
                resolve(self.multipliers, variables, strict=type(self.multipliers) is dict)

    def layers(self, model: keras.Model) -> list[keras.Layer]:
        """Return the leaf layers of `model` that this phase trains, before `batch_norm` has its say.

        Where adapters train these are the layers that have them, and the head.

        Raises:
            ValueError: the model has no such layers, or none that can have adapters where they shall.
        """
        train = self.lora or self.train
        if isinstance(train, LoRA):
            return [*train.parts(model)[0], *required_head(model)]
        return select(model, train, argument="train")

    def adapters(self, model: keras.Model, seed: tuple[int, ...] = (0,)) -> Adapters:
        """Return the adapters that train in this phase, none where it trains layers themselves.

        Args:
            model: the model, in which they aren't yet.
            seed: decides their values.
        """
        return Adapters(model) if self.lora is None else self.lora.adapters(model, seed)

    def set_trainable(self, model: keras.Model) -> TrainableTable:
        """Freeze and unfreeze the layers of `model` as this phase wants it.

        Where adapters train, the kernels that get them stand for them.

        Returns:
            The table of what changed.
        """
        adapted = () if self.lora is None else self.lora.parts(model)[1]
        return set_trainable(model, self.layers(model), self.batch_norm, adapted)

    def set_trainable_after(self, model: keras.Model) -> None:
        """Let layers that had adapters train as wholes, as after any phase what has trained does."""
        if self.lora is not None:
            set_trainable(model, self.layers(model), self.batch_norm)

    def rate(self, found: float, steps_per_epoch: int) -> Rate:
        """Return the learning rate that the phase trains with.

        Args:
            found: what a range test has suggested, where the phase wants it.
            steps_per_epoch: how many batches an epoch has, where the phase has a function for its
                schedule.

        Raises:
            TypeError: the function returns no schedule.
        """
        rate: Any = found if self.learning_rate in (FIND, FOUND) else self.learning_rate
        if self.schedule is None or self.schedule is rate:
            return rate
        schedule = self.schedule(rate, steps_per_epoch)
        if not isinstance(schedule, LearningRateSchedule):
            raise TypeError(
                f"schedule of phase {self.name!r} must be a function (learning rate, steps an epoch) "
                f"that returns a LearningRateSchedule. Received: {schedule!r} from it"
            )
        return schedule

    def make_optimizer(
        self, rate: Rate | None = None, model: keras.Model | None = None
    ) -> keras.optimizers.Optimizer:
        """Return a new optimizer with the settings of this phase and no state.

        Args:
            rate: its learning rate; by default that of the phase, or any where a test must find it.
            model: what it is for, where it shall train: that tells what weight decay acts on.
        """
        optimizer = self.optimizer
        if isinstance(optimizer, str):
            config: dict[str, Any] = {}
            make = type(keras.optimizers.get(optimizer))
        else:
            config = plain_config(optimizer)
            make = plain_class(optimizer)
            if "learning_rate" not in config:
                raise ValueError(
                    "optimizer must have a learning rate of its own, so no wrapper; multipliers are an "
                    f"argument of the phase. Received: optimizer={optimizer!r}"
                )
        if rate is None:
            sought = self.learning_rate in (FIND, FOUND)
            rate = DEFAULT_LEARNING_RATE if sought else self.learning_rate
        config["learning_rate"] = rate
        made = make.from_config(config)
        if not isinstance(optimizer, str):
            vars(made).update(weight_decay_exclusions(optimizer))
        multipliers = self.multipliers
        if multipliers is None:
            multipliers = getattr(optimizer, "multipliers", {})
        if model is not None and self.decays == "kernels":
            decay_kernels(made, model)
        # Of what the patterns match some may be frozen batch norm: `check` has looked at the others.
        return layerwise(made, checked_multipliers(multipliers), strict=False)

    def training_optimizer(
        self, rate: Rate, model: keras.Model, start: Sequence[np.ndarray] | None
    ) -> keras.optimizers.Optimizer:
        """Return a new optimizer like `make_optimizer`, whose steps also do what this phase alone wants.

        That is not for the user's own training afterwards.

        Args:
            rate: its learning rate.
            model: the whole model.
            start: for each of its variables the value with which the run began, for a penalty.
        """
        made = self.make_optimizer(rate, model)
        if isinstance(self.average, EMA):
            made.use_ema, made.ema_momentum = True, self.average.decay
            made = as_layerwise(made)
        if self.l2_sp is not None:
            assert start is not None
            made = as_layerwise(made, self.l2_sp.pull(model, start))
        return made

    def describe(self, rate: Rate | None = None) -> dict[str, Any]:
        """Return the phase's settings as plain data for `history.json`.

        Args:
            rate: the learning rate that it trains with; by default that of the phase.
        """
        rate = self.learning_rate if rate is None else rate
        schedule = None
        if isinstance(rate, LearningRateSchedule):
            schedule = type(rate).__name__
            rate = float(keras.ops.convert_to_numpy(rate(0)))
        return {
            "name": self.name,
            "epochs": self.epochs,
            "train": described_train(self.train),
            "batch_norm": self.batch_norm,
            "decays": self.decays,
            "average": None if self.average is None else repr(self.average),
            "l2_sp": None if self.l2_sp is None else repr(self.l2_sp),
            "augmentation": augmentation_name(self.augmentation),
            "optimizer": type(self.make_optimizer()).__name__,
            "learning_rate": rate,  # a schedule's first
            "schedule": schedule,
            "multipliers": dict(self.multipliers) if isinstance(self.multipliers, Mapping) else None,
        }

    def _check_schedule(self) -> None:
        schedule, rate = self.schedule, self.learning_rate
        if schedule is None or schedule is rate:
            return
        if (
            not callable(schedule)
            or isinstance(schedule, LearningRateSchedule)
            or isinstance(rate, LearningRateSchedule)
        ):
            raise ValueError(
                "schedule must be a function (learning rate, steps an epoch) that returns a "
                "LearningRateSchedule, beside a learning_rate that is none, or a LearningRateSchedule "
                f"without learning_rate. Received: schedule={schedule!r} and learning_rate={rate!r}"
            )

    def _check_average(self) -> None:
        average = self.average
        if average is not None and not isinstance(average, (EMA, SWA)):
            raise TypeError(
                "average must be a kt.EMA, such as kt.EMA(0.99), a kt.SWA, such as kt.SWA(3), or None. "
                f"Received: average={average!r}"
            )
        if isinstance(average, SWA) and average.epochs >= self.epochs:
            raise ValueError(
                f"average must be over fewer epochs than the {self.epochs} of the phase. "
                f"Received: average={average!r}"
            )
        if average is not None and getattr(self.optimizer, "use_ema", False):
            raise ValueError(
                "average must be the only one: leave use_ema out of the optimizer. "
                f"Received: average={average!r} and an optimizer with use_ema=True"
            )

    def _own_learning_rate(self) -> Any:
        if isinstance(self.optimizer, str):
            return DEFAULT_LEARNING_RATE
        return plain_config(self.optimizer).get("learning_rate", DEFAULT_LEARNING_RATE)
