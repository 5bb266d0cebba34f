import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer._lib.intervals import wilson
from keras_transfer.results.automatic import LinearHead
from keras_transfer.results.training import Best, PhaseResult

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
    (axes,) = kt.plots.lr_finder(result).axes
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


def test_of_equally_good_linear_heads_the_one_that_was_taken_is_marked():
    head = LinearHead(10.0, {0.1: 0.8, 1.0: 0.9, 10.0: 0.9})
    trained = SimpleNamespace(fine_tuning=None, linear=head)
    lines = {line.get_label(): line for line in kt.plots.training(trained).axes[0].get_lines()}
    assert (list(lines["taken"].get_xdata()), list(lines["taken"].get_ydata())) == ([10.0], [0.9])
    assert list(lines["cross-validation"].get_ydata()) == [0.8, 0.9, 0.9]


def test_pyplot_is_not_touched(tmp_path):
    kt.plots.history(result_of({"a": 2, "b": 2})).savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_unknown_plot():
    with pytest.raises(AttributeError):
        _ = kt.plots.histroy


def drawn(figure, tmp_path):
    """Draw a figure, which is where names that can't be drawn raise."""
    figure.savefig(tmp_path / "figure.png")
    return figure


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


# Names that would be formulas, or break a line, or are far too long.
NAMES = ["$a_{", "b\nb", "c" * 200]


