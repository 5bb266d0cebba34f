"""The schedules against torch's, the closed formulas, and where float32 is short of digits."""

import math
from fractions import Fraction

import keras
import numpy as np
import pytest
from keras import ops
from torch_rates import torch_rates

import keras_transfer as kt

SCHEDULES = {
    "triangular": kt.schedules.Cyclic(1e-4, 1e-2, 7),
    "triangular2": kt.schedules.Cyclic(0.0, 1e-2, 7, mode="triangular2"),
    "exp_range": kt.schedules.Cyclic(1e-4, 1e-2, 7, mode="exp_range", gamma=0.99),
    "restarts": kt.schedules.WarmRestarts(1e-2, 10, min_lr=1e-6),
    "longer": kt.schedules.WarmRestarts(1e-2, 7, cycle_mult=2),
    "one cycle": kt.schedules.OneCycle(1e-2, 200),
    "one cycle, linear": kt.schedules.OneCycle(1e-2, 150, 0.4, "linear", 10.0, 50.0),
    "no climb": kt.schedules.OneCycle(1e-2, 200, pct_start=0.0),
}


def value(schedule, step):
    return float(ops.convert_to_numpy(schedule(step)))


def restarts(step, first, factor, decay=1.0):
    """Return the height of SGDR's curve between 0 and 1 at a step, from its definition, in float64."""
    begin, length, number = 0, first, 0
    while step >= begin + length:
        begin, length, number = begin + length, length * factor, number + 1
    return decay**number * math.sin(math.pi / 2 * float(1 - (step - begin) / length)) ** 2


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_is_that_of_torch(name):
    expected = torch_rates(name)
    found = [value(SCHEDULES[name], step) for step in range(len(expected))]
    # Torch's cosine has lost as many digits as 1 + cos has lost against 2: 1e-16 of the highest rate.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-17)


@pytest.mark.parametrize(
    ("first", "factor"), [(10, 1), (10, 2), (7, 2), (100, 1.5), (3, 10), (Fraction(10, 3), 1)]
)
def test_restarts_are_never_a_step_off(first, factor):
    schedule = kt.schedules.WarmRestarts(1.0, first, cycle_mult=factor)
    ends, length = [Fraction(first)], Fraction(first)
    while ends[-1] < 2_000_000 and len(ends) < 50:
        length *= Fraction(factor)
        ends.append(ends[-1] + length)
    if factor == 1:
        ends += [ends[0] * 10**k for k in range(2, 8)]
        exact = [restarts(step % Fraction(first), Fraction(first), 1) for step in around(ends)]
    else:
        exact = [restarts(step, Fraction(first), Fraction(factor)) for step in around(ends)]
    found = [value(schedule, step) for step in around(ends)]
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-9)


def around(ends):
    return sorted({math.ceil(end) + shift for end in ends for shift in (-1, 0, 1)})


def test_a_factor_that_is_no_binary_fraction():
    schedule = kt.schedules.WarmRestarts(1.0, 100, cycle_mult=1.1)
    assert [value(schedule, step) for step in (0, 100, 210, 331)] == [1.0] * 4


def test_far_steps():
    assert value(kt.schedules.WarmRestarts(1.0, 3, cycle_mult=1e6), 2**31 - 1) == pytest.approx(
        math.sin(math.pi / 2 * (1 - (2**31 - 1 - 3_000_003) / 3e12)) ** 2, rel=1e-6
    )
    gamma = 0.99999
    cyclic = kt.schedules.Cyclic(0.0, 1.0, 5, mode="exp_range", gamma=gamma)
    assert value(cyclic, 1_000_005) == pytest.approx(gamma**1_000_005, rel=3e-6)
    triangle = kt.schedules.Cyclic(0.0, 1.0, 1000)
    assert value(triangle, 2_000_000_001) == pytest.approx(1e-3, rel=1e-6)


@pytest.mark.parametrize(("step", "cycle"), [(0, 0), (5, 2), (10, 4), (25, 10)])
def test_cycles_of_parts_of_a_step_are_counted_on(step, cycle):
    schedule = kt.schedules.WarmRestarts(1.0, cycle_steps=Fraction(5, 2), cycle_decay=0.5)
    assert value(schedule, step) == pytest.approx(0.5**cycle, rel=1e-6)


