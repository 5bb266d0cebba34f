"""Calibration of arrays against closed forms and scikit-learn; of models, and in their files."""

import json
import math
import re
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from initial_weights import numpy_initial_weights
from keras import layers
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

import keras_transfer as kt
from keras_transfer.layers.graph import leaf_layers
from keras_transfer.probabilities.calibration import (
    attach_calibration,
    calibrate,
    calibrate_by_logits,
    forget_calibration,
    of,
)
from keras_transfer.results.evaluation import Calibration
from keras_transfer.tasks.scores import (
    conformal_threshold,
    expected_calibration_error,
    fit_temperature,
    prediction_sets,
    unsure,
)

EXAMPLES = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
SEEDS = st.integers(0, 2**32 - 1)
SHAPE = (8, 8, 3)
CLASSES = 4


@pytest.fixture(autouse=True)
def _the_same_weights_on_each_backend():
    with numpy_initial_weights():
        yield


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def task(samples, classes=CLASSES, scale=2.0, seed=0):
    """Return logits, and labels that are drawn with their softmax."""
    rng = np.random.default_rng(seed)
    logits = scale * rng.standard_normal((samples, classes))
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


class TestTemperature:
    @pytest.mark.parametrize("classes", [2, 3, 10])
    @pytest.mark.parametrize(("right", "logit"), [(0.5, 3.0), (0.8, 4.0), (0.96, 12.0), (0.8, 0.4)])
    def test_where_it_is_known(self, classes, right, logit):
        """The class with the one high logit is right in a share of the samples: its probability."""
        logits = np.zeros((100, classes))
        logits[:, 1] = logit
        labels = np.where(np.arange(100) < 100 * right, 1, 0)
        odds = right * (classes - 1) / (1 - right)
        found = fit_temperature(logits, labels)
        assert found == pytest.approx(logit / math.log(odds) if odds > 1 else 20.0, rel=1e-9)

    def test_minimises_the_log_loss(self):
        logits, labels = task(500)
        found = fit_temperature(3 * logits, labels)
        losses = [log_loss(labels, softmax(3 * logits / (found * f))) for f in (0.999, 1.0, 1.001)]
        assert losses[1] < min(losses[0], losses[2])
        assert found == pytest.approx(3, rel=0.2)

    @pytest.mark.parametrize("classes", [3, 5])
    def test_is_that_of_scikit_learn(self, classes):
        logits, labels = task(400, classes)
        # A classifier whose decision function is what it gets.
        linear = LogisticRegression().fit(logits, labels)
        linear.coef_, linear.intercept_ = 2.5 * np.eye(classes), np.zeros(classes)
        theirs = CalibratedClassifierCV(FrozenEstimator(linear), method="temperature")
        theirs.fit(logits, labels)
        (inner,) = theirs.calibrated_classifiers_
        found = fit_temperature(2.5 * logits, labels)
        assert found == pytest.approx(1 / inner.calibrators[0].beta_, rel=1e-5)
        expected = theirs.predict_proba(logits)
        np.testing.assert_allclose(softmax(2.5 * logits / found), expected, rtol=1e-4)

    @settings(max_examples=30, **EXAMPLES)
    @given(SEEDS, st.integers(2, 6), st.floats(0.2, 5.0))
    def test_is_in_the_unit_of_the_logits(self, seed, classes, factor):
        logits, labels = task(200, classes, seed=seed)
        found = fit_temperature(logits, labels)
        assert 0.1 < found < 4.0
        assert fit_temperature(factor * logits, labels) == pytest.approx(factor * found, rel=1e-6)

    @settings(max_examples=30, **EXAMPLES)
    @given(SEEDS, st.integers(2, 6))
    def test_the_slope_is_zero_there(self, seed, classes):
        """The mean logit of the true class is the expected one."""
        logits, labels = task(100, classes, seed=seed)
        p = softmax(logits / fit_temperature(logits, labels))
        assert (p * logits).sum() == pytest.approx(logits[np.arange(100), labels].sum(), rel=1e-7)

    @settings(max_examples=50, **EXAMPLES)
    @given(SEEDS, st.integers(2, 6), st.integers(1, 20))
    def test_never_changes_what_is_predicted(self, seed, classes, samples):
        rng = np.random.default_rng(seed)
        logits = rng.standard_normal((samples, classes)) * 10 ** rng.uniform(-2, 3)
        found = fit_temperature(logits, rng.integers(0, classes, samples))
        assert 0.05 <= found <= 20.0
        p = softmax(logits / found)
        chosen = logits.argmax(axis=1)
        np.testing.assert_array_equal(p[np.arange(samples), chosen], p.max(axis=1))

    @pytest.mark.parametrize("gap", [1e-3, 1.0, 1e3, 1e6])
    def test_is_the_lowest_where_the_labels_are_the_highest_logits(self, gap):
        assert fit_temperature(gap * np.eye(3), np.arange(3)) == 0.05

    @pytest.mark.parametrize("gap", [1e-3, 1.0, 1e3, 1e6])
    def test_is_the_highest_where_the_labels_are_the_lowest_logits(self, gap):
        assert fit_temperature(-gap * np.eye(3), np.arange(3)) == 20.0

    @pytest.mark.parametrize("logits", [np.zeros((4, 3)), np.full((4, 3), 1e30), [[1, 1], [-7, -7]]])
    def test_is_one_where_it_changes_nothing(self, logits):
        assert fit_temperature(logits, [0] * len(logits)) == 1.0

    def test_does_with_logarithms_of_probabilities(self):
        logits, labels = task(100)
        found = fit_temperature(np.log(softmax(logits)).astype("float32"), labels.astype("uint8"))
        assert found == pytest.approx(fit_temperature(logits, labels), rel=1e-5)

    def test_leaves_its_arguments(self):
        logits, labels = task(50)
        before = logits.copy()
        fit_temperature(logits, labels)
        np.testing.assert_array_equal(logits, before)


