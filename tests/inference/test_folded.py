"""A copy with batch norm in the weights before it gives what the model gives."""

import keras
import numpy as np
import pytest
from backends.weights import assign_weights
from families import APPLICATIONS, of_each_family
from initial_weights import numpy_initial_weights
from keras import layers

import keras_transfer as kt
from keras_transfer.inference.folded import folded

SIZES = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}


@pytest.fixture(autouse=True)
def _quick():
    """Draw weights quickly: JAX would compile a program for every shape."""
    with numpy_initial_weights():
        yield


def distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def computed(model, images):
    # Only on JAX is it quicker to compile a network that runs once.
    model.run_eagerly = keras.backend.backend() != "jax"
    return keras.ops.convert_to_numpy(model.predict_on_batch(images))


def norms(model):
    return sum(
        isinstance(layer, layers.BatchNormalization)
        for layer in model._flatten_layers(include_self=False, recursive=True)
    )


@pytest.mark.parametrize("name", of_each_family([n for n in APPLICATIONS if not n.startswith("NASNet")]))
def test_it_gives_what_the_model_gives(name):
    size = SIZES.get(name, 32)
    model = kt.classifier(name, 3, image_size=size, weights=None)
    assign_weights(model)
    before = model.get_weights()
    copy = folded(model)
    if copy is None:
        assert not norms(model)
        return
    images = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype("float32")
    assert norms(copy) < norms(model)
    assert distance(computed(copy, images), computed(model, images)) < 1e-5
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def made(*between, nested=False):
    inputs = keras.Input((8, 8, 4))
    stack = keras.Sequential([keras.Input((8, 8, 4)), *between])
    outputs = stack(inputs) if nested else inputs
    for layer in () if nested else between:
        outputs = layer(outputs)
    model = keras.Model(inputs, outputs)
    assign_weights(model)
    return model


NORM = layers.BatchNormalization
FOLDED = {
    "convolution": lambda: made(layers.Conv2D(5, 3, use_bias=False), NORM()),
    "groups": lambda: made(layers.Conv2D(6, 3, groups=2), NORM(scale=False)),
    "depthwise": lambda: made(layers.DepthwiseConv2D(3, depth_multiplier=2), NORM(center=False)),
    "dense": lambda: made(layers.Flatten(), layers.Dense(5), NORM()),
    "nested": lambda: made(layers.Conv2D(5, 3), NORM(), layers.ReLU(), nested=True),
}


@pytest.mark.parametrize("name", FOLDED)
def test_norms_that_fold(name):
    model = FOLDED[name]()
    copy = folded(model)
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype("float32")
    assert (norms(model), norms(copy)) == (1, 0)
    assert distance(computed(copy, images), computed(model, images)) < 1e-6


def twice():
    inputs = keras.Input((8, 8, 4))
    maps = layers.Conv2D(4, 3)(inputs)
    return keras.Model(inputs, NORM()(maps) + maps)


def shared():
    """A convolution that is called twice, once without the norm."""
    inputs = keras.Input((8, 8, 4))
    convolution = layers.Conv2D(4, 3)
    return keras.Model(inputs, convolution(NORM()(convolution(inputs))))


KEPT = {
    "the convolution is called elsewhere, too": shared,
    "an activation comes between": lambda: made(layers.Conv2D(5, 3, activation="relu"), NORM()),
    "it comes first": lambda: made(NORM(), layers.Conv2D(5, 3)),
    "others read the convolution, too": twice,
    "half the precision": lambda: made(layers.Conv2D(5, 3, dtype="mixed_bfloat16"), NORM()),
    "another axis": lambda: made(layers.Conv2D(5, 3), NORM(axis=1)),
}


@pytest.mark.parametrize("name", KEPT)
def test_norms_that_do_not(name):
    assert folded(KEPT[name]()) is None
