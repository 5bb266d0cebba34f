"""Gradual unfreezing: one fit that equals several, on every backend."""

import keras
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer._lib.keras_private.optimizer import iteration_variable

RNG = np.random.default_rng(0)
X = RNG.standard_normal((16, 2, 2, 1), "float32")
Y = np.arange(16) % 3


def network():
    """Return a classifier of three groups, one of them with batch norm."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((2, 2, 1))
    x = keras.layers.Flatten()(inputs)
    x = keras.layers.Dense(5, activation="tanh", name="block1_dense")(x)
    x = keras.layers.Dense(5, name="block2_dense")(x)
    x = keras.layers.BatchNormalization(name="block2_bn")(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="predictions")(x))


def compiled(optimizer=None, **options):
    model = network()
    options = {"metrics": ["accuracy"], **options}
    model.compile(optimizer or keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", **options)
    return model


def fit(model, epochs, first=0, callbacks=(), **options):
    history = model.fit(
        *(X, Y),
        batch_size=8,
        initial_epoch=first,
        epochs=epochs,
        shuffle=False,
        callbacks=list(callbacks),
        verbose=0,
        **options,
    )
    return history.history


def values(model):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def in_separate_fits(model, opened, batch_norm="freeze"):
    """Fit an epoch for each entry of `opened`, with so many groups."""
    history = {}
    now = None
    for epoch, groups in enumerate(opened):
        if groups != now:
            kt.freeze_to(model, -groups, batch_norm=batch_norm)
            kt.recompile(model)
            now = groups
        for name, entries in fit(model, epoch + 1, epoch, validation_data=(X, Y)).items():
            history.setdefault(name, []).extend(entries)
    return history


class Trains(keras.callbacks.Callback):
    """Records what trains in each epoch."""

    def __init__(self):
        super().__init__()
        self.layers = []

    def on_epoch_end(self, epoch, logs=None):
        table = kt.trainable_table(self.model)
        self.layers.append([row.layer for row in table if row.trainable])


HEAD = ["predictions"]
SECOND = ["block2_dense", *HEAD]
ALL = ["block1_dense", *SECOND]


def test_equals_separate_fits():
    """With all that an optimizer can know: a schedule, multipliers, moments and a product of all."""

    def optimizer():
        rate = keras.optimizers.schedules.ExponentialDecay(1e-2, 3, 0.7)
        nadam = keras.optimizers.Nadam(rate, weight_decay=0.1)
        return kt.optimizers.LayerwiseLR(nadam, kt.multipliers.geometric(network()))

    separate, ours = compiled(optimizer()), compiled(optimizer())
    separate.optimizer.build(separate.trainable_variables)
    gradual = kt.callbacks.GradualUnfreezing(2, batch_norm="train")
    history = fit(ours, 5, callbacks=[gradual], validation_data=(X, Y))
    assert history == in_separate_fits(separate, [1, 1, 2, 2, 3], "train")
    assert_same(values(ours), values(separate))
    assert_same(values(ours.optimizer), values(separate.optimizer))


@pytest.mark.parametrize(
    ("every", "first_epoch", "begin", "expected"),
    [
        (2, 0, 0, [HEAD, HEAD, SECOND, SECOND]),
        (1, 0, 1, [SECOND, ALL, ALL]),
        (1, 2, 1, [HEAD, HEAD, SECOND]),
    ],
)
def test_epochs_count(every, first_epoch, begin, expected):
    model = compiled(run_eagerly=True)
    trains = Trains()
    gradual = kt.callbacks.GradualUnfreezing(every, first_epoch=first_epoch)
    fit(model, 4, begin, [gradual, trains])
    assert trains.layers == expected


def test_a_fit_that_was_stopped_goes_on(tmp_path):
    whole, parts = compiled(), compiled()
    fit(whole, 4, callbacks=[kt.callbacks.GradualUnfreezing()])
    fit(parts, 2, callbacks=[kt.callbacks.GradualUnfreezing()])
    parts.save(tmp_path / "model.keras")
    parts = kt.load_model(tmp_path / "model.keras")
    fit(parts, 4, 2, [kt.callbacks.GradualUnfreezing()])
    assert_same(values(parts), values(whole))


def test_one_callback_serves_several_fits():
    first, second = compiled(run_eagerly=True), compiled(run_eagerly=True)
    gradual, trains = kt.callbacks.GradualUnfreezing(), Trains()
    fit(first, 1, callbacks=[gradual])
    fit(second, 1, callbacks=[gradual, trains])
    assert trains.layers == [HEAD]
    assert_same(values(first), values(second))


def test_groups_of_one_s_own():
    trains = Trains()
    gradual = kt.callbacks.GradualUnfreezing(split=lambda layer: "all")
    fit(compiled(run_eagerly=True), 3, callbacks=[gradual, trains])
    assert trains.layers == [HEAD, ALL, ALL]


def test_multipliers_of_what_joins_later():
    model = compiled(kt.optimizers.LayerwiseLR("sgd", {"block1_.*": 0.0, "predictions/.*": 2.0}))
    before = values(model)
    fit(model, 3, callbacks=[kt.callbacks.GradualUnfreezing()])
    moved = [not np.array_equal(*pair) for pair in zip(before, values(model), strict=True)]
    assert moved == [v.path.startswith(("block2_dense", "predictions")) for v in model.variables]


def test_other_callbacks_and_accumulation_go_on():
    """Steps are counted through, an epoch's averages are whole, and a stop stays a stop."""
    optimizer = keras.optimizers.SGD(1e-2, gradient_accumulation_steps=2)
    model = compiled(optimizer, run_eagerly=True)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    stop, trains = Stop(), Trains()
    history = fit(model, 4, callbacks=[stop, kt.callbacks.GradualUnfreezing(), trains])
    assert trains.layers == [HEAD, SECOND]
    assert set(history) == {"loss", "accuracy"}
    # Two batches of the first epoch, one of the second.
    assert int(keras.ops.convert_to_numpy(iteration_variable(model.optimizer))) == 3
    assert model.history.history == history


