"""Advice: what the size of the data and the features of each group lead to."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt
from keras_transfer.features.advice import _advice
from keras_transfer.results.advice import LayerScore

SHAPE = (8, 8, 3)


def images(count=40, noise=120):
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    x = rng.uniform(0, noise, (count, *SHAPE))
    x[np.arange(count), :, :, 2 * y] += 60
    return x.astype("uint8"), y


MEAN = np.full((3, 3), 1 / 3)


def model(last=MEAN, nested=False):
    """Return a classifier whose first block keeps colours, and whose second may not."""
    inputs = keras.Input(SHAPE)
    x = layers.Rescaling(1 / 255)(inputs)
    for name, kernel in (("block1_conv", np.eye(3)), ("block2_conv", last)):
        layer = layers.Conv2D(3, 1, activation="relu", name=name)
        x = layer(x)
        layer.kernel.assign(kernel.reshape(1, 1, 3, 3))
        layer.bias.assign([0.0, 0.0, 0.2])  # something that is always there, as LogME has no intercept
    base = keras.Model(inputs, x, name="base")
    if nested:
        return kt.classifier(base, 2)
    outputs = layers.Dense(2, name="out")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs, name="mine")


def scores(*values):
    return tuple(LayerScore(f"block{k}", value, value) for k, value in enumerate(values))


class TestCases:
    @pytest.mark.parametrize(
        ("values", "per_class", "size", "distance", "at", "train"),
        [
            ((0.2, 0.5), 100, "small", "near", None, None),
            ((0.5, 0.2), 100, "small", "far", "block0", None),
            ((0.2, 0.5), 200, "large", "near", None, "all"),
            ((0.5, 0.2), 200, "large", "far", None, "all"),
            ((0.01, 0.05), 100, "small", "far", None, None),
        ],
    )
    def test_follow_from_size_and_scores(self, values, per_class, size, distance, at, train):
        advice = _advice(scores(*values), 3 * per_class, 3)
        assert (advice.size, advice.distance, advice.at, advice.train) == (size, distance, at, train)
        assert advice.per_class == per_class
        assert advice.factor == (1.0 if (size, distance) == ("large", "far") else 3.0)
        assert ("another backbone" in advice.text) == (max(values) < 0.1)
        assert f"{size.capitalize()} ({3 * per_class} images, {per_class} a class)" in advice.text
        assert ("at='block0'" in advice.text) == (at == "block0")

    def test_can_be_followed(self):
        advice = _advice(scores(0.2, 0.5), 1000, 2)
        multipliers = kt.multipliers.geometric(model(), advice.factor)
        phase = kt.Phase(
            "all", 1, train=advice.train, learning_rate=advice.learning_rate, multipliers=multipliers
        )
        assert phase.train == "all"


@pytest.fixture(params=[False, True], ids=["flat", "nested"])
def nested(request):
    return request.param


class TestAdvise:
    def test_is_far_where_the_last_block_loses_what_matters(self, nested):
        given = model(nested=nested)
        before = given.get_weights()
        advice = kt.advise(given, images(), verbose=0)
        assert [score.layer for score in advice.layers] == ["block1_conv", "block2_conv"]
        assert advice.layers[0].explained > advice.layers[1].explained + 0.3
        assert (advice.size, advice.distance, advice.at) == ("small", "far", "block1_conv")
        early = kt.fit_linear_head(given, images(), at=advice.at, C=1.0, verbose=0)
        assert early.output_shape == (None, 2)
        for old, new in zip(before, given.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_is_near_where_it_brings_it_out(self):
        x, y = images()
        contrast = np.outer([3, 0, -3], [1, -1, 0])
        strong = np.arange(len(y)) // 2 % 2  # what to tell: red or blue from purple
        noise = np.random.default_rng(1).uniform(0, 120, (len(x) // 2, *SHAPE))
        x[strong == 0] = noise + np.array([30, 0, 30])
        advice = kt.advise(model(contrast), (x, strong), verbose=0)
        assert (advice.distance, advice.at) == ("near", None)

    def test_prints_the_scores_and_the_words(self):
        advice = kt.advise(model(), images(), verbose=0)
        text = str(advice)
        assert "block1_conv" in text
        assert " ".join(advice.text.split()[:12]) in " ".join(text.split())

    def test_prints_in_lines_of_100_characters(self):
        advice = kt.advise(model(), images(), verbose=0)
        assert str(replace(advice, text="a" * 150)).split()[-2:] == ["a" * 100, "a" * 50]

    def test_is_silent_and_the_same_twice(self, capsys, tmp_path):
        found = [kt.advise(model(), images(), cache=tmp_path, verbose=0) for _ in range(2)]
        assert found[0] == found[1]
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda x, y: (x, 0 * y), ValueError, "at least two classes.* class 0 only"),
            (lambda x, y: (x, y + 5), ValueError, "labels must be integers from 0 to 1"),
            (lambda x, y: (x[:, :4], y), ValueError, "data must have images of shape"),
            (lambda x, y: [x, y], TypeError, r"data must be \(x, y\) arrays, a kt.Loader.* type list"),
        ],
    )
    def test_refuses_data(self, change, error, message):
        with pytest.raises(error, match=message):
            kt.advise(model(), change(*images()), verbose=0)

    def test_refuses_models(self):
        inputs = keras.Input(SHAPE)
        without_head = keras.Model(inputs, layers.Conv2D(2, 1)(inputs))
        with pytest.raises(ValueError, match="no classification head"):
            kt.advise(without_head, images(), verbose=0)


@pytest.mark.real_data
def test_flowers_are_near(real_data):
    base = keras.applications.MobileNet((224, 224, 3), alpha=0.25, include_top=False)
    given = kt.classifier(base, 5, preprocessing=layers.Rescaling(1 / 127.5, -1.0))
    loader = kt.data.from_directory(real_data / "flowers" / "train", image_size=224)
    assert kt.advise(given, loader, verbose=0).distance == "near"
