"""The range test inside a `fit` of one's own."""

import keras
import numpy as np
import pytest
from keras import layers, optimizers
from traces import changes, trace

import keras_transfer as kt
from keras_transfer.layers.guard import guard
from keras_transfer.rates.in_step import SweptStep

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).standard_normal((20, 4)).astype("float32")
Y = (X @ np.array([1.0, -2.0, 0.5, 0.0]))[:, None].astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(1)(layers.BatchNormalization()(inputs)))
    model.compile(optimizers.Adam(0.01), "mse", metrics=["mae"])
    model.fit(X, Y, batch_size=5, verbose=0, validation_data=(X, Y))
    guard(model)  # as each model of the package is, and each that a callback has driven the rate of
    return model


def finder(num_steps=6, max_lr=1e-1, **options):
    return kt.callbacks.LRFinder(1e-4, max_lr, num_steps, **options)


def fit(model, *callbacks, x=X, y=Y, **options):
    # Without a shuffle no generator of the process is used.
    options = {"epochs": 5, "shuffle": False, "batch_size": 5, **options}
    return model.fit(x, y, verbose=0, callbacks=list(callbacks), **options)


# What a plain `fit` leaves behind as well: its history, what evaluation and stopping need, on JAX the
# state it has trained with, on torch the mode of the module and a number drawn for a DataLoader.
OF_FIT = {
    "history",
    "stop_training",
    "stop_evaluating",
    "_eval_epoch_iterator",
    "training",
    "_jax_state",
    "_jax_state_synced",
}


def state(model):
    found = trace(model)
    found["attributes"] = {k: v for k, v in found["attributes"].items() if k not in OF_FIT}
    return {name: value for name, value in found.items() if name not in ("built", "torch")}


def test_it_sweeps_and_puts_back(model):
    before = state(model)
    callback = finder()
    history = fit(model, callback, validation_data=(X, Y)).history
    assert {"loss", "mae", "val_loss", "val_mae"} <= history.keys()
    assert len(history["loss"]) == 2  # six steps of four batches an epoch
    result = callback.result
    assert (result.stopped, len(result.losses)) == ("end", 6)
    np.testing.assert_allclose(result.learning_rates, np.geomspace(1e-4, 1e-1, 6))
    assert changes(before, state(model)) == []


def test_it_finds_what_find_lr_finds(model):
    callback = finder()
    fit(model, callback)
    result = kt.find_lr(
        model, (X, Y), min_lr=1e-4, max_lr=1e-1, num_steps=6, batch_size=5, shuffle=False, verbose=0
    )
    np.testing.assert_array_equal(callback.result.losses, result.losses)
    np.testing.assert_array_equal(callback.result.smoothed_losses, result.smoothed_losses)


def test_training_goes_on_as_if_nothing_had_been(model):
    keras.utils.set_random_seed(0)
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    other.compile(optimizers.Adam(0.01), "mse", metrics=["mae"])
    wanted = fit(other).history
    same = keras.models.clone_model(model)
    same.set_weights(model.get_weights())
    same.compile(optimizers.Adam(0.01), "mse", metrics=["mae"])
    fit(same, finder())
    assert fit(same).history == wanted


def test_it_is_made_among_the_arguments_of_fit(model):
    before, of_all = state(model), vars(keras.Model).copy()
    model.fit(X, Y, epochs=2, shuffle=False, batch_size=5, verbose=0, callbacks=[finder()])
    assert changes(before, state(model)) == []
    assert vars(keras.Model) == of_all


