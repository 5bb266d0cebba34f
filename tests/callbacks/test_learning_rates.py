"""The rate of every update, as the optimizer itself has met it in `fit`."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from probe import data, expected, probed, rates
from torch_rates import torch_rates

import keras_transfer as kt
from keras_transfer._lib.keras_private.optimizer import learning_rate_source

BACKEND = keras.backend.backend()
CALLBACKS = {
    "triangular2": lambda: kt.callbacks.CyclicLR(0.0, 1e-2, 7, mode="triangular2"),
    "exp_range": lambda: kt.callbacks.CyclicLR(1e-4, 1e-2, step_size=7, mode="exp_range", gamma=0.99),
    "restarts": lambda: kt.callbacks.WarmRestartsLR(1e-2, cycle_epochs=1, min_lr=1e-6),
    "longer": lambda: kt.callbacks.WarmRestartsLR(1e-2, cycle_steps=7, cycle_mult=2),
    "one cycle": lambda: kt.callbacks.OneCycleLR(1e-2, total_epochs=20),
}
# torch.compile takes seconds for the first step; the others compile unless they are told not to.
COMPILED = ["longer"] if BACKEND == "torch" else list(CALLBACKS)
PLAIN = list(CALLBACKS) if BACKEND == "torch" else ["longer"]
# torch.compile warns of itself and of what Keras caches.
WARNS = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning"),
] * (BACKEND == "torch")
CYCLE = kt.schedules.Cyclic(0.1, 0.9, 4)


def cyclic(**options):
    return kt.callbacks.CyclicLR(0.1, 0.9, 4, **options)


def close(found, wanted, tolerance=1e-6):
    np.testing.assert_allclose(found, wanted, rtol=tolerance)


def batches(count):
    """Data that don't tell how many batches there are."""
    for _ in range(count):
        yield np.ones((1, 1), "float32"), np.ones((1, 1), "float32")


def layerwise(factor):
    return lambda optimizer: kt.optimizers.LayerwiseLR(optimizer, {".*": factor})


class At(keras.callbacks.Callback):
    """Does something at one point of `fit`."""

    def __init__(self, hook, action, when=None):
        super().__init__()

        def act(number=None, logs=None):
            if when is None or number == when:
                action(self.model)

        setattr(self, hook, act)


