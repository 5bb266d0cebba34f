"""Names of any writing in pictures: no row of boxes, and no warning of a glyph that is missing."""

import dataclasses

import numpy as np
import pytest

import keras_transfer as kt

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
from matplotlib import font_manager

from keras_transfer.reports.plots import lettering as module
from keras_transfer.reports.plots.lettering import lettering
from keras_transfer.results.evaluation import ClassScore, Evaluation
from keras_transfer.results.training import PhaseResult

ANT, BEE = "\u8682", "\u871c"
FAMILY = "Ants of keras_transfer"


@pytest.fixture(autouse=True)
def fonts(monkeypatch):
    """Leave matplotlib's own fonts only, whatever this machine has; return the list."""
    own = [entry for entry in font_manager.fontManager.ttflist if entry.name.startswith("DejaVu Sans")]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    clear(font_manager.fontManager)
    yield own
    monkeypatch.undo()
    clear(font_manager.fontManager)


def clear(manager):
    module._fonts.cache_clear()
    manager._findfont_cached.cache_clear()


@pytest.fixture
def font(tmp_path, fonts):
    """Install a font that has one Chinese character, as a square."""
    builder = pytest.importorskip("fontTools.fontBuilder").FontBuilder(1000, isTTF=True)
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    for k, point in enumerate([(100, 0), (100, 800), (900, 800), (900, 0)]):
        (pen.lineTo if k else pen.moveTo)(point)
    pen.closePath()
    square = pen.glyph()
    builder.setupGlyphOrder([".notdef", "ant"])
    builder.setupCharacterMap({ord(ANT): "ant"})
    builder.setupGlyf({".notdef": square, "ant": square})
    builder.setupHorizontalMetrics({".notdef": (1000, 100), "ant": (1000, 100)})
    builder.setupHorizontalHeader(ascent=900, descent=-200)
    builder.setupNameTable({"familyName": FAMILY, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "ants.ttf")
    font_manager.fontManager.addfont(tmp_path / "ants.ttf")
    module._fonts.cache_clear()


def test_names_that_each_font_has_stay_as_they_are():
    names = lettering(["ant", "fourmí", "муравей", "long " * 9])
    assert names.labels == ["ant", "fourmí", "муравей", "long long long long lon\u2026"]
    assert names.numbered == {}
    assert names.family == ["sans-serif"]


def test_a_font_is_found_that_has_the_characters(font):
    names = lettering(["ant", ANT])
    assert names.labels == ["ant", ANT]
    assert names.family == ["sans-serif", FAMILY]


def test_numbers_stand_where_no_font_has_them(font):
    names = lettering(["ant", ANT, ANT + BEE, "\U0001f41c"])
    assert names.labels == ["ant", ANT, "2", "3"]
    assert names.numbered == {2: ANT + BEE, 3: "\U0001f41c"}
    assert lettering([BEE], first=1).labels == ["1"]


def test_looking_for_a_font_prints_nothing(caplog):
    light = font_manager.fontManager.ttflist[0]
    font_manager.fontManager.ttflist.append(dataclasses.replace(light, name=FAMILY, weight=200))
    assert lettering([ANT]).labels == ["0"]
    assert not caplog.records


def evaluation_of(names):
    classes = tuple(ClassScore(name, 2, 1.0, 1.0, 1.0) for name in names)
    size = len(names)
    confusion = tuple(map(tuple, (2 * np.eye(size, dtype=int)).tolist()))
    p, y = np.repeat(np.eye(size), 2, axis=0), np.repeat(np.arange(size), 2)
    return Evaluation(
        2 * size, 1.0, 0.0, 0.0, None, 0.0, None, None, None, None, classes, confusion, 1.0, p, y
    )


def texts(figure):
    axes = figure.axes[0]
    return [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_confusion_matrix(suffix, font, tmp_path):
    figure = kt.plots.confusion_matrix(evaluation_of(["ant", ANT, BEE]))
    figure.savefig(tmp_path / f"figure.{suffix}")  # where a missing glyph would warn, which is an error
    assert texts(figure) == 2 * ["ant", ANT, "2"]


def test_pictures(tmp_path):
    x, y = np.zeros((2, 8, 8, 3), "uint8"), np.arange(2)
    figure = kt.plots.show_batch(kt.Loader((x, y), shuffle=False, class_names=["ant", ANT]))
    figure.savefig(tmp_path / "figure.png")
    assert [axes.get_title() for axes in figure.axes] == ["ant", "1"]


def test_phases_and_what_is_compared(font, tmp_path):
    history = {name: [0.5, 0.6, 0.7] for name in ("accuracy", "loss", "val_accuracy", "val_loss")}
    phases = [PhaseResult(name, k, 1, 1.0, {}) for k, name in enumerate((ANT, BEE, "all"))]
    result = kt.FineTuneResult(None, history, phases, None)
    figure = kt.plots.history(result)
    figure.savefig(tmp_path / "figure.png")
    assert [text.get_text() for text in figure.axes[0].texts] == [ANT, "2", "all"]
    figure = kt.plots.compare({BEE: result, "a": result}, head_epochs=1)
    figure.savefig(tmp_path / "figure.png")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "a"]


def test_a_report_says_which_number_is_which_name(tmp_path):
    pytest.importorskip("jinja2")
    from tiny import tiny_backbone, tiny_task

    x, y = tiny_task(6)
    model = kt.classifier(tiny_backbone(), 3, class_names=["ant", ANT, BEE], seed=0)
    result = kt.fine_tune(model, (x, y), phases=[kt.Phase("head", 1)], verbose=0)
    page = kt.report(result, (x, y), tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"for which numbers stand: 1 is {ANT}, 2 is {BEE}." in page
