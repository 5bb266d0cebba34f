"""Classifiers on backbones: their layers, their numbers, their files."""

import json
import re
import zipfile
from itertools import pairwise

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from keras import layers

import keras_transfer as kt
from keras_transfer.layers.graph import leaf_layers

APPLICATIONS = {
    "vgg16": keras.applications.VGG16,
    "vgg19": keras.applications.VGG19,
    "resnet50": keras.applications.ResNet50,
    "resnet101": keras.applications.ResNet101,
    "resnet152": keras.applications.ResNet152,
    "mobilenet": keras.applications.MobileNet,
    "mobilenet_v2": keras.applications.MobileNetV2,
}
MODULES = {
    "vgg16": keras.applications.vgg16,
    "vgg19": keras.applications.vgg19,
    "resnet50": keras.applications.resnet,
    "resnet101": keras.applications.resnet,
    "resnet152": keras.applications.resnet,
    "mobilenet": keras.applications.mobilenet,
    "mobilenet_v2": keras.applications.mobilenet_v2,
}
DEEP = ("resnet101", "resnet152")
BACKBONES = [pytest.param(name, marks=pytest.mark.slow if name in DEEP else ()) for name in APPLICATIONS]
SIZE = 32
SHAPE = (SIZE, SIZE, 3)
NAMES = ["ant", "bee", "wasp"]


@pytest.fixture
def quick_weights():
    with numpy_initial_weights():
        yield


@pytest.fixture(scope="module")
def classifiers():
    """Return a function that builds each classifier of three classes once."""
    built = {}

    def build(name):
        if name not in built:
            with numpy_initial_weights():
                built[name] = kt.classifier(name, 3, image_size=SIZE, weights=None)
        return built[name]

    return build


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, (3, *SHAPE)).astype("float32")


@pytest.fixture
def base():
    """Return a user's own backbone: two convolutions."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv1")(inputs)
    return keras.Model(inputs, layers.Conv2D(5, 3, activation="tanh", name="conv2")(x), name="base")


@pytest.fixture
def small_images(rng):
    return rng.uniform(0, 255, (3, 8, 8, 3)).astype("float32")


def layer_names(model):
    return [layer.name for layer in model.layers]


def outputs_of(model, *names):
    """Return a model of the outputs of several layers."""
    return keras.Model(model.input, [model.get_layer(name).output for name in names])


def np_predict(model, images):
    return model.predict(images, verbose=0)


def np_call(model, images):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(images))


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def assert_near(actual, expected, tolerance):
    """Compare by the norm of the difference."""
    assert np.linalg.norm(actual - expected) <= tolerance * np.linalg.norm(expected)


def stock_only(model):
    """Check that every layer and operation of a model is Keras' own."""
    operations = list(model.operations)
    while operations:
        operation = operations.pop()
        assert type(operation).__module__.partition(".")[0] == "keras"
        operations += getattr(operation, "operations", [])


