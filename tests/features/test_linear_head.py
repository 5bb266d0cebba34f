"""Linear heads on features: what they are, that they are the same each time, and what is refused."""

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from keras import layers
from mappings import watch_folders

import keras_transfer as kt
from keras_transfer.features.probe import linear_fit
from keras_transfer.layers.about import new_layers, origin_of
from keras_transfer.layers.graph import leaf_layers, up_to
from keras_transfer.layers.head import single_dense

SHAPE = (8, 8, 3)
CLASSES = 3


@pytest.fixture(autouse=True)  # for each test the same, whichever ran before
def _quick_weights():
    with numpy_initial_weights():
        yield


def images(count=60, seed=0):
    """Return noise of which each class is brighter in one channel."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % CLASSES
    x = rng.uniform(0, 120, (count, *SHAPE))
    x[np.arange(count), :, :, y] += 90
    return x.astype("uint8"), y


def backbone(name="base"):
    inputs = keras.Input(SHAPE)
    x = layers.Rescaling(1 / 255, name="scale")(inputs)
    x = layers.Conv2D(6, 3, activation="relu", name="conv1")(x)
    branch = layers.Conv2D(6, 3, padding="same", name="branch")(x)
    x = layers.Add(name="add")([x, branch])
    x = layers.BatchNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Conv2D(8, 3, activation="relu", name="conv2")(x), name=name)


def nested(**options):
    return kt.classifier(backbone(), CLASSES, **options)


def flat(head=lambda: [layers.GlobalAveragePooling2D(name="pool"), layers.Dense(CLASSES, name="out")]):
    base = backbone()
    x = base.output
    for layer in head():
        x = layer(x)
    return keras.Model(base.input, x, name="flat")


def softmax_inside():
    return flat(lambda: [layers.Flatten(), layers.Dropout(0.5), layers.Dense(CLASSES, "softmax")])


def softmax_op():
    base = backbone()
    x = layers.Dense(CLASSES)(layers.GlobalMaxPooling2D()(base.output))
    return keras.Model(base.input, keras.ops.softmax(x))


MODELS = pytest.mark.parametrize(
    "make", [nested, lambda: nested(dropout=0.3), flat, softmax_inside, softmax_op]
)


def fitted(model, *data, **arguments):
    return kt.fit_linear_head(model, *data, **{"C": 1.0, "verbose": 0, **arguments})


def weights_of(model):
    return [np.array(weight) for weight in model.get_weights()]


def accuracy(model, x, y):
    return float((model.predict(x, verbose=0).argmax(axis=1) == y).mean())


class TestFit:
    @MODELS
    @pytest.mark.parametrize("method", ["logistic", "svm"])
    def test_classifies_and_differs_only_in_the_last_layer(self, make, method):
        model, (x, y) = make(), images()
        before, shared = weights_of(model), leaf_layers(model)
        made = fitted(model, (x, y), method=method)
        assert made is not model
        changed = [not np.array_equal(*pair) for pair in zip(before, weights_of(made), strict=True)]
        assert changed == [False] * (len(before) - 2) + [True] * 2
        for old, new in zip(before, weights_of(model), strict=True):
            np.testing.assert_array_equal(old, new)
        new = {id(layer) for layer in leaf_layers(made)} - {id(layer) for layer in shared}
        named = [layer.name for layer in leaf_layers(made) if id(layer) in new]
        assert named == ["predictions", "softmax"][: len(named)]
        assert accuracy(made, *images(seed=1)) > 0.8

    @pytest.mark.parametrize("at", [None, "conv1"])
    @MODELS
    def test_ends_as_the_model_does(self, make, at):
        model, (x, y) = make(), images()
        made = fitted(model, (x, y), at=at)
        gives = [each.predict(x, verbose=0).sum(axis=1) for each in (model, made)]
        probabilities = [np.allclose(each, 1.0, atol=1e-5) for each in gives]
        assert probabilities == [make is not flat] * 2

    @pytest.mark.parametrize("at", [None, "conv1"])
    def test_knows_what_the_model_knows_and_what_is_new(self, at):
        names = ["red", "green", "blue"]
        model = kt.classifier("mobilenet", 3, image_size=32, weights=None, class_names=names)
        x, y = images()
        at = at and "conv_pw_3_relu"
        made = fitted(model, (np.tile(x, (1, 4, 4, 1)), y), at=at)
        assert kt.class_names(made) == names
        assert origin_of(made) == origin_of(model)
        assert [layer.name for layer in new_layers(made) if layer.weights] == ["predictions"]
        assert not made.compiled

    def test_leaves_keras_generator_as_it_is(self):
        keras.utils.set_random_seed(1)
        wanted = np.array(keras.ops.convert_to_numpy(keras.random.uniform((3,))))
        model = nested()
        keras.utils.set_random_seed(1)
        fitted(model, images())
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(keras.random.uniform((3,))), wanted)

    def test_is_the_minimum_of_the_regularised_loss(self):
        model, (x, y) = nested(), images()
        model = fitted(model, (x, y), C=0.1)
        features = up_to(model, single_dense(model)).predict(x, verbose=0).astype("float64")
        kernel, bias = weights_of(model)[-2:]
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        used = deviation > 0
        deviation = np.where(used, np.maximum(deviation, 0.3 * np.median(deviation[used])), 0)
        z = (features - mean) / np.where(deviation, deviation, 1)
        weights = kernel * deviation[:, None]
        logits = features @ kernel + bias
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        error = p / p.sum(axis=1, keepdims=True) - np.eye(CLASSES)[y]
        np.testing.assert_allclose((z.T @ error * 0.1 + weights)[used], 0.0, atol=1e-4)
        np.testing.assert_allclose(error.sum(axis=0), 0.0, atol=1e-3)

    def test_is_the_same_twice_and_with_features_kept(self, tmp_path):
        model, data = nested(), images()
        found = []
        for cache in (None, tmp_path / "cache", tmp_path / "cache"):
            found.append(weights_of(fitted(model, data, C=None, cache=cache))[-2:])
        for other in found[1:]:
            np.testing.assert_array_equal(found[0][0], other[0])
            np.testing.assert_array_equal(found[0][1], other[1])
        assert len(kt.features.caches(tmp_path / "cache")) == 1

    def test_takes_loaders_one_hot_labels_and_leaves_augmentation_out(self):
        model, (x, y) = nested(), images()
        expected = weights_of(fitted(model, (x, y)))[-2]
        loader = kt.Loader((x, np.eye(CLASSES)[y]), 7, augmentation="light")
        loader.epoch = 3
        found = weights_of(fitted(model, loader))[-2]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        assert loader.epoch == 3

    @pytest.mark.parametrize("method", ["logistic", "svm"])
    def test_with_two_classes(self, method):
        model, (x, y) = kt.classifier(backbone(), 2), images()
        x, y = x[y < 2], y[y < 2]
        model = fitted(model, (x, y), method=method)
        assert accuracy(model, x, y) > 0.9
        kernel = weights_of(model)[-2]
        np.testing.assert_allclose(kernel[:, 0], -kernel[:, 1], rtol=1e-5, atol=1e-7)

    def test_leaves_what_trains_and_how_it_is_compiled(self):
        model = nested()
        kt.freeze_backbone(model)
        model.compile("adam", "sparse_categorical_crossentropy")
        optimizer, trains = model.optimizer, [layer.trainable for layer in leaf_layers(model)]
        made = fitted(model, images())
        assert model.optimizer is optimizer
        for each in (model, made):
            assert [layer.trainable for layer in leaf_layers(each)] == trains

    def test_then_fine_tuning_begins_from_it(self):
        model, (x, y) = nested(), images()
        model = fitted(model, (x, y))
        phase = kt.Phase("head", 1, learning_rate=1e-5)
        kt.fine_tune(model, (x, y), phases=[phase], verbose=0)
        assert accuracy(model, x, y) > 0.8

    def test_says_what_it_chose(self, capsys):
        kt.fit_linear_head(nested(), images(), images(seed=1))
        assert "Linear head: C = " in capsys.readouterr().out
        kt.fit_linear_head(nested(), images(), C=1.0, verbose=0)
        assert capsys.readouterr().out == ""

    def test_no_file_is_mapped_when_its_folder_goes(self, monkeypatch):
        folders = watch_folders(monkeypatch)
        kt.fit_linear_head(nested(), images(), images(12, seed=1), verbose=0)
        assert folders == [[], []]
        model = nested()
        model.get_layer("base").get_layer("conv2").bias.assign([np.inf] * 8)  # JAX makes NaN 0 by ReLU
        with pytest.raises(ValueError, match="must be finite numbers"):
            kt.fit_linear_head(model, images(), verbose=0)
        assert folders == [[], [], []]


class TestAt:
    @pytest.mark.parametrize(
        ("at", "ends"),
        [("conv1", ["avg_pool", "predictions", "softmax"]), ("avg_pool", ["predictions", "softmax"])],
    )
    def test_is_a_new_model_on_shared_layers(self, at, ends):
        model, (x, y) = nested(class_names=["red", "green", "blue"]), images()
        before = weights_of(model)
        early = kt.fit_linear_head(model, (x, y), at=at, verbose=0)
        assert [layer.name for layer in leaf_layers(early)][-len(ends) :] == ends
        assert leaf_layers(early)[1] is leaf_layers(model)[1]
        assert kt.class_names(early) == ["red", "green", "blue"]
        assert accuracy(early, *images(seed=1)) > 0.8
        for old, new in zip(before, weights_of(model), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_with_hidden_layers(self):
        model = nested(hidden_units=(5, 4))
        assert kt.fit_linear_head(model, images(), at="fc1", verbose=0).count_params() > 0

    @pytest.mark.parametrize(
        ("at", "message"),
        [
            ("branch", "some paths by-pass layer 'branch'"),
            ("conv3", "no layer 'conv3' in model .* did you mean conv2, conv1"),
            ("softmax", "or it is the last"),
        ],
    )
    def test_must_be_on_all_paths(self, at, message):
        with pytest.raises(ValueError, match=message):
            kt.fit_linear_head(nested(), images(), at=at, verbose=0)


class TestC:
    def test_is_that_of_the_best_validation(self):
        model, train, validation = nested(), images(30), images(90, seed=1)
        network = up_to(model, single_dense(model))
        splits = [
            tuple((network.predict(x, verbose=0).astype("float64"), y) for x, y in (train, validation))
        ]
        choice = linear_fit.choose(splits, "logistic", lambda: None)
        value, best = choice.value, choice.accuracy
        assert best == max(choice.accuracies.values())
        scores = []
        for other in linear_fit.GRIDS["logistic"]:
            scores.append(accuracy(fitted(model, train, C=other), *validation))
        assert best == pytest.approx(max(scores), abs=0.02)
        expected = weights_of(fitted(model, train, C=value))[-2]
        found = weights_of(fitted(model, train, validation, C=None))[-2]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(("method", "taken"), [("logistic", 2), ("svm", 2), ("ridge", 3)])
    def test_is_found_on_as_many_folds_as_are_needed(self, monkeypatch, rng, method, taken):
        x, y = rng.standard_normal((60, 4)), np.arange(60) % 2
        monkeypatch.setattr(linear_fit, "_ENOUGH", 40)
        advances = []
        choice = linear_fit.choose(linear_fit.fold_data(x, y, 3, 0), method, lambda: advances.append(1))
        assert len(choice.logits) == taken
        assert len(advances) == 3 * len(linear_fit.GRIDS[method])

    def test_is_that_of_folds_as_many_as_there_can_be(self):
        x, y = images(9)
        kt.fit_linear_head(nested(), (x, y), verbose=0)
        with pytest.raises(
            ValueError, match=r"at least 2 samples for folds; pass C=\.\.\. or validation"
        ):
            kt.fit_linear_head(nested(), (x[:3], y[:3]), verbose=0)
        kt.fit_linear_head(nested(), (x[:3], y[:3]), C=1.0, verbose=0)


@pytest.mark.parametrize("change", ["int8", "int4", "lora"])
def test_of_a_changed_layer_a_new_one_is_made(change):
    """The layer that is fitted is plain; `automatic` is told that it can't fit the given one."""
    model, plain, (x, y) = flat(), flat(), images()
    plain.set_weights(model.get_weights())
    layer = model.get_layer("out")
    if change == "lora":
        layer.enable_lora(2)
    else:
        layer.quantize(change)
    before = weights_of(model)
    fitted_, expected = (kt.fit_linear_head(each, (x, y), C=1.0, verbose=0) for each in (model, plain))
    np.testing.assert_allclose(
        fitted_.get_weights()[-2], expected.get_weights()[-2], rtol=1e-5, atol=1e-6
    )
    for call in (kt.automatic.train, kt.automatic.propose):
        with pytest.raises(
            ValueError, match=r"must have its kernel and bias as its only weights.*'out'"
        ):
            call(model, (x, y), verbose=0)
    for old, new in zip(before, weights_of(model), strict=True):
        np.testing.assert_array_equal(old, new)


