"""Scores: which classes are taken for which, how far probabilities can be trusted, who is best."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from keras_transfer._lib.checks import checked_integer
from keras_transfer._lib.intervals import wilson
from keras_transfer.reports.plots.lettering import lettering
from keras_transfer.reports.plots.style import BLUE, VERMILION, panel
from keras_transfer.results.training import FineTuneResult
from keras_transfer.tasks.scores import confidence_bins, expected_calibration_error

if TYPE_CHECKING:
    from keras_transfer.results.evaluation import Evaluation

_NUMBERED = 15  # classes, up to which each cell has its number
NAMED = 40  # classes, up to which each has its name


def confusion_matrix(evaluation: "Evaluation") -> Figure:
    """Plot how many images of each class are taken for each.

    Args:
        evaluation: what `keras_transfer.evaluation.evaluate` found.

    Returns:
        A figure with a row for each true class. The colour is the part of the row; up to 15 classes
        have the number of images in each cell, up to 40 their names. Where no installed font has the
        characters of a name, the number of its class stands for it.

    Example:
        >>> import keras_transfer as kt
        >>> found = kt.evaluation.evaluate(model, validation)  # doctest: +SKIP
        >>> kt.plots.confusion_matrix(found).savefig("confusion.png")  # doctest: +SKIP
    """
    counts = np.array(evaluation.confusion)
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)
    side = min(3.0 + 0.45 * classes, 10.0)
    figure, axes = panel(side + 1.0, side)
    image = axes.imshow(parts, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, label="part of the true class", shrink=0.8)
    if classes <= _NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if parts[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=8)
    if classes <= NAMED:
        names = lettering([each.name for each in evaluation.classes])
        text: dict[str, Any] = {"fontfamily": names.family, "parse_math": False}
        axes.set_xticks(
            range(classes), names.labels, rotation=45, ha="right", rotation_mode="anchor", **text
        )
        axes.set_yticks(range(classes), names.labels, **text)
        axes.tick_params(labelsize=8)
    axes.set(xlabel="predicted", ylabel="true")
    return figure


def reliability(probabilities: Any, labels: Any, bins: int = 15) -> Figure:
    """Plot how often a model is right, by how sure it is.

    Args:
        probabilities: of shape (samples, classes), in [0, 1].
        labels: the classes of shape (samples,): integers.
        bins: of equal width, as in `keras_transfer.calibration.expected_calibration_error`.

    Returns:
        A figure: above, the accuracy of the samples of each bin over their mean probability, beside the
        diagonal of a calibrated model, with its 95 % interval (Wilson); below, how many samples there
        are.

    Raises:
        ValueError, TypeError: as `expected_calibration_error`.

    Example:
        >>> import keras_transfer as kt
        >>> figure = kt.plots.reliability([[0.1, 0.9], [0.6, 0.4], [0.7, 0.3]], [1, 0, 1])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['accuracy', 'images']

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, figure 4.
    """
    counts, confidence, accuracy = confidence_bins(probabilities, labels, bins)
    figure = Figure(figsize=(4.6, 5.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    some = counts > 0
    n, x, y = counts[some], confidence[some], accuracy[some]
    ends = np.array([wilson(part, count) for part, count in zip(y, n, strict=True)]).T
    error = np.abs(ends - y)
    above.plot([0, 1], [0, 1], color="0.5", linestyle="--", linewidth=1, label="calibrated")
    above.errorbar(x, y, error, color=BLUE, marker="o", markersize=4, linewidth=1.5, label="the model")
    gap = expected_calibration_error(probabilities, labels, bins)
    above.set(ylabel="accuracy", ylim=(-0.02, 1.02), title=f"Expected calibration error {gap:.3f}")
    above.legend(fontsize=8, loc="lower right")
    width = 1.0 / len(counts)
    below.bar((np.arange(len(counts)) + 0.5) * width, counts, 0.9 * width, color=BLUE)
    below.set(xlabel="probability of the predicted class", ylabel="images", xlim=(0, 1))
    for axes in (above, below):
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
    return figure


def compare(results: Mapping[str, FineTuneResult], *, head_epochs: int = 3) -> Figure:
    """Plot what each backbone reaches with its head alone, and fine-tuned.

    Args:
        results: for each name what `fine_tune` gave back, with validation data; the first phase is that
            of the head.
        head_epochs: after how many epochs of the head the first bar is.

    Returns:
        A figure with two bars for each name: the validation accuracy after `head_epochs` epochs, and
        the best one of later phases, if there are any.

    Raises:
        ValueError: a result has no validation accuracy, or fewer epochs in its first phase.

    Example:
        >>> import keras_transfer as kt
        >>> kt.plots.compare({"vgg16": first, "resnet50": second})  # doctest: +SKIP

    References:
        The bars of the article on Oxford's flowers, which has three epochs.
    """
    checked_integer("head_epochs", head_epochs, 1)
    head, tuned = [], []
    for name, result in results.items():
        accuracies = result.history.get("val_accuracy")
        if not accuracies:
            raise ValueError(
                "results must have validation accuracies. Received: "
                f"{name!r} with {list(result.history)}"
            )
        first = result.phases[0].epochs
        if first < head_epochs:
            raise ValueError(
                f"head_epochs must be at most the epochs of each first phase. Received: "
                f"head_epochs={head_epochs} and {name!r} with {first}"
            )
        head.append(accuracies[head_epochs - 1])
        tuned.append(max(accuracies[first:], default=np.nan))
    figure, axes = panel(2.5 + 1.3 * len(head), 3.8)
    place = np.arange(len(head))
    sides = (
        (head, -0.2, BLUE, "", f"head, {head_epochs} epochs"),
        (tuned, 0.2, VERMILION, "//", "fine-tuned, best"),
    )
    for values, shift, color, hatch, label in sides:
        bars = axes.bar(
            place + shift, values, 0.38, color=color, hatch=hatch, edgecolor="white", label=label
        )
        texts = ["" if np.isnan(value) else f"{value:.1%}" for value in values]
        axes.bar_label(bars, texts, fontsize=8, padding=2)
    names = lettering([*results], first=1)
    axes.set_xticks(place, names.labels, fontfamily=names.family, parse_math=False)
    axes.set(ylabel="validation accuracy", ylim=(0, 1.0), xlim=(-0.6, len(head) - 0.4))
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    # Above, where it covers no bar.
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.05), ncols=2)
    return figure