def test_beside_a_callback_that_drives_the_rate():
    """As with the same schedule in the optimizer, whichever of the two comes first."""
    rates = {"max_lr": 1e-2, "cycle_steps": 5}
    told = compiled(keras.optimizers.Adam(kt.schedules.WarmRestarts(**rates)))
    fit(told, 3, callbacks=[kt.callbacks.GradualUnfreezing()])
    for order in (1, -1):
        driven = compiled(keras.optimizers.Adam(0.5))
        callbacks = [kt.callbacks.WarmRestartsLR(**rates), kt.callbacks.GradualUnfreezing()]
        fit(driven, 3, callbacks=callbacks[::order])
        assert_same(values(driven), values(told))
        assert float(driven.optimizer.learning_rate) == 0.5


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch compiles no step")
def test_a_group_costs_one_compilation():
    """Metrics that are built anew would cost another."""
    traced, counts = [], []

    def loss(y_true, y_pred):
        traced.append(None)
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            counts.append(len(traced))

    model = network()
    model.compile("adam", loss, metrics=["accuracy"])
    fit(model, 4, callbacks=[kt.callbacks.GradualUnfreezing(), Count()])
    assert np.diff(counts).tolist() == [1, 1, 0]


def test_predictions_are_of_the_new_weights():
    """What was traced for `predict` before belongs to another division of the variables."""
    model = compiled()
    model.predict(X, verbose=0)
    fit(model, 3, callbacks=[kt.callbacks.GradualUnfreezing()])
    twin = network()
    twin.set_weights(model.get_weights())
    np.testing.assert_allclose(model.predict(X, verbose=0), twin.predict(X, verbose=0), rtol=1e-6)


PHASE = {"train": "all", "learning_rate": 1e-2}


