"""The mean of several sets of weights."""

import keras
import numpy as np
import pytest
from tiny import same, tiny_backbone, variables

import keras_transfer as kt
from keras_transfer.models.averages import mixed
from keras_transfer.models.ensembles import mean_of_predictions

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


def test_without_moved_statistics():
    model = network()
    sets = sets_of(model, moved=())
    averaged = kt.average_weights(model, sets)
    for mean, *values in zip(averaged.get_weights(), *sets, strict=True):
        np.testing.assert_allclose(mean, np.mean(values, axis=0), rtol=1e-6)


@keras.saving.register_keras_serializable("test_averages")
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
    averaged = kt.average_weights(model, sets)
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
    averaged = kt.average_weights(model, sets, data=data, batch_size=4)
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
        kt.average_weights(model, sets)


@pytest.mark.parametrize("change", ["int8", "lora"])
def test_a_mean_of_changed_weights_is_refused_where_they_differ(change):
    model = network()
    layer = model.get_layer("out")
    if change == "lora":
        layer.enable_lora(2)
    else:
        layer.quantize(change)
    alike = [model.get_weights()] * 2
    np.testing.assert_array_equal(kt.average_weights(model, alike).predict(X), model.predict(X))
    other = [np.copy(weight) for weight in alike[0]]
    other[-1] += 1
    with pytest.raises(ValueError, match=r"must be plain where they differ.*layer 'out' with"):
        kt.average_weights(model, [alike[0], other])
    mean = mean_of_predictions(model, [alike[0], other]).predict(X)
    np.testing.assert_allclose(mean.sum(axis=1), 1, rtol=1e-5)


def plain_sets(count=3):
    """Return a model and sets in which no statistics differ."""
    model = network()
    return model, sets_of(model, count, moved=())


@pytest.mark.parametrize("shares", [(0.25, 0.75), (1, 3), np.array([0.5, 1.5])], ids=str)
def test_shares(shares):
    """WiSE-FT: (1 - alpha) times the weights before, and alpha times those after."""
    model, (before, after) = plain_sets(2)
    found = kt.average_weights(model, [before, after], shares).get_weights()
    for value, one, other in zip(found, before, after, strict=True):
        np.testing.assert_allclose(value, 0.25 * one + 0.75 * other, rtol=1e-6)


def test_a_soup_of_shares():
    model, sets = plain_sets(3)
    found = kt.average_weights(model, sets, [1.0, 0.0, 4.0]).get_weights()
    for value, one, _, other in zip(found, *sets, strict=True):
        np.testing.assert_allclose(value, np.average([one, other], axis=0, weights=[1, 4]), rtol=1e-6)


def test_a_share_of_nothing_or_all_is_a_set_bit_for_bit():
    """Also where statistics differ, which fit their own weights."""
    model = network()
    sets = sets_of(model, 2)
    for shares, expected in (((0, 1), sets[1]), ((2, 0), sets[0])):
        assert same(kt.average_weights(model, sets, shares).get_weights(), expected)


@pytest.mark.parametrize("floatx", ["float32", "float64"])
def test_what_does_not_differ_stays_bit_for_bit(floatx):
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(1000).astype(floatx), np.array([3], "uint32")]
    mean = values
    for share in (1 / 2, 1 / 3, 0.1, 0.7):
        mean = mixed(mean, values, share)
    assert same([each.astype(floatx) for each in mean[:1]], values[:1])
    assert mean[1] is values[1]


