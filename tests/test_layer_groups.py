"""The order of the layers, and where the head begins."""

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from keras import layers

import keras_transfer as kt
from keras_transfer.layer_groups import (
    backbone_layers,
    head_layers,
    layers_from,
    leaf_layers,
    nested_models,
)

BACKBONES = [
    "vgg16",
    "vgg19",
    "resnet50",
    "resnet101",
    "resnet152",
    "mobilenet",
    "mobilenet_v2",
    "efficientnet_b0",
    "mobilenet_v3_small",
]
INCLUDE_TOP = {
    "VGG16": ["Flatten", "Dense", "Dense", "Dense"],
    "ResNet50": ["GlobalAveragePooling2D", "Dense"],
    "MobileNet": ["GlobalAveragePooling2D", "Dropout", "Conv2D", "Reshape", "Activation"],
    "EfficientNetB0": ["GlobalAveragePooling2D", "Dropout", "Dense"],
    "MobileNetV3Small": [
        *("GlobalAveragePooling2D", "Conv2D", "Activation", "Dropout", "Conv2D", "Flatten"),
        "Activation",
    ],
}


@pytest.fixture(scope="module", autouse=True)
def _quick_weights():
    with numpy_initial_weights():
        yield


@pytest.fixture(scope="module")
def classifiers():
    """Return a function that builds each classifier once."""
    built = {}

    def build(name):
        if name not in built:
            built[name] = kt.classifier(name, 3, input_shape=(32, 32, 3), weights=None)
        return built[name]

    return build


def names(found):
    return [layer.name for layer in found]


def kinds(found):
    return [type(layer).__name__ for layer in found]


def conv(name, filters=4):
    return layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)


def small_base(name="base"):
    """Return a model of two convolutions without a head."""
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, conv("conv2")(conv("conv1")(inputs)), name=name)


def assert_partition(model):
    """Check that backbone and head together are the leaf layers, in order and without overlap."""
    assert names(backbone_layers(model)) + names(head_layers(model)) == names(leaf_layers(model))


class TestLeafLayers:
    def test_a_flat_model_without_its_input(self, classifiers):
        model = classifiers("vgg16")
        assert leaf_layers(model) == [layer for layer in model.layers if layer.name != "image"]
        assert leaf_layers(model)[-1].name == "softmax"

    def test_branches_of_different_length_stand_before_what_joins_them(self):
        inputs = keras.Input((8,))
        short = layers.Dense(4, name="short")(inputs)
        long = layers.Dense(4, name="long2")(layers.Dense(4, name="long1")(inputs))
        joined = layers.Add(name="join")([short, long])
        found = names(leaf_layers(keras.Model(inputs, layers.Dense(2, name="out")(joined))))
        assert found[-2:] == ["join", "out"]
        assert found.index("long1") < found.index("long2")
        assert sorted(found) == ["join", "long1", "long2", "out", "short"]

    def test_nested_models_are_entered_at_their_place(self):
        inputs = keras.Input((8, 8, 3))
        x = small_base()(layers.Rescaling(2.0, name="scale")(inputs))
        inner_head = keras.Sequential(
            [layers.GlobalAveragePooling2D(name="pool"), layers.Dense(2, name="out")], name="head"
        )
        model = keras.Model(inputs, inner_head(x))
        assert names(leaf_layers(model)) == ["scale", "conv1", "conv2", "pool", "out"]
        assert names(nested_models(model)) == [model.name, "base", "head"]

    def test_twice_nested(self):
        inputs = keras.Input((8, 8, 3))
        outer = keras.Sequential([keras.Input((8, 8, 3)), small_base(), conv("conv3")], name="outer")
        model = keras.Model(inputs, layers.Flatten(name="flatten")(outer(inputs)))
        assert names(leaf_layers(model)) == ["conv1", "conv2", "conv3", "flatten"]
        assert names(nested_models(model)) == [model.name, "outer", "base"]

    def test_a_shared_layer_comes_once_where_it_is_first_used(self):
        inputs = keras.Input((4,))
        shared = layers.Dense(4, name="shared")
        x = shared(layers.Dense(4, name="between")(shared(inputs)))
        found = leaf_layers(keras.Model(inputs, layers.Dense(2, name="out")(x)))
        assert sorted(names(found)) == ["between", "out", "shared"]
        assert found[-1].name == "out"

    def test_a_shared_nested_model_comes_once(self):
        one, other = keras.Input((8, 8, 3), name="one"), keras.Input((8, 8, 3), name="other")
        base = small_base()
        pooled = [layers.GlobalAveragePooling2D()(base(x)) for x in (one, other)]
        model = keras.Model([one, other], layers.Dense(2, name="out")(layers.Concatenate()(pooled)))
        found = names(leaf_layers(model))
        assert found.count("conv1") == found.count("conv2") == 1
        assert found[:2] == ["conv1", "conv2"]
        assert found[-1] == "out"

    def test_a_layer_also_inside_a_nested_model_comes_once(self):
        base = small_base()
        inputs = keras.Input((8, 8, 3))
        x = layers.Concatenate()([base(inputs), base.get_layer("conv1")(inputs)])
        found = leaf_layers(keras.Model(inputs, x))
        assert len(found) == len({id(layer) for layer in found}) == 3

    def test_a_layer_made_of_layers_counts_as_one(self):
        inputs = keras.Input((8, 6))
        x = layers.Bidirectional(layers.LSTM(3), name="both")(inputs)
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        assert names(leaf_layers(model)) == ["both", "out"]

    def test_operations_are_no_layers_but_hide_none(self):
        inputs = keras.Input((8,))
        x = keras.ops.relu(layers.Dense(4, name="a")(inputs)) + 1.0
        model = keras.Model(inputs, layers.Dense(2, name="b")(x))
        found = leaf_layers(model)
        assert [layer.name for layer in found if layer.weights] == ["a", "b"]


