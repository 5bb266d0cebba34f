"""The order of the layers, the groups they form, and where the head begins."""

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from keras import layers

import keras_transfer as kt
from keras_transfer.layers.graph import leaf_layers, nested_models
from keras_transfer.layers.head import backbone_layers, head_layers

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
            built[name] = kt.classifier(name, 3, image_size=32, weights=None)
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


def on(x, found):
    for layer in found:
        x = layer(x)
    return x


def subclassed():
    class Small(keras.Model):
        def __init__(self):
            super().__init__(name="small")
            self.conv = conv("conv")
            self.pool = layers.GlobalAveragePooling2D(name="pool")
            self.out = layers.Dense(2, name="out")

        def call(self, images):
            return self.out(self.pool(self.conv(images)))

    model = Small()
    model(np.zeros((1, 8, 8, 3), "float32"))
    return model


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

    def test_of_a_subclassed_model_stand_as_they_were_given(self):
        assert names(leaf_layers(subclassed())) == ["conv", "pool", "out"]

    def test_operations_are_no_layers_but_hide_none(self):
        inputs = keras.Input((8,))
        x = keras.ops.relu(layers.Dense(4, name="a")(inputs)) + 1.0
        model = keras.Model(inputs, layers.Dense(2, name="b")(x))
        found = leaf_layers(model)
        assert [layer.name for layer in found if layer.weights] == ["a", "b"]


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
            image_size=32,
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

    def test_several_outputs_share_the_backbone(self):
        inputs = keras.Input((8, 8, 3))
        x = layers.GlobalAveragePooling2D(name="pool")(conv("conv")(inputs))
        outputs = [layers.Dense(2, name=name)(x) for name in ("one", "other")]
        assert names(head_layers(keras.Model(inputs, outputs))) == ["pool", "one", "other"]

    def test_several_outputs_without_pooling_share_no_head(self):
        inputs = keras.Input((8,))
        x = layers.Dense(4, name="shared")(inputs)
        outputs = [layers.Dense(2, name=name)(x) for name in ("one", "other")]
        assert names(head_layers(keras.Model(inputs, outputs))) == ["one", "other"]

    def test_a_subclassed_model_is_an_error(self):
        with pytest.raises(ValueError, match="model 'small' is subclassed: .* nor which are its head"):
            head_layers(subclassed())

    @pytest.mark.parametrize(
        "stack",
        [
            pytest.param([layers.Rescaling(2.0)], id="no weights at all"),
            pytest.param([layers.Conv2D(4, 3)], id="a feature map"),
            pytest.param([layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()], id="pooled features"),
            pytest.param([layers.Conv2D(4, 3), layers.Flatten()], id="flat features"),
        ],
    )
    def test_there_is_none(self, stack):
        model = keras.Sequential([keras.Input((8, 8, 3)), *stack])
        assert head_layers(model) == []
        assert backbone_layers(model) == leaf_layers(model)


def groups(model, **options):
    """Return the groups as plain data, once they are known to hold each layer once and in order."""
    found = kt.layer_groups(model, **options)
    assert [layer for group in found for layer in group.layers] == leaf_layers(model)
    return [(group.name, names(group.layers)) for group in found]


def stack(*found, shape=(16, 16, 3)):
    return keras.Sequential([keras.Input(shape), *found])


def classify():
    return [layers.GlobalAveragePooling2D(name="pool"), layers.Dense(2, name="out")]


def strided(name, strides=2, kind=layers.Conv2D):
    return kind(4, 3, strides=strides, padding="same", name=name)


HEAD = ("head", ["pool", "out"])


class TestGroupsOfFamilies:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("vgg16", ["block1", "block2", "block3", "block4", "block5"]),
            ("resnet50", ["conv1", "conv2", "conv3", "conv4", "conv5"]),
            ("mobilenet", ["stage1", "stage2", "stage3", "stage4", "stage5"]),
            ("mobilenet_v2", ["stage1", "stage2", "stage3", "stage4", "stage5"]),
            (
                "efficientnet_b0",
                ["stem", *(f"block{number}" for number in range(1, 8)), "top"],
            ),
        ],
    )
    def test_are_their_stages_and_the_head(self, classifiers, name, expected):
        assert [name for name, _ in groups(classifiers(name))] == [*expected, "head"]

    def test_hold_the_layers_of_their_stage(self, classifiers):
        found = dict(groups(classifiers("vgg16")))
        assert found["block5"] == ["block5_conv1", "block5_conv2", "block5_conv3", "block5_pool"]
        assert found["head"] == ["avg_pool", "predictions", "softmax"]

    def test_preprocessing_goes_with_the_first(self, classifiers):
        model = classifiers("vgg16")
        first = kt.layer_groups(model)[0]
        assert first.layers[0] is leaf_layers(model)[0]
        assert not first.layers[0].name.startswith("block1")

    def test_show_their_first_and_last_layer(self, classifiers):
        found = kt.layer_groups(classifiers("vgg16"))
        assert repr(found[4]) == "LayerGroup('block5', block5_conv1, ..., block5_pool)"
        assert repr(kt.LayerGroup("one", found[4].layers[:2])) == (
            "LayerGroup('one', block5_conv1, block5_conv2)"
        )


