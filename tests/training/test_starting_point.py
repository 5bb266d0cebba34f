"""L2-SP, against plain Keras with the penalty in the loss."""

import dataclasses

import keras
import numpy as np
import pytest
from tiny import tiny_backbone, tiny_task, tiny_transformer, variables

import keras_transfer as kt
from keras_transfer.optimizers.layerwise_lr import as_layerwise, with_learning_rate

ALL = kt.Phase("all", 2, train="all", learning_rate=1e-2)
SGD = keras.optimizers.SGD(momentum=0.9)


class Penalised(keras.Model):
    """A model whose loss has the penalty: alpha / 2 * |w - start|^2 + beta / 2 * |head|^2 on kernels."""

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        for variable, value in zip(self.trainable_variables, self.begun, strict=True):
            if variable.name == "kernel":
                new = "predictions" in variable.path
                strength = self.beta if new else self.alpha
                way = variable if new else variable - value
                loss = loss + strength / 2 * keras.ops.sum(keras.ops.square(way))
        return loss


def network():
    keras.utils.set_random_seed(0)
    return kt.classifier(tiny_backbone(), 3, seed=0)


def penalised(optimizer, alpha, beta, epochs=range(2), start=None):
    """Return the weights after the same epochs in plain Keras, in the loader's order."""
    model = network()
    begun = start or variables(model)
    for layer in model.get_layer("tiny").layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    logits = Penalised(model.inputs, model.get_layer("predictions").output)
    values = {id(v): value for v, value in zip(model.variables, begun, strict=True)}
    logits.begun = [values[id(v)] for v in logits.trainable_variables]
    logits.alpha, logits.beta = alpha, beta
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    logits.compile(optimizer=optimizer, loss=loss)
    loader = kt.Loader(tiny_task(), 8, seed=0)
    parts = [loader.batch(epoch, i) for epoch in epochs for i in range(6)]
    x, y = (np.concatenate(each) for each in zip(*parts, strict=True))
    logits.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    return model.get_weights()


def trained(phases, validation=None, **options):
    model = network()
    options = {"batch_size": 8, "verbose": 0, **options}
    return kt.fine_tune(model, tiny_task(), validation, phases, **options)


def assert_close(found, expected, rtol):
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other) <= rtol * np.linalg.norm(other) + 1e-12


RATE = 1e-2
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(RATE),
    "clipped": lambda: keras.optimizers.SGD(RATE, global_clipnorm=0.1),
    "decayed": lambda: keras.optimizers.AdamW(RATE, weight_decay=0.1),
    "accumulating": lambda: keras.optimizers.SGD(RATE, gradient_accumulation_steps=2),
    "ftrl": lambda: keras.optimizers.Ftrl(RATE),
    "layerwise": lambda: kt.optimizers.LayerwiseLR(
        keras.optimizers.Adam(RATE), {"block1_.*": 0.1, "predictions/.*": 2.0}
    ),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_equals_a_penalty_in_the_loss(kind):
    make = OPTIMIZERS[kind]
    phase = dataclasses.replace(ALL, optimizer=make(), learning_rate=None)
    found = trained([dataclasses.replace(phase, l2_sp=kt.L2SP(0.5, 0.2))]).model.get_weights()
    assert_close(found, penalised(make(), 0.5, 0.2), rtol=2e-4)
    free = trained([phase]).model.get_weights()
    moved = [np.linalg.norm(one - other) for one, other in zip(found, free, strict=True)]
    assert max(moved) > 1e-3  # so that it says something


def test_the_head_alone_and_the_backbone_alone():
    for alpha, beta in ((0.0, 0.5), (0.5, 0.0)):
        phase = dataclasses.replace(ALL, optimizer=SGD, l2_sp=kt.L2SP(alpha, beta))
        expected = penalised(keras.optimizers.SGD(1e-2, momentum=0.9), alpha, beta)
        assert_close(trained([phase]).model.get_weights(), expected, rtol=2e-4)


def drift(model, layer):
    """Return how far the kernel of a layer is from where it began, as a part of its norm."""
    before = network().get_layer("tiny").get_layer(layer).kernel
    kernel = model.get_layer("tiny").get_layer(layer).kernel
    before, kernel = (keras.ops.convert_to_numpy(each) for each in (before, kernel))
    return np.linalg.norm(kernel - before) / np.linalg.norm(before)


