"""The recipes: that they say what their sources say, and that they run."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt

STEPS = 10  # an epoch


@pytest.fixture(scope="module")
def model():
    """Two stages and a head."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(inputs)
    x = layers.Conv2D(4, 3, name="block1_conv")(x)
    x = layers.Conv2D(4, 3, name="block2_conv")(x)
    x = layers.BatchNormalization(name="block2_bn")(x)
    return kt.classifier(keras.Model(inputs, x), 2, preprocessing=False, seed=0)


def rates(phase, steps, found=0.5):
    """Return the rates in effect at some steps of a phase."""
    schedule = phase.rate(found, STEPS)
    if isinstance(schedule, float):
        return [schedule] * len(steps)
    return [float(keras.ops.convert_to_numpy(schedule(step))) for step in steps]


def trained(model, phase):
    phase.set_trainable(model)
    return [row.layer for row in kt.trainable_table(model) if row.trainable]


EVERYTHING = ["block1_conv", "block2_conv", "block2_bn", "predictions"]


class TestOneCycle:
    def test_is_fastai_s(self, model):
        """Against fastai's formulas: combined_cos(pct_start, lr / div, lr, lr / 1e5)."""
        head, everything = kt.recipes.one_cycle(model, 3, 1e-2, 2)
        assert (head.epochs, everything.epochs) == (2, 3)
        assert trained(model, head) == ["predictions"]
        assert trained(model, everything) == EVERYTHING
        for phase, epochs, top, div, start in ((head, 2, 1e-2, 25, 0.99), (everything, 3, 5e-3, 5, 0.3)):
            first, last = rates(phase, [0, epochs * STEPS - 1])
            assert first == pytest.approx(top / div)
            assert last == pytest.approx(top / 1e5)
            every = rates(phase, range(epochs * STEPS))
            assert max(every) == pytest.approx(top, rel=0.01)
            assert np.argmax(every) == pytest.approx(start * epochs * STEPS, abs=2)
            optimizer = phase.make_optimizer(phase.rate(0.5, STEPS))
            assert isinstance(optimizer, keras.optimizers.AdamW)
            assert (optimizer.weight_decay, optimizer.beta_2, optimizer.epsilon) == (0.01, 0.99, 1e-5)

    def test_earlier_groups_are_slower(self, model):
        factors = kt.recipes.one_cycle(model, lr_mult=100.0)[1].multipliers
        names = ("block1_conv/kernel", "block2_conv/kernel", "predictions/kernel")
        assert [factors[name] for name in names] == pytest.approx([0.01, 0.1, 1.0])


class TestWarmRestarts:
    def test_is_fast_ai_s(self, model):
        last, augmented, everything = kt.recipes.warm_restarts(model, factor=10.0)
        assert [phase.learning_rate for phase in (last, augmented, everything)] == [
            "find",
            "found",
            "find",
        ]
        assert [phase.augmentation for phase in (last, augmented, everything)] == [
            None,
            "light",
            "light",
        ]
        assert trained(model, last) == trained(model, augmented) == ["predictions"]
        assert trained(model, everything) == EVERYTHING
        assert rates(last, [0, 7], found=0.25) == [0.25, 0.25]
        # Cycles of one epoch each; then of one, two and four.
        assert rates(augmented, [0, 5, 10, 15]) == pytest.approx([0.5, 0.25, 0.5, 0.25])
        assert everything.epochs == 7
        assert rates(everything, [0, 10, 20, 30, 50]) == pytest.approx([0.5, 0.5, 0.25, 0.5, 0.25])
        assert everything.multipliers["block2_conv/kernel"] == pytest.approx(0.1)
        sgd = everything.make_optimizer()
        assert (type(sgd).__name__, sgd.momentum) == ("SGD", 0.9)

    def test_runs(self, model):
        rng = np.random.default_rng(0)
        images, labels = rng.integers(0, 50, (16, 8, 8, 3), "uint8"), np.arange(16, dtype="int32") % 2
        images[labels == 1] += 200
        weights = [np.array(weight) for weight in model.get_weights()]
        phases = kt.recipes.warm_restarts(model, head_epochs=1, cycles=1)
        result = kt.fine_tune(model, (images, labels), phases=phases, batch_size=8, verbose=0)
        assert [phase.epochs for phase in result.phases] == [1, 1, 1]
        assert all(1e-7 < phase.settings["learning_rate"] < 1.0 for phase in result.phases)
        model.set_weights(weights)


