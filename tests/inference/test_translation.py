"""ONNX Runtime on a graph written from layers: what Keras gives, folded, the same on each backend."""

from collections import Counter

import keras
import numpy as np
import pytest
from backends.weights import assign_weights
from families import APPLICATIONS, of_each_family
from initial_weights import numpy_initial_weights
from keras import layers
from keras.ops.image import resize
from processes import each_backend, require, run

import keras_transfer as kt
from keras_transfer.inference.folding import fold
from keras_transfer.inference.steps import UnknownLayerError
from keras_transfer.inference.translation import translated
from keras_transfer.layers.graph import up_to
from keras_transfer.layers.head import last_weighted

onnx_runtime = pytest.importorskip("keras_transfer.inference.onnx_runtime", exc_type=ImportError)
SIZES = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}


@pytest.fixture(autouse=True)
def _quick():
    """Draw weights quickly: JAX would compile a program for every shape."""
    with numpy_initial_weights():
        yield


def distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def by_keras(model, images):
    # Only on JAX is it quicker to compile a network that runs once.
    model.run_eagerly = keras.backend.backend() != "jax"
    return keras.ops.convert_to_numpy(model.predict_on_batch(images))


def images_for(model, count=2):
    return np.random.default_rng(0).uniform(0, 255, (count, *model.input_shape[1:])).astype("float32")


def ops_of(model):
    steps = translated(model)
    fold(steps)
    return Counter(step.op for step in steps.steps)


@pytest.mark.parametrize("name", of_each_family(APPLICATIONS))
def test_it_gives_what_keras_gives(name):
    if name.startswith("NASNet") and keras.backend.backend() == "torch":
        pytest.skip("Keras has no NASNet on torch")
    model = kt.classifier(name, 3, image_size=SIZES.get(name, 64), weights=None)
    assign_weights(model)
    features = up_to(model, last_weighted(model))
    images = images_for(model)
    (found,) = onnx_runtime.computing(features)(images)
    assert distance(found, by_keras(features, images)) < 1e-5
    assert set(ops_of(features)).isdisjoint({"Affine"})


def made(*layers, shape=(9, 8, 4)):
    model = keras.Sequential([keras.Input(shape), *layers])
    assign_weights(model)
    return model


def merged(layer, last=(7, 6, 4)):
    inputs = keras.Input((7, 6, 4))
    other = layers.Conv2D(last[-1], 1)(inputs)
    if last[:2] == (1, 1):
        other = layers.GlobalAveragePooling2D(keepdims=True)(other)
    model = keras.Model(inputs, layer([layers.Conv2D(4, 3, padding="same")(inputs), other]))
    assign_weights(model)
    return model


def called(function, shape=(7, 6, 4)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, function(inputs))


def any_size():
    """Return a network whose padding and shapes hang on the size of what it is given."""
    inputs = keras.Input((None, None, 4))
    x = layers.Conv2D(5, 3, 2, "same")(inputs)
    x = layers.Cropping2D(((1, 0), (0, 1)))(layers.MaxPooling2D(2, 2, "same")(x))
    model = keras.Model(inputs, layers.Dense(3)(layers.Reshape((-1, 5))(x)))
    assign_weights(model)
    return model


def normalization():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(2, 3, (50, 9, 8, 4)))
    return layer


