"""Recipes: phases of well-known ways to fine-tune, named by technique, for `keras_transfer.fine_tune`.

Each function returns a list of `keras_transfer.Phase`, plain data that can be printed, cut and changed
(`dataclasses.replace`). Some need the model, for the paths of its variables. What is no part of a phase,
such as the batch size, is an argument of `fine_tune`; the docstring says what it was at the source.

Where everything trains, batch norm trains too, as at the sources: SGD at their rates is unstable
without (MobileNet at a quarter of its width fell from 80 to 61 % on ants and bees). While only the head
trains, it stays in inference mode, unlike there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import keras
from keras.optimizers.schedules import ExponentialDecay, LearningRateSchedule

from keras_transfer._lib.checks import checked_choice, checked_integer
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.optimizers import multipliers
from keras_transfer.rates.schedules import OneCycle, WarmRestarts
from keras_transfer.runs.known_recipes import RECIPES
from keras_transfer.training.phase import FIND, FOUND, Phase

__all__ = list(RECIPES)

Rates = Literal["geometric", "linear"]
ScheduleMaker = Callable[[float, int], LearningRateSchedule]


def one_cycle(
    model: keras.Model,
    epochs: int = 5,
    base_lr: float = 2e-3,
    freeze_epochs: int = 1,
    *,
    lr_mult: float = 100.0,
    pct_start: float = 0.3,
    div: float = 5.0,
) -> list[Phase]:
    """Train the head for one cycle, then everything for one cycle, earlier groups at lower rates.

    The first cycle climbs to `base_lr`, nearly to its end; the second climbs to half of that for the
    head, and to `lr_mult` times less for the first group, geometrically in between. AdamW.

    Source: fastai's `Learner.fine_tune`, with its arguments, defaults and optimizer. Unlike there,
    momentum stays as it is (beta_1 0.9), and weight decay acts on biases, too.

    Expected accuracy: 79.3 % (78.4 to 80.4 with three seeds) on ants and bees, by MobileNet at a
    quarter of its width, in batches of 16:

        python benchmarks/lr_recipes.py --full --image-size 224 --seeds 3 --backend tensorflow

    Args:
        model: the classifier, functional or sequential.
        epochs: epochs of everything.
        base_lr: the highest learning rate of the head alone.
        freeze_epochs: epochs of the head alone.
        lr_mult: how many times lower the rate of the first group is than that of the head.
        pct_start: the fraction of the second cycle in which the rate climbs.
        div: how many times lower the second cycle begins than its top.

    Returns:
        Two phases.

    Raises:
        ValueError, TypeError: an argument has no sensible meaning.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> [(phase.name, phase.epochs) for phase in kt.recipes.one_cycle(model, 3)]
        [('head', 1), ('everything', 3)]

    References:
        Howard and Gugger, "fastai: A Layered API for Deep Learning", 2020; docs.fast.ai,
        callback.schedule.
    """
    adam = keras.optimizers.AdamW(beta_2=0.99, epsilon=1e-5, weight_decay=0.01)
    first = _climb_and_fall(freeze_epochs, 0.99, 25.0)
    return [
        Phase("head", freeze_epochs, learning_rate=base_lr, optimizer=adam, schedule=first),
        _everything(
            epochs,
            learning_rate=base_lr / 2,
            optimizer=adam,
            multipliers=multipliers.span(model, 1.0 / lr_mult, 1.0),
            schedule=_climb_and_fall(epochs, pct_start, div),
        ),
    ]


def warm_restarts(
    model: keras.Model,
    *,
    head_epochs: int = 2,
    cycles: int = 3,
    factor: float = 3.0,
    augmentation: str | Augmentation | None = "light",
) -> list[Phase]:
    """Find a rate, train the last layer, unfreeze, find a rate again, train all in growing cycles.

    SGD with momentum 0.9. `train` must be arrays or a `Loader` unless `augmentation` is None.

    Source: fast.ai's course of 2018, whose eight steps "to easily train a world-class image classifier"
    are

    1. switch augmentation on, and precompute activations;
    2. find the highest learning rate at which the loss clearly falls: `learning_rate="find"`;
    3. train the last layer on precomputed activations, so without augmentation, for 1-2 epochs;
    4. train it with augmentation for 1-2 epochs, each of them a cycle of cosine annealing;
    5. unfreeze all layers;
    6. give earlier groups 3 to 10 times lower rates than the next;
    7. find a rate again;
    8. train the whole network in cycles of which each is twice as long as the one before, until it
       over-fits. Here that is a number of cycles, as with validation data `keras_transfer.fine_tune`
       keeps the weights of the best epoch.

    Expected accuracy: 82.4 % (78.4 to 85.0 with three seeds) on ants and bees, by MobileNet at a
    quarter of its width, in batches of 16:

        python benchmarks/lr_recipes.py --full --image-size 224 --seeds 3 --backend tensorflow

    Args:
        model: the classifier, functional or sequential.
        head_epochs: epochs of step 3, and again of step 4.
        cycles: cycles of step 8, which takes 2 ** cycles - 1 epochs.
        factor: what the rate is divided by from each group to the one before it.
        augmentation: of all steps but the third.

    Returns:
        Three phases.

    Raises:
        ValueError, TypeError: an argument has no sensible meaning.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> for phase in kt.recipes.warm_restarts(model):
        ...     print(phase.name, phase.epochs, phase.learning_rate)
        last layer 2 find
        last layer, augmented 2 found
        everything 7 find

    References:
        Howard, "Practical Deep Learning for Coders", 2018, lesson 2; Smith, "Cyclical Learning Rates
        for Training Neural Networks", 2017, section 3.3 (the range test); Loshchilov and Hutter,
        "SGDR", 2017.
    """
    sgd = keras.optimizers.SGD(momentum=0.9)
    return [
        Phase("last layer", head_epochs, learning_rate=FIND, optimizer=sgd, augmentation=None),
        Phase(
            "last layer, augmented",
            head_epochs,
            learning_rate=FOUND,
            optimizer=sgd,
            schedule=_cycles(1.0),
            augmentation=augmentation,
        ),
        _everything(
            2 ** checked_integer("cycles", cycles, 1) - 1,
            learning_rate=FIND,
            optimizer=sgd,
            multipliers=multipliers.geometric(model, factor),
            schedule=_cycles(2.0),
            augmentation=augmentation,
        ),
    ]


def step_decay(train: Literal["all", "head"] = "all", *, epochs: int = 25) -> list[Phase]:
    """Train everything, or the head alone, at a rate that falls tenfold every seven epochs.

    SGD at 1e-3 with momentum 0.9.

    Source: PyTorch's tutorial on transfer learning, on ants and bees. It uses batches of 4:
    `fine_tune(..., batch_size=4)`. With validation data the best weights are kept, as there.

    Expected accuracy: 87.6 % (84.3 to 89.5 with three seeds) on ants and bees, by MobileNet at a
    quarter of its width, in batches of 4:

        python benchmarks/lr_recipes.py --full --image-size 224 --seeds 3 --backend tensorflow

    Args:
        train: "all", the tutorial's finetuning, or "head", its fixed feature extractor.
        epochs: how many epochs.

    Returns:
        One phase.

    Raises:
        ValueError: an argument has no sensible meaning.

    Example:
        >>> import keras_transfer as kt
        >>> kt.recipes.step_decay("head")[0].epochs
        25

    References:
        Chilamkurthy, "Transfer Learning for Computer Vision Tutorial", docs.pytorch.org.
    """
    checked_choice("train", train, ("all", "head"))

    def tenth_every_seven_epochs(rate: float, steps_per_epoch: int) -> LearningRateSchedule:
        return ExponentialDecay(rate, 7 * steps_per_epoch, 0.1, staircase=True)

    phase: Callable[..., Phase] = _everything if train == "all" else partial(Phase, "head")
    sgd = keras.optimizers.SGD(momentum=0.9)
    return [phase(epochs, learning_rate=1e-3, optimizer=sgd, schedule=tenth_every_seven_epochs)]


def faster_head(model: keras.Model, *, batch_size: int = 128, epochs: int = 5) -> list[Phase]:
    """Train everything with SGD, the new head at ten times the rate of the rest.

    Source: section 14.2 of "Dive into Deep Learning", on hot dogs, at 5e-5 with weight decay 1e-3. Its
    loss is the sum over the batch of 128, Keras' the mean: for the same steps the rate here is
    `batch_size` times higher and the weight decay as many times lower. Give `fine_tune` the same
    `batch_size`. The new head begins with Xavier's uniform weights there, as that of
    `keras_transfer.classifier` and `keras_transfer.replace_head` does.

    Expected accuracy: 74.9 % (73.2 to 77.8 with three seeds) on ants and bees, by MobileNet at a
    quarter of its width, in batches of 16:

        python benchmarks/lr_recipes.py --full --image-size 224 --seeds 3 --backend tensorflow

    Args:
        model: the classifier, functional or sequential, with a head.
        batch_size: images a batch.
        epochs: how many epochs.

    Returns:
        One phase.

    Raises:
        ValueError, TypeError: an argument has no sensible meaning, or the model has no head.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> round(kt.recipes.faster_head(model)[0].learning_rate, 6)
        0.0064

    References:
        Zhang et al., "Dive into Deep Learning", section 14.2.
    """
    batch_size = checked_integer("batch_size", batch_size, 1)
    sgd = keras.optimizers.SGD(weight_decay=1e-3 / batch_size)
    faster = multipliers.head(model, 10.0)
    return [_everything(epochs, learning_rate=5e-5 * batch_size, optimizer=sgd, multipliers=faster)]


def layerwise_decay(
    model: keras.Model,
    *,
    rates: Rates = "geometric",
    epochs: tuple[int, int] = (16, 8),
    optimizer: str | keras.optimizers.Optimizer = "adam",
) -> list[Phase]:
    """Train the head, then everything, at rates that fall from the head to the input.

    16 epochs of the head at 1e-3, then 8 of everything, at 1e-4 for the head.

    Source: the tutorials on Flowers-102, which do so with VGG16, ResNet50 and ResNet152.

    Expected accuracy: 81.3 % (79.7 to 82.4 with three seeds) on ants and bees, by MobileNet at a
    quarter of its width, in batches of 16:

        python benchmarks/lr_recipes.py --full --image-size 224 --seeds 3 --backend tensorflow

    Args:
        model: the classifier, functional or sequential, with a head.
        rates: of the second phase: "geometric" divides by 3 from each stage to the one before it, as is
            done with ResNets; "linear" falls layer by layer to 1e-7 at the first, as with VGG16.
        epochs: of the two phases.
        optimizer: the name of a Keras optimizer, or an optimizer, whose settings both phases take over,
            such as `keras.optimizers.AdamW(weight_decay=1e-4)`.

    Returns:
        Two phases.

    Raises:
        ValueError, TypeError: an argument has no sensible meaning, or the model has no head.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 102, image_size=32, weights=None)
        >>> phases = kt.recipes.layerwise_decay(model, rates="linear")
        >>> f"{phases[1].learning_rate * phases[1].multipliers['block1_conv1/kernel']:.0e}"
        '1e-07'
    """
    checked_choice("rates", rates, get_args(Rates))
    head_epochs, all_epochs = epochs
    falling = (
        multipliers.geometric(model, 3.0) if rates == "geometric" else multipliers.linear(model, 1e-3)
    )
    return [
        Phase("head", head_epochs, learning_rate=1e-3, optimizer=optimizer),
        _everything(all_epochs, learning_rate=1e-4, optimizer=optimizer, multipliers=falling),
    ]


def _everything(epochs: int, **settings: Any) -> Phase:
    return Phase("everything", epochs, train="all", batch_norm="train", **settings)


def _climb_and_fall(epochs: int, pct_start: float, div: float) -> ScheduleMaker:
    def climb_and_fall(rate: float, steps_per_epoch: int) -> LearningRateSchedule:
        # fastai ends at a 1e5th of the top, OneCycle is told how far below its beginning.
        # A cycle has two steps at least; an epoch of few images may have one.
        steps = max(epochs * steps_per_epoch, 2)
        return OneCycle(rate, steps, pct_start, div_factor=div, final_div_factor=1e5 / div)

    return climb_and_fall


def _cycles(cycle_mult: float) -> ScheduleMaker:
    """Return cycles of which the first is one epoch."""

    def cycles(rate: float, steps_per_epoch: int) -> LearningRateSchedule:
        return WarmRestarts(rate, steps_per_epoch, cycle_mult=cycle_mult)

    return cycles