class TestInFineTune:
    def test_equals_phases(self):
        """As phases that open a group each, whose optimizer goes on."""
        ours, phased = network(), network()
        gradual, trains = kt.callbacks.GradualUnfreezing(), Trains()
        phase = kt.Phase("gradual", 3, **PHASE, callbacks=[gradual, trains])
        result = kt.fine_tune(ours, (X, Y), phases=[phase], batch_size=8, verbose=0)
        phases = [kt.Phase(f"{n}", 1, train=-n, learning_rate=1e-2) for n in (1, 2, 3)]
        # With such a callback all is computed by Keras, so the features of the others are, too.
        cache = kt.CacheOptions(runtime="keras")
        expected = kt.fine_tune(phased, (X, Y), phases=phases, batch_size=8, cache=cache, verbose=0)
        assert trains.layers == [HEAD, SECOND, ALL]
        assert result.history == expected.history
        assert_same(values(ours), values(phased))

    def test_best_weights_bring_their_own_optimizer(self):
        """The next phase goes on from the best epoch's slots, which are those of other variables."""
        model = network()
        gradual = kt.Phase("gradual", 3, **PHASE, callbacks=[kt.callbacks.GradualUnfreezing()])
        head = kt.Phase("head", 1, learning_rate=1e-3)
        result = kt.fine_tune(model, (X, Y), (X, Y), [gradual, head], batch_size=8, verbose=0)
        assert len(result.history["val_loss"]) == 4

    @pytest.mark.parametrize("batch", [0, 1])
    def test_an_error_after_an_unfreezing_loses_nothing(self, batch):
        """In the data, which JAX asks for when the step has been given the weights' memory."""
        model = network()
        flags = [layer.trainable for layer in model.layers]
        epochs = []
        served = []

        class Keep(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                assert self.model.optimizer is not None
                epochs.append(values(model))
                served.clear()

        def fail(image, rng):
            served.append(image)
            if len(epochs) == 2 and len(served) > 8 * batch:
                raise RuntimeError("broken")
            return image

        callbacks = [kt.callbacks.GradualUnfreezing(), Keep()]
        phase = kt.Phase("gradual", 3, **PHASE, callbacks=callbacks)
        data = kt.Loader((X, Y), 8, augmentation=fail, num_threads=0)  # read when it is asked for
        with pytest.raises(Exception, match="broken"):  # TensorFlow has its own class for it
            kt.fine_tune(model, data, phases=[phase], verbose=0)
        assert len(epochs) == 2
        assert_same(values(model), epochs[-1])
        assert [layer.trainable for layer in model.layers] == flags


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"batch_norm": "no"}, "batch_norm must be"),
            ({"split": ["block3.*"]}, "split must match layers"),
        ],
    )
    def test_when_training_begins(self, arguments, message):
        self.assert_refused(compiled(run_eagerly=True), message, **arguments)

    def test_an_optimizer_of_many(self):
        parts = keras.optimizers.OptimizerMap(keras.optimizers.SGD())
        model = compiled(keras.optimizers.MultiOptimizer(parts), run_eagerly=True)
        self.assert_refused(model, "MultiOptimizer")

    def test_a_subclassed_model(self):
        class Subclassed(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = keras.layers.Dense(3)

            def call(self, inputs):
                return self.dense(inputs[:, :, 0, 0])

        model = Subclassed()
        model(X)
        model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
        self.assert_refused(model, "is subclassed")

    @staticmethod
    def assert_refused(model, message, **arguments):
        before, optimizer = values(model), model.optimizer
        flags = [layer.trainable for layer in model.layers]
        with pytest.raises((ValueError, TypeError), match=message):
            fit(model, 2, callbacks=[kt.callbacks.GradualUnfreezing(**arguments)])
        assert_same(values(model), before)
        assert model.optimizer is optimizer
        assert [layer.trainable for layer in model.layers] == flags