MODELS = {
    "strides and even kernel": lambda: made(layers.Conv2D(5, (4, 2), (3, 2), "same")),
    "stride beyond the kernel": lambda: made(layers.Conv2D(5, 1, 3, "same")),
    "dilation": lambda: made(layers.Conv2D(5, 3, padding="same", dilation_rate=2)),
    "groups": lambda: made(layers.Conv2D(8, 3, groups=2, use_bias=False), layers.BatchNormalization()),
    "depthwise": lambda: made(
        layers.DepthwiseConv2D(3, depth_multiplier=3), layers.BatchNormalization()
    ),
    "separable": lambda: made(layers.SeparableConv2D(5, 3, 2, "same", depth_multiplier=2)),
    "norm first": lambda: made(layers.BatchNormalization(), layers.Conv2D(5, 3)),
    "norm before padding": lambda: made(
        layers.BatchNormalization(), layers.Conv2D(5, 3, padding="same")
    ),
    # Behind pooling the channels come first, so that convolutions follow at once.
    "norm between": lambda: made(
        layers.MaxPooling2D(1), layers.BatchNormalization(), layers.Conv2D(5, 3)
    ),
    "norm between, with padding": lambda: made(
        layers.MaxPooling2D(1), layers.BatchNormalization(), layers.Conv2D(5, 3, padding="same")
    ),
    "two norms": lambda: made(
        layers.BatchNormalization(scale=False), layers.BatchNormalization(center=False)
    ),
    "norm of a dense layer": lambda: made(
        layers.Flatten(), layers.Dense(6), layers.BatchNormalization(), layers.Dense(3, "softmax")
    ),
    "a dense layer on maps": lambda: made(layers.Conv2D(5, 3), layers.Dense(6, "gelu")),
    "a convolution that two read": lambda: called(
        lambda x: (
            (y := layers.Conv2D(4, 3)(x)) + layers.BatchNormalization(moving_mean_initializer="ones")(y)
        )
    ),
    "padding": lambda: made(layers.ZeroPadding2D(((1, 2), (3, 0))), layers.Conv2D(5, 3)),
    "padding twice": lambda: made(layers.ZeroPadding2D(2), layers.Conv2D(5, 3, padding="same")),
    "padding before pooling": lambda: made(layers.ZeroPadding2D(1), layers.MaxPooling2D(3, 2)),
    "pooling of the same size": lambda: made(
        layers.Conv2D(5, 1), layers.MaxPooling2D(3, 2, "same"), layers.AveragePooling2D(2, 2, "same")
    ),
    "maximum": lambda: made(layers.Conv2D(5, 1), layers.GlobalMaxPooling2D()),
    "means, channels last": lambda: made(layers.GlobalAveragePooling2D(keepdims=True)),
    "smaller images": lambda: called(lambda x: layers.Conv2D(5, 3)(resize(x, (4, 5)))),
    "smaller images, without jags": lambda: called(lambda x: resize(x, (4, 3), antialias=True)),
    "larger images": lambda: called(lambda x: layers.Rescaling(0.5, 1.0)(resize(x, (20, 6)))),
    "wider images, without jags": lambda: called(lambda x: resize(x, (3, 17), antialias=True)),
    "cropping": lambda: made(layers.Cropping2D(((1, 0), (2, 1)))),
    "another size": lambda: made(layers.Resizing(5, 11)),
    "another size without aliasing": lambda: made(layers.Resizing(5, 11, antialias=True)),
    "smaller without aliasing": lambda: made(layers.Resizing(4, 7, antialias=True)),
    "flat maps": lambda: made(layers.Conv2D(5, 3), layers.Flatten(), layers.Dense(3)),
    "another shape": lambda: made(layers.Conv2D(5, 1), layers.Reshape((-1, 10)), layers.Dense(3)),
    "layer norm": lambda: made(layers.Conv2D(5, 3), layers.LayerNormalization()),
    "normalization": lambda: made(normalization()),
    "scales of channels": lambda: made(layers.Rescaling([1.0, 2.0, 3.0, 4.0], 0.5)),
    "relu to six": lambda: made(layers.Conv2D(5, 3), layers.ReLU(6.0), layers.Dropout(0.5)),
    "a slope": lambda: made(layers.ReLU(negative_slope=0.25), layers.LeakyReLU(0.1)),
    "sum": lambda: merged(layers.Add()),
    "mean": lambda: merged(layers.Average()),
    "difference": lambda: merged(layers.Subtract()),
    "greatest": lambda: merged(layers.Maximum()),
    "gate": lambda: merged(layers.Multiply(), (1, 1, 4)),
    "side by side": lambda: merged(layers.Concatenate()),
    "one above the other": lambda: merged(layers.Concatenate(axis=1)),
    "numbers": lambda: called(lambda x: (1.0 - x) * 2.0 / (x + 300.0)),
    "a number for each channel": lambda: called(
        lambda x: layers.Conv2D(4, 1)(x) * np.array([1, 2, 3, 4], "float32")
    ),
    "parts": lambda: called(lambda x: layers.Conv2D(4, 1)(x)[:, 1:-1, ..., 2]),
    "the first sample, for all": lambda: called(lambda x: x + 2 * keras.ops.ones_like(x[:1, :1, :1])),
    "ones for each sample": lambda: called(lambda x: x[:, :1] - keras.ops.ones_like(x[:, :1])),
    "rolled": lambda: called(lambda x: keras.ops.roll(layers.Conv2D(4, 1)(x), -2, axis=1)),
    "rolled once around": lambda: called(lambda x: keras.ops.roll(x, 14, axis=-2)),
    "taken": lambda: called(
        lambda x: keras.ops.take(layers.Conv2D(4, 1)(x), np.array([[0, 2], [2, 1]]), axis=3)
    ),
    "axes in another order": lambda: called(lambda x: layers.Permute((3, 1, 2))(layers.Conv2D(4, 1)(x))),
    "room before tokens": lambda: made(
        layers.Reshape((42, 4)), layers.ZeroPadding1D((2, 1)), shape=(7, 6, 4)
    ),
    "a product": lambda: called(lambda x: keras.ops.matmul(x, layers.Permute((1, 3, 2))(x))),
    "attention": lambda: called(lambda x: keras.ops.dot_product_attention(x, 0.01 * x, x)),
    "bounds": lambda: called(lambda x: keras.ops.minimum(keras.ops.abs(x - 100), 50.0)),
    "approximate gelu": lambda: called(lambda x: keras.ops.gelu(x / 100 - 1, approximate=True)),
    "exact gelu": lambda: called(lambda x: keras.ops.gelu(x / 100 - 1, approximate=False)),
    "activations": lambda: called(
        lambda x: keras.ops.silu(keras.ops.sigmoid(x)) + keras.ops.tanh(keras.ops.relu(x))
    ),
    "the order of channels": lambda: called(lambda x: keras.ops.flip(x, axis=-1)),
    "left for right": lambda: called(lambda x: keras.ops.flip(x, axis=2)),
    "upside down": lambda: called(lambda x: keras.ops.flip(x, axis=-3)),
    "a network for any size": lambda: called(any_size()),
    "a network for any size, twice": lambda: called(
        lambda x: (one := any_size())(x) + one(keras.ops.flip(x, 2))
    ),
    "a layer called twice": lambda: called(
        lambda x: (one := layers.Conv2D(4, 3, padding="same"))(one(x))
    ),
    "nested": lambda: called(made(layers.Conv2D(5, 3), shape=(7, 6, 4))),
    "nothing": lambda: called(lambda x: layers.Activation("linear")(x)),
} | {
    name: lambda name=name: made(layers.Conv2D(5, 3, activation=name), layers.Rescaling(0.01))
    for name in (
        "elu",
        "gelu",
        "hard_sigmoid",
        "hard_silu",
        "relu6",
        "sigmoid",
        "silu",
        "softplus",
        "tanh",
    )
}