class TestNamedBackbones:
    @pytest.mark.parametrize("name", APPLICATIONS)
    def test_layers_and_shapes(self, classifiers, name):
        model = classifiers(name)
        assert model.name == f"{name.replace('_', '')}_classifier"
        assert model.input_shape == (None, *SHAPE)
        assert model.output_shape == (None, 3)
        assert layer_names(model)[-3:] == ["avg_pool", "predictions", "softmax"]
        predictions, last = model.layers[-2:]
        assert isinstance(predictions, layers.Dense)
        assert predictions.activation is keras.activations.linear
        assert isinstance(last, layers.Softmax)
        assert all(layer.trainable for layer in leaf_layers(model))
        assert not model.compiled
        stock_only(model)

    @pytest.mark.parametrize("name", BACKBONES)
    def test_the_same_numbers_as_plain_keras(self, quick_weights, classifiers, images, name):
        model = classifiers(name)
        plain = APPLICATIONS[name](include_top=False, weights=None, input_shape=SHAPE)
        for layer in plain.layers[1:]:
            layer.set_weights(model.get_layer(layer.name).get_weights())
        # The backbone's layers stand in the model one by one, under their own names.
        own = [n for n in layer_names(model) if n in set(layer_names(plain))]
        assert own == layer_names(plain)[1:]

        # Without `predict`, JAX compiles the operations of a ResNet's block once for all of them.
        run = np_call if name.startswith("resnet") else np_predict
        expected = run(plain, MODULES[name].preprocess_input(images.copy()))
        view = outputs_of(model, "avg_pool", "predictions", "softmax")
        pooled, logits, probabilities = run(view, images)
        assert np.abs(expected).max() > 0
        assert_near(pooled, expected.mean(axis=(1, 2)), 1e-4)
        kernel, bias = model.get_layer("predictions").get_weights()
        assert_near(logits, pooled @ kernel + bias, 1e-4)
        np.testing.assert_allclose(probabilities, softmax(logits), atol=1e-6)

    @pytest.mark.parametrize("spelling", ["VGG16", "vgg16", "Vgg_16", "vgg-16"])
    def test_any_spelling_of_the_name(self, quick_weights, spelling):
        model = kt.classifier(spelling, 2, image_size=SIZE, weights=None)
        assert model.name == "vgg16_classifier"

    def test_224_pixels_by_default(self, quick_weights):
        assert kt.classifier("mobilenet", 2, weights=None).input_shape == (None, 224, 224, 3)

    def test_a_size_as_one_number_or_two(self, quick_weights):
        for size in (32, np.int64(32), [32, 32], tuple(np.array([32, 32]))):
            model = kt.classifier("mobilenet", 2, image_size=size, weights=None)
            assert model.input_shape == (None, *SHAPE)

    def test_images_that_are_not_square(self, quick_weights):
        model = kt.classifier("mobilenet", 2, image_size=(64, 96), weights=None)
        assert model.get_layer("avg_pool").input.shape == (None, 2, 3, 1024)

    def test_the_tutorial_s_network(self, quick_weights):
        model = kt.classifier(
            *("vgg16", 10),
            image_size=48,
            weights=None,
            pooling="flatten",
            hidden_units=(1000,),
            dropout=0.3,
        )
        names = ["flatten", "fc1", "dropout", "predictions", "softmax"]
        assert layer_names(model)[-5:] == names
        flatten, fc1, dropout, predictions, _ = model.layers[-5:]
        assert flatten.output.shape == (None, 512)
        assert (fc1.units, fc1.activation) == (1000, keras.activations.relu)
        assert dropout.rate == 0.3
        assert predictions.units == 10
        channels = [3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6]
        convolutions = sum(9 * before * here + here for before, here in pairwise(channels))
        dense = sum(before * here + here for before, here in pairwise([512, 1000, 10]))
        assert model.count_params() == convolutions + dense == 15_237_698
        assert sum(isinstance(layer, layers.Conv2D) for layer in model.layers) == 13


class TestPreprocessing:
    @pytest.mark.parametrize("name", ["vgg16", "mobilenet_v2"])
    def test_can_be_left_out(self, quick_weights, classifiers, images, name):
        model = classifiers(name)
        plain = kt.classifier(name, 3, image_size=SIZE, weights=None, preprocessing=False)
        plain.set_weights(model.get_weights())
        assert "preprocessing" in layer_names(model)
        assert "preprocessing" not in layer_names(plain)
        images[0] = 255.0
        prepared = MODULES[name].preprocess_input(images.copy())
        pooled = outputs_of(plain, "avg_pool").predict(prepared, verbose=0)
        expected = outputs_of(model, "avg_pool").predict(images, verbose=0)
        assert_near(pooled, expected, 1e-4)

    def test_of_whole_numbers_is_that_of_the_same_floats(self, classifiers, rng):
        model = classifiers("mobilenet_v2")
        images = rng.integers(0, 256, (2, *SHAPE), "uint8")
        expected = model.predict(images.astype("float32"), verbose=0)
        np.testing.assert_array_equal(model.predict(images, verbose=0), expected)

    def test_a_layer_stands_between_images_and_backbone(self, quick_weights, images):
        scale = layers.Rescaling(1 / 255, name="to_one")
        model = kt.classifier("vgg16", 3, image_size=SIZE, weights=None, preprocessing=scale)
        assert layer_names(model)[:3] == ["image", "to_one", "block1_conv1"]
        plain = kt.classifier("vgg16", 3, image_size=SIZE, weights=None, preprocessing=False)
        plain.set_weights(model.get_weights())
        expected = plain.predict(images / 255, verbose=0)
        np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-5)

    def test_a_layer_may_resize(self, quick_weights):
        resizing = layers.Resizing(32, 32)
        model = kt.classifier("vgg16", 3, image_size=20, weights=None, preprocessing=resizing)
        assert model.input_shape == (None, 20, 20, 3)
        assert model.get_layer("block5_pool").output.shape == (None, 1, 1, 512)

    @pytest.mark.parametrize("preprocessing", [True, False])
    def test_a_model_brings_its_own(self, base, small_images, preprocessing):
        model = kt.classifier(base, 3, preprocessing=preprocessing)
        assert layer_names(model) == ["image", "base", "avg_pool", "predictions", "softmax"]

    def test_a_layer_before_a_model(self, base, small_images):
        model = kt.classifier(base, 3, preprocessing=layers.Rescaling(1 / 255, name="to_one"))
        assert layer_names(model)[:3] == ["image", "to_one", "base"]
        features = outputs_of(model, "avg_pool").predict(small_images, verbose=0)
        expected = base.predict(small_images / 255, verbose=0).mean(axis=(1, 2))
        assert_near(features, expected, 1e-5)


