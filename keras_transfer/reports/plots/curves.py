"""Curves: what was measured over epochs, steps and learning rates."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_transfer._lib.checks import checked_integer
from keras_transfer.layers.freezing import restore_trainable_state, trainable_state
from keras_transfer.layers.groups import layer_groups
from keras_transfer.optimizers.layerwise_lr import LayerwiseLR
from keras_transfer.optimizers.patterns import resolve
from keras_transfer.reports.plots import style
from keras_transfer.reports.plots.lettering import Lettering, lettering
from keras_transfer.results.range_test import METHODS, LRFinderResult
from keras_transfer.results.training import FineTuneResult
from keras_transfer.training.phase import FIND, FOUND, Phase

if TYPE_CHECKING:
    from keras_transfer.results.automatic import Trained

_STAR: dict[str, Any] = {"color": style.BLACK, "marker": "*", "markersize": 11, "linestyle": "none"}
_SUGGESTIONS = {
    "valley": {"color": style.VERMILION, "marker": "o"},
    "steepest": {"color": style.GREEN, "marker": "^"},
    "minimum": {"color": style.PURPLE, "marker": "s"},
}
_POINTS = 200  # of a schedule, for each phase


def history(result: FineTuneResult) -> Figure:
    """Plot accuracy and loss over the epochs, with a vertical line where a phase begins.

    Args:
        result: what `fine_tune` gave back.

    Returns:
        A figure with one panel for each metric of the training data, the validation data's beside it
        in the same panel; a star marks the epoch whose weights were kept.

    Example:
        >>> import keras_transfer as kt
        >>> figure = kt.plots.history(result)  # doctest: +SKIP
        >>> figure.savefig("curves.png")  # doctest: +SKIP
    """
    metrics = [n for n in result.history if not n.startswith("val_") and n != "loss"] + ["loss"]
    figure = Figure(figsize=(5.0 * len(metrics), 3.8), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        _plot_metric(axes, result, metric)
    return figure


def training(trained: "Trained") -> Figure:
    """Plot what came of automatic training: the history, or the choice of the linear head.

    Args:
        trained: what `keras_transfer.automatic.train` or `follow` gave back.

    Returns:
        Where a network was fine-tuned, the figure of `history`; otherwise the accuracy of linear heads
        over the strength of their regularisation, by cross-validation, with the chosen one marked.

    Example:
        >>> import keras_transfer as kt
        >>> kt.plots.training(trained).savefig("curves.png")  # doctest: +SKIP
    """
    if trained.fine_tuning is not None:
        return history(trained.fine_tuning)
    assert trained.linear is not None  # `follow` fine-tunes
    figure, axes = style.panel(5.0, 3.8)
    head = trained.linear
    values, accuracies = list(head.accuracies), list(head.accuracies.values())
    axes.semilogx(values, accuracies, label="cross-validation", linewidth=1.5, **style.VALIDATION)
    axes.plot(head.C, head.accuracies[head.C], label="taken", **_STAR)
    axes.set(
        xlabel="C (inverse of the regularisation)", ylabel="accuracy", title="Linear head, C by log-loss"
    )
    axes.grid(color="0.9")
    axes.legend(fontsize=8)
    return figure


def learning_rates(model: keras.Model, phases: Sequence[Phase], steps_per_epoch: int) -> Figure:
    """Plot the learning rate of every group of layers over the steps of phases.

    Args:
        model: the model that they train; it stays as it is.
        phases: as in `keras_transfer.fine_tune`.
        steps_per_epoch: how many batches an epoch has.

    Returns:
        A figure with a line for each group of `keras_transfer.layer_groups` while it trains; a band
        where the layers of a group have different rates.

    Raises:
        ValueError: a phase can't be applied to the model, or finds its rate only while it trains.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> phases = [kt.Phase("head", 2), kt.Phase("all", 3, train="all", learning_rate=1e-4)]
        >>> figure = kt.plots.learning_rates(model, phases, 100)
        >>> figure.axes[0].get_xlabel()
        'step'
    """
    checked_integer("steps_per_epoch", steps_per_epoch, 1)
    figure, axes = style.panel(7.0, 3.8)
    groups = layer_groups(model)
    color_of = dict(zip((group.name for group in groups), style.shades(len(groups)), strict=True))
    lines: dict[str, Any] = {}
    tops, start = [], 0
    marks = lettering([phase.name for phase in phases], first=1)
    for number, phase in enumerate(phases):
        steps = phase.epochs * steps_per_epoch
        for name, where, low, high in _rates(model, phase, steps_per_epoch):
            (lines[name],) = axes.plot(start + where, high, color=color_of[name], linewidth=1.5)
            tops += [high.max()] if high.any() else []
            if not np.array_equal(low, high):
                axes.fill_between(start + where, low, high, color=color_of[name], alpha=0.3, linewidth=0)
        _mark_phase(axes, marks, number, start)
        start += steps
    axes.set(xlabel="step", ylabel="learning rate", yscale="log", xlim=(0, start))
    # A cycle that ends near 0 would press all else flat.
    axes.set_ylim(min(tops, default=1.0) / 30, max(tops, default=1.0) * 2)
    axes.grid(color="0.9")
    shown = [name for name in reversed(color_of) if name in lines]
    names = lettering(shown, first=1)
    axes.legend(
        [lines[name] for name in shown],
        names.labels,
        prop={"family": names.family, "size": 8},
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )
    return figure


_Rates = tuple[str, np.ndarray, np.ndarray, np.ndarray]


def _rates(model: keras.Model, phase: Phase, steps_per_epoch: int) -> list[_Rates]:
    """Return the groups that a phase trains, some of its steps, and the lowest and highest rates."""
    if phase.learning_rate in (FIND, FOUND):
        raise ValueError(
            f"phases must have learning rates that are known beforehand. Received: phase "
            f"{phase.name!r} with learning_rate={phase.learning_rate!r}"
        )
    rate = phase.rate(0.0, steps_per_epoch)
    where = np.unique(np.linspace(0, phase.epochs * steps_per_epoch - 1, _POINTS).astype(int))
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        curve = np.array([float(keras.ops.convert_to_numpy(rate(int(step)))) for step in where])
    else:
        curve = np.full(len(where), float(rate))
    state = trainable_state(model)
    try:
        phase.set_trainable(model)
        optimizer = phase.make_optimizer()
        multipliers = optimizer.multipliers if isinstance(optimizer, LayerwiseLR) else {}
        found = []
        with phase.adapters(model).shown():
            for group in layer_groups(model):
                variables = [each for layer in group.layers for each in layer.trainable_variables]
                if variables:
                    factors = resolve(multipliers, variables, strict=False)
                    found.append((group.name, where, curve * min(factors), curve * max(factors)))
        return found
    finally:
        restore_trainable_state(state)


def lr_finder(result: LRFinderResult) -> Figure:
    """Plot the loss over the learning rate of an LR range test.

    Args:
        result: what `find_lr` gave back, or a `LRFinder` found.

    Returns:
        A figure with the loss of each step as dots, their moving average as a line and the suggested
        rates on it; those that can't be suggested are left out.

    Example:
        >>> import keras_transfer as kt
        >>> figure = kt.plots.lr_finder(result)  # doctest: +SKIP
        >>> figure.savefig("learning_rate.png")  # doctest: +SKIP
    """
    figure, axes = style.panel(6.0, 3.8)
    rates, smoothed = result.learning_rates, result.smoothed_losses
    axes.plot(rates, result.losses, ".", color="0.7", markersize=4, label="loss")
    axes.plot(rates, smoothed, color=style.BLUE, linewidth=1.5, label="smoothed")
    for method in METHODS:
        try:
            rate = result.suggest(method)
        except ValueError:
            continue
        point = (rate, np.interp(np.log(rate), np.log(rates), smoothed))
        label = f"{method}: {rate:.2g}"
        axes.plot(*point, markersize=8, linestyle="none", label=label, zorder=3, **_SUGGESTIONS[method])
    axes.set(xlabel="learning rate", ylabel="loss", xscale="log")
    if len(smoothed):
        # A loss that diverges would press all else flat.
        low, high = min(result.losses.min(), smoothed.min()), smoothed.max()
        margin = 0.08 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
    axes.grid(color="0.9")
    axes.legend(fontsize=8)
    return figure


def _plot_metric(axes: Any, result: FineTuneResult, metric: str) -> None:
    for key, label, look in (
        (metric, "training", style.TRAINING),
        (f"val_{metric}", "validation", style.VALIDATION),
    ):
        values = result.history.get(key)
        if values:
            axes.plot(range(1, len(values) + 1), values, label=label, linewidth=1.5, **look)
    best = result.best
    if best is not None and f"val_{metric}" in best.metrics:
        point = (best.epoch + 1, best.metrics[f"val_{metric}"])
        axes.plot(*point, label="kept", **_STAR)
    marks = lettering([phase.name for phase in result.phases], first=1)
    for number, phase in enumerate(result.phases):
        _mark_phase(axes, marks, number, phase.first_epoch + 0.5)
    axes.set(xlabel="epoch", ylabel=metric)
    axes.set_xlim(0.5, max(sum(phase.epochs for phase in result.phases), 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.9")
    axes.legend(fontsize=8)


def _mark_phase(axes: Any, marks: Lettering, number: int, start: float) -> None:
    if number:
        axes.axvline(start, color="0.4", linewidth=1, linestyle=":")
    axes.annotate(
        marks.labels[number],
        (start, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, 3),
        textcoords="offset points",
        fontsize=8,
        color="0.3",
        annotation_clip=False,
        fontfamily=marks.family,
        parse_math=False,
    )
