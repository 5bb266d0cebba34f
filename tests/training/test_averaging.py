"""Averages of the weights in a phase, against formulas over the weights that its steps left behind."""

import dataclasses

import keras
import numpy as np
import pytest
from tiny import same, tiny_backbone, tiny_task, variables

import keras_transfer as kt

STEPS = 6  # an epoch: 48 images in batches of 8
HEAD = kt.Phase("head", 2, learning_rate=1e-2)
ALL = kt.Phase("all", 3, train="all", learning_rate=1e-2)


class Notes(keras.callbacks.Callback):
    """Keeps the weights after every step, and those that callbacks see at the end of an epoch."""

    def __init__(self):
        super().__init__()
        self.steps, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self.model.get_weights())

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self.model.get_weights())


class Stops(keras.callbacks.Callback):
    """Ends the training after some epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 == self.epochs


def trained(phases, validation=None, callbacks=(), data=None, **options):
    """Return the result of the phases, begun with the same weights each time, and notes of it."""
    keras.utils.set_random_seed(0)
    model, notes = kt.classifier(tiny_backbone(), 3, seed=0), Notes()
    options = {"batch_size": 8, "verbose": 0, "callbacks": [notes, *callbacks], **options}
    return kt.fine_tune(model, data or tiny_task(), validation, phases, **options), notes


def ema(steps, decay):
    """Return the moving average of sets of weights, in float64."""
    mean = [np.array(value, "float64") for value in steps[0]]
    for step in steps[1:]:
        mean = [decay * m + (1 - decay) * w for m, w in zip(mean, step, strict=True)]
    return mean


def mean_of(sets):
    return [np.mean(values, axis=0, dtype="float64") for values in zip(*sets, strict=True)]


def assert_close(found, expected, rtol=1e-5):
    """By the norm of each variable."""
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other) <= rtol * np.linalg.norm(other) + 1e-12


def averaging(phase, average, **changes):
    return dataclasses.replace(phase, average=average, **changes)


OPTIMIZERS = {
    "adam": {},
    "layerwise": {"multipliers": {"block1_.*": 0.1}},
    "sgd": {"optimizer": keras.optimizers.SGD(momentum=0.9, nesterov=True, weight_decay=1e-3)},
    "adadelta": {"optimizer": "adadelta"},
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_ema(kind):
    """What callbacks see after each epoch, and what the model ends with; training is as without."""
    phase = dataclasses.replace(ALL, **OPTIMIZERS[kind])
    result, notes = trained([averaging(phase, kt.EMA(0.9))])
    for epoch in range(3):
        assert_close(notes.epochs[epoch], ema(notes.steps[: STEPS * (epoch + 1)], 0.9))
    assert same(result.model.get_weights(), notes.epochs[-1])
    _, plain = trained([phase])
    assert_close(notes.steps[-1], plain.steps[-1])


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the others compile the step")
def test_torch_averages_all_variables_at_once(monkeypatch):
    """Keras' own loop over the variables takes longer than the step of a small network."""
    from keras_transfer.optimizers import _torch_lists

    calls, take = [], _torch_lists.take_averages
    monkeypatch.setattr(_torch_lists, "take_averages", lambda *lists: calls.append(take(*lists)))
    trained([averaging(HEAD, kt.EMA(0.9))])
    assert len(calls) == 2 * STEPS


def test_swa():
    """Epochs before the last two count as they are."""
    result, notes = trained([averaging(ALL, kt.SWA(2))])
    ends = notes.steps[STEPS - 1 :: STEPS]
    assert same(notes.epochs[0], ends[0])
    assert same(notes.epochs[1], ends[1])
    assert_close(notes.epochs[2], mean_of(ends[1:]), rtol=1e-7)
    assert same(result.model.get_weights(), notes.epochs[-1])
    _, plain = trained([ALL])
    assert same(notes.steps[-1], plain.steps[-1])