class TestGivenBackbones:
    def test_stay_one_layer_and_share_their_variables(self, base, small_images):
        model = kt.classifier(base, 3, seed=0)
        assert model.get_layer("base") is base
        assert model.name == "base_classifier"
        assert model.output_shape == (None, 3)
        stock_only(model)
        before = model.predict(small_images, verbose=0)
        base.get_layer("conv1").kernel.assign(-base.get_layer("conv1").kernel)
        assert not np.allclose(model.predict(small_images, verbose=0), before)
        shared = {id(variable) for variable in base.variables}
        assert shared < {id(variable) for variable in model.variables}

    def test_two_classifiers_on_one_backbone(self, base):
        one, other = kt.classifier(base, 3), kt.classifier(base, 2)
        assert one.get_layer("base") is other.get_layer("base")
        assert (one.output_shape, other.output_shape) == ((None, 3), (None, 2))

    def test_sequential(self, small_images):
        base = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)], name="base")
        model = kt.classifier(base, 2, hidden_units=(6,), dropout=0.2)
        names = ["image", "base", "avg_pool", "fc1", "dropout", "predictions", "softmax"]
        assert layer_names(model) == names
        np.testing.assert_allclose(model.predict(small_images, verbose=0).sum(axis=1), 1, atol=1e-6)

    @pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
    def test_that_pool_by_themselves(self, base, pooling):
        pooled = keras.Model(base.input, layers.GlobalMaxPooling2D()(base.output), name="pooled")
        model = kt.classifier(pooled, 3, pooling=pooling)
        assert layer_names(model) == ["image", "pooled", "predictions", "softmax"]

    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_of_any_channels(self, channels):
        base = keras.Sequential([keras.Input((8, 8, channels)), layers.Conv2D(4, 3)])
        assert kt.classifier(base, 2).input_shape == (None, 8, 8, channels)

    def test_of_any_size_take_the_given_one(self):
        base = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3)])
        assert kt.classifier(base, 2).input_shape == (None, None, None, 3)
        model = kt.classifier(base, 2, image_size=(9, 7), pooling="flatten")
        assert model.input_shape == (None, 9, 7, 3)
        assert model.get_layer("flatten").output.shape == (None, 7 * 5 * 4)

    def test_from_keras_applications(self, quick_weights):
        base = keras.applications.MobileNet(
            include_top=False, weights=None, input_shape=SHAPE, alpha=0.25
        )
        model = kt.classifier(base, 2, preprocessing=layers.Rescaling(1 / 127.5, -1.0))
        assert layer_names(model)[2] == base.name
        assert model.output_shape == (None, 2)


class TestHead:
    @pytest.mark.parametrize(
        ("pooling", "reduce"),
        [
            ("avg", lambda x: x.mean(axis=(1, 2))),
            ("max", lambda x: x.max(axis=(1, 2))),
            ("flatten", lambda x: x.reshape(len(x), -1)),
        ],
    )
    def test_pooling_and_what_follows_in_numbers(self, base, small_images, pooling, reduce):
        model = kt.classifier(
            *(base, 3),
            pooling=pooling,
            hidden_units=(7, 6),
            dropout=0.5,
            seed=1,
        )
        names = ["fc1", "dropout1", "fc2", "dropout2", "predictions", "softmax"]
        assert layer_names(model)[3:] == names
        x = reduce(base.predict(small_images, verbose=0))
        for name in ("fc1", "fc2", "predictions"):
            kernel, bias = model.get_layer(name).get_weights()
            x = x @ kernel + bias
            x = x if name == "predictions" else np.maximum(x, 0)
        probabilities = model.predict(small_images, verbose=0)
        np.testing.assert_allclose(probabilities, softmax(x), atol=1e-5)

    def test_dropout_without_hidden_layers_stands_before_the_logits(self, base):
        model = kt.classifier(base, 3, dropout=0.25)
        assert layer_names(model)[2:] == ["avg_pool", "dropout", "predictions", "softmax"]
        assert model.get_layer("dropout").rate == 0.25

    def test_no_dropout_no_layer(self, base):
        model = kt.classifier(base, 3, hidden_units=[6])
        assert layer_names(model)[2:] == ["avg_pool", "fc1", "predictions", "softmax"]

    def test_numpy_integers_will_do(self, base):
        model = kt.classifier(base, np.int64(3), hidden_units=np.array([6, 5]), seed=np.int32(1))
        assert [model.get_layer(name).units for name in ("fc1", "fc2", "predictions")] == [6, 5, 3]

    def test_a_seed_gives_the_same_weights_whatever_ran_before(self, base, rng):
        def head_weights(seed):
            model = kt.classifier(base, 3, hidden_units=(6, 6), dropout=0.5, seed=seed)
            return [model.get_layer(n).get_weights()[0] for n in ("fc1", "fc2", "predictions")]

        one = head_weights(7)
        keras.random.uniform((3,))
        keras.utils.set_random_seed(5)
        for first, second, other in zip(one, head_weights(7), head_weights(8), strict=True):
            np.testing.assert_array_equal(first, second)
            assert not np.allclose(first, other)
        unseeded = head_weights(None)
        assert not np.allclose(unseeded[0], head_weights(None)[0])
        assert not np.allclose(one[0][:5], one[1][:5])  # each layer has numbers of its own

    def test_a_seed_gives_the_same_dropout(self, base, small_images):
        def trained_pass(seed):
            model = kt.classifier(base, 3, pooling="flatten", dropout=0.5, seed=seed)
            model.get_layer("predictions").kernel.assign(np.ones((80, 3)) * [1, 2, 3])
            return keras.ops.convert_to_numpy(model(small_images, training=True))

        np.testing.assert_array_equal(trained_pass(3), trained_pass(3))
        assert not np.array_equal(trained_pass(3), trained_pass(4))

    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    def test_probabilities_are_float32_under_mixed_precision(self, policy, rng):
        previous = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            base = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)])
            model = kt.classifier(base, 3, hidden_units=(5,), dropout=0.1)
        finally:
            keras.config.set_dtype_policy(previous)
        assert model.get_layer("predictions").compute_dtype == policy.removeprefix("mixed_")
        probabilities = model.predict(rng.random((2, 8, 8, 3)), verbose=0)
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


