"""LogME, and the order of backbones that it gives."""

import json
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt
from keras_transfer.features import ranking as module
from keras_transfer.features.cache import cache as cache_module
from keras_transfer.features.cache import limited
from keras_transfer.features.logme import explained, log_maximum_evidence
from keras_transfer.features.ranking import BackboneRanking
from keras_transfer.tasks.scores import log_loss

SHAPE = (16, 16, 3)


def images(count=40, seed=0):
    """Return noise of which one class is redder, the other bluer, and equally bright."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = rng.uniform(0, 120, (count, *SHAPE))
    x[np.arange(count), :, :, 2 * y] += 60
    return x.astype("uint8"), y


def colour():
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, layers.AveragePooling2D(4)(inputs), name="colour")


def brightness():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(1, 1, kernel_initializer="ones", name="mean")(inputs)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="brightness")


class TestLogME:
    @pytest.mark.parametrize("width", [3, 60])
    def test_is_the_maximum_of_the_evidence(self, width, rng):
        features = rng.standard_normal((25, width))
        y = (features[:, 0] + rng.standard_normal(25) > 0).astype(int)

        def evidence(alpha, beta, target):
            covariance = features @ features.T / alpha + np.eye(25) / beta
            _, determinant = np.linalg.slogdet(covariance)
            square = target @ np.linalg.solve(covariance, target)
            return -(square + determinant + 25 * np.log(2 * np.pi)) / (2 * 25)

        grid = np.geomspace(1e-2, 1e4, 100)
        best = [max(evidence(a, b, 1.0 * (y == k)) for a in grid for b in grid) for k in (0, 1)]
        found = log_maximum_evidence(features, y)
        assert np.mean(best) <= found + 1e-9
        assert found == pytest.approx(np.mean(best), abs=2e-3)

    def test_falls_with_noise_and_with_features_that_say_nothing(self, rng):
        y = np.arange(100) % 4
        clean = np.eye(4)[y] + 0.3 * rng.standard_normal((100, 4))
        noisy = np.eye(4)[y] + 1.0 * rng.standard_normal((100, 4))
        wide = np.concatenate([noisy, rng.standard_normal((100, 300))], axis=1)
        scores = [log_maximum_evidence(features, y) for features in (clean, noisy, wide)]
        assert scores == sorted(scores, reverse=True)

    def test_tells_which_part_is_explained(self, rng):
        y = np.arange(100) % 4
        for features, low, high in (
            (np.eye(4)[y] + 0.01 * rng.standard_normal((100, 4)), 0.95, 1.0),
            (rng.standard_normal((100, 4)), 0.0, 0.02),
        ):
            assert low <= explained(log_maximum_evidence(features, y), y) <= high

    @pytest.mark.parametrize(
        "features", [np.zeros((20, 3)), np.ones((20, 1)), np.eye(20), np.arange(20.0)[:, None] % 2]
    )
    def test_is_finite_in_extreme_cases(self, features):
        score = log_maximum_evidence(features, np.arange(20) % 2)
        assert np.isfinite(score)


class TestRanking:
    @pytest.mark.parametrize("method", ["logme", "probe"])
    def test_has_the_better_first(self, method):
        ranking = kt.rank_backbones([brightness(), colour()], images(), method=method, verbose=0)
        assert [row.name for row in ranking] == ["colour", "brightness"]
        assert ranking[0].logme > ranking[1].logme
        assert [row.parameters for row in ranking] == [0, 4]
        assert all(row.milliseconds > 0 for row in ranking)
        if method == "probe":
            assert ranking[0].probe.mean > ranking[1].probe.mean + 0.2
        else:
            assert ranking[0].probe is None

    def test_prints_as_a_table(self):
        text = str(kt.rank_backbones([colour()], images(), verbose=0))
        assert "LogME" in text
        assert "colour" in text

    def test_tells_the_milliseconds_of_an_image(self, monkeypatch):
        clock = SimpleNamespace(perf_counter=count(step=0.5).__next__)
        monkeypatch.setattr("keras_transfer.features.ranking.time", clock)
        (row,) = kt.rank_backbones([colour()], images(), batch_size=20, verbose=0)
        assert row.milliseconds == pytest.approx(500 / 20)

    def test_is_silent_and_the_same_twice(self, capsys, tmp_path):
        found = [
            kt.rank_backbones([colour(), brightness()], images(), cache=tmp_path, verbose=0)
            for _ in range(2)
        ]
        assert [row.logme for row in found[0]] == [row.logme for row in found[1]]
        assert capsys.readouterr().out == ""
        assert len(kt.features.caches(tmp_path)) == 2

    def test_takes_names_classifiers_and_names_for_them(self):
        x, y = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), "uint8"), np.arange(8) % 4
        mine = keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(2, 1), layers.Flatten()])
        mine.add(layers.Dense(5))
        mine.add(layers.Dense(7))
        given = {"named": "mobilenet", "mine": mine}
        ranking = kt.rank_backbones(given, kt.Loader((x, y), 4), weights=None, verbose=0)
        parameters = {row.name: row.parameters for row in ranking}
        assert parameters == {"named": 3_228_864, "mine": 8 + 5 * (2 * 32 * 32 + 1)}

    def test_takes_classes_with_gaps_and_one_hot_labels(self):
        x, y = images()
        expected = kt.rank_backbones([colour()], (x, y), verbose=0)[0].logme
        for labels in (3 * y, np.eye(5)[2 * y]):
            found = kt.rank_backbones([colour()], (x, labels), verbose=0)[0].logme
            assert found == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("names", "change", "options", "error", "message"),
        [
            (["vgg61"], {}, {}, ValueError, r"did you mean VGG19, VGG16"),
            ("vgg16", {}, {}, TypeError, "names must be a list or a dict"),
            ([3], {}, {}, TypeError, "a backbone must be a name or a keras.Model"),
            ([], {}, {}, ValueError, "at least one"),
            (["vgg16", "vgg16"], {}, {}, ValueError, "different names"),
            (None, {}, {"method": "logm"}, ValueError, "did you mean logme"),
            (None, {"y": np.zeros(40)}, {}, ValueError, "at least two classes.* class 0 only"),
            (None, {"x": np.zeros((40, 8, 8, 3))}, {}, ValueError, "image_size must fit the backbone"),
            (None, {"y": np.arange(40)}, {"method": "probe"}, ValueError, "at least 3 samples"),
            (None, {"y": np.arange(40)}, {"method": "ridge"}, ValueError, "at least 2 samples"),
            ([("vgg16", 32), ("vgg16", 32)], {}, {}, ValueError, "different names or sizes"),
            ([("vgg16", 0)], {}, {}, ValueError, "image_size must be a number of pixels"),
            ("cache", {}, {}, TypeError, "names must be a list or a dict of backbones, or 'cached'"),
        ],
    )
    def test_refuses(self, names, change, options, error, message):
        x, y = images()
        data = change.get("x", x), change.get("y", y)
        with pytest.raises(error, match=message):
            kt.rank_backbones([colour()] if names is None else names, data, **options, verbose=0)

    def test_refuses_data_of_another_kind(self):
        with pytest.raises(TypeError, match="data must be .* of type ndarray"):
            kt.rank_backbones([colour()], images()[0], verbose=0)


def closest(logits, y):
    """Return the lowest log-loss of multiples of logits."""
    return min(log_loss(factor * logits, y) for factor in np.geomspace(1, 100, 2000))


class TestRidge:
    def test_is_that_of_scikit_learn(self):
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import StratifiedKFold

        x, y = images()
        y[:9] = np.arange(9) % 3 == 0  # so that not all can be right
        (row,) = kt.rank_backbones([colour()], (x, y), method="ridge", folds=4, seed=3, verbose=0)
        assert row.probe.samples == 40
        assert len(set(row.probe.values)) == 1
        features, logits, right = x.mean(axis=(1, 2)), np.empty((40, 2)), []
        for kept, left in StratifiedKFold(4, shuffle=True, random_state=3).split(y, y):
            mean, scale = features[kept].mean(axis=0), features[kept].std(axis=0)
            scale = np.maximum(scale, 0.3 * np.median(scale))  # of what hardly varies
            ridge = Ridge(alpha=3 / row.probe.values[0])
            ridge.fit((features[kept] - mean) / scale, np.eye(2)[y[kept]])
            logits[left] = ridge.predict((features[left] - mean) / scale)
            right.append((logits[left].argmax(axis=1) == y[left]).mean())
        assert row.probe.accuracies == tuple(right)
        assert row.log_loss == pytest.approx(closest(logits, y), rel=1e-3)

    def test_has_the_better_first(self):
        ranking = kt.rank_backbones([brightness(), colour()], images(), method="ridge", verbose=0)
        first, second = ranking
        assert (first.name, second.name) == ("colour", "brightness")
        assert first.log_loss < second.log_loss
        assert (first.behind, first.error) == (0.0, 0.0)
        assert second.behind == pytest.approx(first.probe.mean - second.probe.mean)
        assert second.behind > 2 * second.error > 0
        assert all(row.logme is row.milliseconds is None for row in ranking)
        assert all(row.seconds > 0 for row in ranking)
        text = str(BackboneRanking([replace(first, name="InceptionResNetV2", behind=-0.01), second]))
        assert "InceptionResNetV2" in text
        assert max(map(len, text.splitlines())) <= 100
        for part in ("pixels", "behind", "log-loss", f"{second.behind:.3f} +- {second.error:.3f}"):
            assert part in text

    def test_orders_by_what_is_sure(self, monkeypatch):
        """What `compared` says, and not by accuracy or by log-loss alone."""
        monkeypatch.setattr(module.compared, "in_order", lambda scored: [1, 0])
        given = [colour(), brightness()]
        ranking = kt.rank_backbones(given, images(), method="ridge", verbose=0)
        assert [row.name for row in ranking] == ["brightness", "colour"]
        assert ranking[1].behind < 0

    def test_chooses_depths_of_a_backbone_by_name(self, monkeypatch):
        """The features of all depths are kept, not those of the last alone."""
        widths, usual = [], module._by_ridge
        monkeypatch.setattr(
            module, "_by_ridge", lambda seen, *rest: widths.append(seen.widths) or usual(seen, *rest)
        )
        x = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), "uint8")
        data = x, np.arange(8) % 2
        kt.rank_backbones(["vgg16"], data, method="ridge", folds=2, weights=None, verbose=0)
        assert widths == [[64, 128, 256, 512, 512, 512]]


class TestSizes:
    @pytest.fixture
    def corner(self):
        """The pixels of the upper left corner, of images of any size."""
        inputs = keras.Input((None, None, 3))
        return keras.Model(inputs, layers.GlobalMaxPooling2D()(inputs), name="brightest")

    def test_each_is_given_images_of_its_own(self, corner):
        data = images()
        given = {"small": (corner, 4), "wide": (corner, (4, 8)), "as they are": corner}
        ranking = kt.rank_backbones(given, data, method="ridge", verbose=0)
        found = {row.name: row for row in ranking}
        sizes = {"small": (4, 4), "wide": (4, 8), "as they are": (16, 16)}
        assert {name: row.image_size for name, row in found.items()} == sizes
        for name, size in sizes.items():
            loader = kt.Loader(data, image_size=size)
            (row,) = kt.rank_backbones([corner], loader, method="ridge", verbose=0)
            assert (row.log_loss, row.probe) == (found[name].log_loss, found[name].probe)

    def test_one_backbone_for_several_sizes_is_no_name_twice(self, corner):
        ranking = kt.rank_backbones([(corner, 4), (corner, 8)], images(), verbose=0)
        assert {row.image_size for row in ranking} == {(4, 4), (8, 8)}
        assert {row.name for row in ranking} == {"brightest"}


class TestMinutes:
    @pytest.fixture
    def computed(self, monkeypatch):
        """Let the clock go on with each batch alone, by the width of its features in seconds."""
        clock, order, predict = SimpleNamespace(now=0.0), [], cache_module._predict

        def slow(compute, batch):
            features = predict(compute, batch)
            clock.now += features.shape[1]
            order.append(features.shape[1])
            return features

        fake = SimpleNamespace(perf_counter=lambda: clock.now, clock=clock)
        monkeypatch.setattr(cache_module, "_predict", slow)
        monkeypatch.setattr(limited, "time", fake)
        monkeypatch.setattr(module, "time", fake)
        return order

    def given(self):
        made = []
        for width in (40, 1, 10):
            inputs = keras.Input(SHAPE)
            made.append(keras.Model(inputs, layers.Conv2D(width, 1)(inputs), name=f"width{width}"))
        return made

    def test_what_comes_beside_the_pass_is_reckoned_with(self, computed, monkeypatch):
        usual = module._by_ridge

        def slow(*given):
            module.time.clock.now += 100.0
            return usual(*given)

        monkeypatch.setattr(module, "_by_ridge", slow)
        ranking = self.rank(21.0)  # 1,260 s: 20, 200 and 800, and three times 100, are too many
        assert [each.seconds for each in ranking.left_out] == [20 + 100 + 200 + 100 + 800 + 100]
        assert len(self.rank(22.0)) == 3

    def rank(self, minutes):
        # Ten batches each; the features of the last group and those before the head are kept.
        options = {"method": "ridge", "batch_size": 4, "minutes": minutes, "verbose": 0}
        return kt.rank_backbones(self.given(), images(), **options)

    def test_the_cheapest_come_first_and_what_takes_too_long_is_left_out(self, computed):
        ranking = self.rank(15.0)  # 20 s, 200 s, and 800 s, which are too many
        assert sorted(row.name for row in ranking) == ["width1", "width10"]
        assert computed == 10 * [2] + 10 * [20] + 3 * [80]
        (left_out,) = ranking.left_out
        assert (left_out.name, left_out.seconds) == ("width40 at 16 pixels", 20 + 200 + 800)
        assert "width40 at 16 pixels is left out: all would take 17.0 minutes with it" in str(ranking)
        assert {row.name: row.seconds for row in ranking} == {"width1": 20, "width10": 200}

    def test_what_it_says_is_enough(self, computed):
        assert len(self.rank(17.0)) == 3

    def test_the_cheapest_is_computed_in_any_case(self, computed):
        ranking = self.rank(0.01)
        assert [row.name for row in ranking] == ["width1"]
        assert [each.name for each in ranking.left_out] == [
            "width10 at 16 pixels",
            "width40 at 16 pixels",
        ]

    def test_without_a_limit_they_are_computed_in_their_order(self, computed):
        assert len(self.rank(None)) == 3
        assert computed == 10 * [80] + 10 * [2] + 10 * [20]


class TestCached:
    def test_of_none_it_says_how_to_get_them(self, monkeypatch, tmp_path):
        monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))
        with pytest.raises(ValueError, match=r"there are none; .*folder models/ of Keras' home"):
            kt.rank_backbones("cached", images(), verbose=0)

    def test_are_ranked_each_at_its_size(self, monkeypatch):
        rows = {row.name: row for row in kt.list_backbones()}
        listed = [SimpleNamespace(name=rows["MobileNet"].name, input_size=size) for size in (32, 40)]
        monkeypatch.setattr(module, "list_backbones", lambda source: listed)
        x, y = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), "uint8"), np.arange(8) % 2
        ranking = kt.rank_backbones("cached", (x, y), weights=None, verbose=0)
        assert {(row.name, row.image_size) for row in ranking} == {
            ("MobileNet", (32, 32)),
            ("MobileNet", (40, 40)),
        }


class TestResult:
    @pytest.fixture
    def ranking(self):
        def row(name, size):
            score = kt.features.HeadScore((0.5, 0.75), (1.0, 1.0), 8)
            sizes = (size, size)
            return kt.features.RankedBackbone(name, None, score, 3, 1.2e-5, None, sizes, 2.0, 0.4, 0, 0)

        rows = [row("one", 160), row("one", 224), row("two", 64)]
        return BackboneRanking(rows, [module.LeftOut("three", 90.0)])

    def test_best(self, ranking):
        assert ranking.best() == (("one", (160, 160)),)
        assert ranking.best(2) == (("one", (160, 160)), ("two", (64, 64)))
        assert ranking.best(3) == (*ranking.best(2), ("one", (224, 224)))
        for count_ in (0, 4):
            with pytest.raises(ValueError, match=f"from 1 to 3. Received: count={count_}"):
                ranking.best(count_)

    def test_as_plain_data(self, ranking):
        told = json.loads(json.dumps(ranking.to_dict()))
        assert told["left_out"] == [{"name": "three", "seconds": 90.0}]
        assert told["backbones"][2]["image_size"] == [64, 64]
        assert told["backbones"][0]["probe"]["mean"] == 0.625
        assert told["backbones"][0]["log_loss"] == 0.4


@pytest.mark.real_data
def test_each_size_at_hand_is_ranked_by_its_head(real_data):
    loader = kt.data.from_directory(real_data / "hymenoptera" / "train", image_size=224, verbose=0)
    ranking = kt.rank_backbones("cached", loader, method="ridge", verbose=0)
    assert {(row.name, row.image_size[0]) for row in ranking} == {
        (row.name, row.input_size) for row in kt.list_backbones("cached")
    }
    assert all(row.probe.mean > 0.9 for row in ranking)


@pytest.mark.real_data
def test_pretrained_weights_are_before_random_ones(real_data):
    loader = kt.data.from_directory(real_data / "hymenoptera" / "val", image_size=224)
    options = {"input_shape": (224, 224, 3), "alpha": 0.25}
    given = {
        name: kt.classifier(
            keras.applications.MobileNet(**options, include_top=False, weights=weights),
            2,
            preprocessing=layers.Rescaling(1 / 127.5, -1.0),
        )
        for name, weights in (("random", None), ("pretrained", "imagenet"))
    }
    ranking = kt.rank_backbones(given, loader, verbose=0)
    assert [row.name for row in ranking] == ["pretrained", "random"]
