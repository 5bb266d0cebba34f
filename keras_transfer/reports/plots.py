"""Plots as matplotlib figures; no pyplot state is touched."""

from typing import TYPE_CHECKING, Any

import numpy as np

from keras_transfer.lr_curve import METHODS, LRFinderResult
from keras_transfer.training.result import FineTuneResult

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:  # pragma: no cover - the solo test runs this
    raise ImportError("plots need matplotlib: pip install 'keras-transfer[plots]'") from error

if TYPE_CHECKING:
    from keras_transfer.automatic import Trained

# From the palette of Okabe and Ito, which the colour-blind can tell apart; the dashes tell the two
# curves apart in print.
_TRAIN = {"color": "#0072B2", "linestyle": "--", "marker": "o", "markersize": 3}
_VALIDATION = {"color": "#D55E00", "linestyle": "-", "marker": "s", "markersize": 3}
_STAR: dict[str, Any] = {"color": "black", "marker": "*", "markersize": 11, "linestyle": "none"}
_SUGGESTIONS = {
    "valley": {"color": "#D55E00", "marker": "o"},
    "steepest": {"color": "#009E73", "marker": "^"},
    "minimum": {"color": "#CC79A7", "marker": "s"},
}


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
    figure = Figure(figsize=(5.0, 3.8), layout="constrained")
    axes = figure.subplots()
    values, accuracies = list(trained.linear), list(trained.linear.values())
    axes.semilogx(values, accuracies, label="cross-validation", linewidth=1.5, **_VALIDATION)
    best = int(np.argmax(accuracies))
    axes.plot(values[best], accuracies[best], label="taken", **_STAR)
    axes.set(xlabel="C (inverse of the regularisation)", ylabel="accuracy", title="Linear head")
    axes.grid(color="0.9")
    axes.legend(fontsize=8)
    return figure


def _plot_metric(axes: Any, result: FineTuneResult, metric: str) -> None:
    for key, label, style in (
        (metric, "training", _TRAIN),
        (f"val_{metric}", "validation", _VALIDATION),
    ):
        values = result.history.get(key)
        if values:
            axes.plot(range(1, len(values) + 1), values, label=label, linewidth=1.5, **style)
    best = result.best
    if best is not None and f"val_{metric}" in best.metrics:
        point = (best.epoch + 1, best.metrics[f"val_{metric}"])
        axes.plot(*point, label="kept", **_STAR)
    for phase in result.phases:
        start = phase.first_epoch + 0.5
        if phase.first_epoch:
            axes.axvline(start, color="0.4", linewidth=1, linestyle=":")
        axes.annotate(
            phase.name,
            (start, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=8,
            color="0.3",
            annotation_clip=False,
        )
    axes.set(xlabel="epoch", ylabel=metric)
    axes.set_xlim(0.5, max(sum(phase.epochs for phase in result.phases), 1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.9")
    axes.legend(fontsize=8)


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
    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    axes: Any = figure.subplots()
    rates, smoothed = result.learning_rates, result.smoothed_losses
    axes.plot(rates, result.losses, ".", color="0.7", markersize=4, label="loss")
    axes.plot(rates, smoothed, color="#0072B2", linewidth=1.5, label="smoothed")
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