@pytest.mark.parametrize("name", MODELS)
def test_each_layer_gives_what_keras_gives(name):
    model = MODELS[name]()
    images = images_for(model, 3)
    (found,) = onnx_runtime.computing(model)(images)
    expected = by_keras(model, images)
    assert found.shape == expected.shape
    assert distance(found, expected) < 2e-6


def test_all_norms_of_mobile_net_are_folded():
    model = kt.classifier("mobilenet_v2", 3, image_size=32, weights=None)
    found = ops_of(model)
    assert found["Conv"] == 52
    assert not {"BatchNormalization", "Pad"} & set(found)
    assert found["Transpose"] == 1


@pytest.mark.parametrize(("name", "left"), [("norm between", 0), ("norm between, with padding", 1)])
def test_norms_before_a_convolution_fold_where_no_zeros_come_between(name, left):
    assert ops_of(MODELS[name]())["BatchNormalization"] == left


def test_several_outputs():
    inputs = keras.Input((8, 8, 3))
    maps = layers.Conv2D(4, 3)(inputs)
    model = keras.Model(inputs, [maps, layers.GlobalAveragePooling2D()(maps)])
    images = images_for(model)
    for found, expected in zip(
        onnx_runtime.computing(model)(images), model.predict_on_batch(images), strict=True
    ):
        assert distance(found, keras.ops.convert_to_numpy(expected)) < 2e-6