class TestError:
    @pytest.mark.parametrize(
        ("confidences", "right", "bins", "expected"),
        [
            ([0.9, 0.9], [1, 1], 15, 0.1),
            ([0.9, 0.9], [1, 0], 15, 0.4),
            ([0.9, 0.9, 0.6, 0.6], [1, 0, 1, 1], 15, 0.4),  # 0.4 too sure and 0.4 too unsure
            ([0.9, 0.9, 0.6, 0.6], [1, 0, 1, 1], 1, 0.0),  # in one bin they make up for each other
            ([0.625, 0.75], [0, 1], 4, 0.1875),  # an upper edge is in its bin: both in (0.5, 0.75]
            ([0.625, 0.8], [0, 1], 4, 0.4125),  # |0 - 0.625| and |1 - 0.8|
            ([1.0, 1.0], [1, 1], 15, 0.0),
            ([1.0, 1.0], [0, 0], 15, 1.0),
        ],
    )
    def test_where_it_is_known(self, confidences, right, bins, expected):
        confidences = np.array(confidences)
        p = np.stack([confidences, 1 - confidences], axis=1)
        found = expected_calibration_error(p, 1 - np.array(right), bins)
        assert found == pytest.approx(expected, abs=1e-12)

    @settings(max_examples=50, **EXAMPLES)
    @given(SEEDS, st.integers(2, 6), st.integers(1, 30), st.integers(1, 20))
    def test_is_that_of_the_definition(self, seed, classes, samples, bins):
        logits, _ = task(samples, classes, scale=3.0, seed=seed)
        p = softmax(logits)
        labels = np.random.default_rng(seed).integers(0, classes, samples)
        total = 0.0
        for index in range(bins):
            inside = (p.max(axis=1) > index / bins) & (p.max(axis=1) <= (index + 1) / bins)
            if inside.any():
                accuracy = (p.argmax(axis=1) == labels)[inside].mean()
                total += inside.mean() * abs(accuracy - p.max(axis=1)[inside].mean())
        found = expected_calibration_error(p, labels, bins)
        assert found == pytest.approx(total, abs=1e-12)
        assert 0.0 <= found <= 1.0

    def test_of_a_perfect_model_falls_with_the_samples(self):
        errors = []
        for samples in (100, 10_000, 1_000_000):
            logits, labels = task(samples)
            errors.append(expected_calibration_error(softmax(logits), labels))
            assert errors[-1] < math.sqrt(15 / samples)
        assert errors == sorted(errors, reverse=True)

    def test_is_less_at_the_fitted_temperature(self):
        logits, labels = task(4000)
        p = softmax(3 * logits / fit_temperature(3 * logits, labels))
        before = expected_calibration_error(softmax(3 * logits), labels)
        assert expected_calibration_error(p, labels) < 0.04 < 0.1 < before


