"""Classes of which there are far fewer images than of others: told, sampled, weighted, adjusted."""

import keras
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.data import Loader
from keras_transfer.data.order import epoch_rows
from keras_transfer.probabilities.calibration import calibrate_by_logits
from keras_transfer.tasks.imbalance import adjustment, imbalance_of

pytest.importorskip("sklearn")


def uneven(common=90, rare=6, third=0):
    """Return numbered images of one pixel, and classes that are unequal."""
    y = np.repeat([0, 1, 2], [common, rare, third])
    return np.arange(len(y), dtype="uint8").reshape(-1, 1, 1, 1) * np.ones((1, 2, 2, 3), "uint8"), y


class TestSampling:
    def test_an_epoch_has_as_many_of_each_class(self):
        x, y = uneven(90, 6, 5)
        loader = Loader((x, y), 8, sampling="balanced", seed=3)
        order = loader.order(0)
        assert len(order) == 101
        assert sorted(np.bincount(y[order])) == [33, 34, 34]
        common, rare = np.bincount(order, minlength=101)[:90], np.bincount(order, minlength=101)[90:]
        assert common.max() == 1
        assert rare.max() - rare.min() <= 2
        assert sum(len(labels) for _, labels in loader) == 101

    def test_is_a_function_of_seed_and_epoch(self):
        loader = Loader(uneven(), 8, sampling="balanced", seed=3)
        again = Loader(uneven(), 8, sampling="balanced", seed=3)
        for _ in again:
            pass
        np.testing.assert_array_equal(loader.order(5), again.order(5))
        assert (loader.order(5) != loader.order(6)).any()
        assert (loader.order(5) != loader.replace(seed=4).order(5)).any()

    def test_parts_of_processes_make_up_the_batches(self):
        loader = Loader(uneven(), 8, sampling="balanced", augmentation=lambda x, rng: x)
        parts = [loader.shard(index, 2) for index in range(2)]
        for index in range(loader.num_batches):
            whole = loader.batch(1, index)[0]
            halves = [part.batch(1, index)[0] for part in parts]
            np.testing.assert_array_equal(whole, np.concatenate(halves))

    def test_in_order_each_sample_comes_once(self):
        loader = Loader(uneven(), sampling="balanced", shuffle=False)
        np.testing.assert_array_equal(loader.order(0), np.arange(96))
        train, held_back = Loader(uneven(), sampling="balanced").split(0.5)
        assert train.sampling == "balanced"
        assert held_back.order(0).tolist() == list(range(48))

    def test_a_sample_that_comes_again_is_augmented_in_another_way(self):
        loader = Loader(
            uneven(), 96, sampling="balanced", augmentation=lambda x, rng: x * 0 + rng.integers(256)
        )
        images, labels = loader.batch(0, 0)
        rare = images[labels == 1, 0, 0, 0]
        assert len(rare) == 48
        assert len({*rare}) > 30  # of six photos
        np.testing.assert_array_equal(images, loader.batch(0, 0)[0])

    def test_others_are_augmented_as_ever(self):
        shared = {"augmentation": lambda x, rng: x * 0 + rng.integers(256), "seed": 2}
        drawn, plain = (
            Loader(uneven(), 96, sampling="balanced", **shared),
            Loader(uneven(), 96, **shared),
        )
        by_sample = dict(zip(plain.order(0), plain.batch(0, 0)[0], strict=True))
        order, images = drawn.order(0), drawn.batch(0, 0)[0]
        for sample in range(90):
            for found in images[order == sample]:
                np.testing.assert_array_equal(found, by_sample[sample])

    def test_what_there_is_none_of(self):
        with pytest.raises(ValueError, match="sampling must be 'balanced' or None"):
            Loader(uneven(), sampling="balance")

    def test_rows_without_it_are_those_of_before(self):
        rows = epoch_rows(7, 1, 3, True, None, False, 2)
        rng = np.random.default_rng(np.random.SeedSequence([3, 2], spawn_key=(0,)))
        np.testing.assert_array_equal(rows, rng.permutation(7))


def test_features_are_sampled_as_their_images(tmp_path):
    image = keras.Input((2, 2, 3))
    network = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    loader = Loader(uneven(), 8, sampling="balanced", groups=np.arange(96))
    features = kt.FeatureCache(network, tmp_path).build(loader, verbose=0)
    np.testing.assert_array_equal(features.order(2), loader.order(2))
    np.testing.assert_allclose(
        features.batch(2, 1)[0], loader.batch(2, 1)[0].astype("float32").mean((1, 2))
    )
    assert features.groups.tolist() == list(range(96))
    features.close()


def test_training_by_it_finds_the_rare_class(head_model):
    start, found, phase = head_model.get_weights(), [], kt.Phase("all", 6, learning_rate=0.05)
    for sampling in (None, "balanced"):
        head_model.set_weights(start)
        loader = Loader(blobs(np.random.default_rng(1), 110, 10), 24, sampling=sampling)
        kt.fine_tune(head_model, loader, phases=[phase], seed=0, verbose=0)
        found.append(recalls(head_model))
    assert found[0][1] < 0.4
    assert found[1][1] > found[0][1] + 0.3


class TestWords:
    @pytest.mark.parametrize(
        ("counts", "said"),
        [
            ([2000, 8], True),
            ([300, 30, 100], True),
            ([40, 10], True),
            ([299, 30], False),
            ([50, 30], False),
        ],
    )
    def test_are_said_where_it_matters(self, counts, said):
        assert bool(imbalance_of(np.array(counts))) is said

    def test_are_in_the_plan(self, head_model):
        x, y = blobs(np.random.default_rng(0), 60, 5)
        plan = kt.automatic.propose(head_model, Loader((x, y), class_names=["ant", "bee"]), verbose=0)
        text = " ".join(str(plan).split())
        assert "There are 12 times as many images of 'ant' (60) as of 'bee' (5)" in text