@pytest.mark.parametrize("threads", ["1", "2"])
def test_numbers_hang_neither_on_batches_nor_on_threads(threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    model = kt.classifier("mobilenet", 3, image_size=64, weights=None)
    assign_weights(model)
    images = images_for(model, 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (expected,) = onnx_runtime.computing(model)(images)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    compute = onnx_runtime.computing(model)
    found = np.concatenate([compute(images[:4])[0], compute(images[4:5])[0], compute(images[5:])[0]])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("backend", each_backend())
def test_each_backend_gives_the_same_bytes(backend, tmp_path):
    require(backend)
    model = kt.classifier("mobilenet_v2", 3, image_size=64, weights=None)
    assign_weights(model)
    images = images_for(model)
    np.save(tmp_path / "images.npy", images)
    model.save(tmp_path / "model.keras")
    run(backend, "runtime.py", tmp_path)
    (found,) = onnx_runtime.computing(model)(images)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), found)
    folder = tmp_path / "cache"
    calls = []
    loader = kt.Loader((images, np.arange(2)), 2)
    prefix, _ = kt.split_model(model, "block_3_expand")
    from keras_transfer.features.cache import cache

    with pytest.MonkeyPatch.context() as patch:
        predict = cache._predict
        patch.setattr(cache, "_predict", lambda *given: calls.append(1) or predict(*given))
        kt.FeatureCache(prefix, folder).build(loader, 2, verbose=0)
    assert not calls  # the other backend has computed them


# What isn't known


class Own(layers.Conv2D):
    """A layer that may compute anything."""


REFUSED = {
    "a class of the user's": (lambda: made(Own(4, 3)), r"layer 'own' of class Own"),
    "a layer without translation": (lambda: made(layers.Conv2DTranspose(4, 3)), "Conv2DTranspose"),
    "an activation of the user's": (
        lambda: made(layers.Activation(lambda x: 2 * x)),
        "has an activation",
    ),
    "half the precision": (lambda: made(layers.Conv2D(4, 3, dtype="mixed_bfloat16")), "in bfloat16"),
    "other pixels": (lambda: called(lambda x: resize(x, (4, 4), "nearest")), "of class Resize"),
    "a part of the image": (
        lambda: called(lambda x: resize(x, (4, 4), crop_to_aspect_ratio=True)),
        "of class Resize",
    ),
    "training": (lambda: called(lambda x: layers.Dropout(0.5)(x, training=True)), "training=True"),
    "no fixed size": (lambda: called(layers.Conv2D(4, 3), (None, None, 3)), "no fixed size"),
    "another axis": (lambda: made(layers.BatchNormalization(axis=1)), "normalizes axis 1"),
    "an operation": (lambda: called(lambda x: keras.ops.sin(x)), "class Sin"),
    "whole numbers": (lambda: called(lambda x: x * np.ones((1, 1, 1, 4), int)), "class Multiply"),
    "every other row": (lambda: called(lambda x: x[:, ::2]), "class GetItem"),
    "rolled samples": (lambda: called(lambda x: keras.ops.roll(x, 1, axis=0)), "class Roll"),
    "all axes rolled": (lambda: called(lambda x: keras.ops.roll(x, 1)), "class Roll"),
    "places counted from the end": (
        lambda: called(lambda x: keras.ops.take(x, np.array([0, -1]), axis=1)),
        "class Take",
    ),
    "the future hidden": (
        lambda: called(lambda x: keras.ops.dot_product_attention(x, x, x, is_causal=True)),
        "class DotProductAttention",
    ),
    "some hidden": (
        lambda: called(
            lambda x: keras.ops.dot_product_attention(x, x, x, mask=np.ones((1, 6, 7, 7), bool))
        ),
        "class DotProductAttention",
    ),
    "an interpolation": (lambda: made(layers.Resizing(5, 5, "nearest")), "resizes otherwise"),
    "a part of the image, by a layer": (
        lambda: made(layers.Resizing(5, 5, crop_to_aspect_ratio=True)),
        "resizes",
    ),
    "all axes turned": (lambda: called(lambda x: keras.ops.flip(x)), "class Flip"),
    "joined samples": (lambda: called(lambda x: layers.Concatenate(axis=0)([x, x])), "joins samples"),
    "a threshold": (lambda: made(layers.ReLU(threshold=1.0)), "threshold"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_translation_is_named(name):
    make, words = REFUSED[name]
    with pytest.raises(UnknownLayerError, match=words):
        translated(make())


def test_a_graph_beyond_the_format(monkeypatch):
    from keras_transfer.inference import onnx_file

    monkeypatch.setattr(onnx_file, "_LARGEST", 100)
    with pytest.raises(ValueError, match="more than a file of ONNX can have"):
        onnx_runtime.computing(made(layers.Conv2D(8, 3)))
