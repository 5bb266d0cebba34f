"""What a task says of labels, against closed formulas."""

import keras
import numpy as np
import pytest

from keras_transfer.tasks.multi_label import MULTI_LABEL
from keras_transfer.tasks.named import checked_task
from keras_transfer.tasks.single_label import SINGLE_LABEL, SingleLabel
from keras_transfer.tasks.task import Task
from keras_transfer.training.objective import Objective

LOGITS = np.log([[1.0, 2.0, 5.0], [3.0, 3.0, 2.0]])
PROBABILITIES = np.array([[0.125, 0.25, 0.625], [0.375, 0.375, 0.25]])


def test_probabilities_are_the_softmax_of_logits():
    np.testing.assert_allclose(SINGLE_LABEL.probabilities(LOGITS), PROBABILITIES, rtol=1e-14)
    roots = np.sqrt([[1.0, 2.0, 5.0], [3.0, 3.0, 2.0]])
    expected = roots / roots.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(SINGLE_LABEL.probabilities(LOGITS, 2.0), expected, rtol=1e-14)


def test_probabilities_of_huge_logits_are_finite():
    found = SINGLE_LABEL.probabilities(np.array([[1e4, 0.0], [-1e4, -1e4]]))
    np.testing.assert_array_equal(found, [[1.0, 0.0], [0.5, 0.5]])


def test_logits_give_the_probabilities_back():
    again = SINGLE_LABEL.probabilities(SINGLE_LABEL.logits(PROBABILITIES.astype("float32")))
    np.testing.assert_allclose(again, PROBABILITIES, rtol=1e-7)
    assert np.isfinite(SINGLE_LABEL.logits(np.array([[0.0, 1.0]]))).all()


def test_losses_and_what_is_correct():
    targets = np.array([2, 1])
    np.testing.assert_allclose(SINGLE_LABEL.losses(PROBABILITIES, targets), -np.log([0.625, 0.375]))
    for scores in (PROBABILITIES, LOGITS):  # of two that are alike the first counts
        np.testing.assert_array_equal(SINGLE_LABEL.correct(scores, targets), [True, False])


@pytest.mark.parametrize("labels", [np.array([2, 0, 2], "uint8"), np.eye(3)[[2, 0, 2]]])
def test_integers_and_rows_are_the_same_labels(labels):
    targets = SINGLE_LABEL.targets(labels)
    np.testing.assert_array_equal(targets, [2, 0, 2])
    assert targets.dtype == np.int64
    np.testing.assert_array_equal(SINGLE_LABEL.counts(labels, 3), [1, 0, 2])


def test_rows_that_name_no_one_class_are_refused():
    with pytest.raises(ValueError, match=r"one-hot rows.*Received: \[0\.5 0\.5\] for sample 1"):
        SINGLE_LABEL.targets(np.array([[1.0, 0.0], [0.5, 0.5]]))


@pytest.mark.parametrize(
    "labels",
    [
        np.array([2, 0, 2]),
        np.eye(3)[[2, 0]],
        np.float16([[0.7, 0.3, 0.0], [0.1, 0.2, 0.7]]),
        np.eye(2, dtype=bool),
    ],
)
def test_rows_of_mixed_images_pass(labels):
    SINGLE_LABEL.check_rows(labels, "train")


@pytest.mark.parametrize("wrong", [[1, 1, 0], [0, 0, 0], [2, -1, 0], [np.nan, 1, 0]])
def test_rows_of_several_labels_are_refused(wrong):
    rows = np.array([[1, 0, 0], wrong, wrong])
    message = r"train must have one class an image.*Received: \[.*\] for sample 1, one of 2 such rows"
    with pytest.raises(ValueError, match=message):
        SINGLE_LABEL.check_rows(rows, "train")


class Independent(SingleLabel):
    """Several classes an image, as far as training goes."""

    metrics = ("binary_accuracy",)
    output = staticmethod(keras.activations.sigmoid)

    def loss(self, given=None):
        return keras.losses.BinaryCrossentropy(from_logits=True)

    def check_rows(self, labels, argument):
        pass


def test_training_asks_the_task_for_loss_and_metrics():
    """A second kind of labels is one class more: the objective knows none by itself."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="logits")])
    objective = Objective(model, task=Independent())
    x, y = np.ones((2, 4), "float32"), np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    with objective.view(model) as view:
        objective.compile_view(view, keras.optimizers.SGD(0.0))
        found = view.evaluate(x, y, verbose=0, return_dict=True)
    logits = np.asarray(keras.ops.convert_to_numpy(model(x)), "float64")
    probabilities = 1.0 / (1.0 + np.exp(-logits))
    expected = -(y * np.log(probabilities) + (1 - y) * np.log(1 - probabilities)).mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert "binary_accuracy" in found


def test_a_task_that_leaves_something_unsaid_cannot_be_made():
    class Unfinished(Task):
        metrics = ()

    with pytest.raises(TypeError, match="abstract"):
        Unfinished()


ROWS = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
ODDS = np.array([[2.0, -1.0, 0.5], [-3.0, -0.2, -1.0], [0.1, 1.0, -2.0]])


class TestMultiLabel:
    def test_probabilities_are_the_sigmoids_of_logits(self):
        expected = 1 / (1 + np.exp(-ODDS / 2))
        np.testing.assert_allclose(MULTI_LABEL.probabilities(ODDS, 2.0), expected, rtol=1e-14)
        extreme = MULTI_LABEL.probabilities(np.array([[1e4, -1e4]]))
        np.testing.assert_array_equal(extreme, [[1.0, 0.0]])
        assert np.isfinite(MULTI_LABEL.logits(extreme)).all()
        again = MULTI_LABEL.logits(MULTI_LABEL.probabilities(ODDS))
        np.testing.assert_allclose(again, ODDS, rtol=1e-12)

    def test_losses_and_what_is_correct(self):
        p = MULTI_LABEL.probabilities(ODDS)
        expected = -(ROWS * np.log(p) + (1 - ROWS) * np.log(1 - p)).mean(axis=1)
        np.testing.assert_allclose(MULTI_LABEL.losses(p, ROWS), expected, rtol=1e-12)
        np.testing.assert_array_equal(MULTI_LABEL.correct(p, ROWS), [True, True, False])
        assert np.isfinite(MULTI_LABEL.losses(np.array([[0.0, 1.0]]), np.array([[1, 0]]))).all()
        np.testing.assert_array_equal(MULTI_LABEL.counts(ROWS, 3), [1, 1, 1])

    def test_one_temperature_for_all_classes(self):
        rng = np.random.default_rng(0)
        z = rng.normal(0, 2, (4000, 3))
        rows = (rng.random(z.shape) < MULTI_LABEL.probabilities(z)).astype(int)
        assert MULTI_LABEL.temperature(3.0 * z, rows) == pytest.approx(3.0, rel=0.05)

    def test_sets_have_all_labels_as_promised(self):
        rng = np.random.default_rng(0)
        p = rng.random((4000, 3))
        rows = (rng.random(p.shape) < p).astype(int)
        threshold = MULTI_LABEL.threshold(p[:2000], rows[:2000], 0.9)
        covered = ((p >= threshold) | (rows == 0)).all(axis=1)
        assert 0.88 < covered[2000:].mean() < 0.92

    def test_names_of_tasks(self):
        assert checked_task("multi-label") is MULTI_LABEL
        assert checked_task("single-label") is SINGLE_LABEL