def test_each_cycle_begins_nearer_to_the_lowest_rate():
    schedule = kt.schedules.WarmRestarts(1.0, 4, cycle_mult=2, min_lr=0.1, cycle_decay=0.5)
    found = [value(schedule, step) for step in range(28)]
    expected = [0.1 + 0.9 * restarts(step, 4, 2, 0.5) for step in range(28)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[12] == pytest.approx(0.1 + 0.9 / 4)


def test_one_cycle_stays_at_its_last_rate():
    schedule = kt.schedules.OneCycle(1.0, 20)
    assert value(schedule, 19) == value(schedule, 1000) == pytest.approx(1 / 25e4)


@pytest.mark.parametrize(("floatx", "dtype"), [("float16", "float32"), ("float64", "float64")])
def test_the_float_type(floatx, dtype):
    if (floatx, keras.backend.backend()) == ("float64", "jax"):
        pytest.skip("JAX has float64 only where the process was started for it")
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        rate = SCHEDULES["longer"](100_000)  # a step that float16 can't hold
    finally:
        keras.config.set_floatx(before)
    assert keras.backend.standardize_dtype(rate.dtype) == dtype
    digits = 1e-6 if dtype == "float32" else 1e-14
    exact = 1e-2 * restarts(100_000, 7, 2)
    assert float(ops.convert_to_numpy(rate)) == pytest.approx(exact, rel=digits)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_config(name):
    schedule = SCHEDULES[name]
    config = keras.optimizers.schedules.serialize(schedule)
    again = keras.optimizers.schedules.deserialize(config)
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    assert [value(again, step) for step in (0, 5, 100)] == [value(schedule, s) for s in (0, 5, 100)]


def test_in_a_compiled_step_and_a_file(tmp_path):
    schedule = SCHEDULES["longer"]
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(schedule), lambda y, prediction: prediction)
    ones = np.ones((9, 1), "float32")

    def moved(model):
        before = model.get_weights()[0].item()
        model.fit(ones, ones, batch_size=1, verbose=0, shuffle=False)
        return before - model.get_weights()[0].item()

    expected = [value(schedule, step) for step in range(18)]
    assert moved(model) == pytest.approx(sum(expected[:9]), rel=1e-4)
    model.compile(model.optimizer, "mse")
    model.save(tmp_path / "model.keras")
    loaded = kt.load_model(tmp_path / "model.keras")
    assert float(ops.convert_to_numpy(loaded.optimizer.learning_rate)) == pytest.approx(expected[9])
    loaded.compile(loaded.optimizer, lambda y, prediction: prediction)
    assert moved(loaded) == pytest.approx(sum(expected[9:]), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kt.schedules.Cyclic(0.1, 0.1, 5), r"max_lr must be .* above base_lr=0.1. Received"),
        (lambda: kt.schedules.Cyclic(0.1, 0.2, 2.5), r"step_size must be a whole number"),
        (lambda: kt.schedules.Cyclic(0.1, 0.2, 5, "triangle"), r"did you mean triangular"),
        (lambda: kt.schedules.WarmRestarts(0.1, 5, 1.005), r"cycle_mult must be 1, or at least 1.01"),
        (lambda: kt.schedules.WarmRestarts(0.1, 5, min_lr=0.2), r"above min_lr=0.2. Received"),
        (lambda: kt.schedules.OneCycle(0.1, 5, anneal_strategy="cos"), r"did you mean cosine"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("steps", [2**31, 2.0**64])
def test_more_steps_than_can_be_counted(steps):
    for make in (
        lambda: kt.schedules.Cyclic(0.0, 1.0, steps),
        lambda: kt.schedules.OneCycle(1.0, steps),
        lambda: kt.schedules.WarmRestarts(1.0, steps),
    ):
        with pytest.raises(
            ValueError, match=r"must be at most 2,147,483,647. Received: .*steps|step_size"
        ):
            make()
