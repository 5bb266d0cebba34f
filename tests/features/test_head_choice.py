"""How many depths a linear head is given, and the ridge regression that it is."""

import keras
import numpy as np
import pytest

import keras_transfer as kt

pytest.importorskip("sklearn")

from keras_transfer.features.probe import head_choice, linear_fit
from keras_transfer.features.probe.head_choice import choose_head, chosen_depths, fit_head
from keras_transfer.features.probe.ridge_folds import RidgeFolds
from keras_transfer.models.depths import depth_widths
from keras_transfer.tasks.scores import log_loss


def drawn(rng, samples, widths, tells, noise=1.0, classes=3):
    """Return features of depths, of which only one tells the classes, and these."""
    y = np.arange(samples) % classes
    depths = [noise * rng.standard_normal((samples, width)) for width in widths]
    depths[tells] += rng.standard_normal((classes, widths[tells]))[y]
    return np.concatenate(depths, axis=1).astype("float32"), y


@pytest.mark.parametrize("weight", [None, {0: 3.0, 2: 0.5}])
@pytest.mark.parametrize("features", [5, 80])
def test_ridge_is_that_of_scikit_learn(rng, features, weight):
    from sklearn.linear_model import Ridge

    x, y = drawn(rng, 30, [features], 0)
    x = 3 * x + np.linspace(0, 5, features)
    (found,) = linear_fit.fit(x, y, "ridge", [2.0], class_weight=weight)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    samples = None if weight is None else np.array([weight.get(k, 1.0) for k in y])
    ridge = Ridge(alpha=features / 2.0).fit(z, np.eye(3)[y], samples)
    np.testing.assert_allclose(found.logits(x), ridge.predict(z), rtol=1e-5, atol=1e-6)


def test_of_folds_left_out_it_gives_what_fits_without_them_give(rng):
    x, y = drawn(rng, 40, [2, 4], 0)
    targets = np.eye(3)[y] - np.eye(3)[y].mean(axis=0)
    folds = list(linear_fit.fold_indices(y, 4, 0))
    ridge = RidgeFolds(y, [test for _, test in folds])
    for width, part in ((2, x[:, :2]), (6, x[:, 2:])):  # a depth is added to those that are there
        ridge.add(part)
        scores = ridge.scores(3.0)
        for kept, left_out in folds:
            z = x[:, :width]
            inverse = np.linalg.inv(z[kept].T @ z[kept] + width / 3.0 * np.eye(width))
            expected = z[left_out] @ inverse @ z[kept].T @ targets[kept] + np.eye(3)[y].mean(axis=0)
            np.testing.assert_allclose(scores[left_out], expected, rtol=1e-3, atol=1e-5)


class TestDepths:
    @pytest.mark.parametrize(("tells", "expected"), [(2, 1), (1, 2), (0, 3)])
    def test_are_those_that_tell_the_classes(self, rng, tells, expected):
        x, y = drawn(rng, 150, [20, 20, 20], tells)
        assert chosen_depths(x, y, [20, 20, 20]) == expected

    def test_are_compared_on_some_of_each_class(self, rng, monkeypatch):
        x, y = drawn(rng, 300, [20, 20], 0)
        order = np.argsort(y, kind="stable")  # as a folder gives them
        monkeypatch.setattr(head_choice, "_COMPARED", 90)
        assert chosen_depths(x[order], y[order], [20, 20]) == 2

    def test_are_compared_on_two_of_a_rare_class(self, rng, monkeypatch):
        x, y = drawn(rng, 300, [20, 20], 0)
        y[y == 2] = 1
        y[:2] = 2
        monkeypatch.setattr(head_choice, "_COMPARED", 30)
        assert 1 <= chosen_depths(x, y, [20, 20]) <= 2
        some = head_choice._some(y)
        assert np.bincount(y[some]).tolist() == [10, 20, 2]
        assert (np.diff(some) > 0).all()

    def test_of_one_image_a_class_are_all(self, rng):
        x, y = drawn(rng, 3, [20, 20], 1)
        assert chosen_depths(x, y, [20, 20]) == 2


