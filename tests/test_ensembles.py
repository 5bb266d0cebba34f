"""The mean of predictions and the mean of weights."""

import keras
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.models.ensembles import mean_of_predictions, mean_of_weights

X = np.random.default_rng(0).standard_normal((10, 6, 6, 3)).astype("float32") * 3 + 1


def network(activation="softmax"):
    """Return a classifier with batch norm on either side, some of it in a nested model."""
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.BatchNormalization(name="outer_bn")(inputs)
    inner = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(momentum=0.9, name="inner_bn"),
        ],
        name="inner",
    )
    x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D()(inner(x)))
    return keras.Model(inputs, keras.layers.Dense(3, activation=activation, name="out")(x), name="net")


def sets_of(model, count=3, *, moved=("outer_bn", "inner_bn")):
    """Return sets of random weights; statistics of batch norm differ in the layers `moved`."""
    rng = np.random.default_rng(1)
    sets = []
    for _ in range(count):
        for variable in model.weights:
            statistics = variable.path.split("/")[-1].startswith("moving")
            if not statistics or variable.path.split("/")[-2] in moved:
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        sets.append(model.get_weights())
    return sets


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("from_logits", [False, True])
def test_mean_of_predictions(from_logits):
    model = network(None if from_logits else "softmax")
    sets = sets_of(model)
    before = model.get_weights()
    ensemble = mean_of_predictions(model, sets, from_logits=from_logits)
    expected = []
    for values in sets:
        model.set_weights(values)
        output = model.predict(X, verbose=0)
        expected.append(softmax(output) if from_logits else output)
    np.testing.assert_allclose(
        ensemble.predict(X, verbose=0), np.mean(expected, axis=0), rtol=1e-5, atol=1e-6
    )
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))


def test_an_ensemble_is_a_plain_model_with_class_names(tmp_path):
    model = kt.classifier(network_backbone(), 2, class_names=["ant", "bee"])
    sets = sets_of(model, 2)
    ensemble = mean_of_predictions(model, sets)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    assert kt.class_names(tmp_path / "ensemble.keras") == ["ant", "bee"]
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), ensemble.predict(X, verbose=0))


def network_backbone():
    return keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(2, 3)], name="small")


def test_an_ensemble_of_one_is_the_model():
    model = network()
    sets = sets_of(model, 1)
    ensemble = mean_of_predictions(model, sets)
    np.testing.assert_array_equal(ensemble.predict(X, verbose=0), model.predict(X, verbose=0))


def test_mean_of_weights_without_moved_statistics():
    model = network()
    sets = sets_of(model, moved=())
    averaged = mean_of_weights(model, sets)
    for mean, *values in zip(averaged.get_weights(), *sets, strict=True):
        np.testing.assert_allclose(mean, np.mean(values, axis=0), rtol=1e-6)


@keras.saving.register_keras_serializable("test_ensembles")
class Counts(keras.layers.Layer):
    """Has a weight that is a whole number, of which there is no mean."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)

    def call(self, x):
        return x


def test_whole_numbers_are_those_of_the_last():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(1)(Counts()(inputs)))
    sets = []
    for count in (3, 5, 8):
        model.layers[1].count.assign(count)
        sets.append(model.get_weights())
    averaged = mean_of_weights(model, sets)
    assert int(keras.ops.convert_to_numpy(averaged.layers[1].count)) == 8


@pytest.mark.parametrize("kind", ["array", "tuple", "dataset", "iterable"])
def test_statistics_are_measured_anew(kind):
    """As the mean over batches, of what comes out of the averaged weights before."""
    model = network()
    sets = sets_of(model, moved=["inner_bn"])
    labels = np.arange(10) % 3
    data = {
        "array": X,
        "tuple": (X, labels),
        "dataset": kt.Loader((X, labels), 4, shuffle=False),
        "iterable": [(X[:4], labels[:4]), (X[4:8], labels[4:8]), (X[8:], labels[8:])],
    }[kind]
    averaged = mean_of_weights(model, sets, data, batch_size=4)
    inner, outer = averaged.get_layer("inner"), averaged.get_layer("outer_bn")
    np.testing.assert_array_equal(outer.moving_mean, network().get_layer("outer_bn").moving_mean)
    features = [inner.get_layer("conv")(outer(part)) for part in (X[:4], X[4:8], X[8:])]
    features = [keras.ops.convert_to_numpy(feature) for feature in features]
    norm = inner.get_layer("inner_bn")
    means, variances = zip(*((f.mean((0, 1, 2)), f.var((0, 1, 2))) for f in features), strict=True)
    for found, expected in ((norm.moving_mean, means), (norm.moving_variance, variances)):
        found = keras.ops.convert_to_numpy(found)
        np.testing.assert_allclose(found, np.mean(expected, axis=0), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.9
    kernels = [values[4] for values in sets]
    np.testing.assert_allclose(averaged.get_weights()[4], np.mean(kernels, axis=0), rtol=1e-6)
    assert [layer.trainable for layer in averaged.layers] == [layer.trainable for layer in model.layers]


def test_statistics_need_data():
    model = network()
    sets = sets_of(model)
    with pytest.raises(ValueError, match=r"data must be given.*Received: data=None and 2 such layers"):
        mean_of_weights(model, sets)


@pytest.mark.parametrize("change", ["int8", "lora"])
def test_a_mean_of_changed_weights_is_refused_where_they_differ(change):
    model = network()
    layer = model.get_layer("out")
    if change == "lora":
        layer.enable_lora(2)
    else:
        layer.quantize(change)
    alike = [model.get_weights()] * 2
    np.testing.assert_array_equal(mean_of_weights(model, alike).predict(X), model.predict(X))
    other = [np.copy(weight) for weight in alike[0]]
    other[-1] += 1
    with pytest.raises(ValueError, match=r"must be plain where they differ.*layer 'out' with"):
        mean_of_weights(model, [alike[0], other])
    mean = mean_of_predictions(model, [alike[0], other]).predict(X)
    np.testing.assert_allclose(mean.sum(axis=1), 1, rtol=1e-5)
