"""Compiling again: the same options, the same optimizer but for what joins, on every backend."""

import json
import zipfile

import keras
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.layers.guard import guard


def tower(name, trainable=True):
    """Return input and output of two dense layers."""
    inputs = keras.Input((4,), name=name)
    x = keras.layers.Dense(5, activation="tanh", name=f"{name}_one", trainable=trainable)(inputs)
    return inputs, keras.layers.Dense(2, name=f"{name}_two", trainable=trainable)(x)


def two_towers(second_trains):
    """Two networks side by side, whose gradients know nothing of each other."""
    keras.utils.set_random_seed(1)
    (a, out_a), (b, out_b) = tower("a"), tower("b", second_trains)
    return keras.Model([a, b], [out_a, out_b])


def data(epoch):
    rng = np.random.default_rng(epoch)
    x = [rng.standard_normal((8, 4), "float32") for _ in range(2)]
    return x, [rng.standard_normal((8, 2), "float32") for _ in range(2)]


def fit(model, epochs):
    for epoch in epochs:
        model.fit(*data(epoch), batch_size=4, shuffle=False, verbose=0)


def weights_of(model, name):
    layers = [layer for layer in model.layers if layer.name.startswith(f"{name}_")]
    return [value for layer in layers for value in layer.get_weights()]


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(1e-2, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(1e-2),
    "adamw": lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1),
    "nadam": lambda: keras.optimizers.Nadam(1e-2),
    "lion": lambda: keras.optimizers.Lion(1e-3),
    "rmsprop": lambda: keras.optimizers.RMSprop(1e-2),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_unfreezing_mid_training(kind):
    """Survivors as if never stopped, newcomers as in a fresh optimizer, bit for bit through `fit`."""
    make = OPTIMIZERS[kind]
    never_stopped, fresh, ours = two_towers(False), two_towers(True), two_towers(False)
    for model in (never_stopped, ours):
        model.compile(make(), "mse")
    fit(never_stopped, range(5))

    fit(ours, range(2))
    kt.unfreeze(ours, ["b_.*"])
    kt.recompile(ours)
    fit(ours, range(2, 5))
    fresh.compile(make(), "mse")
    fit(fresh, range(2, 5))
    for name, reference in (("a", never_stopped), ("b", fresh)):
        for mine, theirs in zip(weights_of(ours, name), weights_of(reference, name), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_freezing_mid_training_works_too():
    never_stopped, ours = two_towers(True), two_towers(True)
    for model in (never_stopped, ours):
        model.compile(keras.optimizers.Adam(1e-2), "mse")
    fit(never_stopped, range(4))
    fit(ours, range(2))
    for layer in ours.layers:
        layer.trainable = not layer.name.startswith("b_")
    kt.recompile(ours)
    frozen = weights_of(ours, "b")
    fit(ours, range(2, 4))
    for mine, theirs in zip(weights_of(ours, "a"), weights_of(never_stopped, "a"), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for mine, before in zip(weights_of(ours, "b"), frozen, strict=True):
        np.testing.assert_array_equal(mine, before)


def small(**compile_arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="relu", name="one"),
            keras.layers.Dense(3, activation="softmax", name="two"),
        ]
    )
    kt.freeze_backbone(model)
    arguments = {"optimizer": keras.optimizers.Adam(1e-2), "loss": "sparse_categorical_crossentropy"}
    model.compile(**{**arguments, **compile_arguments})
    return model


X = np.random.default_rng(0).standard_normal((12, 4), "float32")
Y = np.arange(12) % 3


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_moving_averages_through_fit(kind):
    """On JAX two variables must not share a buffer, which a step would give away twice.

    One `fit` each time, as plain Keras fails on JAX in a second one with the same optimizer.
    """
    model = two_towers(False)
    options = {"use_ema": True, "ema_momentum": 0.5}
    model.compile(keras.optimizers.get({"class_name": kind, "config": options}), "mse")
    fit(model, [1])
    kt.unfreeze(model, ["b_.*"])
    kt.recompile(model)
    fit(model, [2])
    model.get_layer("a_one").trainable = False
    kt.recompile(model)
    fit(model, [3])
    assert all(np.isfinite(value).all() for value in model.get_weights())