class TestEveryStep:
    @pytest.mark.usefixtures("quick_torch_compile")
    @pytest.mark.parametrize(
        ("name", "jit"),
        [(name, False) for name in PLAIN] + [pytest.param(name, True, marks=WARNS) for name in COMPILED],
    )
    def test_is_that_of_torch(self, name, jit):
        model = probed(jit_compile=jit)
        history = model.fit(**data(10), epochs=20, callbacks=[CALLBACKS[name]()])
        wanted = np.array(torch_rates(name))
        np.testing.assert_allclose(rates(model), wanted, rtol=1e-6, atol=1e-17)
        close(history.history["learning_rate"], rates(model)[9::10])
        close(history.history["learning_rate"], wanted[9::10])

    def test_of_a_real_optimizer(self):
        # A gradient of 1, so that the weight moves by the rate.
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        model.compile(keras.optimizers.SGD(5.0), lambda y, prediction: prediction)
        weights = [model.get_weights()[0].item()]
        watch = At("on_train_batch_end", lambda model: weights.append(model.get_weights()[0].item()))
        model.fit(**data(8), callbacks=[cyclic(), watch])
        close(-np.diff(weights), expected(CYCLE, range(8)), 1e-5)

    @pytest.mark.parametrize(
        ("wrap", "factor"),
        [
            (layerwise(0.25), 0.25),
            (keras.optimizers.LossScaleOptimizer, 1.0),
            (lambda optimizer: keras.optimizers.LossScaleOptimizer(layerwise(4.0)(optimizer)), 4.0),
        ],
        ids=["layerwise", "loss scale", "both"],
    )
    def test_of_optimizers_around_others(self, wrap, factor):
        model = probed(wrap=wrap)
        history = model.fit(**data(5), epochs=2, callbacks=[cyclic()])
        close(rates(model), expected(CYCLE, range(10), factor))
        close(history.history["learning_rate"], expected(CYCLE, (4, 9)))

    def test_run_eagerly(self):
        model = probed(run_eagerly=True)
        model.fit(**data(10), callbacks=[cyclic()])
        close(rates(model), expected(CYCLE, range(10)))

    @pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses steps_per_execution there")
    def test_inside_an_execution_of_several(self):
        model = probed(steps_per_execution=4)
        history = model.fit(**data(10), epochs=2, callbacks=[cyclic()])
        close(rates(model), expected(CYCLE, range(20)))
        close(history.history["learning_rate"], expected(CYCLE, (9, 19)))

    def test_a_step_is_an_update_under_accumulation(self):
        model = probed(accumulation=3)
        model.fit(**data(6), epochs=3, callbacks=[cyclic()])
        # TensorFlow counts a step more when data end unexpectedly: the count doesn't wait for a batch.
        found = rates(model)
        assert len(found) >= 6
        close(found, expected(CYCLE, range(len(found))))

    def test_epochs_that_are_no_whole_number_of_updates(self):
        model = probed(accumulation=2)
        restarts = kt.callbacks.WarmRestartsLR(0.8, cycle_epochs=1)
        model.fit(**data(5), epochs=4, callbacks=[restarts])
        positions = [(2 * update / 5) % 1 for update in range(10)]
        close(rates(model), [0.4 * (1 + math.cos(math.pi * position)) for position in positions])

    def test_one_cycle_ends_with_the_last_whole_update(self):
        model = probed(accumulation=2)
        model.fit(**data(5), epochs=3, callbacks=[kt.callbacks.OneCycleLR(0.8, total_epochs=3)])
        close(rates(model), expected(kt.schedules.OneCycle(0.8, 7), range(7)))

    def test_parts_of_an_epoch(self):
        model = probed()
        model.fit(**data(10), callbacks=[kt.callbacks.CyclicLR(0.1, 0.9, step_epochs=0.2)])
        close(rates(model), expected(kt.schedules.Cyclic(0.1, 0.9, 2), range(10)))

    @pytest.mark.filterwarnings("ignore:Your input ran out of data")
    def test_data_of_unknown_length(self):
        model = probed()
        model.fit(batches(6), shuffle=False, verbose=0, callbacks=[cyclic()])
        # TensorFlow counts a step more when data end unexpectedly: the count doesn't wait for a batch.
        found = rates(model)
        assert len(found) >= 6
        close(found, expected(CYCLE, range(len(found))))


class TestFurtherFits:
    def test_begin_anew_and_leave_nothing_behind(self):
        model = probed()
        model.fit(**data(3))
        own, source = model.train_function, learning_rate_source(model.optimizer)
        names = [variable.path for variable in model.optimizer.variables]
        callback = cyclic()
        model.fit(**data(3), callbacks=[callback])
        assert model.train_function is own
        assert learning_rate_source(model.optimizer) is source
        assert [variable.path for variable in model.optimizer.variables] == names
        model.fit(**data(3))
        model.fit(**data(3), callbacks=[callback])
        first = expected(CYCLE, range(3))
        close(rates(model), [*[0.5] * 3, *first, *[0.5] * 3, *first])

    def test_one_epoch_each_compile_the_step_once(self):
        model, callback = probed(), cyclic()
        steps = set()
        for epoch in range(3):
            watch = At("on_train_batch_end", lambda model: steps.add(model.train_function))
            model.fit(**data(3), initial_epoch=epoch, epochs=epoch + 1, callbacks=[callback, watch])
        close(rates(model), expected(CYCLE, range(9)))
        assert len(steps) == 1

    def test_go_on_from_a_file_at_any_epoch(self, tmp_path):
        path = tmp_path / "model.keras"
        for stop in (1, 2):
            model = probed(wrap=layerwise(0.5))
            model.fit(**data(5), epochs=stop, callbacks=[cyclic()])
            model.save(path)
            loaded = kt.load_model(path)
            history = loaded.fit(**data(5), initial_epoch=stop, epochs=3, callbacks=[cyclic()])
            close(rates(loaded), expected(CYCLE, range(15), 0.5))
            close(history.history["learning_rate"], expected(CYCLE, range(4, 15, 5))[stop:])

    def test_go_on_with_a_fresh_optimizer(self):
        model = probed()
        restarts = kt.callbacks.WarmRestartsLR(0.8, cycle_epochs=2)
        model.fit(**data(5), initial_epoch=3, epochs=5, callbacks=[restarts])
        close(rates(model), expected(kt.schedules.WarmRestarts(0.8, 10), range(15, 25)))

    def test_begin_later(self):
        model = probed()
        fit = {"initial_epoch": 3, "epochs": 4}
        model.fit(**data(5), **fit, callbacks=[cyclic(first_epoch=2)])
        close(rates(model), expected(CYCLE, range(5, 10)))


