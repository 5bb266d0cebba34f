"""What pages and docstrings say of other libraries, tried out on them alone.

Where one of these fails with a new release, a sentence holds no more: it is named with the test.
"""

import gc
import json
import weakref
import zipfile

import keras
import numpy as np
import pytest
from keras import callbacks, layers, optimizers

BACKEND = keras.backend.backend()
ON_TENSORFLOW = pytest.mark.skipif(BACKEND != "tensorflow", reason="is about TensorFlow")
ON_TORCH = pytest.mark.skipif(BACKEND != "torch", reason="is about PyTorch")
ON_JAX = pytest.mark.skipif(BACKEND != "jax", reason="is about JAX")
X, Y = np.ones((4, 3), "float32"), np.ones((4, 1), "float32")


def two_layers():
    keras.utils.set_random_seed(0)
    first, last = layers.Dense(2, name="first"), layers.Dense(1, name="last")
    return keras.Sequential([keras.Input((3,)), first, last])


def rate(optimizer):
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


class TestMultiOptimizer:
    """README.md and docs/semantics/multipliers.md, the row `keras.optimizers.MultiOptimizer`."""

    def optimizer(self, **options):
        parts = {".*first/.*": optimizers.SGD(0.2, **options)}
        return optimizers.MultiOptimizer(optimizers.OptimizerMap(optimizers.SGD(0.1, **options), parts))

    def test_callbacks_act_on_each_part(self):
        model, optimizer = two_layers(), self.optimizer()
        model.compile(optimizer, "mse")
        halve = callbacks.LearningRateScheduler(lambda epoch, now: now / 2)
        plateau = callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=1, min_delta=1e9)
        model.fit(X, Y, epochs=2, callbacks=[halve, plateau], verbose=0)
        found = sorted(rate(part) for part in optimizer.optimizers)
        np.testing.assert_allclose(found, [0.1 / 4 / 10, 0.2 / 4 / 10], rtol=1e-6)

    def test_it_has_no_rate_of_its_own(self):
        optimizer = self.optimizer()
        with pytest.raises(AttributeError, match="Learning rate cannot be accessed"):
            _ = optimizer.learning_rate
        with pytest.raises(AttributeError, match="Learning rate cannot be set"):
            optimizer.learning_rate = 0.1

    def test_it_clips_by_the_norm_of_each_group(self):
        model, optimizer = two_layers(), self.optimizer(global_clipnorm=1.0)
        variables = model.trainable_variables
        optimizer.build(variables)
        before = values(variables)
        optimizer.apply([keras.ops.ones(variable.shape) for variable in variables], variables)
        steps = [now - then for now, then in zip(values(variables), before, strict=True)]
        for group, size in ((steps[:2], 0.2), (steps[2:], 0.1)):
            norm = np.sqrt(sum((step**2).sum() for step in group))
            assert norm == pytest.approx(size, rel=1e-5)

    def test_it_cannot_be_built_for_other_variables(self):
        model, optimizer = two_layers(), self.optimizer()
        model.layers[0].trainable = False
        model.compile(optimizer, "mse")
        model.fit(X, Y, verbose=0)
        model.layers[0].trainable = True
        model.compile(optimizer, "mse")
        with pytest.raises((KeyError, ValueError, RuntimeError)):
            model.fit(X, Y, verbose=0)


class TestAChangeWithoutCompiling:
    """README.md and docs/guides/freezing.md: "TensorFlow goes on as before, torch fails or not, ..."."""

    def changed(self, before, after):
        model = two_layers()
        model.layers[0].trainable = before
        model.compile("sgd", "mse")
        model.fit(X, Y, verbose=0)
        kernel = values(model.layers[0].weights)[0]
        model.layers[0].trainable = after
        return model, kernel

    @ON_TENSORFLOW
    @pytest.mark.parametrize("trains", [True, False])
    @pytest.mark.filterwarnings("ignore:A layer's `trainable` state has changed")
    def test_on_tensorflow_nothing_changes(self, trains):
        model, kernel = self.changed(trains, not trains)
        model.fit(X, Y, verbose=0)
        assert np.array_equal(values(model.layers[0].weights)[0], kernel) == (not trains)

    @ON_TORCH
    @pytest.mark.filterwarnings("ignore:A layer's `trainable` state has changed")
    def test_torch_fails_or_not(self):
        model, kernel = self.changed(True, False)
        model.fit(X, Y, verbose=0)
        np.testing.assert_array_equal(values(model.layers[0].weights)[0], kernel)
        model, _ = self.changed(False, True)
        with pytest.raises((KeyError, ValueError, RuntimeError)):
            model.fit(X, Y, verbose=0)

    @ON_JAX
    @pytest.mark.filterwarnings("ignore:A layer's `trainable` state has changed")
    def test_jax_loses_the_weights(self):
        model, _ = self.changed(True, False)
        with pytest.raises((ValueError, TypeError, KeyError)):
            model.fit(X, Y, verbose=0)
        with pytest.raises(Exception, match="deleted|None"):
            model.get_weights()