class TestSeveralFeatures:
    """VGG16's second map has 128 channels, the fourth and the last 512."""

    names = ("block2_pool", "block4_pool", "last")

    @pytest.fixture(autouse=True)
    def _quick(self):
        with numpy_initial_weights():
            yield

    @pytest.fixture
    def model(self):
        return kt.classifier("vgg16", 3, image_size=32, weights=None, features=self.names)

    @pytest.fixture
    def images(self):
        return np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), "uint8")

    @pytest.mark.parametrize("pooling", ["avg", "max"])
    def test_they_are_pooled_and_stand_side_by_side(self, images, pooling):
        model = kt.classifier(
            *("vgg16", 3), image_size=32, weights=None, features=self.names, pooling=pooling
        )
        layers = ("block2_pool", "block4_pool", "block5_pool")
        maps = keras.Model(model.input, [model.get_layer(name).output for name in layers])(images)
        reduce = {"avg": keras.ops.mean, "max": keras.ops.max}[pooling]
        expected = np.concatenate([keras.ops.convert_to_numpy(reduce(each, (1, 2))) for each in maps], 1)
        found = keras.Model(model.input, model.get_layer("features").output)(images)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, rtol=1e-5, atol=1e-6)
        assert model.get_layer("predictions").kernel.shape == (128 + 512 + 512, 3)

    def test_the_head_is_what_comes_after_them(self, model):
        kt.freeze_backbone(model)
        trained = [weight.path for weight in model.trainable_weights]
        assert trained == ["predictions/kernel", "predictions/bias"]
        assert kt.frozen_prefix(model) == "features"
        other = kt.replace_head(model, 7)
        assert other.get_layer("predictions").kernel.shape == (128 + 512 + 512, 7)

    def test_they_go_with_the_model(self, model, images, tmp_path):
        y = np.arange(9) % 3
        pytest.importorskip("sklearn")
        fitted = kt.fit_linear_head(model, (images, y), C=1.0, verbose=0)
        assert (fitted.predict(images, verbose=0).argmax(axis=1) == y).all()
        fitted.save(tmp_path / "model.keras")
        again = kt.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(
            again.predict(images, verbose=0), fitted.predict(images, verbose=0)
        )

    @pytest.mark.parametrize("one", ["block4_pool", ["block4_pool"], ("block4_pool",)])
    def test_one_earlier_map_needs_no_other(self, one):
        model = kt.classifier("vgg16", 3, image_size=32, weights=None, features=one)
        assert layer_names(model)[-4:] == [
            *("block4_pool", "block4_pool_avg_pool", "predictions", "softmax")
        ]

    def test_the_last_is_what_it_is_without(self, base):
        usual = kt.classifier(base, 3)
        for last in ("last", ["last"]):
            assert layer_names(kt.classifier(base, 3, features=last)) == layer_names(usual)

    def test_of_a_layer_that_is_called_elsewhere_too_they_are_those_here(self, base, small_images):
        scale = layers.Rescaling(2.0, name="scale")
        scale(keras.Input((9, 9, 4)))
        model = kt.classifier(base, 3, preprocessing=scale, features=("scale", "last"))
        found = keras.Model(model.input, model.get_layer("features").output)(small_images)
        means = 2.0 * small_images.mean(axis=(1, 2))
        np.testing.assert_allclose(keras.ops.convert_to_numpy(found)[:, :3], means, rtol=1e-5)

    @pytest.mark.parametrize(
        ("given", "kind", "match"),
        [
            (("block4_pol", "last"), ValueError, r"names of layers .* did you mean block4_pool"),
            ((), ValueError, "features must be at least one layer, and each once"),
            (("last", "last"), ValueError, "each once"),
            (("block5_pool", "last"), ValueError, "each once"),
            (5, TypeError, "features must be 'last', 'several' or a sequence of names"),
            ((5,), TypeError, "features must be 'last', 'several' or a sequence of names"),
        ],
    )
    def test_bad_ones(self, given, kind, match):
        with pytest.raises(kind, match=match) as caught:
            kt.classifier("vgg16", 3, image_size=32, weights=None, features=given)
        assert str(caught.value).endswith(f"Received: features={given!r}")

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            (
                "vgg16",
                [
                    *("block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"),
                    "last",
                ],
            ),
            (
                "mobilenet_v2",
                [
                    *("block_11_depthwise_relu", "block_12_depthwise_relu", "block_13_expand_relu"),
                    *("block_13_depthwise_relu", "block_14_depthwise_relu", "block_15_depthwise_relu"),
                    *("block_16_depthwise_relu", "last"),
                ],
            ),
            (
                "resnet50",
                [
                    *(f"conv4_block{number}_out" for number in (2, 3, 4, 5, 6)),
                    *("conv5_block1_out", "conv5_block2_out", "last"),
                ],
            ),
        ],
    )
    def test_several_are_the_deepest_as_wide_as_any_before(self, name, expected):
        models = [
            kt.classifier(name, 3, image_size=64, weights=None, features=features)
            for features in ("several", expected)
        ]
        pooled, named = (layer_names(model) for model in models)
        assert pooled[:-3] == named[:-3]
        assert pooled[-3:] == ["several_features", "predictions", "softmax"]

    def test_several_of_a_given_model_are_its_last(self, base):
        assert layer_names(kt.classifier(base, 3, features="several")) == layer_names(
            kt.classifier(base, 3)
        )

    def test_layers_of_a_given_model_are_none_of_its_own(self, base):
        with pytest.raises(ValueError, match="of a backbone that is given by name"):
            kt.classifier(base, 3, features=(base.layers[0].name, "last"))

    def test_flattened_maps_are_of_the_last_alone(self):
        with pytest.raises(ValueError, match="pooling must be 'avg' or 'max' for other features"):
            kt.classifier("vgg16", 3, weights=None, features=self.names, pooling="flatten")


