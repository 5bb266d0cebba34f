"""Scores of several labels an image, against scikit-learn and by hand."""

import numpy as np
import pytest

from keras_transfer.data.order import divided_rows
from keras_transfer.tasks.label_scores import average_precisions, best_thresholds, label_counts


@pytest.fixture
def rows():
    return (np.random.default_rng(0).random((60, 4)) < [0.5, 0.3, 0.1, 0.0]).astype(int)


@pytest.mark.parametrize("digits", [1, 8])
def test_average_precision_is_that_of_scikit_learn(rows, digits):
    """With one digit many images have the same probability."""
    metrics = pytest.importorskip("sklearn.metrics")
    p = np.round(np.random.default_rng(1).random(rows.shape), digits)
    found = average_precisions(p, rows)
    expected = [metrics.average_precision_score(rows[:, k], p[:, k]) for k in range(3)]
    np.testing.assert_allclose(found[:3], expected, rtol=1e-12)
    assert np.isnan(found[3])


def test_no_threshold_has_a_higher_f1(rows):
    p = np.round(np.random.default_rng(1).random(rows.shape), 2)
    found = best_thresholds(p, rows)
    assert found[3] == 0.5
    f1 = label_counts(p >= found, rows).f1
    for threshold in np.linspace(0, 1, 201):
        assert (label_counts(p >= threshold, rows).f1 <= f1 + 1e-12)[:3].all()


def test_a_threshold_lies_between_two_probabilities():
    p = np.array([[0.9], [0.7], [0.3], [0.2]])
    np.testing.assert_allclose(best_thresholds(p, np.array([[1], [1], [0], [0]])), [0.5])
    np.testing.assert_allclose(best_thresholds(p, np.ones((4, 1), int)), [0.1])


def test_counts(rows):
    said = np.array([[1, 1], [1, 0], [0, 0]])
    found = label_counts(said, np.array([[1, 0], [1, 0], [0, 1]]))
    np.testing.assert_allclose([found.precision, found.recall, found.f1], [[1, 0], [1, 0], [1, 0]])
    assert found.micro_f1 == pytest.approx(2 * 2 / (3 + 3))


def test_parts_have_their_shares(rows):
    part = divided_rows(rows, [0.2] * 5, seed=3)
    assert (abs(np.bincount(part) - 12) <= 1).all()
    for fold in range(5):
        assert (abs(rows[part == fold].sum(axis=0) - rows.sum(axis=0) / 5) < 1.01).all()
    np.testing.assert_array_equal(part, divided_rows(rows, [0.2] * 5, seed=3))


def test_a_linear_head_is_as_good_as_one_vs_rest_of_scikit_learn():
    """By log-loss on data that neither has seen, where the default C overfits."""
    linear_fit = pytest.importorskip("keras_transfer.features.probe.linear_fit")
    multiclass = pytest.importorskip("sklearn.multiclass")
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(30, 3)) / 4
    x = rng.normal(size=(600, 30))
    y = (rng.random((600, 3)) < 1 / (1 + np.exp(-x @ weights))).astype(int)
    train, test = slice(0, 80), slice(80, None)
    values = linear_fit.GRIDS["logistic"]
    splits = linear_fit.fold_rows(x[train], y[train], 4, 0)
    C, loss = linear_fit.choose_for_rows(splits, lambda: None, values)
    (linear,) = linear_fit.fit_rows(x[train], y[train], [C])
    ours = 1 / (1 + np.exp(-linear.logits(x[test])))
    other = multiclass.OneVsRestClassifier(linear_model.LogisticRegression(max_iter=1000))
    theirs = other.fit(x[train], y[train]).predict_proba(x[test])

    def losses(p):
        return -(y[test] * np.log(p) + (1 - y[test]) * np.log(1 - p)).mean()

    assert losses(ours) < losses(theirs)
    assert loss == pytest.approx(losses(ours), abs=0.1)
    assert np.nanmean(average_precisions(ours, y[test])) >= np.nanmean(
        average_precisions(theirs, y[test])
    )


def test_a_class_that_all_or_none_have_keeps_its_share():
    linear_fit = pytest.importorskip("keras_transfer.features.probe.linear_fit")
    x = np.random.default_rng(0).normal(size=(9, 2))
    rows = np.stack([np.zeros(9, int), np.ones(9, int), np.arange(9) % 2], axis=1)
    (linear,) = linear_fit.fit_rows(x, rows, [1.0])
    logits = linear.logits(x)
    np.testing.assert_allclose(logits[:, :2], np.log([[0.5 / 9.5, 9.5 / 0.5]] * 9))
    assert np.ptp(logits[:, 2]) > 0.01