class Looks(keras.callbacks.Callback):
    """Notes the weights after each batch, and the optimizer."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append((self.model.get_weights(), self.model.optimizer))


def test_others_meet_the_model_as_it_was(model):
    weights, optimizer = model.get_weights(), model.optimizer
    loss = model.evaluate(X, Y, verbose=0)[0]
    looks, callback = Looks(), finder(max_lr=1.0)
    history = fit(model, callback, looks, validation_data=(X, Y)).history
    np.testing.assert_allclose(history["val_loss"], loss, rtol=1e-5)
    assert len(looks.seen) == 6
    for seen, trains in looks.seen:
        assert trains is optimizer
        assert all(map(np.array_equal, seen, weights))
    # while the history has the means of the sweep's losses
    np.testing.assert_allclose(history["loss"][0], callback.result.losses[:4].mean(), rtol=1e-5)


@pytest.mark.parametrize("interrupted", [False, True])
def test_averages_of_the_weights_stay_out(interrupted):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile(optimizers.SGD(0.01, use_ema=True), "mse")
    fit(model, epochs=1)
    model.set_weights([2 * weight for weight in model.get_weights()])
    before = model.get_weights()
    if interrupted:
        with pytest.raises(RuntimeError, match="broken"):
            fit(model, finder(), Breaks(RuntimeError("broken")))
    else:
        fit(model, finder())
    assert all(map(np.array_equal, before, model.get_weights()))
    fit(model, epochs=1)  # which ends with the averages
    averages = model.optimizer._model_variables_moving_average
    for weight, average in zip(model.trainable_variables, averages, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (weight, average)))


@pytest.mark.parametrize("act", ["compile", "train"])
def test_another_callback_may_not_compile_or_train(model, act):
    other = keras.models.clone_model(model)
    other.compile("sgd", "mse")

    class Disturbs(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if act == "compile":
                self.model.compile("sgd", "mse")
                self.model.make_train_function()
            else:
                self.model.train_on_batch(X[:5], Y[:5])

    with pytest.raises(ValueError, match=r"must not be compiled or trained while LRFinder sweeps"):
        fit(other, finder(), Disturbs())


def test_two_that_drive_the_rate_are_refused(model):
    before = state(model)
    with pytest.raises(ValueError, match="driven by another callback already"):
        fit(model, finder(), kt.callbacks.CyclicLR(1e-3, 1e-2, 2))
    model.make_train_function()
    assert changes(before, state(model)) == []


def test_ctrl_c_while_the_weights_are_put_back(model, monkeypatch):
    if BACKEND == "jax":
        pytest.skip("on JAX a step gives the weights, and nothing is put back")
    before, put_back, calls = state(model), SweptStep._put_back, []

    def interrupted(self):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        put_back(self)

    monkeypatch.setattr(SweptStep, "_put_back", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(model, finder())
    assert len(calls) == 3
    assert changes(before, state(model)) == []


class Breaks(keras.callbacks.Callback):
    """Raises in the third batch."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            raise self.error


class BreaksData(keras.utils.PyDataset):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 3:
            raise self.error
        return X[:5], Y[:5]


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["callback", "data"])
def test_it_puts_back_after_an_exception(model, kind, where):
    before = state(model)
    callback = finder()
    error, more, data = kind("broken"), [], {}
    if where == "callback":
        more = [Breaks(error)]
    else:
        data = {"x": BreaksData(error), "y": None, "batch_size": None}
    # TensorFlow turns an exception in its reading thread into one of its own.
    with pytest.raises(BaseException, match="broken") as caught:
        fit(model, callback, *more, **data)
    assert isinstance(caught.value, kind) or (where, BACKEND) == ("data", "tensorflow")
    if where == "callback" or BACKEND == "torch":  # not in the step, so nobody is told
        assert set(changes(before, state(model))) <= {"attributes", "metrics"}
        model.make_train_function()  # as where training begins
    assert changes(before, state(model)) == []
    assert callback.result.stopped == "interrupted"
    assert len(callback.result.losses) == 3


def test_an_exception_in_the_first_step(model):
    class Fails(keras.Model):
        def train_step(self, *args):
            super().train_step(*args)
            raise RuntimeError("in the step")

    failing = Fails(model.inputs, model.outputs[0])
    failing.compile("sgd", "mse")
    before = [np.array(weight) for weight in failing.get_weights()]
    with pytest.raises(RuntimeError, match="in the step"):
        fit(failing, finder())
    assert all(np.array_equal(a, b) for a, b in zip(before, failing.get_weights(), strict=True))
    assert isinstance(failing.optimizer, optimizers.SGD)


def test_it_stops_on_divergence_and_can_be_used_again(model):
    before = state(model)
    callback = finder(40, 1e6, smoothing=0.0)
    fit(model, callback, epochs=30)
    assert callback.result.stopped == "diverged"
    first = callback.result.losses
    fit(model, callback, epochs=30)
    np.testing.assert_array_equal(first, callback.result.losses)
    assert changes(before, state(model)) == []


def test_too_few_epochs_leave_it_unfinished(model):
    callback = finder(9)
    fit(model, callback, epochs=1)
    assert (callback.result.stopped, len(callback.result.losses)) == ("interrupted", 4)
    assert "4 of 9 points, interrupted" in repr(callback.result)


@pytest.mark.skipif(BACKEND == "torch", reason="torch refuses steps_per_execution itself")
def test_several_steps_an_execution_are_refused(model):
    other = keras.Model(model.inputs, model.outputs[0])
    other.compile("sgd", "mse", steps_per_execution=2)
    with pytest.raises(ValueError, match=r"steps_per_execution=1 for LRFinder.*kt.find_lr"):
        fit(other, finder())


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="min_lr must be below max_lr"):
        kt.callbacks.LRFinder(1.0, 0.1)
