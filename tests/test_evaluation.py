"""Evaluation, against scikit-learn and by hand."""

import json

import keras
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.probabilities.evaluation import evaluate

metrics = pytest.importorskip("sklearn.metrics")

SHAPE = (2, 2, 3)


def model():
    """Return a classifier whose logits are the means of the three colours."""
    image = keras.Input(SHAPE)
    x = keras.layers.GlobalAveragePooling2D()(image)
    dense = keras.layers.Dense(3, name="predictions")
    made = keras.Model(image, keras.layers.Softmax()(dense(x)))
    dense.set_weights([np.eye(3), np.zeros(3)])
    return made


@pytest.fixture
def data(rng):
    logits = rng.normal(0, 2, (200, 3)).astype("float32")
    y = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits[:, None, None] * np.ones((1, 2, 2, 1), "float32"), y


def test_scores_are_those_of_scikit_learn(data):
    x, y = data
    found = evaluate(model(), data, verbose=0)
    predicted = x[:, 0, 0].argmax(axis=1)
    assert found.samples == 200
    assert found.accuracy == pytest.approx(metrics.accuracy_score(y, predicted))
    assert found.error == pytest.approx(np.sqrt(found.accuracy * (1 - found.accuracy) / 200))
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(y, predicted))
    report = metrics.classification_report(y, predicted, output_dict=True)
    for number, each in enumerate(found.classes):
        assert each.name == str(number)
        assert each.samples == report[str(number)]["support"]
        for name, value in (
            ("precision", each.precision),
            ("recall", each.recall),
            ("f1-score", each.f1),
        ):
            assert value == pytest.approx(report[str(number)][name])


def test_few_images_tell_little():
    x = np.zeros((4, *SHAPE), "float32")
    x[..., 0] = 9.0
    found = evaluate(model(), (x, np.zeros(4, int)), verbose=0)
    assert (found.accuracy, found.error) == (1.0, 0.0)
    assert found.interval == pytest.approx((0.5101, 1.0), abs=1e-4)
    assert found.to_dict()["interval"] == list(found.interval)
    assert "Accuracy 100.0% on 4 images (95% interval: 51.0% to 100.0%)" in str(found)
    assert "+-" not in str(found)


def test_order_and_augmentation_do_not_matter(data):
    loader = kt.Loader(data, 7, shuffle=True, augmentation=kt.data.random_flip)
    assert evaluate(model(), loader, verbose=0) == evaluate(model(), data, verbose=0)


def test_without_calibration_nothing_is_promised(data):
    found = evaluate(model(), data, verbose=0)
    assert found.promised is found.coverage is found.unsure is found.uncalibrated_error is None
    assert found.uncalibrated_log_loss is None
    assert "promised" not in str(found)


def test_what_the_temperature_mends_is_told(data):
    x, y = data
    sharp = model()
    sharp.get_layer("predictions").set_weights([5.0 * np.eye(3), np.zeros(3)])  # five times too sure
    before = evaluate(sharp, data, verbose=0)
    kt.calibration.calibrate(sharp, data, coverage=0.8, verbose=0)
    found = evaluate(sharp, data, verbose=0)
    assert found.uncalibrated_error == pytest.approx(before.calibration_error, abs=1e-5)
    assert found.calibration_error < 0.5 * found.uncalibrated_error
    assert found.uncalibrated_log_loss == pytest.approx(before.log_loss, abs=1e-5)
    assert found.log_loss == pytest.approx(metrics.log_loss(y, sharp.predict(x, verbose=0)), abs=1e-6)
    assert found.log_loss < 0.9 * found.uncalibrated_log_loss
    assert found.promised == 0.8
    assert found.coverage >= 0.8
    assert 0 < found.unsure < 1
    assert "promised: 80%" in str(found)


def test_a_class_without_images_is_in_the_table(data):
    x, y = data
    keep = y != 2
    found = evaluate(model(), (x[keep], y[keep]), verbose=0)
    assert found.classes[2].samples == 0
    assert found.classes[2].recall == 0.0
    assert len(found.confusion) == 3


def test_all_of_it_is_plain_data(data):
    found = evaluate(model(), data, verbose=0)
    assert json.loads(json.dumps(found.to_dict()))["samples"] == 200


def test_class_names_are_text(data):
    named = model()
    from keras_transfer.layers.about import attach_class_names

    attach_class_names(named, ["[bold]a", "b\nc", "ü"])
    text = str(evaluate(named, data, verbose=0))
    assert "[bold]a" in text
    assert "b c" in text


def test_images_of_another_size(data):
    with pytest.raises(ValueError, match="data must have images of shape"):
        evaluate(model(), (np.zeros((4, 3, 3, 3)), np.zeros(4)), verbose=0)