class TestSets:
    def test_threshold_where_it_is_known(self):
        p = np.linspace(0.01, 0.99, 99)
        rows = np.stack([p, 1 - p], axis=1)
        for coverage, expected in [(0.9, 0.1), (0.5, 0.5), (0.01, 0.99), (0.99, 0.01), (0.55, 0.45)]:
            found = conformal_threshold(rows, np.zeros(99, "int64"), coverage)
            assert found == pytest.approx(expected, abs=1e-12)

    def test_too_few_samples_promise_everything(self):
        rows, labels = [[0.9, 0.1]] * 9, [0] * 9
        assert conformal_threshold(rows, labels, 0.9) == 0.9
        assert conformal_threshold(rows[:8], labels[:8], 0.9) == 0.0
        assert conformal_threshold(rows, labels, 0.91) == 0.0
        assert prediction_sets([[1.0, 0.0]], 0.0).all()

    @settings(max_examples=25, **EXAMPLES)
    @given(SEEDS, st.integers(1, 60), st.floats(0.3, 0.97), st.floats(0.2, 5.0))
    def test_keep_their_promise_on_what_is_like_the_samples(self, seed, samples, coverage, factor):
        """However wrong the probabilities are; and not by too much."""
        repeats = 300
        logits, labels = task(repeats * (samples + 1), seed=seed)
        p = softmax(factor * logits).reshape(repeats, samples + 1, CLASSES)
        labels = labels.reshape(repeats, samples + 1)
        kept = []
        for rows, y in zip(p, labels, strict=True):
            threshold = conformal_threshold(rows[1:], y[1:], coverage)
            kept.append(prediction_sets(rows[:1], threshold)[0, y[0]])
        rank = min(math.ceil((samples + 1) * coverage), samples + 1)
        promised = rank / (samples + 1)  # exactly, as there are no ties
        assert promised >= coverage
        error = 4.5 * math.sqrt(promised * (1 - promised) / repeats)
        assert abs(np.mean(kept) - promised) <= error

    @settings(max_examples=25, **EXAMPLES)
    @given(SEEDS, st.integers(1, 50), st.floats(0.01, 0.99))
    def test_have_the_true_class_of_the_samples_themselves(self, seed, samples, coverage):
        logits, labels = task(samples, seed=seed)
        p = softmax(logits)
        sets = prediction_sets(p, conformal_threshold(p, labels, coverage))
        rank = math.ceil((samples + 1) * coverage)
        assert sets[np.arange(samples), labels].sum() == min(rank, samples)

    def test_are_unsure_unless_they_have_one_class(self):
        p = np.array([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.7, 0.3, 0.0], [0.3, 0.3, 0.3]])
        sets = prediction_sets(p, 0.35)
        assert sets.dtype == np.bool_
        np.testing.assert_array_equal(sets.sum(axis=1), [1, 2, 1, 0])
        np.testing.assert_array_equal(unsure(p, 0.35), [False, True, False, True])
        assert unsure(np.zeros((0, 3)), 0.35).shape == (0,)


BAD_ROWS = [
    (np.zeros(3), "must have the shape"),
    (np.zeros((3, 1)), "at least two classes"),
    (np.zeros((3, 2, 2)), "must have the shape"),
    ([[0.0, 0.0], [0.0]], "must be an array of numbers"),
    ([["a", "b"]] * 3, "must be an array of numbers"),
    (None, "must have the shape"),
    ([[0.0, math.nan]] * 3, "must be finite"),
    ([[0.0, -math.inf]] * 3, "must be finite"),
]
BAD_LABELS = [
    ([0, 1], r"labels must be integers of shape \(3,\)"),
    ([0.0, 1.0, 0.0], "labels must be integers"),
    ([True, False, True], "labels must be integers"),
    ([[0], [1], [0]], "labels must be integers"),
    (np.eye(3, dtype="int64"), "labels must be integers"),
    ("abc", "labels must be integers"),
    ([0, 1, 2], "labels must be classes from 0 to 1"),
    ([0, -1, 0], "labels must be classes from 0 to 1"),
]
ROWS = np.full((3, 2), 0.5)
FUNCTIONS = {
    "logits": [fit_temperature],
    "probabilities": [expected_calibration_error, conformal_threshold],
}


class TestArguments:
    @pytest.mark.parametrize("argument", FUNCTIONS)
    @pytest.mark.parametrize(("rows", "match"), BAD_ROWS)
    def test_rows(self, argument, rows, match):
        for function in FUNCTIONS[argument]:
            with pytest.raises(ValueError, match=rf"^{argument} .*{match}.*\. Received: "):
                function(rows, [0, 1, 0])

    @pytest.mark.parametrize(("labels", "match"), BAD_LABELS)
    def test_labels(self, labels, match):
        for function in (fit_temperature, expected_calibration_error, conformal_threshold):
            with pytest.raises(ValueError, match=rf"^{match}.*\. Received: labels"):
                function(ROWS, labels)

    def test_no_samples(self):
        for function in (fit_temperature, expected_calibration_error, conformal_threshold):
            with pytest.raises(ValueError, match=r"labels must be .*\(1,\), .*Received: .*\(0,\)$"):
                function(np.zeros((0, 2)), np.zeros(0, "int64"))

    @pytest.mark.parametrize("rows", [[[-0.01, 1.0]], [[0.0, 1.01]], [[3.0, -2.0]]])
    def test_probabilities(self, rows):
        for function in (
            lambda p: expected_calibration_error(p, [0]),
            lambda p: conformal_threshold(p, [0]),
            lambda p: prediction_sets(p, 0.5),
            lambda p: unsure(p, 0.5),
        ):
            with pytest.raises(ValueError, match=r"probabilities must be in \[0, 1\]; .*Received: "):
                function(rows)

    def test_probabilities_may_be_rounded(self):
        rows = [[1.0 + 1e-7, 0.0]]
        assert expected_calibration_error(rows, [0]) == 0.0
        assert prediction_sets(rows, conformal_threshold(rows, [0], 0.5))[0, 0]

    def test_numbers_of_numpy_will_do(self):
        found = Calibration(np.float32(1.5), 0, np.float64(0.9), np.int32(10))
        assert found == Calibration(1.5, 0.0, 0.9, 10)
        assert [type(value) for value in vars(found).values()] == [float, float, float, int]


