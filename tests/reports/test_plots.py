import sys

import keras
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.training.result import Best, PhaseResult

MODEL = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])


def result_of(phases, validation=True, best=None):
    epochs = sum(phases.values())
    history = {
        "accuracy": list(np.linspace(0.2, 0.9, epochs)),
        "loss": list(np.linspace(2.0, 0.3, epochs)),
    }
    if validation:
        history |= {f"val_{name}": values for name, values in history.items()}
    starts = np.cumsum([0, *phases.values()])
    results = [
        PhaseResult(name, int(start), length, 1.0, {})
        for (name, length), start in zip(phases.items(), starts, strict=False)
    ]
    return kt.FineTuneResult(MODEL, history, results, best)


def test_history_shows_curves_and_phases():
    best = Best("second", 3, {"val_accuracy": 0.7, "val_loss": 0.5})
    figure = kt.plots.history(result_of({"first": 2, "second": 3}, best=best))
    assert [axes.get_ylabel() for axes in figure.axes] == ["accuracy", "loss"]
    for axes, kept in zip(figure.axes, (0.7, 0.5), strict=True):
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert list(lines["training"].get_xdata()) == [1, 2, 3, 4, 5]
        assert {"training", "validation", "kept"} <= set(lines)
        assert (lines["kept"].get_xdata()[0], lines["kept"].get_ydata()[0]) == (4, kept)
        (change,) = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
        assert list(change.get_xdata()) == [2.5, 2.5]
        assert [text.get_text() for text in axes.texts] == ["first", "second"]


def test_history_without_validation_and_with_one_epoch():
    figure = kt.plots.history(result_of({"only": 1}, validation=False))
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["training"]


def test_more_metrics_have_more_panels():
    result = result_of({"a": 2})
    result.history["top5"] = [0.5, 0.6]
    assert [axes.get_ylabel() for axes in kt.plots.history(result).axes] == ["accuracy", "top5", "loss"]


def test_lr_finder_marks_the_suggestions_on_the_curve():
    rates = np.geomspace(1e-5, 1.0, 60)
    losses = np.interp(np.log10(rates), [-4, -1, 0], [2.0, 0.5, 3.0])
    raw = losses + 0.05 * np.cos(np.arange(60))
    raw[-1] = 1e6  # which must not press the rest flat
    result = kt.LRFinderResult(rates, raw, losses, 60)
    (axes,) = result.plot().axes
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == (
        "log",
        "learning rate",
        "loss",
    )
    lines = {line.get_label(): line for line in axes.get_lines()}
    np.testing.assert_array_equal(lines["loss"].get_ydata(), raw)
    np.testing.assert_array_equal(lines["smoothed"].get_xdata(), rates)
    for method in ("valley", "steepest", "minimum"):
        rate = result.suggest(method)
        point = lines[f"{method}: {rate:.2g}"]
        assert list(point.get_xdata()) == [rate]
        assert point.get_ydata()[0] == pytest.approx(np.interp(np.log(rate), np.log(rates), losses))
    low, high = axes.get_ylim()
    assert low < raw.min()
    assert 3.0 < high < 4.0


@pytest.mark.parametrize("points", [0, 1, 12])
def test_lr_finder_without_a_suggestion(points):
    rates = np.geomspace(1e-5, 1.0, 60)[:points]
    result = kt.LRFinderResult(rates, np.ones(points), np.ones(points), 60, stopped="diverged")
    figure = kt.plots.lr_finder(result)
    labels = [line.get_label() for line in figure.axes[0].get_lines()]
    assert labels == ["loss", "smoothed"]


def test_pyplot_is_not_touched(tmp_path):
    kt.plots.history(result_of({"a": 2, "b": 2})).savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_unknown_plot():
    with pytest.raises(AttributeError):
        _ = kt.plots.histroy