def task(classes=3, samples=12):
    """Return a model that says the class of the brightest channel, images, and their classes."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    x = keras.layers.Rescaling(1 / 50)(x)
    dense = keras.layers.Dense(classes, name="predictions")
    model = keras.Model(image, keras.layers.Softmax()(dense(x)))
    dense.set_weights([np.eye(3, classes), np.zeros(classes)])
    y = np.arange(samples) % 3
    x = np.full((samples, 8, 8, 3), 20, "uint8")
    x[np.arange(samples), :, :, y] = 200
    return model, x, y


class TestPictures:
    def test_a_batch_as_it_is_trained_on(self, tmp_path):
        _, x, y = task()
        loader = kt.Loader((x, y), 4, augmentation=lambda image, rng: 255 - image, class_names=NAMES)
        figure = drawn(kt.plots.show_batch(loader, count=6), tmp_path)
        wanted = ["$a_{", "b b", "c" * 23 + "…"]
        assert titles(figure) == [wanted[y[k]] for k in loader.order(0)[:6]]
        np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), 255 - x[loader.order(0)[0]])
        other = kt.plots.show_batch(loader, count=6, epoch=1)
        assert titles(other) == [wanted[y[k]] for k in loader.order(1)[:6]]

    def test_mixed_labels(self, tmp_path):
        _, x, _ = task()
        rows = np.tile([[0.25, 0.75, 0.0]], (12, 1))
        figure = drawn(kt.plots.show_batch((x, rows), count=1), tmp_path)
        assert titles(figure) == ["1 75%, 0 25%"]

    @pytest.mark.parametrize(
        ("image", "shown"),
        [
            (np.array([[[0.0], [1.0]]]), [[[0] * 3, [255] * 3]]),
            (np.array([[[-1.0, 0.0, 1.0]]]), [[[0, 128, 255]]]),
            (np.array([[[0.0, 7.6, 300.0]]]), [[[0, 8, 255]]]),
            (np.array([[[1, 2, 3, 4]]], "uint8"), [[[1, 2, 3]]]),
        ],
    )
    def test_images_of_any_values(self, image, shown):
        from keras_transfer.reports.plots.pictures import displayed

        np.testing.assert_array_equal(displayed(image), shown)

    def test_predictions(self, tmp_path):
        model, x, y = task()
        y = y.copy()
        y[-1] = 0
        figure = drawn(kt.plots.show_predictions(model, (x, y), count=3, class_names=NAMES), tmp_path)
        sure = model.predict(x[:1], verbose=0)[0]
        assert titles(figure)[0] == f"$a_{{ {sure[0]:.0%}"
        assert titles(figure)[1] == f"{'c' * 23}… {sure[0]:.0%}"  # the sixth of twelve
        assert titles(figure)[2] == f"{'c' * 23}… {sure[0]:.0%}\nis $a_{{ {sure[1]:.0%}"
        colors = [axes.title.get_color() for axes in figure.axes]
        assert colors[0] == colors[1] != colors[2]

    def test_the_worst_first(self, tmp_path):
        model, x, y = task()
        x, y = x.copy(), y.copy()
        x[7], y[4] = 100, 2
        figure = drawn(kt.plots.top_losses(model, (x, y), count=2), tmp_path)
        p = model.predict(x, verbose=0)
        np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), x[4])
        np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), x[7])
        assert titles(figure)[0].endswith(f"loss {-np.log(p[4, 2]):.2f}")
        assert titles(figure)[1].endswith(f"loss {np.log(3):.2f}")

    def test_one_image(self, tmp_path):
        model, x, y = task(samples=1)
        assert len(drawn(kt.plots.show_predictions(model, (x, y)), tmp_path).axes) == 1

    @pytest.mark.parametrize("count", [0, 1.5, None])
    def test_bad_count(self, count):
        model, x, y = task()
        for call in (
            lambda: kt.plots.show_batch((x, y), count=count),
            lambda: kt.plots.show_predictions(model, (x, y), count=count),
            lambda: kt.plots.top_losses(model, (x, y), count=count),
        ):
            with pytest.raises((ValueError, TypeError), match="count"):
                call()


def evaluation_of(classes, names=None):
    model, x, y = task(classes)
    data = kt.Loader((x, y), class_names=names or [str(k) for k in range(classes)])
    return kt.evaluation.evaluate(model, data, verbose=0)


class TestScores:
    @pytest.mark.parametrize(("classes", "names", "numbers"), [(3, 3, 9), (20, 20, 0), (102, None, 0)])
    def test_confusion_matrix(self, classes, names, numbers, tmp_path):
        pytest.importorskip("sklearn")
        figure = drawn(kt.plots.confusion_matrix(evaluation_of(classes)), tmp_path)
        axes = figure.axes[0]
        assert len(axes.texts) == numbers
        if names:
            assert len(axes.get_yticklabels()) == names
        part = np.asarray(axes.images[0].get_array())
        assert part.shape == (classes, classes)
        np.testing.assert_array_equal(np.diag(part)[:3], 1.0)

    def test_names_of_classes(self, tmp_path):
        pytest.importorskip("sklearn")
        figure = drawn(kt.plots.confusion_matrix(evaluation_of(3, NAMES)), tmp_path)
        wanted = ["$a_{", "b b", "c" * 23 + "…"]
        assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == wanted

    def test_reliability(self, tmp_path, rng):
        logits = rng.normal(0, 2, (500, 3))
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        y = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        figure = drawn(kt.plots.reliability(p, y, bins=10), tmp_path)
        above, below = figure.axes
        error = kt.calibration.expected_calibration_error(p, y, bins=10)
        assert above.get_title() == f"Expected calibration error {error:.3f}"
        assert sum(bar.get_height() for bar in below.patches) == 500
        line, ends = above.containers[0].lines[0], []
        for confidence, accuracy in zip(*line.get_data(), strict=True):
            inside = np.ceil(p.max(axis=1) * 10) == np.ceil(confidence * 10)
            assert confidence == pytest.approx(p.max(axis=1)[inside].mean())
            right = (p.argmax(axis=1) == y)[inside]
            assert accuracy == pytest.approx(right.mean())
            ends.append(wilson(right.mean(), len(right)))
        segments = above.containers[0].lines[2][0].get_segments()
        np.testing.assert_allclose([segment[:, 1] for segment in segments], ends)

    def test_a_bar_of_few_images_is_long(self, tmp_path):
        figure = drawn(kt.plots.reliability([[0.1, 0.9]] * 4, [1] * 4), tmp_path)
        (segment,) = figure.axes[0].containers[0].lines[2][0].get_segments()
        assert segment[:, 1] == pytest.approx([0.5101, 1.0], abs=1e-4)

    def test_compare(self, tmp_path):
        one, two = result_of({"head": 4, "all": 3}), result_of({"head": 4})
        figure = drawn(kt.plots.compare({"$a": one, "b": two}), tmp_path)
        (axes,) = figure.axes
        bars = [[bar.get_height() for bar in container] for container in axes.containers]
        third = one.history["val_accuracy"][2], two.history["val_accuracy"][2]
        assert bars[0] == pytest.approx(list(third))
        assert bars[1][0] == pytest.approx(0.9)
        assert np.isnan(bars[1][1])

    def test_what_cannot_be_compared(self):
        with pytest.raises(ValueError, match=r"validation accuracies.*'a'"):
            kt.plots.compare({"a": result_of({"head": 3}, validation=False)})
        with pytest.raises(ValueError, match=r"head_epochs=3 and 'a' with 2"):
            kt.plots.compare({"a": result_of({"head": 2, "all": 2})})


@pytest.fixture(scope="module")
def model():
    return kt.classifier("vgg16", 3, image_size=32, weights=None)


class TestLearningRates:
    def test_of_each_group(self, model, tmp_path):
        phases = [
            kt.Phase("head", 2, learning_rate=0.1),
            kt.Phase(
                "all",
                3,
                train="all",
                learning_rate=0.01,
                multipliers=kt.multipliers.geometric(model, 10.0),
                schedule=lambda rate, steps: kt.schedules.OneCycle(rate, 3 * steps),
            ),
        ]
        before = [layer.trainable for layer in model.layers]
        figure = drawn(kt.plots.learning_rates(model, phases, 7), tmp_path)
        assert [layer.trainable for layer in model.layers] == before
        (axes,) = figure.axes
        assert axes.get_xlim() == (0, 35)
        lines = [line for line in axes.get_lines() if line.get_linestyle() == "-"]
        assert len(lines) == 1 + 6  # the head, then the head and five blocks
        np.testing.assert_allclose(lines[0].get_ydata(), 0.1)
        assert list(lines[0].get_xdata()) == list(range(14))
        schedule = kt.schedules.OneCycle(0.01, 21)
        wanted = [float(keras.ops.convert_to_numpy(schedule(step))) for step in range(21)]
        np.testing.assert_allclose(lines[-1].get_ydata(), wanted, rtol=1e-6)
        np.testing.assert_allclose(lines[-2].get_ydata(), np.multiply(wanted, 0.1), rtol=1e-6)
        assert list(lines[-1].get_xdata()) == list(range(14, 35))
        legend = [text.get_text() for text in axes.get_legend().get_texts()]
        assert sorted(legend) == ["block1", "block2", "block3", "block4", "block5", "head"]

    def test_rates_that_differ_within_a_group_are_a_band(self, model):
        multipliers = {"block5_conv1/.*": 0.1}
        phase = kt.Phase("a", 1, "from:block5_conv1", multipliers=multipliers)
        (axes,) = kt.plots.learning_rates(model, [phase], 3).axes
        assert len(axes.collections) == 1

    def test_a_rate_that_is_yet_to_be_found(self, model):
        with pytest.raises(ValueError, match=r"known beforehand.*'a' with learning_rate='find'"):
            kt.plots.learning_rates(model, [kt.Phase("a", 1, learning_rate="find")], 3)
