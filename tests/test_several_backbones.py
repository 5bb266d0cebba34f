"""A classifier on several backbones: what each makes of the images, side by side, in one plain model."""

import zipfile

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from keras import layers
from tiny import same, tiny_backbone, tiny_task, variables

import keras_transfer as kt
from keras_transfer.features.probe.linear_head import up_to
from keras_transfer.inference.runtimes import by_the_first
from keras_transfer.layers.about import Origin, new_layers, origin_of
from keras_transfer.layers.copying import add_copies
from keras_transfer.layers.head import head_layers, last_weighted
from keras_transfer.models.depths import depth_widths

SIZE, LARGER = 32, 48
BOTH = ("mobilenet", "mobilenet_v2")


@pytest.fixture(scope="module")
def model():
    """MobileNet and MobileNetV2, which sees smaller images."""
    with numpy_initial_weights():
        return kt.classifier(
            ("mobilenet", ("mobilenet_v2", SIZE)),
            3,
            image_size=LARGER,
            weights=None,
            features="several",
            class_names=["a", "b", "c"],
        )


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, (3, LARGER, LARGER, 3)).astype("float32")


def features(model, name):
    return keras.Model(model.input, model.get_layer(name).output)


def names(model):
    return [layer.name for layer in model.layers]


def sizes(model):
    """Return what images are resized to."""
    return [each.size for each in model.operations if type(each).__name__ == "Resize"]


def given(**options):
    """Return a classifier on two models of 16 pixels."""
    return kt.classifier((tiny_backbone("one"), tiny_backbone("two")), 3, seed=0, **options)


class TestNumbers:
    @pytest.mark.parametrize(
        ("name", "build", "module", "size"),
        [
            ("mobilenet", "MobileNet", "mobilenet", LARGER),
            ("mobilenetv2", "MobileNetV2", "mobilenet_v2", SIZE),
        ],
    )
    def test_each_gives_what_it_gives_alone(self, model, images, name, build, module, size):
        shape = (size, size, 3)
        alone = getattr(keras.applications, build)(
            include_top=False, weights=None, input_shape=shape, pooling="avg"
        )
        for layer in alone.layers:
            if layer.weights:
                layer.set_weights(model.get_layer(f"{name}_{layer.name}").get_weights())
        resized = keras.ops.image.resize(images, (size, size))
        resized = np.array(keras.ops.convert_to_numpy(resized))
        prepared = getattr(keras.applications, module).preprocess_input(resized)
        expected = keras.ops.convert_to_numpy(alone(prepared))
        found = keras.ops.convert_to_numpy(features(model, f"{name}_avg_pool")(images))
        assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)

    def test_the_last_maps_stand_side_by_side(self, rng):
        made = given()
        x = rng.uniform(0, 255, (2, 16, 16, 3)).astype("float32")
        both = [
            keras.ops.convert_to_numpy(made.get_layer(name)(x)).mean(axis=(1, 2))
            for name in ("one", "two")
        ]
        found = keras.ops.convert_to_numpy(features(made, "features")(x))
        np.testing.assert_allclose(found, np.concatenate(both, axis=1), rtol=1e-5, atol=1e-6)

    def test_weights_of_every_kind_come_along(self, rng):
        """Those of a Normalization are used by what it has made of them."""
        inputs, x = keras.Input((8, 8, 3)), rng.uniform(0, 9, (4, 8, 8, 3)).astype("float32")
        normalized = layers.Normalization(name="normalization")
        end = keras.Model(inputs, layers.Conv2D(2, 3, name="conv")(normalized(inputs)))
        normalized.adapt(x)
        inputs = keras.Input((8, 8, 3))
        copy = keras.Model(inputs, add_copies(end, inputs, inputs, "copy_"))
        found, expected = (keras.ops.convert_to_numpy(each(x)) for each in (copy, end))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert [each.name for each in copy.layers[1:]] == ["copy_normalization", "copy_conv"]
        assert not {id(weight) for weight in copy.weights} & {id(weight) for weight in end.weights}