class TestStepDecay:
    @pytest.mark.parametrize("train", ["all", "head"])
    def test_is_pytorch_s(self, model, train):
        (phase,) = kt.recipes.step_decay(train)
        assert phase.name == ("everything" if train == "all" else "head")
        assert trained(model, phase) == (EVERYTHING if train == "all" else ["predictions"])
        assert phase.epochs == 25
        steps = [0, 7 * STEPS - 1, 7 * STEPS, 14 * STEPS - 1, 14 * STEPS, 25 * STEPS - 1]
        assert rates(phase, steps) == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-6])
        sgd = phase.make_optimizer()
        assert (type(sgd).__name__, sgd.momentum, sgd.nesterov) == ("SGD", 0.9, False)

    def test_errors(self):
        with pytest.raises(ValueError, match="train must be 'all' or 'head'. Received: train='new'"):
            kt.recipes.step_decay("new")


def test_faster_head_makes_the_steps_of_a_summed_loss(model):
    """As torch's SGD(5e-5, weight_decay=1e-3) on the sum of the losses of a batch, the head at 5e-4."""
    (phase,) = kt.recipes.faster_head(model, batch_size=16)
    assert trained(model, phase) == EVERYTHING
    assert phase.epochs == 5
    variables = {path: model.get_layer(path).kernel for path in ("predictions",)}
    variables["block1_conv"] = next(v for v in model.trainable_variables if "block1_conv/k" in v.path)
    optimizer = phase.make_optimizer()
    optimizer.build(list(variables.values()))
    before = {name: np.array(keras.ops.convert_to_numpy(v)) for name, v in variables.items()}
    rng = np.random.default_rng(0)
    summed = {name: rng.standard_normal(value.shape, "float32") for name, value in before.items()}
    optimizer.apply([keras.ops.convert_to_tensor(value / 16) for value in summed.values()])
    for name, rate in (("predictions", 5e-4), ("block1_conv", 5e-5)):
        expected = before[name] - rate * (summed[name] + 1e-3 * before[name])
        moved = keras.ops.convert_to_numpy(variables[name])
        np.testing.assert_allclose(moved, expected, rtol=1e-6, atol=1e-8)
        variables[name].assign(before[name])


class TestLayerwiseDecay:
    def test_stages(self, model):
        head, everything = kt.recipes.layerwise_decay(model)
        assert (head.epochs, everything.epochs) == (16, 8)
        assert trained(model, head) == ["predictions"]
        assert trained(model, everything) == EVERYTHING
        assert (rates(head, [0]), rates(everything, [0])) == ([1e-3], [1e-4])
        assert everything.multipliers["block2_conv/kernel"] == pytest.approx(1 / 3)
        assert everything.multipliers["block1_conv/kernel"] == pytest.approx(1 / 9)

    def test_layer_by_layer(self, model):
        linear = kt.recipes.layerwise_decay(model, rates="linear")[1].multipliers
        assert linear["block1_conv/kernel"] == pytest.approx(1e-3)
        assert linear["predictions/kernel"] == 1.0
        assert linear["block1_conv/kernel"] < linear["block2_conv/kernel"] < 1.0

    def test_settings(self, model):
        optimizer = keras.optimizers.AdamW(weight_decay=1e-4)
        phases = kt.recipes.layerwise_decay(model, epochs=(3, 2), optimizer=optimizer)
        assert [phase.epochs for phase in phases] == [3, 2]
        assert all(phase.make_optimizer().weight_decay == 1e-4 for phase in phases)
        with pytest.raises(ValueError, match="rates must be 'geometric' or 'linear'"):
            kt.recipes.layerwise_decay(model, rates="flat")


@pytest.mark.parametrize("name", kt.recipes.__all__)
def test_says_where_it_is_from_and_what_to_expect(name):
    text = " ".join(getattr(kt.recipes, name).__doc__.split())
    assert "Source: " in text
    assert re.search(r"[\d.]+ % \([\d.]+ to [\d.]+ .*seeds\)", text)
    (script,) = re.findall(r"python (benchmarks/\w+\.py)", text)
    assert (Path(__file__).parents[1] / script).is_file()


def test_a_set_of_one_batch_has_a_cycle(model):
    head, _ = kt.recipes.one_cycle(model, 3, 1e-2)
    assert isinstance(head.rate(1e-2, 1), kt.schedules.OneCycle)