class TestFiles:
    @pytest.mark.parametrize("name", ["vgg16", "mobilenet_v2"])
    def test_a_saved_classifier_opens_in_stock_keras(
        self, quick_weights, classifiers, images, tmp_path, name
    ):
        model, path = classifiers(name), tmp_path / "model.keras"
        model.save(path)
        loaded = keras.models.load_model(path)  # in safe mode
        stock_only(loaded)
        expected = model.predict(images, verbose=0)
        np.testing.assert_array_equal(loaded.predict(images, verbose=0), expected)
        with zipfile.ZipFile(path) as archive:
            assert "keras_transfer" not in archive.read("config.json").decode()

    def test_every_argument_survives(self, base, small_images, tmp_path):
        model = kt.classifier(
            *(base, 3),
            hidden_units=(6, 5),
            dropout=0.3,
            pooling="max",
            seed=4,
            preprocessing=layers.Rescaling(1 / 255),
            class_names=NAMES,
        )
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        expected = model.predict(small_images, verbose=0)
        np.testing.assert_array_equal(loaded.predict(small_images, verbose=0), expected)
        # Through JSON, as tuples come back as lists.
        assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())

    @pytest.mark.parametrize("freeze", ["freeze_backbone", "unfreeze"])
    @pytest.mark.parametrize("kind", ["nested", "mobilenet_v2"])
    def test_what_is_frozen_stays_frozen(self, quick_weights, classifiers, tmp_path, kind, freeze):
        if kind == "nested":
            inputs = keras.Input((8, 8, 3))
            x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(inputs))
            model = kt.classifier(keras.Model(inputs, x, name="base"), 3)
        else:
            model = classifiers(kind)
        flags = [(layer.name, layer.trainable) for layer in leaf_layers(model)]
        getattr(kt, freeze)(model)
        expected = [(layer.name, layer.trainable) for layer in leaf_layers(model)]
        assert expected != flags
        model.save(tmp_path / "model.keras")
        for load in (keras.models.load_model, kt.load_model):
            loaded = load(tmp_path / "model.keras")
            assert [(layer.name, layer.trainable) for layer in leaf_layers(loaded)] == expected
            assert len(loaded.trainable_variables) == len(model.trainable_variables)
        kt.unfreeze(model, batch_norm="train")