def backbone():
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(6, 3, activation="relu", name="conv")(layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, x, name="base")


def ended(*ends, pool=True):
    """Return a flat model of a backbone and these layers."""
    base = backbone()
    x = layers.GlobalAveragePooling2D(name="pool")(base.output) if pool else base.output
    for end in ends:
        x = end(x)
    return keras.Model(base.input, x, name="mine")


def dense(**arguments):
    return layers.Dense(CLASSES, name="last", **arguments)


def nested():
    inner = keras.Sequential([keras.Input((6,)), dense(activation="softmax")], name="head")
    return ended(inner)


MODELS = {
    "classifier": lambda: kt.classifier(backbone(), CLASSES, hidden_units=(5,), dropout=0.3),
    "activation": lambda: ended(dense(activation="softmax")),
    "layer": lambda: ended(dense(), layers.Activation("softmax")),
    "operation": lambda: ended(dense(), keras.ops.softmax),
    "no bias": lambda: ended(dense(use_bias=False), layers.Softmax()),
    "half": lambda: ended(dense(dtype="mixed_bfloat16"), layers.Softmax(dtype="float32")),
    "nested": nested,
    "sequential": lambda: keras.Sequential(
        [keras.Input(SHAPE), backbone(), layers.Flatten(), dense(activation="softmax")]
    ),
}


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, (60, *SHAPE)).astype("float32")


@pytest.fixture
def model():
    return MODELS["classifier"]()


def sharpened(model, images):
    """Give a new model logits that vary with its images, by about 2."""
    last = [layer for layer in leaf_layers(model) if isinstance(layer, layers.Dense)][-1]
    logits = np.log(predict(model, images))
    logits -= logits.mean(axis=1, keepdims=True)
    factor = 2.0 / logits.std(axis=0).mean() if last.use_bias else 5.0 / np.abs(logits).max()
    last.kernel.assign(factor * keras.ops.convert_to_numpy(last.kernel))
    if last.use_bias:
        last.bias.assign(np.linspace(-0.5, 0.5, CLASSES) - factor * logits.mean(axis=0))
    return model


def predict(model, images):
    return model.predict(images, verbose=0).astype("float64")


def held_back(model, images, seed=0):
    """Return logits of a model, and labels for which they are too sure."""
    logits = np.log(predict(model, images))
    noise = np.random.default_rng(seed).gumbel(size=logits.shape)
    return logits, (logits / 2 + noise).argmax(axis=1)


def weights_of(model):
    return [np.array(weight) for weight in model.get_weights()]


def assert_same_weights(model, expected):
    for found, other in zip(weights_of(model), expected, strict=True):
        np.testing.assert_array_equal(found, other)


FOUND = Calibration(1.5, 0.25, 0.9, 120)