class TestHead:
    def test_has_no_weight_of_other_depths(self, rng):
        x, y = drawn(rng, 150, [20, 10, 20], 1)
        head = choose_head(x, y, [20, 10, 20], list(linear_fit.fold_indices(y, 3, 0)))
        assert (head.depths, head.width) == (2, 30)
        linear = fit_head(x, y, head)
        assert not linear.kernel[:20].any()
        assert linear.kernel[20:].all()
        assert linear.accuracy(*drawn(rng, 150, [20, 10, 20], 1)) < 0.7  # of other classes
        assert linear.accuracy(x, y) > 0.9

    @pytest.mark.parametrize("compared", [600, 300])
    def test_has_the_c_and_scores_of_fits_in_turn(self, rng, monkeypatch, compared):
        x, y = drawn(rng, 600, [301], 0, noise=6.0)
        folds = list(linear_fit.fold_indices(y, 5, 0))
        splits = [((x[a], y[a]), (x[b], y[b])) for a, b in folds]
        expected = linear_fit.choose(splits, "ridge", lambda: None)
        monkeypatch.setattr(head_choice, "_COMPARED", compared)
        choice = choose_head(x, y, [301], folds).choice
        if compared == 600:  # a C beside it is nearly as good, and may be the best for fewer
            assert choice.value == expected.value
            for found, other in zip(choice.logits, expected.logits, strict=True):
                assert np.corrcoef(found.ravel(), other.ravel())[0, 1] > 0.99
            assert choice.factor == pytest.approx(expected.factor, rel=0.1)
        assert choice.accuracy == pytest.approx(expected.accuracy, abs=0.01)
        assert choice.loss == pytest.approx(expected.loss, rel=0.02)
        assert set(choice.accuracies) < set(linear_fit.GRIDS["ridge"])
        assert choice.accuracies[choice.value] == choice.accuracy

    @pytest.mark.parametrize(("features", "weight"), [(10, None), (200, {0: 2.0})])
    def test_is_fitted_in_turn_where_that_is_quicker_or_classes_have_weights(
        self, rng, monkeypatch, features, weight
    ):
        x, y = drawn(rng, 60, [features], 0)
        monkeypatch.delattr(head_choice, "_choice_of_c")
        folds = list(linear_fit.fold_indices(y, 3, 0))
        assert choose_head(x, y, [features], folds, weight).choice.accuracy > 0.8

    def test_probabilities_are_as_sure_as_right(self, rng):
        x, y = drawn(rng, 300, [20], 0, noise=2.0)
        folds = list(linear_fit.fold_indices(y, 3, 0))
        choice = choose_head(x, y, [20], folds).choice
        labels = np.concatenate([y[test] for _, test in folds])
        logits = np.concatenate(choice.logits)

        def loss(factor):
            return log_loss(factor * logits, labels)

        assert loss(1.0) <= min(loss(0.9), loss(1.1))
        assert choice.factor > 2.0  # of a least squares fit alone they would be nearly equal


def test_a_classifier_of_several_depths_is_fitted_on_those_that_tell(rng):
    model = kt.classifier("vgg16", 2, image_size=32, weights=None, features="several")
    x = rng.integers(0, 256, (24, 32, 32, 3), "uint8")
    y = np.arange(24) % 2
    x[y == 1] //= 4
    widths = depth_widths(model, model.get_layer("predictions").kernel.shape[0])
    assert widths == [64, 128, 256, 512, 512, 512]
    for method in ("ridge", "logistic"):
        fitted = kt.fit_linear_head(model, (x, y), method=method, verbose=0)
        assert (fitted.predict(x, verbose=0).argmax(axis=1) == y).all()
    trained = kt.automatic.train(model, (x, y), fast=True, verbose=0)
    assert trained.linear.of == 6
    kernel = keras.ops.convert_to_numpy(model.get_layer("predictions").kernel)
    used = kernel.any(axis=1)
    assert used[-sum(widths[-trained.linear.depths :]) :].mean() > 0.5
    assert not used[: sum(widths[: 6 - trained.linear.depths])].any()
    assert str(trained.linear).startswith(f"ridge regression on the last {trained.linear.depths} of 6")
    score = kt.features.cross_validate_head(model, (x, y), method="ridge", folds=3, verbose=0)
    assert score.mean == 1.0