class TestLayersFrom:
    def test_from_the_middle_and_from_the_ends(self, classifiers):
        model = classifiers("vgg16")
        leaves = leaf_layers(model)
        assert names(layers_from(model, "block5_conv3")) == [
            *("block5_conv3", "block5_pool", "avg_pool", "predictions", "softmax"),
        ]
        assert layers_from(model, leaves[0].name) == leaves
        assert layers_from(model, "softmax") == leaves[-1:]

    def test_into_a_nested_model(self):
        model = kt.classifier(small_base(), 2)
        assert names(layers_from(model, "conv2")) == ["conv2", "avg_pool", "predictions", "softmax"]

    @pytest.mark.parametrize("name", ["block5_conv", "Block5_Conv1", "block_5_conv_1"])
    def test_near_misses_are_named(self, classifiers, name):
        with pytest.raises(ValueError, match=r"no layer .*; did you mean .*block5_conv1.*\?") as caught:
            layers_from(classifiers("vgg16"), name)
        assert str(caught.value).endswith(f"Received: layer name {name!r}")

    def test_without_near_misses(self, classifiers):
        with pytest.raises(ValueError, match="no layer 'xyz' in model 'vgg16_classifier'. Received: "):
            layers_from(classifiers("vgg16"), "xyz")

    def test_the_name_of_a_nested_model_or_input_is_no_layer(self):
        model = kt.classifier(small_base(), 2)
        for name in ("base", "image"):
            with pytest.raises(ValueError, match=f"no layer '{name}'"):
                layers_from(model, name)

    def test_one_name_for_two_layers(self):
        inputs = keras.Input((8, 8, 3))
        model = keras.Model(inputs, small_base("second")(layers.Conv2D(3, 1)(small_base()(inputs))))
        with pytest.raises(ValueError, match="2 layers of model .* are called 'conv1'; rename them"):
            layers_from(model, "conv1")


