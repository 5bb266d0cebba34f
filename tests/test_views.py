"""Several views of an image inside one model: what they are, and that all else works with them."""

import importlib.util
import re
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from keras import layers
from processes import run_alone
from test_exporting import FORMATS, POSSIBLE, predicted
from tiny import tiny_backbone, tiny_task, variables

import keras_transfer as kt
from keras_transfer.data.carried_rules import rules_of
from keras_transfer.data.images.rules import Rules
from keras_transfer.features.probe import linear_fit
from keras_transfer.inference import runtimes
from keras_transfer.inference.folded import folded
from keras_transfer.inference.folding import fold
from keras_transfer.inference.predictions import predictions
from keras_transfer.inference.translation import translated
from keras_transfer.layers import carried
from keras_transfer.layers.about import new_layers, origin_of
from keras_transfer.layers.graph import leaf_layers, up_to
from keras_transfer.models.depths import depth_widths

SIZE, CLASSES = 16, 3
NAMES = ["red", "green", "blue"]


@pytest.fixture(autouse=True)
def _quick():
    with numpy_initial_weights():
        yield


def images(count=6, size=SIZE, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (count, size, size, 3)).astype("float32")


def moved(model, seed=1):
    """Return a model in which weights and statistics of batch norm are none that it begins with."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "seed" not in variable.path:
            variable.assign(variable + rng.uniform(0.1, 0.4, variable.shape))
    return model


def stack(x, *ends):
    for layer in ends:
        x = layer(x)
    return x


def flat(*ends, size=SIZE):
    """Return a backbone and a head layer by layer."""
    inputs = keras.Input((size, size, 3), name="pixels")
    x = layers.Rescaling(1 / 127.5, -1.0)(inputs)
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="block1_conv1")(x)
    x = layers.BatchNormalization(name="block1_norm")(x)
    x = layers.ReLU(name="block1_relu")(x)
    x = layers.Conv2D(6, 3, padding="same", activation="tanh", name="block2_conv1")(x)
    return keras.Model(inputs, stack(x, *ends), name="flat")


def pooled(*between, activation="softmax", **how):
    dense = layers.Dense(CLASSES, activation=activation, name="out")
    return flat(layers.GlobalAveragePooling2D(), *between, dense, **how)


def sequential():
    base, ends = tiny_backbone(), [layers.GlobalMaxPooling2D(), layers.Dense(CLASSES, "softmax")]
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), base, *ends])


def softmax_operation():
    model = pooled(activation=None)
    return keras.Model(model.inputs, keras.ops.softmax(model.outputs[0]))


MODELS = {
    "nested": lambda: kt.classifier(tiny_backbone(), CLASSES),
    "dropout": lambda: kt.classifier(tiny_backbone(), CLASSES, dropout=0.5),
    "softmax inside": pooled,
    "softmax operation": softmax_operation,
    "logits": lambda: pooled(activation=None),
    "sequential": sequential,
    "a head of its own": lambda: keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            tiny_backbone(),
            layers.GlobalAveragePooling2D(),
            keras.Sequential([keras.Input((8,)), layers.Dropout(0.5), layers.Dense(CLASSES, "softmax")]),
        ]
    ),
}


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def by_hand(model, views):
    """Return what a model gives for the mean of the logits of views, each an array of images.

    A logarithm of a probability is a logit but for what is the same for all classes.
    """
    given = [model.predict(view, verbose=0).astype("float64") for view in views]
    if not np.allclose(given[0].sum(axis=1), 1, atol=1e-4):
        return np.mean(given, axis=0)
    return softmax(np.mean([np.log(each) for each in given], axis=0))


def triangle(size, wanted):
    """Return the matrix of bilinear resizing without aliasing: a triangle as wide as two new pixels."""
    scale = size / wanted
    centres = (np.arange(wanted) + 0.5) * scale
    apart = np.abs(centres[:, None] - np.arange(size) - 0.5) / max(scale, 1.0)
    weights = np.maximum(1 - apart, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def resized(x, height, width):
    rows, columns = triangle(x.shape[1], height), triangle(x.shape[2], width)
    return np.einsum("hr,wc,nrck->nhwk", rows, columns, x, optimize=True).astype("float32")


def distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


class TestViews:
    @pytest.mark.parametrize("name", MODELS)
    def test_are_an_image_and_its_mirror_image(self, name):
        model, x = moved(MODELS[name]()), images()
        before = variables(model)
        found = kt.multi_view(model).predict(x, verbose=0)
        assert distance(found, by_hand(model, [x, x[:, :, ::-1]])) < 1e-5
        assert distance(found, model.predict(x, verbose=0)) > 1e-4
        for old, new in zip(before, variables(model), strict=True):
            np.testing.assert_array_equal(old, new)

    @pytest.mark.parametrize("flip", [True, False])
    @pytest.mark.parametrize("sizes", [(8,), ((24, 12), 20)])
    @pytest.mark.parametrize("make", [pooled, lambda size=SIZE: nested(size)])
    def test_of_other_sizes(self, make, sizes, flip):
        """Each is what the same network, made for that size, makes of it."""
        model, x = moved(make()), images()
        views = [(model, x)]
        for size in sizes:
            other = make(size=None)
            other.set_weights(model.get_weights())
            views.append((other, resized(x, *(size if isinstance(size, tuple) else (size, size)))))
        if flip:
            views += [(each, view[:, :, ::-1]) for each, view in views]
        logs = [np.log(each.predict(view, verbose=0).astype("float64")) for each, view in views]
        found = kt.multi_view(model, flip=flip, sizes=sizes)
        assert distance(found.predict(x, verbose=0), softmax(np.mean(logs, axis=0))) < 1e-5
        assert found.input_shape == model.input_shape

    def test_of_a_model_for_images_of_any_size(self):
        model, x = moved(pooled(size=None)), images()
        found = kt.multi_view(model, sizes=(8,)).predict(x, verbose=0)
        small = resized(x, 8, 8)
        views = [x, small, x[:, :, ::-1], small[:, :, ::-1]]
        assert distance(found, by_hand(model, views)) < 1e-5

    def test_of_a_named_backbone(self):
        """Whose layers stand in the model one by one, behind an input of fixed size."""
        made = [kt.classifier("mobilenet", CLASSES, image_size=s, weights=None) for s in (64, 32)]
        moved(made[0])
        made[1].set_weights(made[0].get_weights())
        x = images(2, 64)
        logs = [
            np.log(m.predict(v, verbose=0)) for m, v in zip(made, (x, resized(x, 32, 32)), strict=True)
        ]
        found = kt.multi_view(made[0], flip=False, sizes=(32,)).predict(x, verbose=0)
        assert distance(found, softmax(np.mean(logs, axis=0))) < 1e-5

    def test_a_call_is_no_training(self, tmp_path):
        """Also one that doesn't say so, as in an export; a resizing layer would make it one."""
        made, x = kt.multi_view(moved(kt.classifier(tiny_backbone(), CLASSES)), sizes=(8,)), images()
        made.save(tmp_path / "model.keras")
        before, expected = variables(made), made.predict(x, verbose=0)
        for each in (made, keras.saving.load_model(tmp_path / "model.keras")):
            assert distance(keras.ops.convert_to_numpy(each(x)), expected) < 1e-5
        for old, new in zip(before, variables(made), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_are_taken_before_the_pixels_are_cut_to_16_bits(self):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            made = kt.multi_view(kt.classifier(tiny_backbone(), CLASSES), sizes=(8,))
        finally:
            keras.config.set_dtype_policy(before)
        computed = [made.get_layer(name) for name in ("resized_8x8", "mean_of_views", "predictions")]
        assert [layer.compute_dtype for layer in computed] == ["float32", "float32", "bfloat16"]


def nested(size=SIZE):
    """Return a classifier with a chain of models in it, one of which is sequential."""
    convolution = layers.Conv2D(5, 3, 2, "same", name="block1_conv1")
    inner = keras.Sequential([keras.Input((size, size, 3)), convolution], name="inner")
    inputs = keras.Input((size, size, 3))
    x = layers.BatchNormalization(name="block1_norm")(inner(layers.Rescaling(1 / 255)(inputs)))
    return kt.classifier(keras.Model(inputs, x, name="outer"), CLASSES, image_size=size)


class TestLayers:
    def test_are_those_of_the_model(self):
        model = kt.classifier(tiny_backbone(), CLASSES, dropout=0.5)
        made = kt.multi_view(model, sizes=(8,))
        new = {id(layer) for layer in leaf_layers(made)} - {id(layer) for layer in leaf_layers(model)}
        names = [layer.name for layer in leaf_layers(made) if id(layer) in new]
        assert names == ["resized_8x8", "mean_of_views", "softmax"]
        assert {id(v) for v in made.weights} == {id(v) for v in model.weights}

    def test_dropout_acts_on_the_mean(self):
        """So that what comes before it can be computed once."""
        model = kt.classifier(tiny_backbone(), CLASSES, dropout=0.5)
        made = kt.multi_view(model)
        assert [layer.name for layer in made.layers][-4:] == [
            "mean_of_views",
            "dropout",
            "predictions",
            "softmax",
        ]
        kt.freeze_backbone(made)
        assert kt.frozen_prefix(made) == "mean_of_views"

    def test_dropout_that_is_always_on_stays_where_it_is(self):
        inputs = keras.Input((SIZE, SIZE, 3))
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
        x = layers.Dropout(0.5, name="always")(x, training=True)
        made = kt.multi_view(keras.Model(inputs, layers.Dense(CLASSES)(x)))
        assert "always" not in [layer.name for layer in made.layers]
        assert "always" in [layer.name for layer in leaf_layers(made)]

    def test_what_is_known_is_handed_on_but_for_the_calibration(self, tmp_path):
        model = kt.classifier("mobilenet", 3, image_size=32, weights=None, class_names=NAMES)
        carried.attach(model, carried.RULES, Rules().to_dict())
        kt.calibration.attach_calibration(model, kt.calibration.Calibration(1.0, 0.2, 0.9, 50))
        made = kt.multi_view(kt.replace_head(model, 3, class_names=NAMES))
        assert [layer.name for layer in new_layers(made) if layer.weights] == ["predictions"]
        made = kt.multi_view(model)
        made.save(tmp_path / "model.keras")
        for each in (made, tmp_path / "model.keras", kt.load_model(tmp_path / "model.keras")):
            assert kt.class_names(each) == NAMES
            assert origin_of(each) == origin_of(model)
            assert rules_of(each) == Rules()
            assert kt.calibration.of(each) is None
        assert kt.calibration.of(model) is not None

    def test_groups_and_head(self):
        made = kt.multi_view(kt.classifier(tiny_backbone(), CLASSES))
        groups = kt.layer_groups(made)
        assert [group.name for group in groups] == ["block1", "block2", "head"]
        assert [layer.name for layer in groups[-1].layers] == ["predictions", "softmax"]

    def test_freezing(self):
        model = kt.classifier(tiny_backbone(), CLASSES)
        made = kt.multi_view(model, sizes=(8,))
        kt.freeze_backbone(made)
        assert [v.path for v in made.trainable_variables] == ["predictions/kernel", "predictions/bias"]
        kt.unfreeze_from(made, "block2_conv1")
        assert [row.layer for row in kt.trainable_table(model) if row.trainable] == [
            "block2_conv1",
            "predictions",
        ]


# What has no operation for resizing without aliasing, or whose converter doesn't know it.
CANT_RESIZE = {"torch": [], "tensorflow": ["openvino", "litert"], "jax": []}


class TestFiles:
    @pytest.mark.parametrize("sizes", [(), (8,)])
    def test_open_in_stock_keras(self, sizes, tmp_path):
        """In safe mode and in a process without this package."""
        model = moved(kt.classifier(tiny_backbone(), CLASSES, class_names=NAMES))
        made, x, path = kt.multi_view(model, sizes=sizes), images(), tmp_path / "model.keras"
        kt.freeze_backbone(made)
        made.save(path)
        np.save(tmp_path / "images.npy", x)
        with zipfile.ZipFile(path) as archive:
            assert "keras_transfer" not in archive.read("config.json").decode()
        packages = Path(importlib.util.find_spec("keras").origin).parents[1]
        backend = keras.backend.backend()
        options = ("-I", "-S")
        given = (packages, tmp_path / "images.npy", path)
        run_alone(backend, "stock_predict.py", *given, options=options)
        found = np.load(tmp_path / f"model.{backend}.npy")
        assert distance(found, made.predict(x, verbose=0)) < 1e-6
        again = kt.load_model(path)
        assert len(again.trainable_variables) == 2
        assert len(again.weights) == len(made.weights)
        with pytest.raises(ValueError, match="several views already"):
            kt.multi_view(again)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # of what runs the files
    @pytest.mark.parametrize("sizes", [(), (8, (24, 20))])
    @pytest.mark.parametrize("format", POSSIBLE)
    def test_export(self, format, sizes, tmp_path):
        for package in FORMATS[format].packages[keras.backend.backend()]:
            pytest.importorskip(package)
        made = kt.multi_view(moved(kt.classifier(tiny_backbone(), CLASSES)), sizes=sizes)
        path = tmp_path / f"model{FORMATS[format].suffix}"
        if sizes and format in CANT_RESIZE[keras.backend.backend()]:
            with pytest.raises(ValueError, match=f"Keras can't export this model as {format}"):
                kt.export(made, path, format)
            return
        kt.export(made, path, format)
        x = images()
        wanted = made.predict(x, verbose=0)
        for number in (6, 1):
            assert distance(predicted(path, format, x[:number]), wanted[:number]) < 1e-5


class TestTraining:
    @pytest.mark.parametrize("train", ["head", "all"])
    def test_equals_plain_keras(self, train):
        task = tiny_task()
        models = [moved(kt.classifier(tiny_backbone(), CLASSES)) for _ in range(2)]
        models[1].set_weights(models[0].get_weights())
        made = [kt.multi_view(model, sizes=(8,)) for model in models]
        kt.fine_tune(
            made[0], task, phases=[kt.Phase("one", 2, train, 1e-2)], batch_size=8, seed=5, verbose=0
        )
        plain = made[1]
        for layer in leaf_layers(plain):
            norm = isinstance(layer, layers.BatchNormalization)
            layer.trainable = not norm if train == "all" else layer.name == "predictions"
        loader = kt.Loader(task, 8, seed=5)
        logits = keras.Model(plain.inputs, plain.get_layer("softmax").input)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        logits.compile(keras.optimizers.Adam(1e-2), loss)
        batches = [loader.batch(epoch, index) for epoch in range(2) for index in range(6)]
        x, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        logits.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        for ours, theirs in zip(variables(made[0]), variables(plain), strict=True):
            assert distance(ours, theirs) < 1e-5

    def test_training_one_trains_the_other(self):
        model, (x, y) = kt.classifier(tiny_backbone(), CLASSES), tiny_task()
        made = kt.multi_view(model)
        before = variables(model)
        kt.fine_tune(made, (x, y), phases=[kt.Phase("all", 1, "all")], verbose=0)
        changed = [not np.array_equal(*pair) for pair in zip(before, variables(model), strict=True)]
        assert sum(changed) == len(model.trainable_variables)

    def test_the_frozen_part_is_computed_once(self, capsys):
        made = kt.multi_view(kt.classifier(tiny_backbone(), CLASSES))
        kt.fine_tune(made, tiny_task(), phases=[kt.Phase("head", 3)], verbose=2)
        assert "Cache: all up to mean_of_views is computed once" in capsys.readouterr().out

    def test_a_linear_head_is_fitted_to_the_mean_of_the_features(self):
        model, (x, y) = moved(kt.classifier(tiny_backbone(), CLASSES)), tiny_task()
        network = up_to(model, model.get_layer("predictions"))
        features = [network.predict(view, verbose=0) for view in (x, x[:, :, ::-1])]
        (linear,) = linear_fit.fit(np.mean(features, axis=0), y, "logistic", [1.0])
        fitted = kt.fit_linear_head(kt.multi_view(model), (x, y), C=1.0, verbose=0)
        found = fitted.predict(x, verbose=0)
        assert distance(found, softmax(linear.logits(np.mean(features, axis=0)))) < 1e-3

    def test_depths_are_chosen_of_the_features_before_the_mean(self):
        model = kt.classifier("mobilenet", 3, image_size=32, weights=None, features="several")
        width = model.get_layer("predictions").input.shape[-1]
        widths = depth_widths(model, width)
        assert len(widths) > 2
        for sizes in ((), (64,)):
            assert depth_widths(kt.multi_view(model, sizes=sizes), width) == widths

    def test_calibration(self):
        model, (x, y) = moved(kt.classifier(tiny_backbone(), CLASSES)), tiny_task()
        logs = np.log(by_hand(model, [x, x[:, :, ::-1]]))
        made = kt.multi_view(model)
        found = kt.calibration.calibrate(made, (x, y), verbose=0)
        assert found.temperature == pytest.approx(kt.calibration.fit_temperature(logs, y), rel=1e-3)
        expected = softmax(logs / found.temperature)
        assert distance(made.predict(x, verbose=0), expected) < 1e-4

    def test_automatic(self):
        x, y = tiny_task()
        made = kt.multi_view(kt.classifier(tiny_backbone(), CLASSES))
        trained = kt.automatic.train(made, (x, y), verbose=0)
        assert trained.model is made
        assert [score.name for score in trained.scores] == ["linear head", "everything"]
        assert kt.calibration.of(made) == trained.calibration
        assert (made.predict(x, verbose=0).argmax(axis=1) == y).mean() > 0.9

    def test_a_new_head(self):
        model = moved(kt.classifier(tiny_backbone(), CLASSES))
        made = kt.multi_view(model)
        five, x = kt.replace_head(made, 5, init_from={4: 0, 1: 2}), images()
        assert five.output_shape == (None, 5)
        logs, ours = (np.log(m.predict(x, verbose=0)) for m in (made, five))
        np.testing.assert_allclose(ours[:, 4] - ours[:, 1], logs[:, 0] - logs[:, 2], atol=1e-4)

    def test_ranking(self):
        model = moved(kt.classifier(tiny_backbone(), CLASSES))
        given = {"one view": model, "two": kt.multi_view(model)}
        assert {row.name for row in kt.rank_backbones(given, tiny_task(), verbose=0)} == set(given)
        assert [score.layer for score in kt.advise(given["two"], tiny_task(), verbose=0).layers] == [
            "mean_of_views"
        ]


class TestEngine:
    """ONNX Runtime, or a copy of the network with batch norm folded, gives what Keras gives."""

    @pytest.mark.parametrize("sizes", [(), (8, (24, 20))])
    @pytest.mark.parametrize("name", ["nested", "logits", "sequential"])
    def test_onnx_runtime_computes(self, name, sizes, capsys):
        pytest.importorskip("onnxruntime")
        made, x = kt.multi_view(moved(MODELS[name]()), sizes=sizes), images()
        expected = made.predict(x, verbose=0)
        ((runtime,), obstacle) = runtimes.runtimes(made, "onnxruntime")
        assert obstacle is None
        (found,) = runtimes.started(made, runtime, x, 4)(x)  # or an error
        assert distance(found, expected) < 1e-5
        capsys.readouterr()
        found = predictions(made, kt.Loader((x, np.zeros(6, int)), 4, shuffle=False), 2)
        assert "Keras computes" not in capsys.readouterr().out
        assert distance(found, expected) < 1e-5

    def test_a_named_backbone(self):
        """Whose padding hangs on the size of each view."""
        pytest.importorskip("onnxruntime")
        model = moved(kt.classifier("mobilenet_v2", CLASSES, image_size=64, weights=None))
        made, x = kt.multi_view(model, sizes=(32, (96, 64))), images(2, 64)
        ((runtime,), _) = runtimes.runtimes(made, "onnxruntime")
        (found,) = runtimes.started(made, runtime, x, 2)(x)
        assert distance(found, made.predict(x, verbose=0)) < 1e-5

    def test_weights_are_there_once(self):
        onnx = pytest.importorskip("onnx")
        from keras_transfer.inference.onnx_file import as_onnx

        steps = translated(kt.multi_view(moved(kt.classifier(tiny_backbone(), CLASSES)), sizes=(8, 12)))
        fold(steps)
        assert sum(step.op == "Conv" for step in steps.steps) == 6 * 2
        stored = onnx.load_from_string(as_onnx(steps)).graph.initializer
        assert [list(each.dims) for each in stored if len(each.dims) == 4] == [
            [4, 3, 3, 3],
            [8, 4, 3, 3],
        ]

    def test_batch_norm_folds(self):
        made, x = kt.multi_view(moved(kt.classifier(tiny_backbone(), CLASSES)), sizes=(8,)), images()
        copy = folded(made)
        kinds = {type(layer).__name__ for layer in leaf_layers(copy)}
        assert "BatchNormalization" not in kinds
        assert distance(copy.predict(x, verbose=0), made.predict(x, verbose=0)) < 1e-5


def token_network():
    """Return a network that adds a learned number to each place of a feature map."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Reshape((-1, 4))(layers.Conv2D(4, 4, 4)(inputs))
    x = Positions(name="positions")(x)
    x = layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, x, name="tokens")


class Positions(layers.Layer):
    def build(self, shape):
        self.positions = self.add_weight(shape=(1, *shape[1:]), initializer="normal")

    def call(self, x):
        return x + self.positions

    def compute_output_shape(self, shape):
        return shape


class TestRefused:
    @pytest.mark.parametrize(
        ("given", "error", "words"),
        [
            ({"flip": False}, ValueError, "there is one view otherwise"),
            ({"flip": 1}, TypeError, "flip must be True or False. Received: flip=1"),
            ({"sizes": 8}, TypeError, "sizes must be a sequence .* Received: sizes=8"),
            ({"sizes": "8"}, TypeError, "sizes must be a sequence"),
            ({"sizes": (8, 0)}, ValueError, r"sizes\[1\] must be a number of pixels .*=0"),
            ({"sizes": (8.0,)}, ValueError, r"sizes\[0\] must be a number of pixels"),
            ({"sizes": ((8, -1),)}, ValueError, r"sizes\[0\] must be a number of pixels"),
            ({"sizes": (8, 8)}, ValueError, "and each another one. Received: sizes=.8, 8."),
            ({"sizes": (16,)}, ValueError, r"others than .*Received: .* images of \(16, 16\) pixels"),
        ],
    )
    def test_arguments(self, given, error, words):
        with pytest.raises(error, match=words):
            kt.multi_view(pooled(), **given)

    @pytest.mark.parametrize(
        ("make", "error", "words"),
        [
            (lambda: "vgg16", TypeError, "model must be a keras.Model. Received: model='vgg16'"),
            (tiny_backbone, ValueError, "no classification head"),
            (
                lambda: kt.classifier(tiny_backbone(), 3, hidden_units=(4,)),
                ValueError,
                "with fc1 before",
            ),
            (lambda: pooled(activation="sigmoid"), ValueError, "must end in logits or a softmax"),
            (lambda: kt.multi_view(pooled()), ValueError, "not have several views .*'mean_of_views'"),
            (
                lambda: kt.classifier(up_to((m := kt.multi_view(pooled())), m.get_layer("out")), 3),
                ValueError,
                "not have several views",
            ),
            (
                lambda: keras.Sequential([keras.Input((4,)), layers.Dense(3)]),
                ValueError,
                "must take images",
            ),
        ],
    )
    def test_models(self, make, error, words):
        with pytest.raises(error, match=words):
            kt.multi_view(make())

    @pytest.mark.parametrize(
        ("make", "why"),
        [
            (lambda: flat(layers.Flatten(), layers.Dense(3)), "layer 'flatten' gives longer vectors"),
            (
                lambda: flat(layers.Flatten(), layers.Dropout(0.5), layers.Dense(3)),
                "layer 'flatten' gives longer vectors",
            ),
            (token_network, "where "),
        ],
    )
    def test_layers_of_one_size(self, make, why):
        model = make()
        words = rf"sizes need layers that take images of any size.*Received: .*{re.escape(why)}"
        with pytest.raises(ValueError, match=words):
            kt.multi_view(model, sizes=(24,))
        kt.multi_view(model).predict(images(), verbose=0)  # flip alone will do
