"""What is refused before training on several devices; that it works: tests/backends/test_several.py."""

import keras
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer import _distribution
from keras_transfer._distribution import Placement

BACKEND = keras.backend.backend()


@pytest.fixture(autouse=True)
def _two_devices(monkeypatch):
    monkeypatch.setattr(_distribution, "placement", lambda model: Placement(devices=2))


def network():
    inputs = keras.Input((2, 2, 1))
    return keras.Model(
        inputs, keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(inputs))
    )


@pytest.fixture
def model():
    return network()


def images(samples):
    return np.zeros((samples, 2, 2, 1), "float32"), np.arange(samples) % 3


def fine_tune(model, batch_size=4, phase=None, samples=8, **arguments):
    loader = kt.Loader(images(samples), batch_size)
    phases = [phase or kt.Phase("all", 1, "all")]
    return kt.fine_tune(model, loader, phases=phases, cache=False, verbose=0, **arguments)


def refused(model, match, **arguments):
    before = model.get_weights()
    with pytest.raises(ValueError, match=match):
        fine_tune(model, **arguments)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_batch_that_devices_cannot_divide(model):
    refused(model, r"multiple of 2, .* such as 4\. Received: batch_size=5", batch_size=5)


def test_fewer_samples_than_devices(model):
    refused(model, "at least 2 samples", samples=1)
    refused(model, r"validation must have at least 2 samples.* Received: 1", validation=images(1))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others accumulate")
def test_accumulation(model):
    phase = kt.Phase("all", 1, "all", optimizer=keras.optimizers.SGD(gradient_accumulation_steps=2))
    refused(model, "without gradient_accumulation_steps", phase=phase)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others add it to the whole gradient")
def test_a_penalty(model):
    refused(model, "without l2_sp", phase=kt.Phase("all", 1, "all", l2_sp=kt.L2SP(0.1)))


def test_an_average_where_batch_norm_trains(model):
    inputs = keras.Input((2, 2, 1))
    x = keras.layers.Flatten()(keras.layers.BatchNormalization()(inputs))
    normed = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    phase = kt.Phase("all", 3, "all", average=kt.SWA(2), batch_norm="train")
    refused(normed, r"average of phase 'all' needs .*type Loader on 2 devices", phase=phase)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others look at all gradients")
def test_float16():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy("float32")
    refused(model, "bfloat16 or float32")


@pytest.mark.skipif(BACKEND != "torch", reason="the others add parts up")
def test_a_loss_that_is_a_sum(model):
    loss = keras.losses.SparseCategoricalCrossentropy(reduction="sum")
    refused(model, r"mean over the samples of a batch, not reduction='sum'", loss=loss)


def test_processes_that_were_told_different_things(model, monkeypatch):
    gathered = []

    def another(model, number):
        gathered.append(number)
        return len(gathered) != 2

    monkeypatch.setattr(_distribution, "agreed", another)
    refused(model, "must be given alike to all processes")


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX' engine")
def test_each_of_two_processes_reads_its_part(monkeypatch):
    # Were each to read all, the means of gradients would be the same.
    from keras_transfer._distribution import jax as engine

    monkeypatch.setattr(engine, "placement", lambda model: Placement(1, processes=2, devices=2))
    loader = kt.Loader((np.zeros((8, 2, 2, 3)), np.arange(8)), 4, shuffle=False)
    data = engine.training_data(None, loader, None)
    assert [labels.tolist() for _, labels in data.x] == [[2, 3], [6, 7]]