def blobs(rng, common, rare):
    """Return images whose brightness tells two classes that overlap."""
    y = np.repeat([0, 1], [common, rare])
    values = rng.normal(110 + 40 * y, 25)[:, None, None, None] + rng.normal(0, 4, (len(y), 16, 16, 3))
    return np.clip(values, 0, 255).astype("uint8"), y


@pytest.fixture
def head_model():
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(keras.layers.Rescaling(1 / 64)(image))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(2, "softmax")(x))
    rng = np.random.default_rng(0)  # the same weights on each backend
    model.set_weights([rng.normal(0, 0.3, weight.shape) for weight in model.weights])
    return model


def recalls(model, seed=9):
    x, y = blobs(np.random.default_rng(seed), 200, 200)
    right = model.predict(x, verbose=0).argmax(axis=1) == y
    return right[y == 0].mean(), right[y == 1].mean()


class TestLinearHead:
    @pytest.mark.parametrize("method", ["logistic", "ridge"])
    @pytest.mark.parametrize("way", [{"class_weight": "balanced"}, {"logit_adjustment": 1.0}])
    def test_the_rare_class_is_found(self, head_model, method, way):
        data = blobs(np.random.default_rng(1), 300, 12)
        options = {"method": method, "C": 10.0, "verbose": 0}
        plain = recalls(kt.fit_linear_head(head_model, data, **options))
        found = recalls(kt.fit_linear_head(head_model, data, **options, **way))
        assert plain[1] < 0.4
        assert found[1] > plain[1] + 0.3
        assert np.mean(found) > np.mean(plain) + 0.1

    def test_the_bias_alone_is_adjusted(self, head_model):
        data = blobs(np.random.default_rng(1), 60, 6)
        options = {"C": 1.0, "verbose": 0}
        plain, found = (
            kt.fit_linear_head(head_model, data, logit_adjustment=tau, **options)
            .layers[-2]
            .get_weights()
            for tau in (0.0, 0.5)
        )
        np.testing.assert_array_equal(plain[0], found[0])
        moved = found[1] - plain[1]
        assert moved[1] - moved[0] == pytest.approx(0.5 * np.log(10), rel=1e-5)

    def test_adjustment_is_that_of_the_paper(self):
        counts = np.array([6, 3, 1])
        p = np.array([0.7, 0.2, 0.1])  # by it the rare class is the likeliest among equal shares
        adjusted = np.log(p) + adjustment(counts, 1.0)
        expected = p / counts / (p / counts).sum()
        np.testing.assert_allclose(np.exp(adjusted) / np.exp(adjusted).sum(), expected)

    @pytest.mark.parametrize(
        "options",
        [
            {"logit_adjustment": -1.0},
            {"logit_adjustment": 1.0, "method": "svm"},
            {"logit_adjustment": 1.0, "class_weight": "balanced"},
        ],
    )
    def test_what_can_t_be(self, head_model, options):
        with pytest.raises(ValueError, match="logit_adjustment"):
            kt.fit_linear_head(head_model, blobs(np.random.default_rng(1), 9, 3), verbose=0, **options)

    def test_weights_of_no_class(self, head_model):
        data = blobs(np.random.default_rng(1), 9, 3)
        with pytest.raises(ValueError, match="class_weight must have"):
            kt.fit_linear_head(head_model, data, class_weight={5: 1.0}, verbose=0)


def test_automatic_training_finds_the_rare_class(head_model):
    data = blobs(np.random.default_rng(1), 300, 12)
    start = head_model.get_weights()
    found = []
    for tau in (0.0, 1.0):
        head_model.set_weights(start)
        trained = kt.automatic.train(head_model, data, fast=True, logit_adjustment=tau, verbose=0)
        score = kt.evaluation.evaluate(trained.model, data, verbose=0)
        found.append((recalls(trained.model), trained.calibration, score.coverage))
    (plain, before, _), (adjusted, after, coverage) = found
    assert plain[1] < 0.4
    assert adjusted[1] > plain[1] + 0.3
    assert before.temperature == after.temperature
    assert before.threshold != after.threshold
    assert coverage >= 0.88  # of 0.9, on the images on which it was fitted


def test_of_a_head_without_bias():
    image = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Dense(2, "softmax", use_bias=False)(x))
    logits, labels = np.random.default_rng(0).normal(size=(9, 2)), np.arange(9) % 2
    before = model.get_weights()
    with pytest.raises(ValueError, match="must have a bias"):
        calibrate_by_logits(model, logits, labels, added=np.ones(2))
    np.testing.assert_array_equal(model.get_weights(), before)


def test_an_evaluation_tells_of_the_rare_class(head_model):
    from sklearn.metrics import balanced_accuracy_score

    data = Loader(blobs(np.random.default_rng(1), 60, 6), class_names=["ant", "bee"])
    model = kt.fit_linear_head(head_model, data, C=10.0, verbose=0)
    found = kt.evaluation.evaluate(model, data, verbose=0)
    expected = balanced_accuracy_score(found.labels, found.probabilities.argmax(axis=1))
    assert found.macro_accuracy == pytest.approx(expected)
    assert (found.rarest.name, found.rarest.samples) == ("bee", 6)
    assert found.to_dict()["macro_accuracy"] == found.macro_accuracy
    assert found.to_dict()["rarest"]["recall"] == found.rarest.recall
    line = (
        f"Macro accuracy {found.macro_accuracy:.1%} (mean recall of the classes); of the rarest, 'bee'"
    )
    assert f"{line} with 6 images, {found.rarest.recall:.1%}" in " ".join(str(found).split())
