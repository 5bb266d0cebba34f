import dataclasses

import keras
import numpy as np
import pytest

import keras_transfer as kt


def rate_of(optimizer):
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def test_defaults():
    phase = kt.Phase("head", 3)
    assert (phase.train, phase.learning_rate, phase.batch_norm) == ("head", 1e-3, "freeze")
    assert isinstance(phase.make_optimizer(), keras.optimizers.Adam)


@pytest.mark.parametrize("name", ["sgd", "adamw", "RMSprop"])
def test_optimizer_by_name(name):
    optimizer = kt.Phase("p", 1, optimizer=name, learning_rate=0.25).make_optimizer()
    assert type(optimizer).__name__.lower() == name.lower()
    assert rate_of(optimizer) == 0.25


def test_optimizer_object_is_copied():
    given = keras.optimizers.SGD(0.5, momentum=0.9, nesterov=True, weight_decay=1e-3)
    phase = kt.Phase("p", 1, optimizer=given)
    first, second = phase.make_optimizer(), phase.make_optimizer()
    assert first is not second
    assert first is not given
    assert rate_of(first) == 0.5
    assert (first.momentum, first.nesterov, first.weight_decay) == (0.9, True, 1e-3)
    assert rate_of(kt.Phase("p", 1, optimizer=given, learning_rate=0.125).make_optimizer()) == 0.125
    assert rate_of(given) == 0.5


def test_schedules():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
    for phase in (
        kt.Phase("p", 1, learning_rate=schedule),
        kt.Phase("p", 1, optimizer=keras.optimizers.Adam(schedule)),
    ):
        assert rate_of(phase.make_optimizer()) == pytest.approx(0.5)
        assert phase.describe()["learning_rate"] == pytest.approx(0.5)


def test_describe_is_plain_data():
    def mine(image, rng):
        return image

    described = kt.Phase("p", 2, train="from:x", augmentation=mine, optimizer="sgd").describe()
    assert described == {
        "name": "p",
        "epochs": 2,
        "train": "from:x",
        "batch_norm": "freeze",
        "decays": "all",
        "average": None,
        "l2_sp": None,
        "augmentation": "mine",
        "optimizer": "SGD",
        "learning_rate": 1e-3,
        "schedule": None,
        "multipliers": None,
    }


HALVED = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)


def halving(rate, steps_per_epoch):
    return keras.optimizers.schedules.ExponentialDecay(rate, 2 * steps_per_epoch, 0.5, staircase=True)


def test_a_schedule_is_a_learning_rate():
    phase = kt.Phase("p", 1, schedule=HALVED)
    assert phase.learning_rate is HALVED
    assert phase.rate(1.0, 0) is HALVED
    assert dataclasses.replace(phase, epochs=2).rate(1.0, 0) is HALVED
    assert rate_of(phase.make_optimizer()) == pytest.approx(0.5)


@pytest.mark.parametrize(("given", "expected"), [(0.25, 0.25), ("find", 2.0), ("found", 2.0)])
def test_a_function_makes_the_schedule(given, expected):
    phase = kt.Phase("p", 1, learning_rate=given, schedule=halving)
    schedule = phase.rate(2.0, 10)
    assert [float(schedule(step)) for step in (0, 19, 20)] == [expected, expected, expected / 2]
    assert rate_of(phase.make_optimizer(schedule)) == expected
    described = phase.describe(schedule)
    assert (described["learning_rate"], described["schedule"]) == (expected, "ExponentialDecay")
    assert kt.Phase("p", 1, learning_rate=given).rate(2.0, 0) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": "from:"}, "train must be"),
        ({"train": ""}, "train must be"),
        ({"train": None}, "train must be"),
        ({"train": True}, "train must be"),
        ({"train": []}, "train must be"),
        ({"train": ["head", None]}, "train must be"),
        ({"train": keras.layers.Dense(2)}, "train must be"),
        ({"train": keras.layers.Dense}, "train must be"),
        ({"augmentation": "ligth"}, "did you mean light"),
        ({"augmentation": 3}, "augmentation must be"),
        ({"learning_rate": "high"}, "a LearningRateSchedule, 'find', 'found' or None"),
        ({"learning_rate": 0.1, "schedule": HALVED}, "schedule must be a function"),
        ({"learning_rate": HALVED, "schedule": halving}, "schedule must be a function"),
        ({"optimizer": keras.optimizers.SGD(HALVED), "schedule": halving}, "schedule must be"),
        ({"schedule": "cosine"}, "schedule must be a function"),
        ({"optimizer": "adan"}, "adan"),
        ({"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())}, "optimizer must"),
    ],
)
def test_bad_fields(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kt.Phase(**{"name": "p", "epochs": 1, **arguments})


def test_a_function_must_return_a_schedule():
    phase = kt.Phase("p", 1, schedule=lambda rate, steps: rate)
    with pytest.raises(TypeError, match=r"schedule of phase 'p' must .*Received: 0\.001 from it"):
        phase.rate(1.0, 10)


def test_takes_over_an_optimizer_that_was_in_use(model):
    used = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
    used.exclude_from_weight_decay(var_names=["bias"])
    used = kt.optimizers.LayerwiseLR(used, {"predictions/.*": 10.0})
    made = kt.Phase("p", 1, optimizer=used).make_optimizer()
    assert float(made.learning_rate) == pytest.approx(1e-2)
    predictions = model.get_layer("predictions")
    assert made.multiplier_of(predictions.kernel) == 10.0
    made.build(model.trainable_variables)
    assert not made._use_weight_decay(predictions.bias)


def test_sets_what_trains(model):
    def trains(**arguments):
        kt.Phase("p", 1, **arguments).set_trainable(model)
        return [row.layer for row in kt.trainable_table(model) if row.trainable]

    assert trains(train="head") == trains(train="new") == ["predictions"]
    assert trains(train=-2) == trains(train=np.int64(1)) == ["block2_conv1", "predictions"]
    assert trains(train=["block1", -1]) == ["block1_conv1", "predictions"]
    assert trains(train=lambda layer: layer.name == "block2_conv1") == ["block2_conv1"]
    assert trains(train="from:block2_conv1") == ["block2_conv1", "predictions"]
    assert trains(train="all") == ["block1_conv1", "block2_conv1", "predictions"]
    assert trains(train="all", batch_norm="train")[2] == "block2_bn"
    assert np.array([layer.trainable for layer in model.get_layer("tiny").layers]).all()