class TestTheOptimizerIsAsItWas:
    def test_while_fit_runs(self, tmp_path):
        model = probed()
        source = learning_rate_source(model.optimizer)
        seen = []
        look = At("on_train_batch_end", lambda model: seen.append(learning_rate_source(model.optimizer)))
        path = tmp_path / "model.keras"
        save = keras.callbacks.ModelCheckpoint(path)
        model.fit(**data(2), callbacks=[cyclic(), look, save])
        assert len(seen) == 2
        assert all(found is source for found in seen)
        loaded = keras.models.load_model(path)
        assert float(ops.convert_to_numpy(loaded.optimizer.learning_rate)) == 0.5
        loaded.fit(**data(2))
        close(rates(loaded), [*expected(CYCLE, range(2)), 0.5, 0.5])

    @pytest.mark.parametrize(
        ("hook", "error"),
        [
            ("on_train_batch_begin", RuntimeError),
            ("on_train_batch_end", KeyboardInterrupt),
            ("on_epoch_end", RuntimeError),
        ],
    )
    def test_after_an_error_in_a_callback(self, hook, error):
        def fail(model):
            raise error("stop")

        model = probed()
        source = learning_rate_source(model.optimizer)
        with pytest.raises(error, match="stop"):
            model.fit(**data(2), epochs=2, callbacks=[cyclic(), At(hook, fail, when=1)])
        self.assert_as_it_was(model, source)

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_after_an_error_in_the_data(self, error):
        class Failing(keras.utils.PyDataset):
            def __len__(self):
                return 8

            def __getitem__(self, index):
                if index == 4:
                    raise error("stop")
                return np.ones((1, 1), "float32"), np.ones((1, 1), "float32")

        model = probed()
        model.fit(**data(2))  # on JAX an error in the very first step takes the weights away
        source = learning_rate_source(model.optimizer)
        with pytest.raises(BaseException, match="stop"):
            model.fit(Failing(), shuffle=False, verbose=0, callbacks=[cyclic()])
        self.assert_as_it_was(model, source)

    def test_after_an_error_in_the_step(self):
        model = probed(run_eagerly=True)
        source = learning_rate_source(model.optimizer)
        step, left = model.train_step, iter([True, False])

        def train_step(*arguments):
            if not next(left):
                raise RuntimeError("stop")
            return step(*arguments)

        model.train_step = train_step
        with pytest.raises(RuntimeError, match="stop"):
            model.fit(**data(2), callbacks=[cyclic()])
        assert model.train_step is train_step
        del model.train_step
        model.make_train_function(force=True)
        self.assert_as_it_was(model, source)

    def assert_as_it_was(self, model, source):
        assert learning_rate_source(model.optimizer) is source
        assert float(ops.convert_to_numpy(source)) == 0.5
        done = int(ops.convert_to_numpy(model.optimizer.iterations))
        model.fit(**data(2))
        close(rates(model, done), [0.5, 0.5])
        model.train_on_batch(np.ones((1, 1)), np.ones((1, 1)))
        close(rates(model, done + 2), [0.5])
        model.fit(**data(2), callbacks=[cyclic()])
        close(rates(model, done + 3), expected(CYCLE, range(2)))

    def test_a_rate_set_by_another_callback_counts_afterwards(self):
        def assign(model):
            model.optimizer.learning_rate = 0.25

        model = probed()
        model.fit(**data(3), epochs=2, callbacks=[cyclic(), At("on_epoch_begin", assign, when=1)])
        model.fit(**data(2))
        close(rates(model), [*expected(CYCLE, range(6)), 0.25, 0.25])