class TestFitOfFeatures:
    @pytest.mark.parametrize("method", ["logistic", "svm"])
    def test_a_weight_counts_as_so_many_samples(self, method, rng):
        half, y = rng.standard_normal((30, 4)), np.tile(np.arange(30) % 3, 2)
        x = np.concatenate([half, -half])  # so that only how often a class is met tells anything
        twice = np.concatenate([np.arange(60), np.flatnonzero(y == 2)])
        (weighted,) = linear_fit.fit(x, y, method, [0.1], class_weight={2: 2.0})
        (repeated,) = linear_fit.fit(x[twice], y[twice], method, [0.1])
        (plain,) = linear_fit.fit(x, y, method, [0.1])
        assert abs(weighted.bias - plain.bias).max() > 0.05
        np.testing.assert_allclose(weighted.bias, repeated.bias, atol=1e-5)

    @pytest.mark.parametrize("method", ["logistic", "svm"])
    def test_with_fewer_samples_than_features_is_that_in_all_dimensions(self, method, rng):
        x, y = rng.standard_normal((20, 15)), np.arange(20) % 3
        wide = np.concatenate([x, x @ rng.standard_normal((15, 15))], axis=1)
        (linear,) = linear_fit.fit(wide, y, method, [0.1])
        z = (wide - wide.mean(axis=0)) / wide.std(axis=0)
        estimator = linear_fit._estimator(method, 1e-6).set_params(C=0.1).fit(z, y)
        scores = wide @ linear.kernel + linear.bias
        np.testing.assert_allclose(scores, estimator.decision_function(z), rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("method", ["logistic", "svm", "ridge"])
    def test_no_class_depends_on_a_feature_that_hardly_varies(self, method, rng):
        x, y = rng.standard_normal((60, 5)), np.arange(60) % 2
        x[y == 1, 0] += 4.0
        x[:, 4] = 0.0
        x[y == 1, 4] = rng.uniform(0, 1e-3, 30)
        (linear,) = linear_fit.fit(x, y, method, [1e-2])
        image = np.array([[0.0, 0.0, 0.0, 0.0, 1.0]])
        plain = image.copy()
        plain[0, 4] = 0.0
        before, after = (linear.logits(each)[0] @ [-1.0, 1.0] for each in (plain, image))
        assert abs(after - before) < 4 * abs(linear.kernel[0] @ [-1.0, 1.0])  # it moves as others do

    def test_constant_features_have_no_weight(self, rng):
        x = np.concatenate([rng.standard_normal((20, 2)), np.full((20, 1), 7.0)], axis=1)
        x[:, 2] += 1e-7 * rng.standard_normal(20)
        (linear,) = linear_fit.fit(x, np.arange(20) % 2, "logistic", [1.0])
        assert linear.kernel[2].tolist() == [0.0, 0.0]


class TestCrossValidation:
    @pytest.mark.parametrize("C", [None, 1.0])
    def test_scores_each_fold(self, C):
        model = nested()
        before = weights_of(model)
        score = kt.features.cross_validate_head(model, images(), C=C, folds=4, verbose=0)
        assert len(score.accuracies) == len(score.values) == 4
        assert score.mean > 0.8
        assert score.std == pytest.approx(np.std(score.accuracies, ddof=1))
        low, high = score.interval
        assert str(score) == (
            f"accuracy {score.mean:.3f} ({low:.3f} to {high:.3f}; 4 folds of {score.samples} samples)"
        )
        assert score.samples == len(images()[0])
        assert set(score.values) == {C} or C is None
        for old, new in zip(before, weights_of(model), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_is_chance_without_a_relation(self, rng):
        x, y = rng.integers(0, 256, (90, *SHAPE), "uint8"), np.arange(90) % CLASSES
        score = kt.features.cross_validate_head(nested(), (x, y), verbose=0)
        assert abs(score.mean - 1 / 3) < 0.2


class TestRefused:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: nested(hidden_units=(5,)), r"part='head'\), .* at='fc1'\."),
            (
                lambda: flat(lambda: [layers.GlobalAveragePooling2D(), layers.Dense(1, "sigmoid")]),
                "logits",
            ),
            (
                lambda: flat(lambda: [layers.GlobalAveragePooling2D(), layers.Dense(3, "relu")]),
                "with 3 outputs that ends in relu",
            ),
            (
                lambda: flat(lambda: [layers.Flatten(), layers.Dense(3, use_bias=False)]),
                "one Dense layer with a bias",
            ),
            (
                lambda: flat(lambda: [layers.Flatten(), layers.Dense(3), layers.Rescaling(2)]),
                "ends in res",
            ),
            (backbone, "no classification head"),
        ],
    )
    def test_models(self, make, message):
        model = make()
        before = weights_of(model)
        with pytest.raises(ValueError, match=message):
            kt.fit_linear_head(model, images(), verbose=0)
        for old, new in zip(before, weights_of(model), strict=True):
            np.testing.assert_array_equal(old, new)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda x, y: (x, y * 0), ValueError, r"no samples of 2 of them: blue, red"),
            (lambda x, y: (x, y // 2), ValueError, r"no samples of 1 of them: red"),
            (lambda x, y: (x, y + 1), ValueError, "labels must be integers from 0 to 2"),
            (lambda x, y: (x[:, :4], y), ValueError, "train must have images of shape"),
            (lambda x, y: (x, np.full((len(x), 3), 0.3)), ValueError, "integers or one-hot rows"),
            (
                lambda x, y: x,
                TypeError,
                r"train must be \(x, y\) arrays, a kt.Loader.* of type ndarray",
            ),
            (lambda x, y: iter([(x, y)]), TypeError, "of type list_iterator"),
            (lambda x, y: (x * np.float32("inf"), y), ValueError, "pixels must be finite"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning")
    def test_data(self, change, error, message):
        model = nested(class_names=["green", "blue", "red"])
        before = weights_of(model)
        with pytest.raises(error, match=message):
            kt.fit_linear_head(model, change(*images(12)), verbose=0)
        np.testing.assert_array_equal(weights_of(model)[-2], before[-2])

    def test_classes_in_another_order(self):
        model = nested(class_names=["green", "blue", "red"])
        loader = kt.Loader(images(), class_names=["red", "green", "blue"])
        with pytest.raises(ValueError, match="same classes in the same order"):
            kt.fit_linear_head(model, loader, verbose=0)

    def test_features_that_are_no_numbers(self):
        model = nested()
        model.get_layer("base").get_layer("conv2").bias.assign(np.full(8, np.inf))
        with pytest.raises(ValueError, match="NaN or infinity for sample 0"):
            kt.fit_linear_head(model, images(), verbose=0)


@pytest.mark.real_data
def test_ants_and_bees(real_data):
    folder = real_data / "hymenoptera"
    train, validation = (
        kt.data.from_directory(folder, part=part, image_size=96) for part in ("train", "val")
    )
    model = kt.classifier(
        keras.applications.MobileNet(
            (96, 96, 3),
            alpha=0.25,
            include_top=False,
            weights=keras.utils.get_file("mobilenet_2_5_224_tf_no_top.h5", "", cache_subdir="models"),
        ),
        2,
        preprocessing=layers.Rescaling(1 / 127.5, -1.0),
    )
    model = kt.fit_linear_head(model, train, verbose=0)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    assert model.evaluate(validation, verbose=0, return_dict=True)["accuracy"] > 0.7