class TestCalibrate:
    @pytest.mark.parametrize("name", MODELS)
    def test_writes_the_temperature_into_the_model(self, name, images):
        model = sharpened(MODELS[name](), images)
        before, probabilities = weights_of(model), predict(model, images)
        logits, labels = held_back(model, images)
        found = calibrate_by_logits(model, logits, labels, 0.8)
        assert found.temperature == fit_temperature(logits, labels) > 1.2
        assert (found.coverage, found.samples) == (0.8, 60)
        expected = softmax(logits / found.temperature)
        assert found.threshold == pytest.approx(conformal_threshold(expected, labels, 0.8), rel=1e-12)
        assert of(model) == found
        tolerance = 0.05 if name == "half" else 1e-5  # logits of 8 bits, rounded twice
        np.testing.assert_allclose(predict(model, images), expected, atol=tolerance)
        assert np.abs(expected - probabilities).max() > 0.1
        changed = [not np.array_equal(*pair) for pair in zip(before, weights_of(model), strict=True)]
        assert sum(changed) == (1 if name == "no bias" else 2)

    def test_lessens_the_log_loss(self, model, images):
        sharpened(model, images)
        logits, labels = held_back(model, images)
        before = np.log(predict(model, images))[np.arange(60), labels].mean()
        calibrate_by_logits(model, logits, labels)
        assert np.log(predict(model, images))[np.arange(60), labels].mean() > before + 0.01

    def test_takes_the_logits_of_the_layer(self, model, images):
        sharpened(model, images)
        _, labels = held_back(model, images)
        logits = predict(keras.Model(model.inputs, model.get_layer("predictions").output), images)
        found = calibrate_by_logits(model, logits, labels)
        np.testing.assert_allclose(
            predict(model, images), softmax(logits / found.temperature), atol=1e-5
        )

    def test_twice_has_the_temperature_of_both(self, model, images):
        sharpened(model, images)
        logits, labels = held_back(model, images)
        first = calibrate_by_logits(model, logits, labels)
        middle = weights_of(model)
        again, _ = held_back(model, images)
        second = calibrate_by_logits(model, again, labels)
        # Nothing is left to be scaled for the same labels.
        assert second.temperature == pytest.approx(first.temperature, rel=1e-4)
        for before, after in zip(middle, weights_of(model), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-4)
        # With other labels there is.
        other = logits.argmin(axis=1)
        other[::2] = labels[::2]
        again = np.log(predict(model, images))
        third = calibrate_by_logits(model, again, other, 0.7)
        factor = fit_temperature(again, other)
        assert factor > 1.5
        assert third.temperature == pytest.approx(second.temperature * factor, rel=1e-12)
        assert of(model) == third
        expected = softmax(logits / third.temperature)
        np.testing.assert_allclose(predict(model, images), expected, atol=1e-4)

    def test_leaves_what_trains_and_how_it_is_compiled(self, model, images):
        kt.freeze_backbone(model)
        model.compile("adam", "sparse_categorical_crossentropy")
        optimizer, trains = model.optimizer, [v.trainable for v in model.variables]
        calibrate_by_logits(model, *held_back(model, images))
        assert model.optimizer is optimizer
        assert [v.trainable for v in model.variables] == trains

    @pytest.mark.parametrize(
        ("make", "match"),
        [
            (lambda: ended(dense()), "last', followed by nothing"),
            (lambda: ended(dense(activation="tanh")), "followed by tanh"),
            (
                lambda: ended(dense(), layers.Dropout(0.5, name="drop"), layers.Softmax()),
                "by drop, soft",
            ),
            (lambda: ended(dense(activation="softmax"), layers.Softmax()), "followed by softmax, soft"),
            (lambda: ended(layers.Conv2D(4, 6), layers.Flatten(), pool=False), "no classification head"),
            (lambda: convolution(), "with Conv2D 'c', followed by flatten, softmax"),
            (lambda: twice(), "called once"),
            (lambda: lora(), "without LoRA"),
            (lambda: two_outputs(), "must have one output"),
            (lambda: keras.Sequential([layers.Dense(3)]), "is not built"),
            (lambda: Subclassed(), "is subclassed"),
        ],
    )
    def test_models_that_it_can_t_calibrate(self, make, match):
        model = make()
        before = weights_of(model)
        with pytest.raises(ValueError, match=rf"{match}.*") as caught:
            calibrate_by_logits(model, *task(30))
        assert re.search(r"\. Received: .+$", str(caught.value))
        assert_same_weights(model, before)
        assert of(model) is None

    @pytest.mark.parametrize(
        ("logits", "labels", "coverage", "match"),
        [
            (np.zeros((3, 5)), [0, 1, 2], 0.9, "logits must have a column for each of the 4 outputs"),
            (np.zeros((3, 4)), [0, 1, 4], 0.9, "labels must be classes from 0 to 3"),
            (np.zeros((3, 4)), [0, 1], 0.9, "labels must be integers"),
            ([[0.0, math.nan, 0.0, 0.0]], [0], 0.9, "logits must be finite"),
            (np.eye(4), np.arange(4), 1.0, "coverage must be a number"),
        ],
    )
    def test_an_error_changes_nothing(self, model, logits, labels, coverage, match):
        attach_calibration(model, FOUND)
        before = weights_of(model)
        with pytest.raises(ValueError, match=rf"^{match}.*Received: "):
            calibrate_by_logits(model, logits, labels, coverage)
        assert_same_weights(model, before)
        assert of(model) == FOUND

    def test_no_model(self):
        with pytest.raises(TypeError, match=r"model must be a keras.Model\. Received: "):
            calibrate_by_logits("model.keras", *task(30))
        with pytest.raises(TypeError, match=r"calibration must be a .*Calibration\. Received: "):
            attach_calibration(ended(dense()), {"temperature": 1.0})


