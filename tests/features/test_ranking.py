"""LogME, and the order of backbones that it gives."""

from itertools import count
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt
from keras_transfer.features.logme import explained, log_maximum_evidence

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