def test_it_pulls_to_where_the_run_began():
    """Rate times alpha is 1: each step begins where the run did, whatever the phase before has done."""
    far = dataclasses.replace(ALL, learning_rate=3e-2)
    back = kt.Phase("back", 1, "all", 1e-3, optimizer="sgd", l2_sp=kt.L2SP(1e3))
    assert drift(trained([far]).model, "block1_conv1") > 0.1
    assert drift(trained([far, back]).model, "block1_conv1") < 0.01
    # Also what joins within a phase, of which the phase before has trained a part.
    gradual = dataclasses.replace(back, epochs=3, callbacks=[kt.callbacks.GradualUnfreezing(1)])
    gradual.callbacks[0].first_epoch = 2
    model = trained([far, gradual]).model
    assert drift(model, "block1_conv1") < 0.01
    assert drift(model, "block2_conv1") < 0.01


def test_slots_go_on_and_the_pull_ends_with_the_phase():
    """Between phases of one kind: as plain Keras that goes on with the same optimizer."""
    held = dataclasses.replace(ALL, epochs=1, l2_sp=kt.L2SP(0.5, 0.2))
    one = trained([held, held]).model.get_weights()
    assert_close(one, penalised(keras.optimizers.Adam(1e-2), 0.5, 0.2), rtol=2e-4)
    free = trained([held, dataclasses.replace(ALL, epochs=1)]).model
    assert max(np.abs(a - b).max() for a, b in zip(one, free.get_weights(), strict=True)) > 1e-4
    assert vars(free.optimizer).get("_pull") is None
    again = trained([dataclasses.replace(ALL, epochs=1), held]).model  # into one with a penalty
    assert vars(again.optimizer).get("_pull") is None  # which the user's own training doesn't have


def test_a_range_test_inside_the_phase_pulls_too():
    """An optimizer made anew for it goes all the way to 1, at rate and strength 1 and no gradient."""
    made = as_layerwise(keras.optimizers.SGD(0.5), lambda v: (1.0, np.ones(v.shape, "float32")))
    found = with_learning_rate(made, keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.5))
    variable = keras.Variable(np.array([3.0, -1.0]), dtype="float32")
    found.apply([keras.ops.zeros(2)], [variable])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), [1.0, 1.0])


def test_losses_are_without_the_penalty():
    validation = tiny_task(seed=1)
    phase = dataclasses.replace(ALL, l2_sp=kt.L2SP(100.0, 100.0), learning_rate=1e-4)
    result = trained([phase], validation)
    scores = result.model.evaluate(*validation, verbose=0, return_dict=True)
    assert result.best.metrics["val_loss"] == pytest.approx(scores["loss"], rel=1e-4)
    free = trained([dataclasses.replace(phase, l2_sp=None)], validation)
    assert result.history["loss"][0] == pytest.approx(free.history["loss"][0], rel=0.05)
    assert result.phases[0].settings["l2_sp"] == "L2SP(alpha=100.0, beta=100.0)"


def test_on_features_as_on_images():
    phase = kt.Phase("last", 3, "from:block2_conv1", 1e-2, l2_sp=kt.L2SP(0.5, 0.2))
    cached, plain = (trained([phase], cache=cache).model.get_weights() for cache in (True, False))
    assert_close(cached, plain, rtol=1e-4)


def test_in_float16():
    """The penalty joins the gradients when the scale of the loss is out of them."""
    phase = dataclasses.replace(ALL, optimizer="sgd", l2_sp=kt.L2SP(20.0, 5.0))
    full = trained([phase]).model.get_weights()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = trained([phase]).model.get_weights()
    finally:
        keras.config.set_dtype_policy("float32")
    assert_close(half, full, rtol=0.02)


class TestRefused:
    def test_what_is_no_penalty(self):
        for given in (0.1, "l2-sp", kt.L2SP):
            with pytest.raises(TypeError, match=r"l2_sp must be a kt.L2SP, such as .*Received: l2_sp="):
                kt.Phase("p", 1, l2_sp=given)

    def test_a_model_without_a_head(self):
        inputs = keras.Input((16, 16, 3))
        outputs = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3)(inputs))
        model = keras.Model(inputs, outputs)
        with pytest.raises(ValueError, match="has no classification head"):
            dataclasses.replace(ALL, l2_sp=kt.L2SP(0.1)).check(model)


def test_biases_of_attention_are_free_though_they_have_two_axes():
    model = tiny_transformer(multi_head=True)
    pull = kt.L2SP(0.5, 0.2).pull(model, variables(model))
    held = [v.path for v in model.variables if pull(v) is not None]
    biases = [v for v in model.variables if v.name == "bias" and len(v.shape) > 1]
    assert biases
    assert not any(path.endswith("bias") for path in held)
    assert "block1_attention/query/kernel" in held