class TestGroupsByName:
    """Stages that the names of the layers tell."""

    @pytest.mark.parametrize(
        ("pattern", "stages"),
        [
            ("block{}_conv", ["block1", "block2"]),
            ("conv{}_block1_1_conv", ["conv1", "conv2"]),
            ("block{}a_expand_conv", ["block1", "block2"]),
            ("mine_stage_{}_block_0", ["stage_1", "stage_2"]),
            ("stack{}_block0_conv", ["stack1", "stack2"]),
        ],
    )
    def test_as_the_families_write_them(self, pattern, stages):
        one, two = pattern.format(1), pattern.format(2)
        assert groups(stack(conv(one), conv(two), *classify())) == [
            *((stages[0], [one]), (stages[1], [two]), HEAD),
        ]

    def test_layers_without_a_stage_go_with_the_one_before(self):
        model = stack(
            *(conv("block1_conv"), layers.ReLU(name="relu1"), conv("shortcut"), conv("block2_conv")),
            *(layers.ReLU(name="relu2"), *classify()),
        )
        assert groups(model) == [
            ("block1", ["block1_conv", "relu1", "shortcut"]),
            *(("block2", ["block2_conv", "relu2"]), HEAD),
        ]

    def test_only_if_more_than_half_of_the_layers_with_weights_tell_one(self):
        model = stack(conv("block1_conv"), strided("a"), strided("b"), conv("block2_conv"), *classify())
        assert groups(model) == [
            *(("stage1", ["block1_conv"]), ("stage2", ["a"]), ("stage3", ["b", "block2_conv"]), HEAD),
        ]

    def test_only_if_they_follow_one_another(self):
        model = stack(
            *(conv("block1_conv"), strided("block2_conv"), conv("block1_other"), *classify()),
        )
        assert groups(model) == [
            *(("stage1", ["block1_conv"]), ("stage2", ["block2_conv", "block1_other"]), HEAD),
        ]


class TestGroupsByNestedModels:
    def test_each_is_one(self):
        blocks = [
            keras.Sequential([keras.Input((None, None, 3 if n == "x" else 4)), conv(n)], name=f"all_{n}")
            for n in ("x", "y", "z")
        ]
        assert groups(stack(*blocks, *classify())) == [
            *(("all_x", ["x"]), ("all_y", ["y"]), ("all_z", ["z"]), HEAD),
        ]

    def test_what_stands_between_goes_with_the_one_before(self):
        one = keras.Sequential([keras.Input((16, 16, 3)), conv("x")], name="one")
        two = keras.Sequential([keras.Input((8, 8, 4)), conv("y")], name="two")
        model = stack(layers.Rescaling(1.0, name="scale"), one, layers.MaxPooling2D(name="max"), two)
        model = stack(model, *classify())
        assert groups(model) == [("one", ["scale", "x", "max"]), ("two", ["y"]), HEAD]

    def test_only_if_they_hold_most_of_the_weights(self):
        one = keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(2, 1, name="x")], name="one")
        two = keras.Sequential([keras.Input((16, 16, 2)), layers.Conv2D(2, 1, name="y")], name="two")
        model = stack(one, two, strided("a"), strided("b"), *classify())
        assert groups(model) == [("stage1", ["x", "y"]), ("stage2", ["a"]), ("stage3", ["b"]), HEAD]