class Distillation(keras.Model):
    """A model with arguments of its own for `compile`."""

    def compile(self, optimizer, temperature=1.0, **arguments):
        super().compile(optimizer=optimizer, **arguments)
        self.temperature = temperature


def test_a_compile_of_the_model_s_own_is_not_called_without_need():
    inputs = keras.Input((4,))
    model = Distillation(inputs, keras.layers.Dense(3)(keras.layers.Dense(4)(inputs)))
    model.compile("adam", temperature=10.0, loss="mse")
    model.fit(X, np.eye(3)[Y], verbose=0)
    kt.freeze_backbone(model)
    kt.recompile(model)
    assert model.temperature == 10.0
    kt.recompile(model, temperature=3.0)
    assert model.temperature == 3.0
    assert int(model.optimizer.iterations) == 1


class TwoOptimizers(keras.Model):
    """A training step of its own, which leaves some variables to another optimizer."""

    def train_step(self, *arguments, **named):
        return super().train_step(*arguments, **named)


def test_a_training_step_of_the_model_s_own_may_leave_variables_out():
    inputs = keras.Input((4,))
    model = TwoOptimizers(inputs, keras.layers.Dense(3, name="out")(keras.layers.Dense(4)(inputs)))
    model.compile("sgd", "mse")
    model.optimizer.build(model.get_layer("out").trainable_variables)
    guard(model)
    model.make_train_function()
    model.get_layer("out").trainable = False
    with pytest.raises(ValueError, match="has changed since it was compiled"):
        model.make_train_function()


class TestOptions:
    def test_run_eagerly_alone_lets_keras_choose_to_compile(self):
        model = small(run_eagerly=True)
        kt.recompile(model, run_eagerly=False)
        assert model.jit_compile == small().jit_compile
        assert not model.run_eagerly

    def test_stay(self):
        metric = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
        model = small(metrics=["accuracy", metric], run_eagerly=True)
        model.fit(X, Y, verbose=0)
        kt.unfreeze(model)
        kt.recompile(model)
        assert model.run_eagerly
        logs = model.fit(X, Y, verbose=0).history
        assert set(logs) == {"loss", "accuracy", "top2"}
        config = model.get_compile_config()
        assert config["loss"] == "sparse_categorical_crossentropy"
        assert config["optimizer"]["config"]["optimizer"]["class_name"] == "Adam"

    def test_are_replaced_where_given(self):
        model = small(metrics=["accuracy"])
        model.fit(X, Y, verbose=0)
        kt.recompile(model, metrics=["mae"], loss="mse")
        assert set(model.fit(X, np.eye(3)[Y], verbose=0).history) == {"loss", "mae"}
        assert int(model.optimizer.iterations) == 2

    def test_a_given_optimizer_starts_as_it_is(self):
        model = small()
        model.fit(X, Y, verbose=0)
        mine = keras.optimizers.SGD(0.5)
        kt.recompile(model, optimizer=mine)
        assert model.optimizer is mine
        assert int(mine.iterations) == 0

    def test_mixed_float16_keeps_its_loss_scale(self):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = small()
            model.fit(X, Y, batch_size=4, verbose=0)
            scale = float(model.optimizer.dynamic_scale)
            kt.unfreeze(model)
            kt.recompile(model)
            assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
            assert isinstance(model.optimizer.inner_optimizer, keras.optimizers.Adam)
            assert float(model.optimizer.dynamic_scale) == scale
            assert int(model.optimizer.iterations) == 3
            model.fit(X, Y, verbose=0)
        finally:
            keras.config.set_dtype_policy("float32")

    def test_mixed_float16_stays_without_loss_scale_where_it_was(self):
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = small(auto_scale_loss=False)
            model.fit(X, Y, verbose=0)
            kt.unfreeze(model)
            kt.recompile(model)
            assert isinstance(model.optimizer, keras.optimizers.Adam)
        finally:
            keras.config.set_dtype_policy("float32")

    def test_before_the_first_fit(self):
        model = small()
        optimizer = model.optimizer
        kt.unfreeze(model)
        kt.recompile(model)
        assert model.optimizer is optimizer
        model.fit(X, Y, verbose=0)
        assert len(model.optimizer._trainable_variables) == 4