class TestClassNames:
    @pytest.mark.parametrize(
        "names",
        [
            NAMES,
            ["Straußfarn 🌿", "蚂蚁", "naïve\u0301"],
            ["<script>alert(1)</script>", '"quoted", [x]', "line\nbreak\t\\"],
            ["", " ", "0"],
            ["\ud800", "\u202e", "\x00"],
        ],
    )
    def test_survive_saving(self, base, tmp_path, names):
        model, path = kt.classifier(base, 3, class_names=names), tmp_path / "model.keras"
        assert kt.class_names(model) == names
        model.save(path)
        assert kt.class_names(path) == kt.class_names(str(path)) == names
        loaded = kt.load_model(path)
        assert kt.class_names(loaded) == names
        loaded.save(tmp_path / "again.keras")
        assert kt.class_names(tmp_path / "again.keras") == names

    def test_stock_keras_passes_over_them(self, base, small_images, tmp_path):
        model, path = kt.classifier(base, 3, class_names=NAMES), tmp_path / "model.keras"
        model.save(path)
        stock = keras.models.load_model(path)
        expected = model.predict(small_images, verbose=0)
        np.testing.assert_array_equal(stock.predict(small_images, verbose=0), expected)
        assert kt.class_names(stock) is None
        stock.save(tmp_path / "stock.keras")
        assert kt.class_names(tmp_path / "stock.keras") is None
        assert kt.class_names(kt.load_model(tmp_path / "stock.keras")) is None

    def test_survive_training_and_saving_of_weights(self, base, small_images, tmp_path):
        model = kt.classifier(base, 3, class_names=NAMES)
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(small_images, np.arange(3), verbose=0)
        model.save_weights(tmp_path / "model.weights.h5")
        model.load_weights(tmp_path / "model.weights.h5")
        model.save(tmp_path / "model.keras")
        assert kt.class_names(tmp_path / "model.keras") == NAMES

    def test_none_where_there_are_none(self, base, tmp_path):
        model = kt.classifier(base, 3)
        assert kt.class_names(model) is None
        assert kt.class_names(base) is None
        model.save(tmp_path / "model.keras")
        assert kt.class_names(tmp_path / "model.keras") is None
        assert kt.class_names(kt.load_model(tmp_path / "model.keras")) is None

    def test_are_given_out_as_a_copy(self, base):
        names = list(NAMES)
        model = kt.classifier(base, 3, class_names=names)
        names.append("x")
        kt.class_names(model).append("y")
        assert kt.class_names(model) == NAMES

    @pytest.mark.parametrize("names", [tuple(NAMES), np.array(NAMES), dict.fromkeys(NAMES)])
    def test_from_any_sequence(self, base, tmp_path, names):
        model = kt.classifier(base, 3, class_names=names)
        model.save(tmp_path / "model.keras")
        assert kt.class_names(tmp_path / "model.keras") == NAMES


MEMBER = "assets/class_names.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the path of a good file with class names."""
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    base = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(2, 3)])
    kt.classifier(base, 3, class_names=NAMES).save(path)
    return path


def with_member(saved, path, content, compression=zipfile.ZIP_DEFLATED):
    """Write a copy of a file with other class names in it."""
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, content if name == MEMBER else source.read(name))
    return path


def assert_damaged(path, match=""):
    for read in (kt.class_names, kt.load_model):
        with pytest.raises(ValueError, match=f"can't read class names: .*{match}") as caught:
            read(path)
        assert str(caught.value).endswith(f" Received: model={str(path)!r}")


