"""A network in 16 bits: near the one in 32, its preprocessing and the given model as they were."""

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from keras import layers

import keras_transfer as kt
from keras_transfer.layers.graph import leaf_layers
from keras_transfer.layers.precision import in_precision

X = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype="uint8")
# The norm of the difference over the norm, after a few layers with 8 and 11 bits of precision.
DISTANCES = {"bfloat16": 1e-2, "float16": 2e-3}


@pytest.fixture(scope="module", autouse=True)
def _quick_weights():
    with numpy_initial_weights():
        yield


def preprocessed(x):
    x = layers.Rescaling(1 / 127.5, -1.0, name="rescaling")(x)
    return keras.ops.flip(x, axis=-1)


def body(x):
    for number, filters in enumerate((8, 16), 1):
        x = layers.Conv2D(filters, 3, padding="same", name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"bn{number}")(x)
        y = layers.Conv2D(filters, 1, activation="relu", name=f"side{number}")(x)
        x = layers.MaxPooling2D(name=f"pool{number}")(layers.Add(name=f"add{number}")([x, y]))
    return x


def flat():
    inputs = keras.Input((16, 16, 3))
    return keras.Model(inputs, body(preprocessed(inputs)), name="flat")


def nested():
    inner = keras.Input((16, 16, 3))
    base = keras.Model(inner, body(inner), name="base")
    inputs = keras.Input((16, 16, 3))
    return keras.Model(inputs, base(preprocessed(inputs)), name="nested")


def distance(found, expected):
    return np.linalg.norm(found.astype("float64") - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("dtype", DISTANCES)
@pytest.mark.parametrize("make", [flat, nested])
def test_features_are_near(make, dtype):
    model = make()
    found = np.asarray(in_precision(model, dtype).predict_on_batch(X))
    assert 1e-5 < distance(found, model.predict_on_batch(X)) < DISTANCES[dtype]


@pytest.mark.parametrize("make", [flat, nested])
def test_preprocessing_stays_in_float32(make):
    by_name = {layer.name: layer for layer in leaf_layers(in_precision(make(), "float16"))}
    assert by_name.pop("rescaling").compute_dtype == "float32"
    assert {layer.compute_dtype for layer in by_name.values()} == {"float16"}
    assert {v.dtype for layer in by_name.values() for v in layer.variables} == {"float32"}


@pytest.mark.parametrize("make", [flat, nested])
def test_the_given_model_stays_as_it_is(make):
    model = make()
    config, before = model.get_config(), model.predict_on_batch(X)
    copy = in_precision(model, "bfloat16")
    copy.set_weights([0 * weight for weight in copy.get_weights()])
    assert model.get_config() == config
    np.testing.assert_array_equal(model.predict_on_batch(X), before)


def test_offsets_of_large_pixels_survive():
    """255 - 254.6 has no digit left in bfloat16."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Rescaling(1.0, -254.6, name="rescaling")(inputs)
    model = keras.Model(inputs, layers.Conv2D(4, 1, name="conv")(x))
    white = np.full((2, 16, 16, 3), 255, "uint8")
    found = np.asarray(in_precision(model, "bfloat16").predict_on_batch(white))
    assert distance(found, model.predict_on_batch(white)) < 2e-2


def test_a_cache_of_it(tmp_path):
    model, loader = nested(), kt.Loader((X, np.arange(4)), 4, shuffle=False)
    found = {}
    for dtype in (None, "bfloat16", "float16"):
        cache = kt.FeatureCache(model, tmp_path, compute_dtype=dtype)
        found[dtype] = cache.build(loader, verbose=0).batch(0, 0)[0]
        assert found[dtype].dtype == np.float32
    for dtype, limit in DISTANCES.items():
        assert 1e-5 < distance(found[dtype], found[None]) < limit
    assert len(kt.features.caches(tmp_path)) == 3


def test_the_network_of_the_tutorial():
    """VGG16, whose preprocessing subtracts what 16 bits can't tell from a pixel."""
    model = kt.classifier("vgg16", 3, image_size=32, weights=None)
    prefix, _ = kt.split_model(model, "block5_pool")
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype="uint8")
    found = np.asarray(in_precision(prefix, "bfloat16").predict_on_batch(x))
    assert distance(found, prefix.predict_on_batch(x)) < 3e-2