def test_inference_mode_in_a_functional_model_has_no_effect_in_fit():
    """docs/semantics/batch-norm.md and docs/coming-from/keras.md: `training=False` with Keras 3.15."""
    norm = layers.BatchNormalization()
    base = keras.Sequential([keras.Input((3,)), norm])
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(1)(base(inputs, training=False)))
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    assert np.abs(values([norm.moving_mean])[0]).max() > 0


def config_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


class TestFiles:
    """docs/guides/saving.md, `keras_transfer.load_model` and training/checkpoints.py."""

    def saved(self, tmp_path, *extra):
        model = keras.Sequential([keras.Input((3,)), *extra, layers.Dense(1)])
        model.compile("adam", "mse")
        model.fit(X, Y, verbose=0)
        model.save(tmp_path / "model.keras")
        return model, config_of(tmp_path / "model.keras")["compile_config"]

    @ON_TORCH
    def test_torchs_optimizers_have_names_of_their_own(self, tmp_path):
        _, config = self.saved(tmp_path)
        assert config["optimizer"]["module"].startswith("keras.src.backend.torch")

    @ON_JAX
    def test_jit_compile_is_saved_as_jax_resolved_it(self, tmp_path):
        _, config = self.saved(tmp_path)
        assert config["jit_compile"] is True

    def test_states_of_seed_generators_are_not_in_them(self, tmp_path):
        model, _ = self.saved(tmp_path, layers.Dropout(0.5, seed=3))
        (state,) = (v for v in model.variables if v.name == "seed_generator_state")
        again = keras.models.load_model(tmp_path / "model.keras")
        (loaded,) = (v for v in again.variables if v.name == "seed_generator_state")
        assert not np.array_equal(*values([state, loaded]))

    def test_a_loaded_sequential_model_is_not_in_the_paths_of_its_variables(self, tmp_path):
        """optimizers/patterns.py, `known_paths`."""
        model, _ = self.saved(tmp_path)
        again = keras.models.load_model(tmp_path / "model.keras")
        paths, loaded = ([v.path for v in each.weights] for each in (model, again))
        assert all(
            path.endswith(f"/{other}") or path == other
            for path, other in zip(paths, loaded, strict=True)
        )


@ON_TORCH
def test_nasnet_mobile_is_not_available_on_torch():
    """README.md, the row "backbones by name"."""
    with pytest.raises(ValueError, match="torch"):
        keras.applications.NASNetMobile(weights=None)


@pytest.mark.parametrize("step", [81_910, 327_670])
def test_restarts_of_keras_are_missed(step):
    """rates/schedules.py: a float32 logarithm, with 10 steps and a factor of 2."""
    schedule = optimizers.schedules.CosineDecayRestarts(1.0, 10, t_mul=2.0)
    assert float(keras.ops.convert_to_numpy(schedule(step))) != pytest.approx(1.0, abs=1e-3)


@ON_TORCH
def test_the_fused_decay_of_torch_fails_without_variables():
    """optimizers/layerwise_lr.py, `_apply_weight_decay`."""
    optimizer = optimizers.AdamW(1e-3, weight_decay=0.1)
    variable = keras.Variable(np.ones(2, "float32"), name="only")
    optimizer.exclude_from_weight_decay(var_list=[variable])
    optimizer.build([variable])
    with pytest.raises(RuntimeError):
        optimizer.apply([keras.ops.ones(2)], [variable])


def test_ftrl_divides_by_the_rate():
    """optimizers/layerwise_lr.py, "Rate 0"."""
    variable = keras.Variable(np.ones(2, "float32"))
    optimizer = optimizers.Ftrl(0.0)
    optimizer.apply([keras.ops.ones(2)], [variable])
    assert np.isnan(values([variable])[0]).all()


@ON_JAX
def test_a_variable_and_its_average_get_one_buffer():
    """optimizers/layerwise_lr.py, `finalize_variable_values`."""
    variable = keras.Variable(np.ones(2, "float32"))
    optimizer = optimizers.SGD(0.1, use_ema=True)
    optimizer.apply([keras.ops.ones(2)], [variable])
    optimizer.finalize_variable_values([variable])
    (average,) = optimizer._model_variables_moving_average
    assert variable.value is average.value


def test_the_product_of_nadam_is_missed_inside_a_loss_scale():
    """_lib/keras_private/optimizer.py, `track`."""
    optimizer = optimizers.LossScaleOptimizer(optimizers.Nadam())
    optimizer.build([keras.Variable(np.ones(2, "float32"))])
    product = optimizer.inner_optimizer._u_product
    assert not any(product is variable for variable in optimizer.variables)


@ON_TENSORFLOW
def test_tensorflow_keeps_each_data_set_that_was_read():
    """docs/semantics/training.md, "Memory"."""

    class Data(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return X, Y

    model, data = two_layers(), Data()
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(data, verbose=0)
    known = weakref.ref(data)
    del model, data
    gc.collect()
    assert known() is not None


def test_a_model_from_a_file_must_be_called_before_it_is_exported(tmp_path):
    """saving/exporting.py: Keras wants a model that was called."""
    two_layers().save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="called"):
        model.export(str(tmp_path / "out.onnx"), format="onnx", verbose=False)