class TestLayers:
    def test_have_the_name_of_their_backbone_before_theirs(self, model):
        found = names(model)
        assert found[0] == "image"
        assert found[-3:] == ["several_features", "predictions", "softmax"]
        assert {"mobilenet_conv1", "mobilenetv2_Conv1"} <= {*found}
        assert sizes(model) == [(SIZE, SIZE)]  # the other sees them as they are

    def test_the_same_backbone_for_two_sizes(self):
        with numpy_initial_weights():
            made = kt.classifier((("mobilenet", 32), ("mobilenet", 64)), 2, weights=None)
        assert made.input_shape == (None, 64, 64, 3)
        assert {"mobilenet_32_conv1", "mobilenet_64_conv1"} <= {*names(made)}
        assert sizes(made) == [(32, 32)]

    def test_depths_are_those_of_each_together(self, model):
        widths = depth_widths(model, last_weighted(model).kernel.shape[0])
        for prefix, name, size in (
            ("mobilenet", "mobilenet", LARGER),
            ("mobilenetv2", "mobilenet_v2", SIZE),
        ):
            with numpy_initial_weights():
                alone = kt.classifier(name, 3, image_size=size, weights=None, features="several")
            own = depth_widths(alone, last_weighted(alone).kernel.shape[0])
            pooled = [layer for layer in model.layers if layer.name.endswith("_avg_pool")]
            mine = [x.output.shape[-1] for x in pooled if x.name.startswith(f"{prefix}_")]
            assert sorted(mine) == sorted(own)
            widths = [
                width - other
                for width, other in zip(widths, [0] * (len(widths) - len(own)) + own, strict=True)
            ]
        assert not any(widths)
        assert model.get_layer("features_1").output.shape[-1] == 1024 + 1280

    def test_named_ones_of_each(self):
        with numpy_initial_weights():
            made = kt.classifier(
                BOTH, 2, image_size=SIZE, weights=None, features=("mobilenet_conv_pw_3_relu", "last")
            )
        assert made.get_layer("features").output.shape[-1] == 128 + 1024 + 1280

    def test_one_alone_is_that_backbone(self):
        with numpy_initial_weights():
            alone = kt.classifier("mobilenet", 2, image_size=SIZE, weights=None)
            paired = kt.classifier([("mobilenet", SIZE)], 2, weights=None)
            smaller = kt.classifier([("mobilenet", SIZE)], 2, image_size=40, weights=None)
        assert names(paired) == names(alone)
        assert smaller.input_shape == (None, 40, 40, 3)
        assert sizes(smaller) == [(SIZE, SIZE)]

    def test_a_given_model_stays_one_layer_and_sees_its_own_size(self):
        base = tiny_backbone()
        with numpy_initial_weights():
            made = kt.classifier((base, "mobilenet"), 2, image_size=SIZE, weights=None)
        assert made.get_layer("tiny") is base
        assert sizes(made) == [(16, 16)]
        new = {layer.name for layer in new_layers(made)}
        assert {"mobilenet_conv1", "predictions"} <= new
        assert not new & {layer.name for layer in base.layers}

    def test_the_head_begins_behind_what_puts_them_together(self):
        made = given(hidden_units=(5,), dropout=0.1)
        assert [x.name for x in head_layers(made)] == ["fc1", "dropout", "predictions", "softmax"]
        assert {x.name for x in new_layers(made)} == {"fc1", "dropout", "predictions", "softmax"}

    def test_so_does_that_of_two_poolings(self):
        inputs = keras.Input((8, 8, 3))
        x = layers.Conv2D(4, 3)(inputs)
        x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
        x = layers.Dense(3, name="out")(layers.Dense(5, name="hidden")(x))
        assert [layer.name for layer in head_layers(keras.Model(inputs, x))] == ["hidden", "out"]

    def test_flattened_maps(self):
        made = given(pooling="flatten")
        assert made.get_layer("features").output.shape == (None, 2 * 8 * 8 * 8)


