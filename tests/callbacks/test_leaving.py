"""What is registered while `fit` runs is undone when it is left, in whatever way."""

import inspect

import keras
import numpy as np
import pytest

from keras_transfer.callbacks.leaving import leaving_fit, watch_fit

X = np.ones((4, 2), "float32")
Y = np.ones((4, 1), "float32")


@pytest.fixture
def model():
    watch_fit()  # a callback that is made among the arguments of the first `fit` comes too late
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    return model


class Registers(keras.callbacks.Callback):
    """Registers an action at the begin of training, and acts at its end."""

    def __init__(self, done, at_end=None):
        super().__init__()
        watch_fit()
        self.done, self.at_end = done, at_end

    def on_train_begin(self, logs=None):
        leaving_fit(self.model).callback(self.done.append, "left")

    def on_train_end(self, logs=None):
        self.done.append("end")

    def on_train_batch_end(self, batch, logs=None):
        if self.at_end:
            raise self.at_end


def test_after_a_good_end(model):
    done = []
    callback = Registers(done)
    history = model.fit(X, Y, verbose=0, callbacks=[callback])
    assert len(history.history["loss"]) == 1
    assert done == ["end", "left"]


@pytest.mark.parametrize("error", [ValueError("callback"), KeyboardInterrupt("callback")])
def test_after_an_exception(model, error):
    done = []
    with pytest.raises(type(error), match="callback"):
        model.fit(X, Y, verbose=0, callbacks=[Registers(done, error)])
    assert done == ["left"]


def test_a_fit_that_is_not_watched_is_refused(model, monkeypatch):
    watch_fit()
    monkeypatch.setattr(keras.Model, "fit", keras.Model.fit.__wrapped__)
    unwatched, done = model.fit, []
    before = model.get_weights()
    callback = Registers(done)
    with pytest.raises(RuntimeError, match="made before fit is looked up.*Received: <function"):
        unwatched(X, Y, verbose=0, callbacks=[callback])
    assert done == []
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_fit_inside_a_fit_ends_by_itself(model):
    other = keras.models.clone_model(model)
    other.compile("sgd", "mse", run_eagerly=True)
    outer, inner = [], []

    class Nested(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            for which in (other, self.model):
                which.fit(X, Y, verbose=0, callbacks=[Registers(inner)])
            assert inner == ["end", "left"] * 2
            assert outer == []

    model.fit(X, Y, verbose=0, callbacks=[Registers(outer), Nested()])
    assert outer == ["end", "left"]


def test_fit_is_wrapped_once_and_looks_the_same(model):
    watch_fit()
    fit = keras.Model.fit
    watch_fit()
    assert keras.Model.fit is fit
    assert fit.__name__ == "fit"
    assert "validation_data" in inspect.signature(fit).parameters