class TestHeadLayers:
    @pytest.mark.parametrize("name", BACKBONES)
    def test_a_classifier_s_head_begins_at_its_pooling(self, classifiers, name):
        model = classifiers(name)
        assert names(head_layers(model)) == ["avg_pool", "predictions", "softmax"]
        assert_partition(model)

    @pytest.mark.parametrize(
        ("pooling", "first"), [("max", "max_pool"), ("flatten", "flatten"), ("avg", "avg_pool")]
    )
    def test_every_pooling_with_hidden_layers(self, pooling, first):
        model = kt.classifier(
            *("mobilenet", 3),
            input_shape=(32, 32, 3),
            weights=None,
            pooling=pooling,
            hidden_units=(5, 4),
            dropout=0.1,
        )
        assert names(head_layers(model)) == [
            *(first, "fc1", "dropout1", "fc2", "dropout2", "predictions", "softmax"),
        ]

    @pytest.mark.parametrize("name", INCLUDE_TOP)
    def test_applications_with_their_own_top(self, name):
        build = getattr(keras.applications, name)
        model = build(weights=None, input_shape=(32, 32, 3), classes=5)
        assert kinds(head_layers(model)) == INCLUDE_TOP[name]
        assert_partition(model)

    @pytest.mark.parametrize("name", ["EfficientNetB0", "MobileNetV3Small"])
    def test_the_pooling_of_squeeze_and_excitation_is_no_head(self, classifiers, name):
        model = classifiers(name.lower())
        inner = [
            layer for layer in backbone_layers(model) if isinstance(layer, layers.GlobalAveragePooling2D)
        ]
        assert len(inner) >= 9

    def test_squeeze_and_excitation_right_at_the_input_and_right_before_the_head(self):
        def squeeze(x, name):
            pooled = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
            gate = layers.Conv2D(x.shape[-1], 1, activation="sigmoid", name=f"{name}_excite")(pooled)
            return layers.Multiply(name=f"{name}_scale")([x, gate])

        inputs = keras.Input((8, 8, 3))
        x = squeeze(conv("conv")(squeeze(inputs, "first")), "last")
        x = layers.Dense(2, name="out")(layers.GlobalMaxPooling2D(name="pool")(x))
        assert names(head_layers(keras.Model(inputs, x))) == ["pool", "out"]

    def test_a_nested_backbone_ends_where_it_ends(self):
        model = kt.classifier(small_base(), 2)
        assert names(head_layers(model)) == ["avg_pool", "predictions", "softmax"]
        assert names(backbone_layers(model)) == ["conv1", "conv2"]

    def test_a_nested_backbone_that_pools(self):
        inputs = keras.Input((8, 8, 3))
        pooled = layers.GlobalAveragePooling2D(name="pool")(conv("conv")(inputs))
        model = kt.classifier(keras.Model(inputs, pooled, name="base"), 2, hidden_units=(3,))
        assert names(head_layers(model)) == ["fc1", "predictions", "softmax"]
        assert_partition(model)

    def test_the_largest_of_several_nested_models_is_the_backbone(self):
        augmentation = keras.Sequential([layers.RandomFlip(name="flip")], name="augmentation")
        head = keras.Sequential(
            [layers.GlobalAveragePooling2D(name="pool"), layers.Dense(2, name="out")], name="head"
        )
        inputs = keras.Input((8, 8, 3))
        model = keras.Model(inputs, head(small_base()(augmentation(inputs))))
        assert names(head_layers(model)) == ["pool", "out"]
        assert names(backbone_layers(model)) == ["flip", "conv1", "conv2"]

    def test_a_whole_classifier_wrapped_in_a_model(self):
        inner = kt.classifier(small_base(), 2)
        inputs = keras.Input((8, 8, 3))
        model = keras.Model(inputs, inner(layers.Rescaling(255.0)(inputs)))
        assert names(head_layers(model)) == ["avg_pool", "predictions", "softmax"]
        with_more = keras.Model(inputs, layers.Softmax(name="again")(inner(inputs)))
        assert names(head_layers(with_more)) == ["avg_pool", "predictions", "softmax", "again"]

    def test_a_flat_sequential(self):
        model = keras.Sequential(
            [
                *(keras.Input((8, 8, 3)), conv("conv1"), layers.MaxPooling2D(), conv("conv2")),
                *(layers.Flatten(name="flatten"), layers.Dense(4, name="fc")),
                layers.Dense(2, name="out"),
            ]
        )
        assert names(head_layers(model)) == ["flatten", "fc", "out"]
        assert_partition(model)

    def test_a_sequential_around_a_nested_backbone(self):
        model = keras.Sequential(
            [
                *(keras.Input((8, 8, 3)), small_base(), layers.GlobalAveragePooling2D(name="pool")),
                layers.Dense(2, name="out"),
            ]
        )
        assert names(head_layers(model)) == ["pool", "out"]

    def test_without_pooling_the_last_layer_with_weights(self):
        model = keras.Sequential(
            [
                *(keras.Input((8,)), layers.Dense(6, name="a"), layers.Dense(4, name="b")),
                *(layers.Dense(2, name="out"), layers.Softmax(name="softmax")),
            ]
        )
        assert names(head_layers(model)) == ["out", "softmax"]
        assert_partition(model)

    def test_pooling_on_one_of_two_branches_is_no_head(self):
        inputs = keras.Input((8, 8, 3))
        x = conv("conv")(inputs)
        left, right = layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)
        joined = layers.Concatenate(name="join")([left, right])
        model = keras.Model(inputs, layers.Dense(2, name="out")(joined))
        assert names(head_layers(model)) == ["out"]
        assert_partition(model)

    def test_one_dimensional_networks(self):
        inputs = keras.Input((16, 3))
        x = layers.GlobalAveragePooling1D(name="pool")(layers.Conv1D(4, 3, name="conv")(inputs))
        assert names(head_layers(keras.Model(inputs, layers.Dense(2, name="out")(x)))) == ["pool", "out"]

    def test_a_subclassed_model(self):
        class Small(keras.Model):
            def __init__(self):
                super().__init__()
                self.conv = conv("conv")
                self.pool = layers.GlobalAveragePooling2D(name="pool")
                self.out = layers.Dense(2, name="out")

            def call(self, images):
                return self.out(self.pool(self.conv(images)))

        model = Small()
        model(np.zeros((1, 8, 8, 3), "float32"))
        assert names(leaf_layers(model)) == ["conv", "pool", "out"]
        assert names(head_layers(model)) == ["out"]  # Keras knows no graph of it

    def test_a_model_without_weights(self):
        model = keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(2.0, name="scale")])
        assert names(head_layers(model)) == ["scale"]