def test_sets_may_be_models_and_files(tmp_path):
    model = kt.classifier(tiny_backbone(), 2, class_names=["ant", "bee"], seed=0)
    others = [kt.classifier(tiny_backbone(), 2, seed=seed) for seed in (1, 2)]
    others[0].save(tmp_path / "one.keras")
    others[1].save_weights(tmp_path / "two.weights.h5")
    before = [variables(each) for each in (model, *others)]
    sets = [model, tmp_path / "one.keras", str(tmp_path / "two.weights.h5"), others[0].get_weights()]
    averaged = kt.average_weights(model, sets)
    members = [model, *others, others[0]]
    for value, *values in zip(
        averaged.get_weights(), *(each.get_weights() for each in members), strict=True
    ):
        np.testing.assert_allclose(value, np.mean(values, axis=0), rtol=1e-6, atol=1e-8)
    for each, values in zip((model, *others), before, strict=True):
        assert same(variables(each), values)
    assert kt.class_names(averaged) == ["ant", "bee"]
    averaged.save(tmp_path / "averaged.keras")
    loaded = keras.models.load_model(tmp_path / "averaged.keras")
    assert same(loaded.get_weights(), averaged.get_weights())


def test_layers_between_draw_as_in_training_and_the_rest_stays():
    """Dropout before a batch norm halves what it sees; seeds and momenta are not part of the result."""
    inputs = keras.Input((4,))
    x = keras.layers.Dropout(0.5)(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    sets = sets_of(model, 2, moved=["norm"])
    data = np.ones((4000, 4), "float32")
    norm = kt.average_weights(model, sets, data=data, batch_size=1000).get_layer("norm")
    variance = keras.ops.convert_to_numpy(norm.moving_variance)
    np.testing.assert_allclose(variance, np.ones(4), atol=0.05)  # of 0 and 2, each half of the time
    assert norm.trainable


class TestRefused:
    @pytest.mark.parametrize(
        ("shares", "message"),
        [
            ([1.0], r"shares must be 2 numbers, one for each set.*Received: shares=\[1.0\]"),
            ([0, 0], "of which one is above 0"),
            (0.5, "shares must be 2 numbers"),
            ([0.5, -0.1], r"shares\[1\] must be a finite number of at least 0"),
            ([0.5, np.nan], r"shares\[1\] must be"),
            ([np.inf, 1], r"shares\[0\] must be"),
        ],
    )
    def test_shares(self, shares, message):
        model, sets = plain_sets(2)
        with pytest.raises(ValueError, match=message):
            kt.average_weights(model, sets, shares)

    @pytest.mark.parametrize("sets", [[], None, "model.keras"])
    def test_no_list(self, sets):
        with pytest.raises(TypeError, match="sets must be a list of one or more sets"):
            kt.average_weights(network(), sets)

    def test_another_network(self, tmp_path):
        model, (one, _) = plain_sets(2)
        wider = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
        with pytest.raises(ValueError, match=r"sets\[1\] must be weights of model 'net': 12 arrays"):
            kt.average_weights(model, [one, one[:-1]])
        with pytest.raises(ValueError, match=r"Received: model '.*' with 2 arrays"):
            kt.average_weights(model, [one, wider])
        turned = [*one[:-2], one[-2].T, one[-1]]
        with pytest.raises(ValueError, match=r"an array 10 of shape \(3, 4\) in the place of \(4, 3\)"):
            kt.average_weights(model, [turned, one])
        wider.save(tmp_path / "other.keras")
        with pytest.raises(ValueError, match=r"sets\[1\] must be a file of the weights of model 'net'"):
            kt.average_weights(model, [one, tmp_path / "other.keras"])

    @pytest.mark.parametrize(
        ("name", "kind"),
        [("missing.keras", "no such file"), ("model.h5", "another name"), ("model.pkl", "another name")],
    )
    def test_no_file_of_weights(self, name, kind, tmp_path):
        if not name.startswith("missing"):
            (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ValueError, match=rf"must be the path of a .keras or .*{name}', {kind}"):
            kt.average_weights(network(), [tmp_path / name])

    @pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
    def test_a_damaged_file(self, name, tmp_path):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(ValueError, match=r"it is damaged or of another"):
            kt.average_weights(network(), [tmp_path / name])

    def test_no_batches(self):
        model = network()
        with pytest.raises(ValueError, match="data must have batches"):
            kt.average_weights(model, sets_of(model), data=X[:0])