class Batches(keras.utils.PyDataset):
    """Arrays in batches of seven."""

    def __init__(self, images, labels):
        super().__init__()
        self.images, self.labels = images, labels

    def __len__(self):
        return -(-len(self.images) // 7)

    def __getitem__(self, index):
        rows = slice(7 * index, 7 * index + 7)
        return self.images[rows], self.labels[rows]


class TestCalibrateByImages:
    @pytest.mark.parametrize("name", MODELS)
    def test_takes_what_is_before_the_softmax(self, name, images):
        model, other = sharpened(MODELS[name](), images), MODELS[name]()
        other.set_weights(model.get_weights())
        last = [layer for layer in leaf_layers(model) if isinstance(layer, layers.Dense)][-1]
        activation = last.activation
        logits, labels = held_back(model, images)
        found = calibrate(model, (images, labels), 0.8, verbose=0)
        expected = calibrate_by_logits(other, logits, labels, 0.8)
        assert found.temperature == pytest.approx(expected.temperature, rel=1e-5)
        assert found.threshold == pytest.approx(expected.threshold, rel=1e-4)
        assert (found.coverage, found.samples) == (0.8, 60)
        assert of(model) == found
        assert last.activation is activation
        np.testing.assert_allclose(predict(model, images), predict(other, images), atol=1e-5)

    def test_finds_the_same_in_each_kind_of_data(self, images):
        model = sharpened(MODELS["classifier"](), images)
        weights, (_, labels), found = model.get_weights(), held_back(model, images), []
        for data in (
            lambda *arrays: arrays,
            lambda images, labels: (images, np.eye(CLASSES)[labels]),
            lambda *arrays: kt.Loader(arrays, 9, augmentation="light", seed=3),
            Batches,
        ):
            model.set_weights(weights)
            forget_calibration(model)
            found.append(calibrate(model, data(images, labels), batch_size=8, verbose=0))
        for other in found[1:]:
            assert other.temperature == pytest.approx(found[0].temperature, rel=1e-5)
            assert other.threshold == pytest.approx(found[0].threshold, rel=1e-4)

    def test_takes_the_logits_of_the_layer(self, model, images):
        sharpened(model, images)
        logits = predict(keras.Model(model.inputs, model.get_layer("predictions").output), images)
        _, labels = held_back(model, images)
        found = calibrate(model, (images, labels), verbose=0)
        # Another runtime computes the logits: the last bits differ.
        assert found.temperature == pytest.approx(fit_temperature(logits, labels), rel=1e-5)

    @pytest.mark.parametrize(
        ("change", "error", "match"),
        [
            (lambda x, y: x, TypeError, r"data must be \(x, y\) arrays, .* of type ndarray"),
            (lambda x, y: iter([(x, y)]), TypeError, "data must be .* of type list_iterator"),
            (lambda x, y: (x, y, y), ValueError, "data must be .* a tuple of 3"),
            (lambda x, y: (x[:, :4], y), ValueError, "data must have images of shape"),
            (lambda x, y: (x, y + 1), ValueError, "labels must be integers from 0 to 3"),
            (lambda x, y: (x, np.full((60, 4), 0.25)), ValueError, "labels must be integers or one-hot"),
        ],
    )
    def test_an_error_changes_nothing(self, model, images, change, error, match):
        attach_calibration(model, FOUND)
        before = weights_of(model)
        with pytest.raises(error, match=rf"^{match}.*Received: |^{match}"):
            calibrate(model, change(images, np.arange(60) % CLASSES), verbose=0)
        with pytest.raises(ValueError, match=r"^coverage must be a number.*Received: "):
            calibrate(model, None, 1.0)  # before anything is predicted
        assert_same_weights(model, before)
        assert of(model) == FOUND

    def test_an_error_while_predicting_switches_the_softmax_on_again(self, images):
        model = MODELS["activation"]()
        images[50] = np.nan
        loader = kt.Loader(list(zip(images, np.arange(60) % CLASSES, strict=True)))
        with pytest.raises(Exception, match="image 50"):
            calibrate(model, loader, verbose=0)
        assert model.get_layer("last").activation is keras.activations.softmax

    @pytest.mark.parametrize("make", [lambda: ended(dense()), lambda: Subclassed(), lambda: lora()])
    def test_models_that_it_can_t_calibrate(self, make, images):
        with pytest.raises(ValueError, match=r"\. Received: .+$"):
            calibrate(make(), (images, np.arange(60) % CLASSES))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.last = layers.Dense(CLASSES, "softmax")
        self(np.zeros((1, 3), "float32"))

    def call(self, x):
        return self.last(x)


def convolution():
    pool = layers.GlobalAveragePooling2D(keepdims=True)
    last = layers.Conv2D(CLASSES, 1, name="c")
    return ended(pool, last, layers.Flatten(name="flatten"), layers.Softmax(name="softmax"), pool=False)


def twice():
    last = dense()
    inputs = keras.Input((CLASSES,))
    return keras.Model(inputs, layers.Softmax()(last(last(inputs))))


def lora():
    last = dense(activation="softmax")
    model = ended(last)
    last.enable_lora(2)
    return model


def two_outputs():
    inputs = keras.Input((3,))
    return keras.Model(inputs, [layers.Dense(CLASSES, "softmax")(inputs) for _ in range(2)])


class TestForgetting:
    def test_by_hand(self, model):
        forget_calibration(model)
        assert not hasattr(model, "save_assets")
        attach_calibration(model, FOUND)
        forget_calibration(model)
        assert of(model) is None
        assert not hasattr(model, "save_assets")

    def test_leaves_the_class_names(self, tmp_path):
        names = ["a", "b", "c", "d"]
        model = kt.classifier(backbone(), CLASSES, class_names=names)
        attach_calibration(model, FOUND)
        assert (kt.class_names(model), of(model)) == (names, FOUND)
        forget_calibration(model)
        assert (kt.class_names(model), of(model)) == (names, None)
        model.save(tmp_path / "model.keras")
        assert kt.class_names(tmp_path / "model.keras") == names
        assert of(tmp_path / "model.keras") is None

    @pytest.mark.parametrize("written", [False, True])
    def test_by_fine_tuning(self, model, images, tmp_path, written):
        attach_calibration(model, FOUND)
        labels = np.arange(60) % CLASSES
        folder = tmp_path if written else None
        kt.fine_tune(model, (images, labels), phases=[kt.Phase("head", 1)], output=folder, verbose=0)
        assert of(model) is None
        if written:
            assert of(tmp_path / "model.keras") is None

    @pytest.mark.parametrize(("epoch", "kept"), [(0, FOUND), (1, None)])
    def test_not_by_fine_tuning_that_fails_at_once(self, model, images, epoch, kept):
        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if self.epoch == epoch:
                    raise KeyboardInterrupt

            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch
                assert of(model) is None

        attach_calibration(model, FOUND)
        before = weights_of(model)
        data, phases = (images, np.arange(60) % CLASSES), [kt.Phase("head", 3)]
        with pytest.raises(KeyboardInterrupt):
            kt.fine_tune(model, data, phases=phases, callbacks=[Stop()], verbose=0)
        assert of(model) == kept
        if kept:
            assert_same_weights(model, before)
        with pytest.raises(ValueError, match="cache must be"):
            kt.fine_tune(model, data, phases=phases, cache="never", verbose=0)
        assert of(model) == kept

    def test_not_by_a_linear_head(self, images):
        model = kt.classifier(backbone(), CLASSES)
        data = (images, np.arange(60) % CLASSES)
        attach_calibration(model, FOUND)
        with pytest.raises(ValueError, match="C must be"):
            kt.fit_linear_head(model, data, C=-1.0, verbose=0)
        early = kt.fit_linear_head(model, data, at="avg_pool", C=1.0, verbose=0)
        assert (of(model), of(early)) == (FOUND, None)
        late = kt.fit_linear_head(model, data, C=1.0, verbose=0)
        assert (of(model), of(late)) == (FOUND, None)

    @pytest.mark.parametrize("method", ["fit", "train_on_batch"])
    def test_by_training_with_keras(self, images, method):
        model = sharpened(ended(dense(activation="softmax")), images)
        model.compile("sgd", "sparse_categorical_crossentropy")
        found = calibrate_by_logits(model, *held_back(model, images))
        model.evaluate(images, np.arange(60) % CLASSES, verbose=0)
        assert of(model) == found
        getattr(model, method)(images, np.arange(60) % CLASSES)
        assert of(model) is None

    @pytest.mark.parametrize("names", [None, ["a", "b", "c", "d"]])
    def test_not_by_a_range_test(self, images, names):
        model = kt.classifier(backbone(), CLASSES, class_names=names)
        model.compile("sgd", "sparse_categorical_crossentropy")
        attach_calibration(model, FOUND)
        kt.find_lr(model, (images, np.arange(60) % CLASSES), num_steps=10, verbose=0)
        assert of(model) == FOUND
        assert kt.class_names(model) == names

    def test_by_new_models(self, model):
        attach_calibration(model, FOUND)
        for other in (
            kt.replace_head(model, 3),
            kt.replace_head(model, CLASSES, part="head"),
            kt.classifier(keras.Model(model.inputs, model.get_layer("avg_pool").output), CLASSES),
            keras.models.clone_model(model),
        ):
            assert of(other) is None
        assert of(model) == FOUND


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the path of a good file with class names and a calibration."""
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model = kt.classifier(backbone(), CLASSES, class_names=["a", "b", "c", "d"])
    attach_calibration(model, FOUND)
    model.save(path)
    return path


MEMBER = "assets/calibration.json"
GOOD = {"temperature": 1.5, "threshold": 0.25, "coverage": 0.9, "samples": 120}


class TestFiles:
    def test_stock_keras_gives_the_calibrated_probabilities(self, model, images, tmp_path):
        sharpened(model, images)
        logits, labels = held_back(model, images)
        found = calibrate_by_logits(model, logits, labels)
        path = tmp_path / "model.keras"
        model.save(path)
        stock = keras.models.load_model(path)
        np.testing.assert_array_equal(predict(stock, images), predict(model, images))
        expected = softmax(logits / found.temperature)
        np.testing.assert_allclose(predict(stock, images), expected, atol=1e-5)
        assert of(stock) is None
        assert of(path) == of(str(path)) == found
        loaded = kt.load_model(path)
        assert of(loaded) == found
        np.testing.assert_array_equal(predict(loaded, images), predict(model, images))
        loaded.save(tmp_path / "again.keras")
        assert of(tmp_path / "again.keras") == found
        loaded.compile("sgd", "sparse_categorical_crossentropy")
        loaded.fit(images, labels, verbose=0)
        assert of(loaded) is None

    def test_hold_names_and_calibration_side_by_side(self, saved):
        with zipfile.ZipFile(saved) as archive:
            assert json.loads(archive.read(MEMBER)) == GOOD
            assert json.loads(archive.read("assets/class_names.json")) == ["a", "b", "c", "d"]
        model = kt.load_model(saved)
        assert kt.class_names(model) == kt.class_names(saved) == ["a", "b", "c", "d"]
        assert of(model) == of(saved) == FOUND

    def test_without_a_calibration_have_none(self, tmp_path):
        model = kt.classifier(backbone(), CLASSES, class_names=["a", "b", "c", "d"])
        model.save(tmp_path / "model.keras")
        assert of(tmp_path / "model.keras") is None
        assert of(kt.load_model(tmp_path / "model.keras")) is None

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            (b"", ""),
            (b"{not json", ""),
            (b"\xff\xfe\xfa", ""),
            (b"null", "is no object with"),
            (b"[1.5, 0.25, 0.9, 120]", "is no object with"),
            (b"1.5", "is no object with"),
            (b"{}", "is no object with coverage, samples, temperature, threshold"),
            (GOOD | {"__class__": "os.system"}, "is no object with"),
            (dict(list(GOOD.items())[:3]), "is no object with"),
            *((GOOD | {"temperature": t}, "temperature must") for t in (0, -1.0, math.nan, math.inf)),
            *((GOOD | {"temperature": t}, "temperature must") for t in ("1.5", None, [1.5], True)),
            (GOOD | {"temperature": 10**400}, ""),
            *((GOOD | {"threshold": t}, "threshold must") for t in (-0.1, 1.5, math.nan, "0")),
            *((GOOD | {"coverage": c}, "coverage must") for c in (0.0, 1, math.nan, {})),
            *((GOOD | {"samples": n}, "samples must") for n in (0, -1, 1.5, "120", True, None)),
            pytest.param(b'{"temperature": ' + b"1" * 5000 + b"}", "", id="digits"),
            pytest.param(b'{"temperature": ' + b"[" * 200_000, "", id="nested"),
            pytest.param(b" " * 2**24 + b"1", "has more than 16777216 bytes", id="large"),
        ],
    )
    def test_that_hold_none(self, saved, tmp_path, content, match):
        path = tmp_path / "model.keras"
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as target:
            for name in source.namelist():
                target.writestr(name, content if name == MEMBER else source.read(name))
        for read in (of, kt.load_model):
            with pytest.raises(ValueError, match=f"can't read calibration: .*{match}") as caught:
                read(path)
            assert str(caught.value).endswith(f". Received: model={str(path)!r}")
        assert kt.class_names(path) == ["a", "b", "c", "d"]

    @pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_with_bytes_that_were_changed(self, saved, tmp_path, compression):
        path = tmp_path / "model.keras"
        with zipfile.ZipFile(path, "w", compression) as target:
            target.writestr(MEMBER, zipfile.ZipFile(saved).read(MEMBER))
        content = path.read_bytes()
        start = 30 + len(MEMBER) + 12  # behind what a decoder may pass over
        for offset in range(0, 40, 3):
            changed = bytearray(content)
            changed[start + offset] ^= 0xFF
            path.write_bytes(changed)
            with pytest.raises(ValueError, match="can't read calibration: .*Received: model="):
                of(path)

    def test_that_are_no_archive(self, tmp_path):
        path = tmp_path / "model.keras"
        path.write_bytes(b"no zip")
        for found in (path, tmp_path / "missing.keras", tmp_path):
            with pytest.raises(ValueError, match="can't read calibration: .*Received: model="):
                of(found)