class TestUse:
    def test_it_opens_in_stock_keras(self, model, images, tmp_path):
        path = tmp_path / "model.keras"
        model.save(path)
        loaded = keras.models.load_model(path)
        expected = model.predict(images, verbose=0)
        np.testing.assert_array_equal(loaded.predict(images, verbose=0), expected)
        with zipfile.ZipFile(path) as archive:
            assert "keras_transfer" not in archive.read("config.json").decode()
        assert kt.class_names(path) == ["a", "b", "c"]
        assert origin_of(path) == Origin("MobileNet + MobileNetV2", "random")
        assert depth_widths(loaded, 0) == depth_widths(model, 0)

    def test_onnx_runtime_computes_it(self, model, images):
        runtime = pytest.importorskip("keras_transfer.inference.onnx_runtime", exc_type=ImportError)
        network = up_to(model, last_weighted(model))
        (found,) = runtime.computing(network)(images)
        expected = keras.ops.convert_to_numpy(network(images))
        assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)
        assert by_the_first(network, "auto", lambda chosen: chosen.name, 0) == "onnxruntime"

    def test_it_is_exported_to_onnx(self, rng, tmp_path):
        runtime = pytest.importorskip("onnxruntime")
        with numpy_initial_weights():
            made = kt.classifier((tiny_backbone(), "mobilenet"), 3, image_size=SIZE, weights=None)
        assert sizes(made) == [(16, 16)]
        path = kt.export(made, tmp_path / "model.onnx", "onnx")
        session = runtime.InferenceSession(path)
        images = rng.uniform(0, 255, (3, SIZE, SIZE, 3)).astype("float32")
        (found,) = session.run(None, {session.get_inputs()[0].name: images})
        np.testing.assert_allclose(found, made.predict(images, verbose=0), rtol=1e-4, atol=1e-6)

    def test_it_freezes_and_unfreezes(self):
        made = given()
        kt.freeze_backbone(made)
        assert len(made.trainable_weights) == 2
        assert kt.frozen_prefix(made) == "features"
        with numpy_initial_weights():
            made = kt.classifier(BOTH, 2, image_size=SIZE, weights=None)
        kt.unfreeze_from(made, "mobilenet_conv_pw_13")  # and what is as deep, of both
        trains = {layer.name for layer in made.layers if layer.trainable and layer.weights}
        assert {"mobilenetv2_Conv_1", "mobilenet_conv_pw_13", "predictions"} <= trains
        assert not {"mobilenet_conv1", "mobilenetv2_Conv1"} & trains

    def test_fine_tuning_moves_all_of_it(self):
        made, data = given(), tiny_task()
        before = variables(made)
        phases = [kt.Phase("head", 1), kt.Phase("all", 1, "all", 1e-2)]
        kt.fine_tune(made, data, data, phases=phases, verbose=0)
        assert kt.layer_groups(made)[-1].name == "head"
        moved = [
            not np.array_equal(keras.ops.convert_to_numpy(variable), old)
            for variable, old in zip(made.variables, before, strict=True)
            if "kernel" in variable.path
        ]
        assert moved == 5 * [True]

    def test_called_by_itself_it_does_not_train(self, model, images):
        """As it would behind a layer that is called with training=True by default."""
        found = keras.ops.convert_to_numpy(model(images))
        np.testing.assert_allclose(found, model.predict(images, verbose=0), rtol=1e-5, atol=1e-6)

    def test_a_linear_head_is_fitted_on_its_depths(self, model):
        pytest.importorskip("sklearn")
        x = np.random.default_rng(0).integers(0, 100, (24, LARGER, LARGER, 3), "uint8")
        y = np.arange(24) % 3
        x[np.arange(24), :, :, y] += 100
        fitted = kt.fit_linear_head(model, (x, y), method="ridge", verbose=0)
        assert (fitted.predict(x, verbose=0).argmax(axis=1) == y).all()
        assert kt.class_names(fitted) == ["a", "b", "c"]

    def test_automatic_training_leaves_out_what_it_can_not_cut(self):
        pytest.importorskip("sklearn")
        made, data = given(), tiny_task()
        plan = kt.automatic.propose(made, data, verbose=0)
        assert "last group" not in [depth.name for depth in plan.depths]
        trained = kt.automatic.train(made, data, verbose=0)
        assert trained.scores[0].samples == 48
        assert (made.predict(data[0], verbose=0).argmax(axis=1) == data[1]).mean() > 0.9

    def test_models_keep_their_weights(self):
        one, two = tiny_backbone("one"), tiny_backbone("two")
        before = [variables(each) for each in (one, two)]
        kt.classifier((one, two), 3)
        assert all(same(variables(e), old) for e, old in zip((one, two), before, strict=True))


class TestBadOnes:
    @pytest.mark.parametrize(
        ("backbone", "options", "error", "message"),
        [
            (("vgg61", "vgg16"), {}, ValueError, "did you mean VGG19, VGG16"),
            ((), {}, TypeError, r"or a sequence of such.*Received: backbone=\(\)"),
            (("mobilenet", 3), {}, TypeError, "a sequence of such, each alone or as"),
            (("mobilenet", ("mobilenet", 0)), {}, ValueError, "image_size must be a number of pixels"),
            (
                ("mobilenet", "MobileNet"),
                {},
                ValueError,
                "must be different ones.*'mobilenet_32' 2 time",
            ),
            (("mobilenet", "vgg16"), {"weights": "x.h5"}, ValueError, "weights must be 'imagenet' or"),
            (
                ("mobilenet", "vgg16"),
                {"preprocessing": layers.Rescaling(1.0)},
                ValueError,
                "preprocessing must be True or False for several",
            ),
            (
                ("mobilenet", "vgg16"),
                {"features": ("vgg16_block4_pol", "last")},
                ValueError,
                "did you mean vgg16_block4_pool",
            ),
        ],
    )
    def test_are_told(self, backbone, options, error, message):
        options = {"image_size": SIZE, "weights": None, **options}
        with numpy_initial_weights(), pytest.raises(error, match=message):
            kt.classifier(backbone, 2, **options)

    def test_models_of_other_channels(self):
        grey = keras.Sequential([keras.Input((16, 16, 1)), layers.Conv2D(2, 3)], name="grey")
        with pytest.raises(ValueError, match="same channels.*for 1 and 3 channels"):
            kt.classifier((tiny_backbone(), grey), 2)

    def test_models_of_one_name(self):
        with pytest.raises(ValueError, match="models must have different names"):
            kt.classifier((tiny_backbone(), tiny_backbone()), 2)


@pytest.mark.real_data
def test_each_size_has_its_own_weights(real_data):
    """As far as files for both are there."""
    sizes = [row.input_size for row in kt.list_backbones("cached") if row.name == "MobileNetV2"]
    if len(sizes) < 2:
        pytest.skip("KERAS_HOME has weights of MobileNetV2 for one size")
    made = kt.classifier([("mobilenet_v2", size) for size in sizes], 2)
    for size in sizes:
        alone = kt.classifier("mobilenet_v2", 2, image_size=size)
        for name in ("Conv1", "block_8_depthwise", "Conv_1_bn"):
            expected = alone.get_layer(name).get_weights()
            found = made.get_layer(f"mobilenetv2_{size}_{name}").get_weights()
            assert same(found, expected)