class TestGroupsByResolution:
    def test_a_stride_begins_one(self):
        model = stack(
            conv("a"), strided("b"), layers.ReLU(name="r"), conv("c"), strided("d"), *classify()
        )
        assert groups(model) == [
            *(("stage1", ["a"]), ("stage2", ["b", "r", "c"]), ("stage3", ["d"]), HEAD),
        ]

    def test_after_pooling_the_next_weights_begin_one(self):
        model = stack(conv("a"), layers.MaxPooling2D(name="max"), conv("b"), *classify())
        assert groups(model) == [("stage1", ["a", "max"]), ("stage2", ["b"]), HEAD]

    def test_on_one_branch_of_two(self):
        inputs = keras.Input((16, 16, 3))
        x = conv("a")(inputs)
        left = layers.UpSampling2D(name="up")(strided("down")(x))
        x = layers.Add(name="add")([left, conv("right")(x)])
        x = on(conv("b")(x), classify())
        found = groups(keras.Model(inputs, x))
        assert [name for name, _ in found] == ["stage1", "stage2", "head"]
        assert "down" in found[1][1]

    def test_upsampling_does_not_count(self):
        up = strided("up", kind=layers.Conv2DTranspose)
        model = stack(conv("a"), strided("b"), up, strided("c"), *classify())
        assert [name for name, _ in groups(model)] == ["stage1", "stage2", "stage3", "head"]
        assert dict(groups(model))["stage2"] == ["b", "up"]

    def test_inside_one_nested_model(self):
        base = stack(conv("a"), strided("b"))
        assert groups(stack(base, strided("c"), *classify())) == [
            *(("stage1", ["a"]), ("stage2", ["b"]), ("stage3", ["c"]), HEAD),
        ]

    def test_in_one_dimension(self):
        model = stack(
            *(layers.Conv1D(4, 3, name="a"), layers.Conv1D(4, 3, strides=2, name="b")),
            *(layers.GlobalAveragePooling1D(name="pool"), layers.Dense(2, name="out")),
            shape=(16, 3),
        )
        assert groups(model) == [("stage1", ["a"]), ("stage2", ["b"]), HEAD]


class TestGroupsByMeetingPoints:
    def test_of_a_plain_chain_each_layer_with_weights_is_one(self):
        model = stack(
            *(layers.Dense(4, name="a"), layers.ReLU(name="r"), layers.Dense(4, name="b")),
            layers.Dense(2, name="out"),
            shape=(8,),
        )
        assert groups(model) == [("block1", ["a", "r"]), ("block2", ["b"]), ("head", ["out"])]

    def test_normalization_goes_with_what_it_normalises(self):
        model = stack(
            *(conv("a"), layers.BatchNormalization(name="n"), conv("b"), *classify()),
        )
        assert groups(model) == [("block1", ["a", "n"]), ("block2", ["b"]), HEAD]

    def test_of_residual_blocks_each_is_one(self):
        inputs = keras.Input((16, 16, 3))
        x = conv("stem")(inputs)
        for n in ("x", "y"):
            x = layers.Add(name=f"{n}_add")([x, conv(f"{n}_b")(conv(f"{n}_a")(x))])
        assert groups(keras.Model(inputs, on(x, classify()))) == [
            ("block1", ["stem"]),
            ("block2", ["x_a", "x_b", "x_add"]),
            *(("block3", ["y_a", "y_b", "y_add"]), HEAD),
        ]

    def test_of_a_transformer_each_block_is_one(self):
        inputs = keras.Input((6, 4))
        x = layers.Dense(4, name="embed")(inputs)
        for n in ("x", "y"):
            normed = layers.LayerNormalization(name=f"{n}_norm1")(x)
            attended = layers.MultiHeadAttention(2, 2, name=f"{n}_attend")(normed, normed)
            x = layers.Add(name=f"{n}_add1")([x, attended])
            normed = layers.LayerNormalization(name=f"{n}_norm2")(x)
            x = layers.Add(name=f"{n}_add2")([x, layers.Dense(4, name=f"{n}_mlp")(normed)])
        x = layers.GlobalAveragePooling1D(name="pool")(x)
        found = groups(keras.Model(inputs, layers.Dense(2, name="out")(x)))
        starts = [next(name for name in found_names if "norm" not in name) for _, found_names in found]
        assert starts == ["embed", "x_attend", "x_mlp", "y_attend", "y_mlp", "pool"]