class TestOtherCallbacks:
    @pytest.mark.parametrize("before", [True, False])
    def test_may_compile_the_model_again(self, before):
        model = probed()
        again = At("on_epoch_begin", kt.recompile, when=1)
        callbacks = [again, cyclic()] if before else [cyclic(), again]
        model.fit(**data(3), epochs=3, callbacks=callbacks)
        close(rates(model), expected(CYCLE, range(9)))

    def test_may_give_it_an_optimizer_that_counts_anew(self):
        def compile_again(model):
            model.compile(probed().optimizer, "mse")
            model.optimizer.build(model.trainable_variables)

        model, fresh = probed(), At("on_epoch_begin", compile_again, when=1)
        model.fit(**data(3), epochs=3, callbacks=[cyclic(), fresh])
        close(rates(model), expected(CYCLE, range(3, 9)))

    def test_may_train_it(self):
        def train(model):
            model.train_on_batch(np.ones((1, 1)), np.ones((1, 1)))

        model = probed()
        model.fit(**data(3), epochs=2, callbacks=[cyclic(), At("on_epoch_begin", train, when=1)])
        wanted = expected(CYCLE, range(7))
        wanted[3] = 0.5
        close(rates(model), wanted)


class TestErrors:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: kt.callbacks.CyclicLR(0.1, 0.2), "exactly one of step_size and step_epochs"),
            (
                lambda: kt.callbacks.WarmRestartsLR(0.1, 5, cycle_epochs=2),
                "exactly one .* Received: cycle_steps=5, cycle_epochs=2",
            ),
            (lambda: kt.callbacks.OneCycleLR(0.1, 1), "Received: total_steps=1"),
            (lambda: kt.callbacks.OneCycleLR(0.1, total_epochs=3, pct_start=2), "Received: pct_start=2"),
            (lambda: kt.callbacks.CyclicLR(0.2, 0.1, step_epochs=3), "max_lr must be"),
        ],
    )
    def test_of_arguments(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: keras.optimizers.SGD(CYCLE), "compiled with a number .* Received: .* type Cyclic"),
            (lambda: keras.optimizers.SGD(lambda: 0.1), "Received: learning_rate of type function"),
            (
                lambda: keras.optimizers.MultiOptimizer(
                    keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1), {})
                ),
                "one learning rate; .* Received: optimizer of type MultiOptimizer",
            ),
        ],
        ids=["schedule", "function", "several"],
    )
    def test_of_the_optimizer(self, make, message):
        model = probed()
        model.compile(make(), "mse")
        self.assert_raises(model, message, [cyclic()])

    def test_of_a_length_that_nobody_knows(self):
        model = probed()
        epochs = kt.callbacks.CyclicLR(0.1, 0.2, step_epochs=1)
        for callback, options in ((epochs, {}), (cyclic(), {"initial_epoch": 1, "epochs": 2})):
            with pytest.raises(ValueError, match=r"pass steps_per_epoch to fit.*unknown length"):
                model.fit(batches(1), shuffle=False, verbose=0, callbacks=[callback], **options)
        model.fit(batches(2), steps_per_epoch=2, shuffle=False, verbose=0, callbacks=[epochs])
        close(rates(model), [0.1, 0.15])

    def test_of_two_at_once(self):
        model = probed()
        self.assert_raises(model, "another callback already; .* Received: two", [cyclic(), cyclic()])
        model.fit(**data(2))
        close(rates(model), [0.5, 0.5])

    def test_of_a_beginning_that_is_still_to_come(self):
        self.assert_raises(probed(), "Received: first_epoch=3", [cyclic(first_epoch=3)])

    def test_of_a_length_below_one_update(self):
        short = kt.callbacks.CyclicLR(0.1, 0.2, step_epochs=0.1)
        self.assert_raises(probed(), "step_size must be .* at least 1", [short])

    def assert_raises(self, model, message, callbacks):
        before = model.get_weights()[0].item()
        with pytest.raises(ValueError, match=message):
            model.fit(**data(3), callbacks=callbacks)
        assert model.get_weights()[0].item() == before