@pytest.mark.parametrize("average", [kt.EMA(0.8), kt.SWA(2)], ids=str)
def test_averaged_weights_are_validated_and_the_best_are_kept(average):
    images, labels = tiny_task(seed=1)
    labels[::2] = (labels[::2] + 1) % 3  # so that it can't be learned, and the loss has a lowest value
    phase = averaging(ALL, average)
    result, notes = trained([phase], (images, labels))
    best = result.best.epoch
    assert same(result.model.get_weights(), notes.epochs[best])
    for epoch, weights in enumerate(notes.epochs):
        result.model.set_weights(weights)
        scores = result.model.evaluate(images, labels, verbose=0, return_dict=True)
        for name, value in scores.items():
            assert result.history[f"val_{name}"][epoch] == pytest.approx(value, rel=1e-4)
    keys = zip(result.history["val_accuracy"], -np.array(result.history["val_loss"]), strict=True)
    keys = list(keys)
    assert keys[best] == max(keys)
    _, plain = trained([ALL])
    assert_close(notes.steps[-1], plain.steps[-1])


def test_the_next_phase_begins_with_the_averaged_weights_and_an_average_of_its_own():
    begun = []

    class Begun(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            begun.append(self.model.get_weights())

    phases = [averaging(HEAD, kt.EMA(0.9)), averaging(HEAD, kt.EMA(0.9), callbacks=[Begun()])]
    _, notes = trained(phases)
    assert same(begun[0], notes.epochs[1])
    assert_close(notes.epochs[3], ema(notes.steps[2 * STEPS :], 0.9))
    _, notes = trained([averaging(ALL, kt.SWA(2)), averaging(ALL, kt.SWA(2))])
    assert_close(notes.epochs[-1], mean_of(notes.steps[STEPS - 1 :: STEPS][-2:]), rtol=1e-7)


def test_slots_go_on_in_a_phase_that_averages():
    """And into one that doesn't: the phases are one in all that trains."""
    _, whole = trained([dataclasses.replace(HEAD, epochs=4)])
    _, notes = trained([HEAD, averaging(HEAD, kt.EMA(0.9))])
    assert_close(notes.steps[-1], whole.steps[-1])
    assert_close(notes.epochs[-1], ema(whole.steps[2 * STEPS :], 0.9))
    # SWA begins with the second epoch here, so that the next phase begins with raw weights.
    swa = averaging(dataclasses.replace(HEAD, epochs=3, callbacks=[Stops(1)]), kt.SWA(2))
    _, notes = trained([swa, dataclasses.replace(HEAD, epochs=3)])
    assert same(notes.steps[-1], whole.steps[-1])


def test_layers_that_join():
    """The average of what is unfrozen begins with its own first step."""
    gradual = kt.callbacks.GradualUnfreezing(1)
    result, notes = trained([averaging(ALL, kt.EMA(0.9), callbacks=[gradual])])
    model = result.model
    for layer, first in (("predictions", 0), ("block2_conv1", STEPS), ("block1_conv1", 2 * STEPS)):
        (index,) = [i for i, w in enumerate(model.weights) if w.path.endswith(f"{layer}/kernel")]
        (expected,) = ema([[step[index]] for step in notes.steps[first:]], 0.9)
        assert_close([model.get_weights()[index]], [expected])


@pytest.mark.parametrize("average", [kt.EMA(0.8), kt.SWA(2)], ids=str)
@pytest.mark.parametrize("validated", [False, True])
def test_batch_norm_is_measured_anew(average, validated):
    """As the mean over the batches of the epoch, of what the averaged weights before it give."""
    images, labels = tiny_task()
    result, notes = trained(
        [averaging(ALL, average, batch_norm="train", learning_rate=3e-2)],
        (images, labels) if validated else None,
        seed=4,
    )
    epoch = result.best.epoch if validated else 2
    model = result.model
    assert same(model.get_weights(), notes.epochs[epoch])
    norm = model.get_layer("tiny").get_layer("block2_bn")
    backbone = model.get_layer("tiny")
    before = keras.Model(backbone.inputs, backbone.get_layer("block2_conv1").output)
    loader = kt.Loader((images, labels), 8, seed=4)
    parts = [before.predict(loader.batch(epoch, i)[0], verbose=0) for i in range(STEPS)]
    expected = [np.mean([each.mean((0, 1, 2)) for each in parts], axis=0)]
    expected.append(np.mean([each.var((0, 1, 2)) for each in parts], axis=0))
    if epoch or isinstance(average, kt.EMA):
        assert_close(variables(norm)[2:], expected, rtol=1e-4)
    assert norm.momentum == 0.99
    # What trains on has the statistics that training has made.
    _, plain = trained([dataclasses.replace(ALL, batch_norm="train", learning_rate=3e-2)], seed=4)
    assert_close(notes.steps[-1], plain.steps[-1], rtol=1e-4)


def test_on_features_as_on_images():
    """The same with a cache of the frozen part as without, statistics of batch norm included."""
    phase = kt.Phase("last", 3, "from:block2_conv1", 1e-2, batch_norm="train", average=kt.EMA(0.8))
    found = []
    for cache in (True, False):
        keras.utils.set_random_seed(0)
        model = kt.classifier(tiny_backbone(), 3, seed=0)
        result = kt.fine_tune(
            model, tiny_task(), tiny_task(seed=1), [phase], batch_size=8, cache=cache, verbose=0
        )
        found.append((model.get_weights(), result.history["val_loss"]))
    assert_close(found[0][0], found[1][0], rtol=1e-4)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-4)


