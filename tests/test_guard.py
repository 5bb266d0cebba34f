"""One clear error where what trains was changed after `compile`, before anything moves."""

import pickle

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt
from keras_transfer.layers.guard import guard

X = np.random.default_rng(0).standard_normal((8, 6, 6, 3), "float32")
Y = np.arange(8) % 3
MESSAGE = r"^what trains in model '.*' has changed since it was compiled; call kt.recompile\(model\)"


def bare():
    """Return an unguarded model with every kind of layer that matters here."""
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.BatchNormalization(center=False, scale=False, name="plain_norm")(x)
    base = keras.Model(inputs, layers.LeakyReLU(name="relu")(x), name="base")
    x = layers.GlobalAveragePooling2D(name="pool")(base(inputs))
    return keras.Model(inputs, layers.Dense(3, name="out")(x), name="mine")


def guarded():
    model = bare()
    guard(model)
    return model


def compiled(model, optimizer=None):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


def layer(model, name):
    return next(found for found in model._flatten_layers() if found.name == name)


def set_flag(name, trainable):
    def change(model):
        layer(model, name).trainable = trainable

    return change


def fit(model):
    return model.fit(X, Y, batch_size=4, verbose=0)


def train_on_batch(model):
    return model.train_on_batch(X, Y)


def variables(model):
    """Return all variables there are, those of the optimizer and the metrics too, with their values."""
    found = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [(v, np.array(keras.ops.convert_to_numpy(v))) for v in found]


def moved(before):
    return [v.path for v, value in before if not np.array_equal(keras.ops.convert_to_numpy(v), value)]


def assert_refused(model, message=MESSAGE):
    """Check that neither way to train moves anything, and that either says why."""
    before = variables(model)
    for train in (fit, train_on_batch):
        with pytest.raises(ValueError, match=message):
            train(model)
        assert moved(before) == []


CHANGES = {
    "freeze_backbone": kt.freeze_backbone,
    "freeze_to": lambda model: kt.freeze_to(model, -1),
    "unfreeze_from": lambda model: kt.unfreeze_from(model, "relu"),
    "unfreeze": kt.unfreeze,  # freezes batch norm
    "a layer": set_flag("out", False),
    "a nested layer": set_flag("conv", False),
    "a nested model": set_flag("base", False),
    "the model": set_flag("mine", False),
    "batch norm": set_flag("norm", False),
    "batch norm without trainable variables": set_flag("plain_norm", False),
}


class TestError:
    @pytest.mark.parametrize("started", [False, True], ids=["compiled", "fitted"])
    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_comes_before_anything_moves_and_is_over_after_recompile(self, change, started):
        model = compiled(guarded())
        if started:
            fit(model)
        change(model)
        assert_refused(model)
        if started and model.trainable_variables:  # with none Keras warns
            kt.recompile(model)
            before = variables(model)
            fit(model)
            assert {v.path for v in model.trainable_variables} <= set(moved(before))
            frozen = {v.path for v in model.variables if not v.trainable}
            statistics = {
                v.path
                for found in model._flatten_layers()
                if isinstance(found, layers.BatchNormalization) and found.trainable
                for v in found.non_trainable_variables
            }
            assert set(moved(before)).isdisjoint(frozen - statistics)

    def test_names_the_layers(self):
        model = compiled(guarded())
        set_flag("conv", False)(model)
        set_flag("out", False)(model)
        assert_refused(model, MESSAGE + r".* Received: changes in (conv, out|out, conv)$")

    def test_names_no_more_than_three(self):
        model = compiled(guarded())
        model.trainable = False
        assert_refused(model, MESSAGE + r".* Received: changes in \w+, \w+, \w+ and 1 more$")

    @pytest.mark.parametrize(
        "change",
        [
            kt.freeze_backbone,
            kt.unfreeze,
            lambda model: kt.freeze_to(model, -1),
            lambda model: kt.unfreeze(model, "conv"),
            lambda model: kt.unfreeze_from(model, "relu"),
        ],
    )
    def test_a_change_that_is_none_needs_no_recompile(self, change):
        """A cell of a notebook that is run again: `fit` goes on as if it had not been."""
        model = guarded()
        if change is not kt.unfreeze:
            kt.freeze_backbone(model)
        change(model)
        fit(compiled(model))
        step, optimizer = model.train_function, model.optimizer
        assert len(change(model)) == 0
        fit(model)
        assert model.train_function is step
        assert model.optimizer is optimizer

    def test_for_layers_that_join(self):
        model = guarded()
        set_flag("conv", False)(model)
        fit(compiled(model))
        set_flag("conv", True)(model)
        assert_refused(model, MESSAGE + ".* changes in conv$")

    @pytest.mark.parametrize("trains", [False, True], ids=["leaves", "joins"])
    def test_for_an_optimizer_built_before_a_layer(self, trains):
        optimizer = keras.optimizers.Adam(0.01)
        model = guarded()
        set_flag("conv", not trains)(model)
        fit(compiled(model, optimizer))
        set_flag("conv", trains)(model)
        compiled(model, optimizer)
        assert_refused(model, MESSAGE + ".*conv/kernel")

    @pytest.mark.parametrize(
        "make",
        [
            lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
            lambda: keras.optimizers.SGD(0.01, gradient_accumulation_steps=2),
        ],
        ids=["loss scale", "accumulation"],
    )
    def test_whatever_the_optimizer(self, make):
        optimizer = make()
        model = compiled(guarded(), optimizer)
        fit(model)
        fit(model)
        set_flag("conv", False)(model)
        compiled(model, optimizer)
        assert_refused(model)

    def test_comes_again_and_again(self):
        model = compiled(guarded())
        fit(model)
        set_flag("plain_norm", False)(model)
        model.evaluate(X, Y, verbose=0)
        assert_refused(model)
        assert_refused(model)