class TestDamagedFiles:
    @pytest.mark.parametrize(
        ("content", "match"),
        [
            (b"", ""),
            (b"[not json", ""),
            (b'["ant", "bee"', ""),
            (b"\xff\xfe\xfa", ""),
            (b'{"0": "ant"}', "no list of strings"),
            (b'"ant"', "no list of strings"),
            (b"null", "no list of strings"),
            (b"[1, 2, 3]", "no list of strings"),
            (b'["ant", "bee", null]', "no list of strings"),
            (b'[["ant"], ["bee"], ["wasp"]]', "no list of strings"),
            pytest.param(b"[" * 200_000, "", id="nested"),
            pytest.param(b'["' + b"a" * 2**24 + b'"]', "more than 16777216 bytes", id="large"),
        ],
    )
    def test_class_names_that_are_none(self, saved, tmp_path, content, match):
        assert_damaged(with_member(saved, tmp_path / "model.keras", content), match)

    def test_bytes_that_were_changed(self, saved, tmp_path):
        names = json.dumps([f"class {number}" for number in range(100)]).encode()
        path = with_member(saved, tmp_path / "model.keras", names)
        with zipfile.ZipFile(path) as archive:
            start = archive.getinfo(MEMBER).header_offset + 30 + len(MEMBER)
        content = bytearray(path.read_bytes())
        for offset in (0, 1, 20, 60):
            changed = content.copy()
            changed[start + offset] ^= 0xFF
            path.write_bytes(changed)
            assert_damaged(path)

    @pytest.mark.parametrize(("offset", "value"), [(8, 0x01), (10, 99)])  # encrypted; compression 99
    def test_members_that_python_can_t_read(self, saved, tmp_path, offset, value):
        path = with_member(saved, tmp_path / "model.keras", b'["a", "b", "c"]')
        content = bytearray(path.read_bytes())
        entry = content.rindex(MEMBER.encode()) - 46  # in the central directory
        assert content[entry : entry + 4] == b"PK\x01\x02"
        content[entry + offset] = value
        path.write_bytes(content)
        assert_damaged(path)

    def test_files_that_are_no_archive(self, saved, tmp_path):
        path = tmp_path / "model.keras"
        for content in (b"", b"no zip", saved.read_bytes()[:-200], saved.read_bytes()[200:300]):
            path.write_bytes(content)
            assert_damaged(path)

    def test_no_file_and_a_folder(self, tmp_path):
        assert_damaged(tmp_path / "nothing.keras", "No such file")
        with pytest.raises(ValueError, match=r"can't read class names: .*directory.*Received: "):
            kt.class_names(tmp_path)
        with pytest.raises(ValueError, match=r"this is a folder without a model.*Received: "):
            kt.load_model(tmp_path)


