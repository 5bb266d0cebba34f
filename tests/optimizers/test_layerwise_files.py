"""What files keep of a LayerwiseLR, and what happens where they don't fit."""

import keras
import numpy as np
import pytest
from cases import assert_same, values
from keras import optimizers

import keras_transfer as kt
from keras_transfer.optimizers.patterns import known_paths
from keras_transfer.optimizers.state import slots_by_owner

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((8, 4)).astype("float32"), RNG.standard_normal((8, 2)).astype("float32")


def compiled(optimizer=None, frozen=()):
    """A small network; `frozen` are paths of single variables, of which files know nothing."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="second")(x))
    for variable in model.variables:
        variable.trainable = variable.path not in frozen
    if optimizer is None:
        optimizer = kt.optimizers.LayerwiseLR(
            optimizers.Nadam(1e-2, use_ema=True), {"first/.*": 0.5, "second/.*": 3.0}
        )
    model.compile(optimizer, "mse")
    return model


def fit(model, epochs=1):
    # Nadam and EMA in one: not two fits, which Keras' EMA begins anew.
    model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)
    return model


def slots(model):
    paths = [variable.path for variable in model.trainable_variables]
    return {key: values([slot])[0] for key, slot in slots_by_owner(model.optimizer, paths).items()}


def test_fit_goes_on_bit_for_bit(tmp_path):
    first = fit(compiled())
    first.save(tmp_path / "model.keras")
    second = kt.load_model(tmp_path / "model.keras")
    assert second.optimizer.multipliers == first.optimizer.multipliers
    assert_same(slots(second), slots(first))
    for model in (first, second):
        fit(model)
    assert_same(second.get_weights(), first.get_weights())


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_model_is_compiled_where_keras_would_but_if_it_was_not_to_be(jit_compile, tmp_path):
    model = compiled()
    model.compile(model.optimizer, "mse", jit_compile=jit_compile)
    model.save(tmp_path / "model.keras")
    loaded = kt.load_model(tmp_path / "model.keras")
    kept = loaded.get_compile_config()["jit_compile"]
    assert kept == ("auto" if jit_compile else False)


def test_before_the_first_fit(tmp_path):
    model = compiled()
    model.save(tmp_path / "model.keras")
    loaded = kt.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        fit(each)
    assert_same(loaded.get_weights(), model.get_weights())


def test_a_sequential_model_whose_paths_change(tmp_path):
    """Keras loads it without its name in the paths, which multipliers and exclusions go by."""
    first = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="one"), keras.layers.Dense(2, name="two")]
    )
    optimizer = optimizers.AdamW(1e-2, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[first.layers[0].bias])
    multipliers = {first.layers[0].kernel.path: 0.5, f"{first.name}/two/.*": 3.0}
    first.compile(kt.optimizers.LayerwiseLR(optimizer, multipliers), "mse")
    fit(first).save(tmp_path / "model.keras")
    second = kt.load_model(tmp_path / "model.keras")
    for model in (first, second):
        found = [model.optimizer.multiplier_of(variable) for variable in model.trainable_variables]
        assert found == [0.5, 1.0, 3.0, 3.0]
        fit(model)
        kt.freeze_backbone(model)
        kt.recompile(model)
        fit(model)
        kt.unfreeze(model)
        kt.recompile(model)
        found = [model.optimizer.multiplier_of(variable) for variable in model.trainable_variables]
        assert found == [0.5, 1.0, 3.0, 3.0]
        decays = [model.optimizer._use_weight_decay(v) for v in model.trainable_variables]
        assert decays == [True, False, True, True]
        fit(model)
    assert_same(second.get_weights(), first.get_weights())


class TestAnotherSetOfVariables:
    """The flags of single variables are not in files: what trains is another set after loading."""

    def test_what_both_know_is_restored_by_path(self, tmp_path):
        saved = fit(compiled(), epochs=3)
        saved.save_weights(tmp_path / "all.weights.h5")
        fewer = compiled(frozen=["first/kernel", "second/bias"])
        fewer.optimizer.build(fewer.trainable_variables)
        fewer.load_weights(tmp_path / "all.weights.h5")
        expected = {k: v for k, v in slots(saved).items() if k[1] in ("first/bias", "second/kernel")}
        assert len(expected) == 6  # momentum, velocity, average
        assert_same(dict(sorted(slots(fewer).items())), dict(sorted(expected.items())))
        assert int(fewer.optimizer.iterations) == 6

    def test_what_joins_begins_as_in_a_fresh_optimizer(self, tmp_path):
        saved = fit(compiled(frozen=["first/kernel"]), epochs=3)
        saved.save_weights(tmp_path / "fewer.weights.h5")
        more = compiled()
        more.optimizer.build(more.trainable_variables)
        more.load_weights(tmp_path / "fewer.weights.h5")
        kernel = more.get_layer("first").kernel
        assert more.optimizer.birth_of(kernel) == 6
        assert more.optimizer.birth_of(more.get_layer("first").bias) == 0
        found = slots(more)
        average = [v for k, v in found.items() if "average" in k[0] and k[1] == "first/kernel"]
        np.testing.assert_array_equal(average[0], values([kernel])[0])
        # Its first step is that of a fresh optimizer; the others go on.
        fresh = optimizers.Nadam(0.5e-2)
        twin = keras.Variable(keras.ops.convert_to_numpy(kernel))
        gradients = [keras.ops.ones(v.shape) for v in more.trainable_variables]
        more.optimizer.apply(gradients, more.trainable_variables)
        fresh.apply([keras.ops.ones(twin.shape)], [twin])
        np.testing.assert_array_equal(values([kernel])[0], values([twin])[0])


def test_weight_decay_exclusions_are_kept(tmp_path):
    """Keras alone forgets them, and looks for names in other strings on TensorFlow."""
    optimizer = optimizers.AdamW(1e-2, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    first = fit(compiled(kt.optimizers.LayerwiseLR(optimizer, {"first/.*": 0.5})))
    first.save(tmp_path / "model.keras")
    second = kt.load_model(tmp_path / "model.keras")
    for model in (first, second):
        decays = [model.optimizer._use_weight_decay(v) for v in model.trainable_variables]
        assert decays == [True, False, True, False]
        fit(model)
    assert_same(second.get_weights(), first.get_weights())


def test_a_plain_optimizer_opens_by_its_public_class(tmp_path):
    """torch's variants are written under a name that other backends fail on."""
    first = fit(compiled(optimizers.Adam(1e-2)))
    first.save(tmp_path / "model.keras")
    config = keras.saving.serialize_keras_object(optimizers.Adam(1e-2))
    written = first.get_compile_config()["optimizer"]
    assert written["registered_name"] in (None, "Adam")
    assert config["class_name"] == "Adam"
    second = kt.load_model(tmp_path / "model.keras")
    assert type(second.optimizer) is type(first.optimizer)
    for model in (first, second):
        fit(model)
    assert_same(second.get_weights(), first.get_weights())