class TestGroupsInGeneral:
    def test_without_a_rule_the_backbone_is_one(self):
        assert groups(stack(conv("a"), *classify())) == [("backbone", ["a"]), HEAD]

    def test_without_a_head_there_is_none(self):
        assert groups(stack(conv("a"), strided("b"))) == [("stage1", ["a"]), ("stage2", ["b"])]

    def test_without_a_backbone_there_is_only_the_head(self):
        assert groups(stack(layers.Dense(2, name="out"), shape=(4,))) == [("head", ["out"])]

    def test_of_a_model_without_weights(self):
        assert groups(stack(layers.Rescaling(2.0, name="a"), layers.ReLU(name="b"))) == [
            ("backbone", ["a", "b"]),
        ]

    def test_an_unbuilt_model_is_an_error(self):
        model = keras.Sequential([layers.Dense(2)], name="mine")
        with pytest.raises(ValueError, match=r"'mine' is not built: .* Call it on a batch, or "):
            kt.layer_groups(model)

    @pytest.mark.parametrize("wrong", ["vgg16", None, layers.Dense(2)])
    def test_what_is_no_model_is_an_error(self, wrong):
        with pytest.raises(TypeError, match=r"model must be a keras.Model. Received: model="):
            kt.layer_groups(wrong)

    def test_a_subclassed_model_is_an_error(self):
        with pytest.raises(
            ValueError, match=r"'small' is subclassed: .* or divide it with split=.* class Small"
        ):
            kt.layer_groups(subclassed())


class TestSplit:
    def chain(self):
        return stack(conv("a1"), conv("a2"), conv("b1"), conv("b2"), *classify())

    @pytest.mark.parametrize(
        ("split", "expected"),
        [
            (["a1", "b2"], [("a1", ["a1", "a2", "b1"]), ("b2", ["b2"])]),
            (["b2", "a1"], [("a1", ["a1", "a2", "b1"]), ("b2", ["b2"])]),
            (["b1"], [("a1", ["a1", "a2"]), ("b1", ["b1", "b2"])]),
            (["b.*"], [("a1", ["a1", "a2"]), ("b.*", ["b1", "b2"])]),
            (("a2", ".2"), [("a1", ["a1"]), (".2", ["a2", "b1", "b2"])]),
            ([], [("a1", ["a1", "a2", "b1", "b2"])]),
            (lambda layer: layer.name[0], [("a", ["a1", "a2"]), ("b", ["b1", "b2"])]),
            (iter(["b1"]), [("a1", ["a1", "a2"]), ("b1", ["b1", "b2"])]),
        ],
    )
    def test_divides_the_backbone(self, split, expected):
        assert groups(self.chain(), split=split) == [*expected, HEAD]

    def test_by_a_function_that_returns_to_a_group(self):
        found = kt.layer_groups(self.chain(), split=lambda layer: f"all {layer.name[1]}")
        assert [(group.name, names(group.layers)) for group in found] == [
            *(("all 1", ["a1", "b1"]), ("all 2", ["a2", "b2"]), HEAD),
        ]

    @pytest.mark.parametrize("split", [["c", "y"], lambda layer: "xy"[layer.name in ("y", "z")]])
    def test_divides_nested_models(self, split):
        base = stack(conv("x"), conv("y"), conv("z"), shape=(16, 16, 4))
        found = groups(stack(conv("c"), base, *classify()), split=split)
        assert [layer_names for _, layer_names in found] == [["c", "x"], ["y", "z"], ["pool", "out"]]

    @pytest.mark.parametrize("split", [["out"], lambda layer: layer.name])
    def test_divides_a_subclassed_model(self, split):
        model = subclassed()
        found = groups(model, split=split)
        assert found[-1] == ("out", ["out"])

    @pytest.mark.parametrize(
        ("split", "message"),
        [
            (["b22"], r"none for 'b22'; did you mean b2\? Received: split=\['b22'\]"),
            (["a1", "xyz"], r"none for 'xyz'\. Received: "),
            (["out"], r"split must match layers of the backbone; there is none for 'out'"),
            (["a("], "by its name or a regular expression"),
        ],
    )
    def test_of_layers_that_are_not_there(self, split, message):
        with pytest.raises(ValueError, match=message):
            kt.layer_groups(self.chain(), split=split)

    @pytest.mark.parametrize("name", [None, 3, "head"])
    def test_names_of_groups(self, name):
        with pytest.raises(ValueError, match="split must return the name of a group"):
            kt.layer_groups(kt.classifier(small_base(), 2), split=lambda layer: name)

    @pytest.mark.parametrize("split", ["a2", 2])
    def test_of_another_type(self, split):
        with pytest.raises(TypeError, match=f"split must be a list .* Received: split={split!r}"):
            kt.layer_groups(self.chain(), split=split)