class TestBadArguments:
    @pytest.mark.parametrize(
        ("arguments", "kind", "match"),
        [
            ({"num_classes": 1}, ValueError, "num_classes must be an integer of at least 2"),
            ({"hidden_units": (0,)}, ValueError, "hidden_units must be an integer of at least 1"),
            ({"hidden_units": (6, -1)}, ValueError, "hidden_units must be an integer of at least 1"),
            ({"hidden_units": (6.0,)}, TypeError, "hidden_units must be an integer"),
            ({"hidden_units": (True,)}, TypeError, "hidden_units must be an integer"),
            ({"hidden_units": 512}, TypeError, "hidden_units must be a sequence of integers"),
            ({"hidden_units": "512"}, TypeError, "hidden_units must be a sequence of integers"),
            ({"hidden_units": None}, TypeError, "hidden_units must be a sequence of integers"),
            ({"dropout": 1.0}, ValueError, r"dropout must be a number in \[0, 1\)"),
            ({"preprocessing": "yes"}, TypeError, "preprocessing must be a bool or a Keras layer"),
            ({"preprocessing": None}, TypeError, "preprocessing must be a bool or a Keras layer"),
            ({"preprocessing": abs}, TypeError, "preprocessing must be a bool or a Keras layer"),
            ({"class_names": ["a", "b"]}, ValueError, "class_names must be 3 different names"),
            ({"class_names": []}, ValueError, "class_names must be 3 different names"),
            ({"class_names": list("abcd")}, ValueError, "class_names must be 3 different names"),
            ({"class_names": ["a", "b", "a"]}, ValueError, "class_names must be 3 different names"),
            ({"class_names": "abc"}, TypeError, "class_names must be a sequence of strings"),
            ({"class_names": [1, 2, 3]}, TypeError, "class_names must be a sequence of strings"),
            ({"class_names": 3}, TypeError, "class_names must be a sequence of strings"),
            ({"seed": -1}, ValueError, "seed must be an integer of at least 0"),
            ({"weights": "mobilenet.h5"}, ValueError, "weights are for backbones given by name"),
            ({"weights": np.zeros(3)}, ValueError, "weights are for backbones given by name"),
            ({"image_size": (9, 8)}, ValueError, "image_size must fit the backbone"),
            ({"image_size": 9}, ValueError, "image_size must fit the backbone"),
            ({"image_size": (8, 8, 3)}, ValueError, r"image_size must be .* or \(height, width\)"),
            ({"image_size": (1, 8, 8, 3)}, ValueError, r"image_size must be .* or \(height, width\)"),
            ({"image_size": "8"}, ValueError, r"image_size must be .* or \(height, width\)"),
        ],
    )
    def test_with_a_model_as_backbone(self, base, arguments, kind, match):
        argument = next(iter(arguments))
        flags = [layer.trainable for layer in leaf_layers(base)]
        with pytest.raises(kind, match=match) as caught:
            kt.classifier(**{"backbone": base, "num_classes": 3, **arguments})
        found = re.search(r"\. Received: (\w+)=.+$", str(caught.value))
        assert found
        assert found[1] == argument
        assert [layer.trainable for layer in leaf_layers(base)] == flags

    @pytest.mark.parametrize(
        ("arguments", "kind", "match"),
        [
            ({"backbone": "vgg"}, ValueError, r"no backbone called 'vgg'.*did you mean .*VGG16.*\?"),
            ({"backbone": "resnet_51"}, ValueError, r"did you mean .*ResNet50.*\?"),
            ({"backbone": "mobilnetv2"}, ValueError, r"did you mean MobileNetV2.*\?"),
            ({"backbone": "xyz"}, ValueError, "no backbone called .* in keras.applications"),
            ({"backbone": ""}, ValueError, "no backbone called .* in keras.applications"),
            ({"backbone": None}, TypeError, "backbone must be the name of a model in keras.app"),
            ({"backbone": keras.applications.VGG16}, TypeError, "backbone must be the name of a"),
            ({"backbone": layers.Flatten()}, TypeError, "backbone must be the name of a model"),
            ({"image_size": (31, 32)}, ValueError, "at least 32x32"),
            ({"image_size": 31}, ValueError, "at least 32x32"),
            ({"image_size": (32, 32, 3)}, ValueError, r"image_size must be .* or \(height, width\)"),
            ({"image_size": (1, 32, 32, 3)}, ValueError, "image_size must be"),
            ({"image_size": (None, None)}, ValueError, "image_size must be"),
            ({"image_size": (32.0, 32)}, ValueError, "image_size must be"),
            ({"image_size": (0, 32)}, ValueError, "image_size must be"),
            ({"image_size": (True, 32)}, ValueError, "image_size must be"),
            ({"image_size": np.array([32, 32])}, ValueError, "image_size must be"),
            ({"image_size": "large"}, ValueError, "image_size must be"),
            ({"image_size": 32.0}, ValueError, "image_size must be"),
            ({"weights": "imagnet"}, ValueError, "weights must be 'imagenet', None or the path"),
            ({"weights": 5}, TypeError, "weights must be 'imagenet', None or the path"),
            ({"weights": np.zeros(3)}, TypeError, "weights must be 'imagenet', None or the path"),
            ({"weights": True}, TypeError, "weights must be 'imagenet', None or the path"),
        ],
    )
    def test_with_a_name_as_backbone(self, arguments, kind, match):
        argument = next(iter(arguments))
        defaults = {"backbone": "vgg16", "num_classes": 3, "image_size": SIZE, "weights": None}
        with pytest.raises(kind, match=match) as caught:
            kt.classifier(**{**defaults, **arguments})
        found = re.search(r"Received: (\w+)=.+$", str(caught.value))
        assert found
        assert found[1] == argument

    def test_a_backbone_with_a_minimum_of_its_own(self):
        with pytest.raises(
            ValueError, match=r"InceptionV3 .*at least 75x75.*Received: image_size=\(74, 75\)$"
        ):
            kt.classifier("InceptionV3", 3, image_size=(74, 75), weights=None)

    def test_backbones_of_the_wrong_make(self):
        class Subclassed(keras.Model):
            def __init__(self):
                super().__init__()
                self.conv = layers.Conv2D(2, 3)

            def call(self, images):
                return self.conv(images)

        subclassed, unbuilt = Subclassed(), Subclassed()
        subclassed(np.zeros((1, 8, 8, 3), "float32"))
        one, other = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
        pooled = layers.GlobalAveragePooling2D()(one)
        for model in (
            *(subclassed, unbuilt, keras.Sequential([layers.Conv2D(2, 3)])),
            *(keras.Model([one, other], layers.Add()([one, other])), keras.Model(one, [pooled] * 2)),
        ):
            with pytest.raises(ValueError, match=r"backbone must be .* one input .*Received: backbone="):
                kt.classifier(model, 3)

    def test_backbones_of_the_wrong_shape(self):
        vectors = keras.Sequential([keras.Input((5,)), layers.Dense(3)])
        with pytest.raises(ValueError, match=r"backbone must take images .*Received: .*\(None, 5\)$"):
            kt.classifier(vectors, 3)
        rows = keras.Sequential([keras.Input((8, 8, 3)), layers.Reshape((8, 2, 4, 3))])
        with pytest.raises(ValueError, match=r"must give feature maps .*Received: .*, 8, 2, 4, 3\)$"):
            kt.classifier(rows, 3)

    def test_flatten_needs_a_size(self):
        base = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3)])
        with pytest.raises(ValueError, match=r"pooling='flatten' .* pass image_size=.*Received: "):
            kt.classifier(base, 3, pooling="flatten")