def test_in_float16():
    """With a LossScaleOptimizer around the one that averages."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        result, notes = trained([averaging(ALL, kt.EMA(0.9), learning_rate=1e-3)])
    finally:
        keras.config.set_dtype_policy("float32")
    moved = [step for before, step in zip([None, *notes.steps], notes.steps, strict=False) if step]
    assert_close(result.model.get_weights(), ema(moved, 0.9), rtol=1e-3)


@pytest.mark.parametrize("average", [kt.EMA(0.8), kt.SWA(2)], ids=str)
def test_a_callback_that_stops(average):
    result, notes = trained([averaging(dataclasses.replace(ALL, epochs=5), average)], None, [Stops(2)])
    assert len(notes.epochs) == 2
    assert same(result.model.get_weights(), notes.epochs[-1])


def test_an_exception_leaves_the_averaged_weights_of_the_last_epoch():
    class FailsError(Exception):
        pass

    class Fails(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if len(notes.steps) > STEPS + 2:
                raise FailsError

    keras.utils.set_random_seed(0)
    model, notes = kt.classifier(tiny_backbone(), 3, seed=0), Notes()
    with pytest.raises(FailsError):
        kt.fine_tune(
            model,
            tiny_task(),
            phases=[averaging(ALL, kt.EMA(0.9))],
            batch_size=8,
            callbacks=[notes, Fails()],
            verbose=0,
        )
    assert same(model.get_weights(), notes.epochs[0])


def test_a_fit_of_ones_own_afterwards_does_not_average():
    result, _ = trained([averaging(HEAD, kt.EMA(0.9))])
    assert not result.model.optimizer.use_ema
    assert result.phases[0].settings["average"] == "EMA(decay=0.9)"


class TestRefused:
    def test_what_is_no_average(self):
        for average in (0.9, 3, "ema", kt.EMA):
            with pytest.raises(
                TypeError, match=r"average must be a kt.EMA, such as .*Received: average="
            ):
                kt.Phase("p", 4, average=average)

    @pytest.mark.parametrize("epochs", [4, 5])
    def test_as_many_epochs_as_the_phase_has(self, epochs):
        with pytest.raises(ValueError, match=r"fewer epochs than the 4 of the phase.*SWA\(epochs="):
            kt.Phase("p", 4, average=kt.SWA(epochs))

    def test_two_averages(self, model, task):
        with pytest.raises(ValueError, match="average must be the only one"):
            kt.Phase("p", 2, optimizer=keras.optimizers.SGD(use_ema=True), average=kt.EMA(0.9))
        swap = keras.callbacks.SwapEMAWeights()
        with pytest.raises(ValueError, match=r"without SwapEMAWeights.*and phase 'head'"):
            kt.fine_tune(model, task, None, [averaging(HEAD, kt.EMA(0.9))], callbacks=[swap])

    def test_data_that_comes_once_for_batch_norm(self, model, task):
        batches = ((task[0], task[1]) for _ in range(9))
        phase = averaging(ALL, kt.EMA(0.9), batch_norm="train")
        before = variables(model)
        with pytest.raises(ValueError, match=r"average of phase 'all' needs .*type generator on 1 dev"):
            kt.fine_tune(model, batches, None, [HEAD, phase])
        assert same(variables(model), before)