def test_every_direction_and_again():
    """Where Keras raises or goes on wrongly: with one optimizer through all changes."""
    model = small()
    for change in (
        lambda: None,
        lambda: kt.unfreeze(model),
        lambda: kt.freeze_to(model, -1),
        lambda: kt.unfreeze_from(model, "one"),
    ):
        change()
        kt.recompile(model)
        before = {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.variables}
        trains = {v.path for v in model.trainable_variables}
        model.fit(X, Y, verbose=0)
        after = {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.variables}
        assert {path for path in before if not np.array_equal(before[path], after[path])} == trains
    assert int(model.optimizer.iterations) == 4


def test_guards_the_model():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    kt.recompile(model)
    model.layers[0].trainable = False
    with pytest.raises(ValueError, match="has changed since it was compiled"):
        model.fit(X, np.eye(3)[Y], verbose=0)


class TestFiles:
    def test_go_on_bit_for_bit(self, tmp_path):
        model = small(optimizer=keras.optimizers.Nadam(1e-2))
        model.fit(X, Y, verbose=0)
        kt.unfreeze(model)
        kt.recompile(model)
        model.fit(X, Y, shuffle=False, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = kt.load_model(tmp_path / "model.keras")
        assert loaded.optimizer.births == model.optimizer.births
        for each in (model, loaded):
            each.fit(X, Y, shuffle=False, verbose=0)
        for mine, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)

    def test_name_the_public_class_of_the_optimizer(self, tmp_path):
        """torch's variants of it would open on torch only."""
        model = small()
        model.fit(X, Y, verbose=0)
        kt.unfreeze(model)
        kt.recompile(model)
        model.save(tmp_path / "model.keras")
        with zipfile.ZipFile(tmp_path / "model.keras") as archive:
            config = json.loads(archive.read("config.json"))
        inner = config["compile_config"]["optimizer"]["config"]["optimizer"]
        assert (inner["module"], inner["class_name"]) == ("keras.optimizers", "Adam")


class TestErrors:
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (lambda: keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), "is not compiled"),
            (lambda: small(optimizer=None), "is not compiled with an optimizer"),
        ],
    )
    def test_not_compiled(self, model, message):
        with pytest.raises(ValueError, match=message):
            kt.recompile(model())

    def test_no_model(self):
        with pytest.raises(TypeError, match=r"model must be a keras\.Model\. Received"):
            kt.recompile(keras.layers.Dense(1))

    def test_an_optimizer_of_many(self):
        parts = keras.optimizers.OptimizerMap(keras.optimizers.SGD())
        model = small(optimizer=keras.optimizers.MultiOptimizer(parts))
        model.fit(X, Y, verbose=0)
        before = model.optimizer
        kt.unfreeze(model)
        with pytest.raises(ValueError, match=r"MultiOptimizer.*pass a new one"):
            kt.recompile(model)
        assert model.optimizer is before
        kt.recompile(model, optimizer="sgd")
        model.fit(X, Y, verbose=0)

    @pytest.mark.parametrize(
        "arguments", [{"optimizer": "no such"}, {"metric": ["accuracy"]}, {"metrics": 5}]
    )
    def test_a_wrong_argument_leaves_the_model_as_it_was(self, arguments):
        model = small(metrics=["accuracy"])
        model.fit(X, Y, verbose=0)
        before = model.optimizer
        with pytest.raises((ValueError, TypeError)):
            kt.recompile(model, **arguments)
        assert model.optimizer is before
        logs = model.fit(X, Y, verbose=0).history
        assert set(logs) == {"loss", "accuracy"}
        assert int(model.optimizer.iterations) == 2