def test_jit_is_the_reader_s_own(tmp_path):
    """A file from JAX or TensorFlow would make torch compile."""
    model = compiled()
    model.compile(model.optimizer, "mse", jit_compile=keras.backend.backend() != "torch")
    stored = model._compile_config.config
    stored["jit_compile"] = True
    model.save(tmp_path / "model.keras")
    loaded = kt.load_model(tmp_path / "model.keras")
    assert loaded.jit_compile == compiled().jit_compile
    assert loaded.get_compile_config()["jit_compile"] == "auto"
    stored["jit_compile"] = False  # said by the user, as no backend but torch finds it by itself
    model.save(tmp_path / "model.keras")
    assert kt.load_model(tmp_path / "model.keras").jit_compile is False


class TestKnownPaths:
    def test_the_very_path_goes_first(self):
        assert known_paths(["a/k", "b/a/k"], {"b/a/k": 1}) == {"b/a/k": "b/a/k"}
        assert known_paths(["b/a/k", "a/k"], {"a/k": 1}) == {"a/k": "a/k"}

    def test_a_name_in_front_that_came_or_went(self):
        assert known_paths(["a/k", "b/k"], {"s/a/k": 1, "s/b/k": 2}) == {"a/k": "s/a/k", "b/k": "s/b/k"}
        assert known_paths(["s/a/k"], {"a/k": 1}) == {"s/a/k": "a/k"}

    def test_not_if_several_would_do_or_only_a_part_of_a_name(self):
        assert known_paths(["k"], {"a/k": 1, "b/k": 2}) == {}
        assert known_paths(["a/k"], {"ba/k": 1}) == {}


class TestFilesThatDoNotFit:
    def refused(self, path, make):
        model = compiled(make())
        model.optimizer.build(model.trainable_variables)
        fit(model)
        before = [values(model.optimizer.variables), list(model.optimizer.births)]
        with pytest.raises(ValueError, match="must hold the state of .* Received: "):
            model.load_weights(path)
        assert_same(values(model.optimizer.variables), before[0])
        assert model.optimizer.births == before[1]

    def test_of_another_kind_of_optimizer(self, tmp_path):
        fit(compiled(kt.optimizers.LayerwiseLR("sgd", {".*": 0.5}))).save_weights(
            tmp_path / "sgd.weights.h5"
        )
        self.refused(tmp_path / "sgd.weights.h5", lambda: kt.optimizers.LayerwiseLR("adam", {".*": 0.5}))

    def test_of_a_plain_optimizer(self, tmp_path):
        fit(compiled(optimizers.Adam())).save_weights(tmp_path / "adam.weights.h5")
        self.refused(
            tmp_path / "adam.weights.h5", lambda: kt.optimizers.LayerwiseLR("adam", {".*": 0.5})
        )