class TestNoError:
    def test_without_a_change(self):
        model = compiled(guarded())
        for train in (fit, train_on_batch):
            train(model)
            before = variables(model)
            train(model)
            assert moved(before)

    def test_for_flags_that_changed_back(self):
        model = compiled(guarded())
        fit(model)
        for name in ("conv", "plain_norm", "base", "mine"):
            set_flag(name, False)(model)
            set_flag(name, True)(model)
            fit(model)

    def test_for_layers_without_weights(self):
        model = compiled(guarded())
        for name in ("relu", "pool"):
            set_flag(name, False)(model)
        fit(model)
        train_on_batch(model)

    def test_for_several_optimizers(self):
        model = guarded()
        sgd, adam = keras.optimizers.SGD(0.01), keras.optimizers.Adam(0.01)
        head = {variable.path for variable in layer(model, "out").variables}
        optimizer = keras.optimizers.MultiOptimizer(lambda v: adam if v.path in head else sgd)
        compiled(model, optimizer)
        fit(model)
        fit(model)

    def test_of_ours_before_compile(self):
        model = guarded()
        set_flag("conv", False)(model)
        for train in (fit, train_on_batch):
            with pytest.raises(ValueError, match=r"^You must call `compile\(\)` before using the model"):
                train(model)

    def test_in_evaluate_and_predict(self):
        model = compiled(guarded())
        fit(model)
        expected = [*model.evaluate(X, Y, verbose=0), *model.predict(X, verbose=0).ravel()]
        model.trainable = False
        assert [*model.evaluate(X, Y, verbose=0), *model.predict(X, verbose=0).ravel()] == expected


class TestGuard:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: kt.classifier(bare().get_layer("base"), 3),
            lambda: kt.replace_head(bare(), 3),
            lambda: guarded_by(kt.freeze_backbone, bare()),
            lambda: guarded_by(kt.recompile, compiled(bare())),
        ],
        ids=["classifier", "replace_head", "freeze_backbone", "recompile"],
    )
    def test_is_set_by_whatever_makes_or_changes_a_model(self, make):
        model = compiled(make())
        kernel = layer(model, "conv")
        kernel.trainable = not kernel.trainable
        with pytest.raises(ValueError, match=MESSAGE):
            fit(model)

    def test_twice_is_once(self):
        model = guarded()
        first = model.make_train_function
        guard(model)
        assert model.make_train_function is first

    def test_calls_a_function_of_the_model_s_own(self):
        asked = []

        class Mine(keras.Sequential):
            def make_train_function(self, force=False):
                asked.append(force)
                super().make_train_function(force)

        model = Mine([keras.Input((6, 6, 3)), layers.Flatten(), layers.Dense(3)])
        guard(model)
        compiled(model)
        model.make_train_function(force=True)
        fit(model)
        assert asked == [True, False]


class TestALentTrainFunction:
    def lent(self, model):
        calls = []

        def step(*arguments):
            calls.append(arguments)
            return own(*arguments)

        model.make_train_function()
        own = model.train_function
        guard(model).lend(step)
        return own, step, calls

    def test_is_used_until_it_is_taken_back(self):
        model = compiled(bare())
        own, step, calls = self.lent(model)
        assert model.train_function is step
        model.make_train_function(force=True)  # in the middle of `fit` this is no beginning
        model.train_function = step
        guard(model).take_back()
        assert model.train_function is own
        guard(model).take_back()
        assert model.train_function is own
        assert calls == []

    @pytest.mark.parametrize("begin", [fit, train_on_batch])
    def test_is_gone_when_training_begins(self, begin):
        model = compiled(guarded())
        own, _, calls = self.lent(model)
        begin(model)
        assert model.train_function is own
        assert calls == []

    def test_is_not_put_in_the_place_of_a_later_one(self):
        model = compiled(guarded())
        self.lent(model)
        compiled(model)
        guard(model).take_back()
        assert model.train_function is None

    def test_is_only_one(self):
        model = compiled(guarded())
        _, step, _ = self.lent(model)
        with pytest.raises(ValueError, match=r"driven by another callback already; .* Received: two"):
            guard(model).lend(print)
        assert model.train_function is step

    def test_leaves_models_alone_that_have_none(self):
        model = compiled(bare())
        guard(model).take_back()
        fit(model)


class TestCopies:
    @pytest.mark.parametrize(
        "copy",
        [
            lambda model, path: saved(model, path),
            lambda model, path: keras.models.clone_model(model),
            lambda model, path: pickle.loads(pickle.dumps(model)),
        ],
        ids=["file", "clone_model", "pickle"],
    )
    def test_are_stock_models_that_train_by_themselves(self, copy, tmp_path):
        model = compiled(guarded())
        fit(model)
        copied = copy(model, tmp_path / "model.keras")
        copied.set_weights(model.get_weights())
        np.testing.assert_array_equal(copied.predict(X, verbose=0), model.predict(X, verbose=0))
        assert type(copied.make_train_function) is type(bare().make_train_function)
        set_flag("conv", False)(model)  # which is nothing to the copy
        before = variables(model)
        fit(compiled(copied))
        assert moved(before) == []

    def test_from_files_go_on_as_they_were_compiled(self, tmp_path):
        model = compiled(guarded())
        fit(model)
        loaded = saved(model, tmp_path / "model.keras")
        fit(loaded)
        assert int(loaded.optimizer.iterations) == 4


def guarded_by(function, model):
    function(model)
    return model


def saved(model, path):
    model.save(path)
    return keras.models.load_model(path)
