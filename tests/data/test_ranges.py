"""Whether values are of the range that a model takes, and what that is."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt
from keras_transfer.data.ranges import check_range
from keras_transfer.layers.input_range import BYTES, UNIT, input_range

SHAPE = (4, 4, 3)


def after(*first):
    """Return a classifier that begins with some layers."""
    return keras.Sequential([keras.Input(SHAPE), *first, layers.Flatten(), layers.Dense(2)])


def adapted(values):
    layer = layers.Normalization()
    layer.adapt(values)
    return layer


NOISE = np.random.default_rng(0).uniform(0, 1, (50, *SHAPE)).astype("float32")
TAKEN = {
    "factor": ([layers.Rescaling(1 / 255)], BYTES),
    "both signs": ([layers.Rescaling(1 / 127.5, -1.0)], BYTES),
    "128": ([layers.Rescaling(1 / 128)], BYTES),
    "torch's": ([layers.Rescaling([0.01712, 0.01751, 0.01743], [-2.118, -2.036, -1.804])], BYTES),
    "caffe's": ([layers.Rescaling([1.0, 1.0, 1.0], [-103.9, -116.8, -123.7])], BYTES),
    "after an augmentation": ([layers.RandomFlip(), layers.Rescaling(1 / 255)], BYTES),
    "the first counts": (
        [layers.Rescaling(1 / 255), layers.Normalization(mean=0.5, variance=0.04)],
        BYTES,
    ),
    "mean and variance": ([layers.Normalization(mean=120.0, variance=3600.0)], BYTES),
    "adapted": ([adapted(255 * NOISE)], BYTES),
    "from 1 to both signs": ([layers.Rescaling(2.0, -1.0)], UNIT),
    "from 1": ([layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.05, 0.05, 0.05])], UNIT),
    "to 255": ([layers.Rescaling(255.0)], UNIT),
    "adapted to 1": ([adapted(NOISE)], UNIT),
    "nothing": ([], None),
    "by nothing": ([layers.Rescaling(1.0)], None),
    "behind weights": ([layers.Conv2D(3, 1), layers.Rescaling(1 / 255)], None),
    "something else": ([layers.Rescaling(1e-6)], None),
    "a layer of one's own": ([layers.Lambda(lambda x: x / 255)], None),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_a_model_takes(kind):
    first, wanted = TAKEN[kind]
    model = after(*first)
    assert input_range(model) == wanted
    image = keras.Input(SHAPE)
    assert input_range(keras.Model(image, layers.Softmax()(model(image)))) == wanted  # nested


@pytest.mark.parametrize("name", ["mobilenet", "vgg16", "efficientnetb0", "mobilenetv3small"])
def test_what_named_backbones_take(name):
    assert input_range(kt.classifier(name, 2, image_size=32, weights=None)) == BYTES


def test_without_preprocessing_nothing_is_known():
    model = kt.classifier("mobilenet", 2, image_size=32, weights=None, preprocessing=False)
    assert input_range(model) is None


def test_what_has_no_graph_tells_nothing():
    class Own(keras.Model):
        def call(self, x):
            return x

    assert input_range(Own()) is None
    assert input_range(keras.Sequential([layers.Dense(1)])) is None


def of(low, high, dtype="float32"):
    """Return images with values from `low` to `high`."""
    return np.linspace(low, high, 2 * np.prod(SHAPE)).reshape(2, *SHAPE).astype(dtype)


FINE = [
    of(0, 255, "uint8"),
    of(0, 255),
    of(3, 200, "int64"),
    of(-30, 290),  # interpolated beyond the ends
    of(0, 40, "uint8"),  # dark
    of(0, 0),  # black
    of(1, 1),
    of(7, 7, "uint8"),
]
ODD = [
    (of(0, 1), "0 to 1", (0, 1)),
    (of(0, 1, "float16"), "0 to 1", (0, 1)),
    (of(0, 1) > 0.5, "0 to 1", (0, 1)),
    (of(0, 1.9, "uint8"), "0 to 1", (0, 1)),
    (of(-1, 1), "-1 to 1", (-1, 1)),
    (of(-2.1, 2.6), "-2.1 to 2.6", (-2.1, 2.6)),
    (of(-124, 151), "-124 to 151", (-124, 151)),
    (of(0, 1000), "0 to 1000", (0, 1023)),
    (of(0, 65535), "0 to 65535", (0, 65535)),
]


@pytest.mark.parametrize("images", FINE)
def test_images_of_0_to_255(images, caplog):
    check_range(images, after(layers.Rescaling(1 / 255)), "data")
    assert not caplog.records


@pytest.mark.parametrize(("images", "seen", "meant"), ODD)
def test_images_of_another_range(images, seen, meant, caplog):
    check_range(images, after(layers.Rescaling(1 / 255)), "train")
    (record,) = caplog.records
    low, high = (f"{end:g}" for end in meant)
    assert re.match(
        rf"train has values from {re.escape(seen)}, and model .* takes 0 to 255, as its first layers "
        rf"tell: kt\.Loader\(\.\.\., value_range=\({low}, {high}\)\) makes 0 to 255 of them; "
        "value_range='as is' says",
        record.getMessage(),
    )


@pytest.mark.parametrize("dtype", ["uint16", "int32", "int64"])
@pytest.mark.parametrize(("white", "meant"), [(300, 1023), (4000, 4095), (65535, 65535)])
def test_integers_that_can_not_be_meant(white, meant, dtype):
    with pytest.raises(ValueError, match=rf"value_range=\(0, {meant}\)\) makes of them.* dtype {dtype}"):
        check_range(of(0, white, dtype), after(layers.Rescaling(1 / 255)), "data")


def test_raw_images_where_0_to_1_is_taken(caplog):
    model = after(layers.Rescaling(2.0, -1.0))
    check_range(of(0, 1), model, "data")
    check_range(of(-1, 1), model, "data")
    assert not caplog.records
    check_range(of(0, 255, "uint8"), model, "data")
    assert "data has values from 0 to 255, and model" in caplog.text
    assert "takes 0 to 1, as its first layers tell: divide them by 255" in caplog.text


def test_of_a_model_that_does_not_tell_nothing_is_said(caplog):
    for images in [each for each, *_ in ODD]:
        check_range(images, after(), "data")
    assert not caplog.records


# In a loader


@pytest.mark.parametrize("size", [None, 6])
def test_a_loader_maps_a_range_to_bytes(size):
    x = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), "uint8") if size else of(0, 255, "uint8")
    y = np.arange(len(x))
    plain = kt.Loader((x, y), batch_size=5, image_size=size, shuffle=False)
    for values, span in (
        (x / 255, (0, 1)),
        (x / 127.5 - 1, (-1, 1)),
        (x.astype("uint16") * 257, (0, 65535)),
    ):
        loader = plain.replace(data=(values, y), value_range=span)
        for augmentation in (None, "light"):
            wanted = plain.replace(augmentation=augmentation).batch(0, 0)[0]
            found = loader.replace(augmentation=augmentation).batch(0, 0)[0]
            assert found.dtype == "uint8"
            np.testing.assert_array_equal(found, wanted)
        assert loader.subset([1, 0]).value_range == span
        assert loader.fingerprint() != loader.replace(value_range=None).fingerprint()


def test_files_come_as_bytes_and_their_range_is_told_where_they_are_read(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        image.new("L", (8, 8)).save(tmp_path / name / "1.png")
    loader = kt.data.from_directory(tmp_path, image_size=8, verbose=0)
    with pytest.raises(ValueError, match="value_range must be told to kt.data.from_directory"):
        loader.replace(value_range=(0, 1))
    assert loader.replace(value_range="as is").value_range == "as is"
