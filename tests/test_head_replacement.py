"""New heads on finished classifiers: what is kept, what is made, and what begins with old weights."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from keras import layers

import keras_transfer as kt
from keras_transfer.layers.about import new_layers
from keras_transfer.layers.graph import leaf_layers

SHAPE = (12, 12, 3)
X = np.random.default_rng(0).standard_normal((4, *SHAPE), "float32")


@pytest.fixture(scope="module", autouse=True)
def _quick_weights():
    with numpy_initial_weights():
        yield


def features():
    return [
        layers.Conv2D(4, 3, name="conv1"),
        layers.BatchNormalization(name="norm"),
        layers.Conv2D(5, 3, activation="tanh", name="conv2"),
    ]


def classify(activation="softmax", classes=6):
    return [
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(8, activation="tanh", name="fc"),
        layers.Dense(classes, activation=activation, name="out", bias_initializer="normal"),
    ]


def on(x, stack):
    for layer in stack:
        x = layer(x)
    return x


def model_of(stack, shape=SHAPE, name="mine"):
    inputs = keras.Input(shape)
    return keras.Model(inputs, on(inputs, stack), name=name)


def flat(ending=classify):
    return model_of([*features(), *ending()])


def nested(ending=classify):
    return model_of([model_of(features(), name="base"), *ending()])


def nested_head(ending=classify):
    return model_of([*features(), model_of(ending(), (8, 8, 5), name="top")])


def twice_nested(ending=classify):
    inner = model_of([*features(), *ending()], name="inner")
    outer = model_of([layers.Rescaling(2.0, name="scale"), inner], name="outer")
    return model_of([outer])


def sequential(ending=classify):
    return keras.Sequential([keras.Input(SHAPE), *features(), *ending()])


def sequential_around_a_base(ending=classify):
    return keras.Sequential([keras.Input(SHAPE), model_of(features(), name="base"), *ending()])


STYLES = [flat, nested, nested_head, twice_nested, sequential, sequential_around_a_base]
STYLE = pytest.mark.parametrize("style", STYLES)


def subclassed():
    class Small(keras.Model):
        def __init__(self):
            super().__init__()
            self.out = layers.Dense(2, name="out")

        def call(self, x):
            return self.out(x)

    model = Small()
    model(np.zeros((1, 3), "float32"))
    return model


def names(found):
    return [layer.name for layer in found]


def weighted(model):
    return [layer.name for layer in leaf_layers(model) if layer.weights]


def leaf(model, name):
    return next(layer for layer in leaf_layers(model) if layer.name == name)


def predict(model, x=X):
    return keras.ops.convert_to_numpy(model(x, training=False))


class TestPart:
    @STYLE
    @pytest.mark.parametrize(
        ("part", "kept"),
        [
            ("output", ["conv1", "norm", "conv2", "fc"]),
            ("head", ["conv1", "norm", "conv2"]),
            (-1, ["conv1", "norm", "conv2"]),
            ("from:fc", ["conv1", "norm", "conv2"]),
            (["fc", "out"], ["conv1", "norm", "conv2"]),
            (lambda layer: isinstance(layer, layers.Dense), ["conv1", "norm", "conv2"]),
            ("from:conv2", ["conv1", "norm"]),
        ],
    )
    def test_is_replaced_and_the_rest_shared(self, style, part, kept):
        model = style()
        replaced = kt.replace_head(model, 3, part=part)
        assert weighted(replaced) == [*kept, "predictions"]
        for name in kept:
            assert leaf(replaced, name) is leaf(model, name)
        assert replaced.output_shape == (None, 3)
        assert replaced.name == model.name
        assert predict(replaced).shape == (4, 3)

    @STYLE
    def test_leaves_the_model_as_it_was(self, style):
        model = style()
        before = predict(model), names(leaf_layers(model)), model.to_json()
        replaced = kt.replace_head(model, 3)
        replaced.compile("sgd", "sparse_categorical_crossentropy")
        assert names(leaf_layers(model)) == before[1]
        assert model.to_json() == before[2]
        np.testing.assert_array_equal(predict(model), before[0])

    def test_keeps_what_nested_models_do_before_it(self):
        model = twice_nested()
        replaced = kt.replace_head(model, 3)
        kept = keras.Model(replaced.input, leaf(replaced, "predictions").input)
        expected = X * 2
        for name in ("conv1", "norm", "conv2", "pool", "fc"):
            expected = leaf(model, name)(expected)
        np.testing.assert_allclose(predict(kept), keras.ops.convert_to_numpy(expected), rtol=1e-5)

    def test_of_vgg16_keeps_its_pretrained_hidden_layers(self):
        vgg = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3), classes=7)
        flowers = kt.replace_head(vgg, 5)
        assert names(leaf_layers(flowers))[-5:] == ["flatten", "fc1", "fc2", "predictions", "softmax"]
        assert leaf(flowers, "fc2") is leaf(vgg, "fc2")
        assert leaf(flowers, "predictions") is not leaf(vgg, "predictions")
        assert names(new_layers(flowers)) == ["predictions", "softmax"]

    def test_of_mobilenet_may_be_a_convolution(self):
        mobilenet = keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3), classes=7)
        replaced = kt.replace_head(mobilenet, 5, init_from={0: 3, 4: 6})
        kinds = [type(layer).__name__ for layer in leaf_layers(replaced)][-5:]
        assert kinds == [
            "GlobalAveragePooling2D",
            "Dropout",
            "GlobalAveragePooling2D",
            "Dense",
            "Softmax",
        ]
        x = np.random.default_rng(0).standard_normal((2, 32, 32, 3), "float32")
        old, new = np.log(predict(mobilenet, x)), np.log(predict(replaced, x))
        np.testing.assert_allclose(new[:, 0] - new[:, 4], old[:, 3] - old[:, 6], rtol=1e-4, atol=1e-5)

    @STYLE
    def test_twice(self, style):
        once = kt.replace_head(style(), 3, hidden_units=(7,))
        twice = kt.replace_head(once, 4)
        assert weighted(twice)[-3:] == ["fc", "fc1", "predictions"]
        assert twice.output_shape == (None, 4)

    def test_with_names_that_are_taken(self):
        model = model_of([*features(), *classify()[:-1], layers.Dense(6, name="fc1"), layers.Dense(3)])
        replaced = kt.replace_head(model, 3, hidden_units=(7, 5))
        assert weighted(replaced)[-4:] == ["fc1", "fc1_1", "fc2", "predictions"]

    @pytest.mark.parametrize(
        ("pooling", "kind"), [("avg", "avg_pool"), ("max", "max_pool"), ("flatten",) * 2]
    )
    def test_pools_a_feature_map(self, pooling, kind):
        replaced = kt.replace_head(flat(), 3, part="head", pooling=pooling, dropout=0.5)
        assert names(leaf_layers(replaced))[3:] == [kind, "dropout", "predictions", "softmax"]


class TestEnding:
    """What a model ended in, the new one ends in."""

    @STYLE
    @pytest.mark.parametrize(
        ("ending", "classes", "last", "total"),
        [
            ("softmax", 6, "softmax", 1.0),
            (None, 6, "predictions", None),
            ("linear", 6, "predictions", None),
            ("sigmoid", 6, "sigmoid", None),
            ("sigmoid", 1, "softmax", 1.0),
            (None, 1, "softmax", 1.0),
        ],
    )
    def test_as_an_activation(self, style, ending, classes, last, total):
        model = style(lambda: classify(ending, classes))
        replaced = kt.replace_head(model, 3)
        assert leaf_layers(replaced)[-1].name == last
        if total:
            np.testing.assert_allclose(predict(replaced).sum(axis=1), total, rtol=1e-5)

    @pytest.mark.parametrize(
        ("last", "expected"),
        [
            (layers.Softmax, "softmax"),
            (lambda: layers.Activation("softmax"), "softmax"),
            (lambda: layers.Activation("sigmoid"), "sigmoid"),
            (lambda: layers.Dropout(0.1), "predictions"),
        ],
    )
    def test_as_a_layer_of_its_own(self, last, expected):
        replaced = kt.replace_head(flat(lambda: [*classify(None), last()]), 3)
        assert leaf_layers(replaced)[-1].name == expected

    def test_of_sigmoids_is_one_for_each_class(self):
        model = flat(lambda: classify("sigmoid"))
        replaced = kt.replace_head(model, 3, init_from={0: 5, 1: 1, 2: 0})
        np.testing.assert_allclose(predict(replaced), predict(model)[:, [5, 1, 0]], rtol=1e-6)


class TestInitFrom:
    @STYLE
    @pytest.mark.parametrize("classes", [6, 1])
    def test_copies_the_rows_of_the_old_classes(self, style, classes):
        model = style(lambda: classify(None, classes))
        sources = {0: 0, 2: 0} if classes == 1 else {0: 4, 2: 1}
        replaced = kt.replace_head(model, 3, init_from=sources)
        old = predict(model)
        new = predict(keras.Model(replaced.input, leaf(replaced, "predictions").output))
        kernels = [
            keras.ops.convert_to_numpy(leaf(m, n).kernel)
            for m, n in ((replaced, "predictions"), (model, "out"))
        ]
        for index, source in sources.items():
            np.testing.assert_array_equal(kernels[0][:, index], kernels[1][:, source])
            # Products with other shapes may differ in the last bit.
            np.testing.assert_allclose(new[:, index], old[:, source], rtol=1e-5, atol=1e-6)

    def test_of_a_layer_with_lora_copies_what_it_does(self):
        model = flat(lambda: classify(None))
        layer = leaf(model, "out")
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
        replaced = kt.replace_head(model, 3, init_from={0: 4})
        new = keras.Model(replaced.input, leaf(replaced, "predictions").output)
        np.testing.assert_allclose(predict(new)[:, 0], predict(model)[:, 4], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("mode", ["int8", "int4"])
    def test_of_a_quantized_layer_is_refused(self, mode):
        model = flat()
        leaf(model, "out").quantize(mode)
        with pytest.raises(
            ValueError, match=f"init_from needs an output layer that was not quantized.*{mode}"
        ):
            kt.replace_head(model, 3, init_from={0: 4})
        assert kt.replace_head(model, 3).output_shape == (None, 3)

    def test_leaves_the_other_classes_as_they_begin(self):
        model = flat()
        kernel, bias = kt.replace_head(model, 3, init_from={1: 5}).get_weights()[-2:]
        old_kernel, old_bias = model.get_weights()[-2:]
        assert bias.tolist() == [0.0, old_bias[5], 0.0]
        assert not np.isin(kernel[:, [0, 2]], old_kernel).any()

    def test_by_names_on_either_side(self):
        model = kt.classifier(model_of(features()), 3, class_names=["ant", "bee", "wasp"])
        replaced = kt.replace_head(
            model, 2, class_names=["hornet", "bumblebee"], init_from={"hornet": "wasp", 1: "bee"}
        )
        kernel, old = leaf(replaced, "predictions").kernel, leaf(model, "predictions").kernel
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(kernel), keras.ops.convert_to_numpy(old)[:, [2, 1]]
        )
        assert kt.class_names(replaced) == ["hornet", "bumblebee"]
        assert kt.class_names(model) == ["ant", "bee", "wasp"]

    def test_without_a_bias_the_new_one_is_zero(self):
        model = flat(lambda: [*classify()[:-1], layers.Dense(4, use_bias=False, name="out")])
        replaced = kt.replace_head(model, 3, init_from={0: 1})
        np.testing.assert_array_equal(replaced.get_weights()[-1], np.zeros(3))

    def test_from_imagenet_by_name(self, real_data):
        model = keras.applications.MobileNetV2(classifier_activation=None)
        hotdog = kt.replace_head(
            model, 2, class_names=["hot dog", "other"], init_from={"hot dog": "hotdog"}
        )
        x = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype("float32")
        old = predict(model, x)[:, 934]  # the index in Keras' list
        new = keras.Model(hotdog.input, leaf(hotdog, "predictions").output)
        np.testing.assert_allclose(predict(new, x)[:, 0], old, rtol=1e-5, atol=1e-5)


class TestNewLayers:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, ["predictions", "softmax"]),
            ({"hidden_units": (4,)}, ["fc1", "predictions", "softmax"]),
            ({"part": "head"}, ["avg_pool", "predictions", "softmax"]),
        ],
    )
    @STYLE
    def test_are_the_replaced_ones(self, style, options, expected):
        assert names(new_layers(kt.replace_head(style(), 3, **options))) == expected

    def test_of_a_stock_model_are_not_known(self):
        with pytest.raises(ValueError, match="no layer of model 'mine' is known to be new"):
            new_layers(flat())

    def test_of_random_and_given_backbones(self):
        random = kt.classifier("mobilenet", 3, image_size=32, weights=None)
        assert new_layers(random) == leaf_layers(random)
        given = kt.classifier(model_of(features()), 3)
        assert names(new_layers(given)) == ["avg_pool", "predictions", "softmax"]

    def test_are_what_a_phase_trains(self):
        model = nested()
        replaced = kt.replace_head(model, 3)
        before = {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in replaced.variables}
        kt.fine_tune(
            *(replaced, (X, np.arange(4) % 3)),
            phases=[kt.Phase("new", 1, train="new", learning_rate=0.1)],
            verbose=0,
        )
        moved = {
            v.path for v in replaced.variables if (keras.ops.convert_to_numpy(v) != before[v.path]).any()
        }
        assert moved == {"predictions/kernel", "predictions/bias"}


def pooled():
    image = keras.Input((8, 8, 3))
    features = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(4, 3, name="conv")(image))
    return image, features


def test_operations_count_as_endings():
    image, features = pooled()
    model = keras.Model(image, keras.ops.softmax(layers.Dense(3)(features)))
    outputs = kt.replace_head(model, 5).predict(np.ones((2, 8, 8, 3)), verbose=0)
    np.testing.assert_allclose(outputs.sum(axis=-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (lambda x: layers.Softmax()(x / 4.0), "what follows it .* would be lost"),
        (lambda x: keras.ops.tanh(x), "what follows it .* would be lost"),
        (lambda x: layers.Activation("relu")(x), "which ends in relu"),
    ],
)
def test_endings_that_are_none_of_a_classifier(ending, message):
    image, features = pooled()
    model = keras.Model(image, ending(layers.Dense(3)(features)))
    with pytest.raises(ValueError, match=message):
        kt.replace_head(model, 5)


def test_a_layer_of_a_model_that_is_called_twice_begins_no_head():
    image, features = pooled()
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="inside")])
    model = keras.Model(image, layers.Dense(3)(inner(inner(features))))
    with pytest.raises(ValueError, match=r"layer that is called once.* Received: layer 'inside'"):
        kt.replace_head(model, 5, part="from:inside")


def test_no_input_is_lost():
    image, features = pooled()
    other = keras.Input((2,))
    joined = layers.Concatenate(name="join")([features, other])
    model = keras.Model([image, other], layers.Dense(3, name="out")(joined))
    replaced = kt.replace_head(model, 4, part="head")
    names = [layer.name for layer in replaced.layers]
    assert names[-2:] == ["join", "predictions"]


def test_names_that_are_taken():
    image, features = pooled()
    x = layers.Dense(4, activation="relu", name="softmax")(features)
    model = keras.Model(image, layers.Dense(3, activation="softmax", name="out")(x))
    assert [layer.name for layer in kt.replace_head(model, 4).layers][-2:] == [
        "predictions",
        "softmax_1",
    ]


def test_what_was_new_before_is_not_now():
    """A network that was pretrained here is pretrained."""
    image, features = pooled()
    model = kt.classifier(keras.Model(image, features), 3, hidden_units=(4,))
    assert [layer.name for layer in new_layers(model)] == ["fc1", "predictions", "softmax"]
    assert [layer.name for layer in new_layers(kt.replace_head(model, 5))] == ["predictions", "softmax"]


def test_the_given_model_is_guarded_too():
    image, features = pooled()
    model = keras.Model(image, layers.Dense(3)(features))
    model.compile("sgd", "mse")
    kt.freeze_backbone(kt.replace_head(model, 4))
    with pytest.raises(ValueError, match="has changed since it was compiled"):
        model.fit(np.zeros((2, 8, 8, 3)), np.zeros((2, 3)), verbose=0)


def test_file_opens_in_stock_keras(tmp_path):
    replaced = kt.replace_head(twice_nested(), 3, class_names=["a", "b", "c"])
    replaced.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", X)
    script = Path(__file__).parent / "backends" / "stock_predict.py"
    packages = Path(keras.__file__).parents[1]
    arguments = [packages, tmp_path / "x.npy", tmp_path / "model.keras"]
    backend = keras.backend.backend()
    subprocess.run([sys.executable, "-I", "-S", script, *map(str, arguments)], check=True, timeout=1000)
    stock = np.load(tmp_path / f"model.{backend}.npy")
    np.testing.assert_allclose(stock, predict(replaced), rtol=1e-5, atol=1e-6)
    assert kt.class_names(tmp_path / "model.keras") == ["a", "b", "c"]


def two_outputs():
    inputs = keras.Input((4,))
    return keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(3)(inputs)], name="mine")


def followed_by(layer):
    return lambda: flat(lambda: [*classify(None), layer])


class Mine(layers.Layer):
    def call(self, x):
        return x


def bypassed():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(4, 1, name="a")(inputs)
    x = layers.Add(name="add")([x, layers.Conv2D(4, 1, name="b")(x)])
    return keras.Model(inputs, on(x, classify()), name="mine")


def one_name_twice():
    first = model_of([layers.Conv2D(3, 1, name="conv")], name="first")
    second = model_of([layers.Conv2D(3, 1, name="conv")], name="second")
    return model_of([first, second, *classify()])


class TestErrors:
    @pytest.mark.parametrize(
        ("make", "options", "message"),
        [
            (
                lambda: model_of(features()),
                {},
                r"'mine' has no classification head .* \(None, 8, 8, 5\)",
            ),
            (subclassed, {}, "is subclassed: .* class Small"),
            (lambda: keras.Sequential([layers.Dense(2)]), {}, "is not built: .* class Sequential"),
            (two_outputs, {}, r"must have one output; .* Received: model 'mine' with 2 outputs"),
            (one_name_twice, {"part": "from:conv"}, "2 layers of model 'mine' are called 'conv'"),
            (flat, {"part": "from:conv3"}, "no layer 'conv3' in model 'mine'; did you mean .*conv2"),
            (flat, {"part": "haed"}, r"no layer 'haed' .*; did you mean head\? Received: part='haed'"),
            (flat, {"part": None}, r"part must be 'output', 'head', .* Received: part=None"),
            (
                *(flat, {"part": "conv2"}),
                r"part must reach to the end .*, but fc, out would stay\. Say part='from:conv2'\.",
            ),
            (bypassed, {"part": "from:b"}, "but some by-pass 'b'.* Received: part='from:b'"),
            (
                followed_by(Mine(name="odd")),
                {},
                r"'out', is no output .* follows it \(odd\) would be lost",
            ),
            (
                *(followed_by(layers.LayerNormalization(name="odd")), {}),
                "'odd', is no output .* it is a LayerNormalization, not a Dense",
            ),
        ],
    )
    def test_in_the_model_or_the_part(self, make, options, message):
        with pytest.raises(ValueError, match=message):
            kt.replace_head(make(), 3, **options)

    @pytest.mark.parametrize(
        ("init_from", "options", "message"),
        [
            ({0: 3}, {}, r"each old class .* from 0 to 2 .* there is no class 3\. Received: 3"),
            ({0: -1}, {}, r"each old class .* there is no class -1\. Received: -1"),
            ({0: True}, {}, r"each old class .* there is no class True"),
            ({0: 1.0}, {}, r"each old class .* there is no class 1\.0"),
            ({2: 0}, {}, r"each new class .* from 0 to 1 .* there is no class 2\. Received: 2"),
            ({0: "wasps"}, {}, r"no class is called 'wasps'; did you mean wasp\? Received: 'wasps'"),
            ({0: "zebra"}, {}, r"no class is called 'zebra'\. Received: 'zebra'"),
            ({"hornet": 0}, {}, "names of the new classes are not known, so 'hornet' means none"),
            ({"hornets": 0}, {"class_names": ["hornet", "b"]}, r"did you mean hornet\?"),
            ({0: 0}, {"part": "head"}, r"init_from needs part='output' .* part='head'"),
            ({0: 0}, {"part": "from:predictions"}, "init_from needs part='output'"),
            ({0: 0}, {"hidden_units": (4,)}, r"and no hidden_units: .* hidden_units=\(4,\)"),
        ],
    )
    def test_in_init_from(self, init_from, options, message):
        model = kt.classifier(model_of(features()), 3, class_names=["ant", "bee", "wasp"])
        with pytest.raises(ValueError, match=message):
            kt.replace_head(model, 2, init_from=init_from, **options)

    def test_in_the_type_of_init_from(self):
        with pytest.raises(TypeError, match=r"init_from must be a dict .* Received: \[1, 2\]"):
            kt.replace_head(flat(), 2, init_from=[1, 2])

    def test_leave_the_flags_and_the_layers_alone(self):
        model = flat()
        before = model.to_json(), [w.copy() for w in model.get_weights()]
        with pytest.raises(ValueError, match="no class 9"):
            kt.replace_head(model, 3, init_from={0: 9})
        assert model.to_json() == before[0]
        for old, new in zip(before[1], model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
