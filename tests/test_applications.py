"""Groups, freezing and batch norm of every model in `keras.applications`."""

import contextlib

import keras
import numpy as np
import pytest
from families import APPLICATIONS, FIRST, of_each_family
from initial_weights import numpy_initial_weights

import keras_transfer as kt
from keras_transfer.layers.graph import leaf_layers

NOT_ON_TORCH = {"NASNetMobile"}  # Keras itself says so
# The smallest of each family with batch norm trains as a whole; of the others only the last group and
# the head do, for what batch norm does is decided layer by layer in the forward pass, which runs whole.
SMALLEST = FIRST - {"NASNetMobile"}
HEADS = {
    "ConvNeXt": ["GlobalAveragePooling2D", "LayerNormalization", "Dense"],
    "EfficientNet": ["GlobalAveragePooling2D", "Dropout", "Dense"],
    "MobileNetV2": ["GlobalAveragePooling2D", "Dense"],
    "MobileNetV3": [
        *("GlobalAveragePooling2D", "Conv2D", "Activation", "Dropout", "Conv2D", "Flatten"),
        "Activation",
    ],
    "MobileNet": ["GlobalAveragePooling2D", "Dropout", "Conv2D", "Reshape", "Activation"],
    "VGG": ["Flatten", "Dense", "Dense", "Dense"],
    "": ["GlobalAveragePooling2D", "Dense"],
}


@pytest.fixture(autouse=True)
def _quick():
    """Draw weights quickly, and let JAX compile quickly what runs once."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(numpy_initial_weights())
        if keras.backend.backend() == "jax":
            import jax

            before = jax.config.read("jax_disable_most_optimizations")
            jax.config.update("jax_disable_most_optimizations", True)
            stack.callback(jax.config.update, "jax_disable_most_optimizations", before)
        yield


def build(name):
    if name in NOT_ON_TORCH and keras.backend.backend() == "torch":
        pytest.skip(f"{name} can't be built on torch")
    size = 75 if "ception" in name else 32
    shape = (size, size, 3)
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=shape, classes=3, classifier_activation=None)


def trains(model):
    return {row.layer for row in kt.trainable_table(model) if row.trainable}


def weighted(layers):
    norm = keras.layers.BatchNormalization
    return {layer.name for layer in layers if layer.weights and not isinstance(layer, norm)}


def values(layers):
    return {v.path: np.array(keras.ops.convert_to_numpy(v)) for layer in layers for v in layer.weights}


def moved(layers, model):
    """Train a step on two images and return the paths of what has moved in `layers`."""
    before = values(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # By the sign of the gradient, which is small where batch norm doesn't normalise. On TensorFlow op by
    # op, as to compile takes longer than the step.
    eagerly = keras.backend.backend() == "tensorflow"
    model.compile(keras.optimizers.Lion(1e-4), loss, run_eagerly=eagerly)
    images = np.random.default_rng(0).standard_normal((2, *model.input_shape[1:]), "float32")
    model.fit(images, np.array([0, 1]), verbose=0)
    after = values(layers)
    assert all(np.isfinite(value).all() for value in after.values())
    return {path for path in after if (after[path] != before[path]).any()}


@pytest.mark.slow
@pytest.mark.parametrize("name", of_each_family(APPLICATIONS))
def test_every_application(name):
    model = build(name)
    leaves = leaf_layers(model)
    groups = kt.layer_groups(model)
    assert [layer for group in groups for layer in group.layers] == leaves
    assert len(groups) >= 3
    assert len({group.name for group in groups}) == len(groups)
    assert groups[-1].name == "head"
    head = next(kinds for family, kinds in HEADS.items() if name.startswith(family))
    assert [type(layer).__name__ for layer in groups[-1].layers] == head

    kt.freeze_to(model, -2)
    assert trains(model) == weighted(groups[-2].layers) | weighted(groups[-1].layers)
    kt.freeze_backbone(model)
    assert trains(model) == weighted(groups[-1].layers)

    norms = [layer for layer in leaves if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        assert name.startswith(("ConvNeXt", "VGG"))
        return
    inputs = keras.Input(model.input_shape[1:])
    nested = keras.Model(inputs, model(inputs))
    assert [group.name for group in kt.layer_groups(nested)] == [group.name for group in groups]
    for shape in (model, nested):
        for layer in norms:
            layer.trainable = True
        if name in SMALLEST and shape is nested:
            kt.unfreeze(shape)
            expected = weighted(leaves)
        else:
            kt.freeze_to(shape, -2)
            expected = weighted([*groups[-2].layers, *groups[-1].layers])
        assert trains(shape) == expected
        # Where each fit takes many seconds, networks are fitted in one shape only.
        if shape is nested or keras.backend.backend() == "torch":
            found = moved(leaves, shape)
            assert {path.split("/")[-2] for path in found} <= expected
            assert any(path.endswith("kernel") for path in found)
            assert len(found) > len(expected) / 2
