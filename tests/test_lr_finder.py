"""A sweep tells the truth about its steps and leaves no trace."""

import contextlib
import itertools
import random
import sys
import threading
import time

import keras
import numpy as np
import pytest
from keras import layers, optimizers
from traces import changes, trace, values

import keras_transfer as kt

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).standard_normal((20, 4)).astype("float32")
Y = (X @ np.array([1.0, -2.0, 0.5, 0.0]))[:, None].astype("float32")
BATCHES = [(X[i : i + 5], Y[i : i + 5]) for i in range(0, 20, 5)]


def network(optimizer, loss="mse", metrics=("mae",), **options):
    """Batch norm, dropout and a weight, compiled; the same at every call."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    x = layers.Dropout(0.3)(layers.BatchNormalization(name="first")(inputs))
    model = keras.Model(inputs, layers.Dense(1, name="last")(x))
    model.compile(optimizer, loss, metrics=list(metrics), **options)
    return model


def line(optimizer, loss="mse", weight=0.0, **options):
    """One weight vector and nothing else, so that every step is known."""
    start = keras.initializers.Constant(weight)
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(1, use_bias=False, kernel_initializer=start)]
    )
    model.compile(optimizer, loss, **options)
    return model


def sweep(model, data=(X, Y), *, min_lr=1e-4, max_lr=1e-1, num_steps=6, batch_size=5, **options):
    options = {"verbose": 0, **options}
    return kt.find_lr(
        model, data, min_lr=min_lr, max_lr=max_lr, num_steps=num_steps, batch_size=batch_size, **options
    )


# --- what a sweep does -----------------------------------------------------------------------------


def known_losses(rates, batches, accumulation=1, start=0.0):
    """Plain gradient descent in float64: the loss of each update, before it."""
    w, source, found = np.zeros((4, 1)) + start, itertools.cycle(batches), []
    for rate in rates:
        losses, gradients = [], []
        for x, y, *weight in itertools.islice(source, accumulation):
            importance = weight[0][:, None] if weight else np.ones_like(y)
            error = x.astype("float64") @ w - y
            losses.append(np.mean(importance * error**2))
            gradients.append(2 * x.T @ (importance * error) / len(x))
        found.append(np.mean(losses))
        w -= rate * np.mean(gradients, axis=0)
    return np.array(found)


WEIGHTS = np.linspace(0.1, 2.0, 20).astype("float32")
WEIGHTED = [(x, y, WEIGHTS[5 * i : 5 * i + 5]) for i, (x, y) in enumerate(BATCHES)]
TRUTHS = {
    "sgd": (lambda: optimizers.SGD(0.7), {}, {}),
    "schedule": (lambda: optimizers.SGD(optimizers.schedules.ExponentialDecay(0.7, 3, 0.5)), {}, {}),
    "linear": (lambda: optimizers.SGD(0.7), {"sweep": "linear"}, {}),
    "accumulation": (
        lambda: optimizers.SGD(0.7, gradient_accumulation_steps=3),
        {},
        {"accumulation": 3},
    ),
    "loss scale": (lambda: optimizers.LossScaleOptimizer(optimizers.SGD(0.7)), {}, {}),
    "loss scale of layers": (
        lambda: optimizers.LossScaleOptimizer(
            kt.optimizers.LayerwiseLR(optimizers.SGD(0.7), {".*": 0.5})
        ),
        {},
        {"multiplier": 0.5},
    ),
    "weights": (lambda: optimizers.SGD(0.7), {"sample_weight": WEIGHTS}, {"batches": WEIGHTED}),
}


@pytest.mark.parametrize("case", TRUTHS)
def test_every_point_is_the_rate_and_the_loss_of_its_own_update(case):
    make, options, expected = TRUTHS[case]
    result = sweep(line(make()), shuffle=False, num_steps=9, stop_factor=1e9, **options)
    assert result.stopped == "end"
    spaced = np.linspace if case == "linear" else np.geomspace
    np.testing.assert_allclose(result.learning_rates, spaced(1e-4, 1e-1, 9), rtol=1e-12)
    rates = result.learning_rates * expected.get("multiplier", 1.0)
    batches, accumulation = expected.get("batches", BATCHES), expected.get("accumulation", 1)
    np.testing.assert_allclose(result.losses, known_losses(rates, batches, accumulation), rtol=2e-5)


@pytest.mark.parametrize("rate", [0.01, optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)])
def test_every_sweep_and_fit_has_a_step_of_its_own(rate):
    # With optimizers of one structure JAX takes the step made for another, if it thinks them equal.
    model = line(optimizers.SGD(rate))
    rates = [0.01 if isinstance(rate, float) else 0.01 * 0.5 ** (i / 3) for i in range(16)]
    first = known_losses(rates, BATCHES)
    options = {"batch_size": 5, "shuffle": False, "verbose": 0}
    for epoch in range(4):
        for max_lr in (0.1, 0.05):
            start = model.get_weights()[0]
            result = sweep(model, max_lr=max_lr, shuffle=False)
            wanted = known_losses(np.geomspace(1e-4, max_lr, 6), BATCHES, start=start)
            np.testing.assert_allclose(result.losses, wanted, rtol=2e-5)
        loss = model.fit(X, Y, **options).history["loss"][0]
        assert loss == pytest.approx(np.mean(first[4 * epoch : 4 * epoch + 4]), rel=2e-5)


def test_losses_are_smoothed_with_bias_correction():
    result = sweep(line("sgd"), smoothing=0.6, num_steps=5)
    weights = [0.4 * 0.6 ** np.arange(n, -1, -1) for n in range(5)]
    wanted = [w @ result.losses[: len(w)] / w.sum() for w in weights]
    np.testing.assert_allclose(result.smoothed_losses, wanted)


def test_layers_keep_the_ratios_of_their_rates():
    inputs = keras.Input((4,))
    zero = {"kernel_initializer": "zeros", "use_bias": False}
    both = [layers.Dense(1, name=name, **zero)(inputs) for name in ("slow", "fast")]
    model = keras.Model(inputs, layers.Add()(both))
    model.compile(kt.optimizers.LayerwiseLR(optimizers.SGD(0.7), {"slow/.*": 0.25}), "mse")
    result = sweep(model, shuffle=False)
    # Two weights of one gradient, at the rate and at a quarter of it.
    wanted = known_losses(1.25 * result.learning_rates, BATCHES)
    np.testing.assert_allclose(result.losses, wanted, rtol=2e-5)


@pytest.mark.parametrize("outputs", ["list", "dict"])
def test_several_outputs_give_their_sum(outputs):
    inputs = keras.Input((4,))
    zero = {"kernel_initializer": "zeros", "use_bias": False}
    heads = {
        "a": layers.Dense(1, name="a", **zero)(inputs),
        "b": layers.Dense(1, name="b", **zero)(inputs),
    }
    model = keras.Model(inputs, heads if outputs == "dict" else list(heads.values()))
    targets = {"a": Y, "b": 2 * Y} if outputs == "dict" else [Y, 2 * Y]
    losses, weights = {"a": "mse", "b": "mse"}, {"a": 1.0, "b": 0.5}
    if outputs == "list":
        losses, weights = list(losses.values()), list(weights.values())
    model.compile("sgd", losses, loss_weights=weights)
    before = trace(model)
    result = sweep(model, (X, targets), batch_size=20, max_lr=1e-3)
    assert result.losses[0] == pytest.approx(np.mean(Y**2) + 0.5 * np.mean((2 * Y) ** 2), rel=1e-5)
    assert result.losses[-1] < result.losses[0]
    assert changes(before, trace(model)) == []


def test_a_training_step_of_its_own_with_a_running_loss():
    class Own(keras.Model):
        def train_step(self, *args):
            return super().train_step(*args)

    inputs = keras.Input((4,))
    outputs = layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs)
    model = Own(inputs, outputs)
    model.compile(optimizers.SGD(0.7), "mse")
    result = sweep(model, shuffle=False, num_steps=6)
    np.testing.assert_allclose(result.losses, known_losses(result.learning_rates, BATCHES), rtol=2e-5)


def test_a_training_step_that_returns_no_loss_is_an_error():
    class Own(keras.Model):
        def train_step(self, *args):
            found = super().train_step(*args)
            # On JAX it returns the state, too.
            return ({"error": 1.0}, found[1]) if isinstance(found, tuple) else {"error": 1.0}

    inputs = keras.Input((4,))
    model = Own(inputs, layers.Dense(1)(inputs))
    model.compile(optimizers.SGD(0.7), "mse")
    message = r"the training step of the model must return its 'loss'\. Received: \['error'\]"
    with pytest.raises(ValueError, match=message):
        sweep(model, shuffle=False)


def test_several_steps_an_execution_are_taken_one_by_one():
    options = {} if BACKEND == "torch" else {"steps_per_execution": 3}  # which torch refuses
    model = line(optimizers.SGD(0.7), **options)
    result = sweep(model, shuffle=False)
    np.testing.assert_allclose(result.losses, known_losses(result.learning_rates, BATCHES), rtol=2e-5)
    assert model.steps_per_execution == options.get("steps_per_execution", 1)


# --- when it ends ----------------------------------------------------------------------------------


def test_it_stops_where_the_loss_diverges():
    # Of a quadratic the largest stable rate is 2 over the largest curvature.
    stable = 2 / np.linalg.eigvalsh(2 * X.T @ X / len(X)).max()
    model = line(optimizers.SGD(0.7))
    result = sweep(model, batch_size=20, min_lr=1e-4, max_lr=1e3, num_steps=60, smoothing=0.5)
    assert result.stopped == "diverged"
    assert stable < result.learning_rates[-1] < 30 * stable
    for method in ("valley", "steepest", "minimum"):
        assert stable / 500 < result.suggest(method) < stable
    after = model.get_weights()[0]
    assert np.array_equal(after, np.zeros((4, 1)))


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_it_stops_where_the_loss_is_not_finite(bad):
    targets = Y.copy()
    targets[12] = bad
    result = sweep(line("sgd"), (X, targets), shuffle=False)
    assert result.stopped == "not finite"
    assert len(result.losses) == len(result.learning_rates) == 2  # the third batch is bad
    assert np.isfinite(result.losses).all()


def test_a_negative_loss_may_fall():
    def negative(y_true, y_pred):
        return keras.ops.square(y_true - y_pred) - 100.0

    result = sweep(line(optimizers.SGD(0.7), negative), num_steps=8)
    assert (result.stopped, len(result.losses)) == ("end", 8)


def test_a_step_left_out_by_loss_scaling_takes_its_rate_along():
    # The scale is halved until gradients of 1e9 are finite; until then the weights stay.
    start = np.full((4, 1), 1e9)
    scaled = optimizers.LossScaleOptimizer(optimizers.SGD(0.7), initial_scale=2.0**100)
    result = sweep(line(scaled, weight=1e9), shuffle=False, num_steps=9, min_lr=1e-3)
    assert result.stopped == "end"
    skipped = 0
    for skips in range(1, 9):
        # What the losses are if the steps after the first `skips` are taken, each at its own rate.
        w, losses = start.copy(), []
        for index, (x, y) in enumerate(itertools.islice(itertools.cycle(BATCHES), 9)):
            error = x.astype("float64") @ w - y
            losses.append(np.mean(error**2))
            if index >= skips:
                w -= result.learning_rates[index] * 2 * x.T @ error / len(x)
        if np.allclose(result.losses, losses, rtol=1e-4):
            skipped = skips
    assert skipped > 0


# --- no trace --------------------------------------------------------------------------------------

OPTIMIZERS = {
    "adamw": lambda: optimizers.AdamW(0.01, weight_decay=0.1),
    "layers": lambda: kt.optimizers.LayerwiseLR(optimizers.AdamW(0.01), {"first/.*": 0.25}),
    "schedule": lambda: optimizers.Adam(optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)),
    "loss scale": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.01)),
    "ema": lambda: optimizers.SGD(0.01, momentum=0.9, use_ema=True, ema_overwrite_frequency=3),
}


def fitted(model):
    history = model.fit(X, Y, batch_size=5, epochs=2, verbose=0).history
    return history, values([*model.variables, *model.optimizer.variables])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fit_is_the_same_after_a_sweep(name):
    rounds = 2 if name == "adamw" else 1  # a fresh model, and once a fitted one too
    alone = network(OPTIMIZERS[name]())
    wanted = [fitted(alone) for _ in range(rounds)]
    model = network(OPTIMIZERS[name]())
    for history, variables in wanted:
        before = trace(model)
        assert sweep(model, max_lr=10.0).losses.size
        assert changes(before, trace(model)) == []
        found, after = fitted(model)
        assert found == history
        assert all(np.array_equal(a, b) for a, b in zip(after, variables, strict=True))


@pytest.fixture(scope="module")
def once_fitted():
    model = network(optimizers.AdamW(0.01))
    fitted(model)
    return model


class Broken(keras.utils.PyDataset):
    """Raises at the third batch that is read of it in all."""

    def __init__(self, error):
        super().__init__()
        self.error, self.read = error, 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        np.random.rand(3)  # noqa: NPY002
        random.random()
        self.read += 1
        if self.read == 3:
            raise self.error
        return BATCHES[index]


@pytest.mark.parametrize("error", [RuntimeError("from the data"), KeyboardInterrupt()])
def test_no_trace_after_an_exception_in_the_data(once_fitted, error):
    data = Broken(error)
    before = trace(once_fitted)
    # TensorFlow reads in a thread of its own, where an exception becomes one of its own errors.
    with pytest.raises(BaseException, match="from the data" if str(error) else None) as caught:
        sweep(once_fitted, data)
    assert isinstance(caught.value, type(error)) or BACKEND == "tensorflow"
    assert changes(before, trace(once_fitted)) == []
    assert data.read == 0  # a copy was read


ERRORS = [RuntimeError("in the step"), KeyboardInterrupt("in the step")]


@pytest.mark.parametrize("error", ERRORS)
def test_no_trace_after_an_exception_in_the_first_compiled_step(error):
    class Fails(keras.Model):
        def train_step(self, *args):
            super().train_step(*args)
            raise error

    inputs = keras.Input((4,))
    model = Fails(inputs, layers.Dense(1)(inputs))
    model.compile("adam", "mse")
    before = trace(model)
    with pytest.raises(type(error), match="in the step"):
        sweep(model)
    assert changes(before, trace(model)) == []  # on JAX the weights are still there


@pytest.mark.parametrize("error", ERRORS)
def test_no_trace_after_an_exception_in_a_later_step(error):
    calls = itertools.count()

    def loss(y_true, y_pred):
        if next(calls) == 4:
            raise error
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)

    model = line("sgd", loss, run_eagerly=True)
    before = trace(model)
    with pytest.raises(type(error), match="in the step"):
        sweep(model)
    assert changes(before, trace(model)) == []


def test_no_trace_after_divergence_and_twice_in_a_row(once_fitted):
    before = trace(once_fitted)
    options = {"min_lr": 1e-3, "max_lr": 1e6, "num_steps": 30, "smoothing": 0.0}
    first = sweep(once_fitted, **options)
    assert first.stopped == "diverged"
    second = sweep(once_fitted, **options)
    assert np.array_equal(first.losses, second.losses)
    assert changes(before, trace(once_fitted)) == []


def test_a_suggestion_can_be_applied():
    model = line(optimizers.SGD(1e-5))
    result = sweep(model, num_steps=40, batch_size=20)
    model.optimizer.learning_rate = result.suggest()
    history = model.fit(X, Y, batch_size=20, epochs=60, verbose=0).history
    assert history["loss"][-1] < 0.6 * history["loss"][0]


def test_metrics_are_not_even_built():
    model = network("adam")
    sweep(model, num_steps=5)
    assert not model.optimizer.built
    assert [metric.name for metric in model.metrics] == ["loss", "compile_metrics"]
    assert not model.metrics[1].built


# --- all kinds of data -----------------------------------------------------------------------------


class Shuffling(keras.utils.PyDataset):
    """Has an order of its own that changes with each epoch."""

    def __init__(self):
        super().__init__()
        self.rng, self.order = np.random.default_rng(3), np.arange(4)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return BATCHES[self.order[index]]

    def on_epoch_end(self):
        self.rng.shuffle(self.order)


def torch_data():
    torch = pytest.importorskip("torch")
    pairs = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    generator = torch.Generator().manual_seed(3)
    return torch.utils.data.DataLoader(pairs, batch_size=5, shuffle=True, generator=generator)


def tf_data():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(5)


def grain_data():
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(list(zip(X, Y, strict=True))).seed(1).shuffle().batch(5)


DATA = {
    "arrays": lambda: (X, Y),
    "loader": lambda: kt.Loader((X[:, None, None], Y[:, 0]), 5),
    "PyDataset": Shuffling,
    "torch": torch_data,
    "tf.data": tf_data,
    "grain": grain_data,
    "function": lambda: lambda: iter(BATCHES),
}


@pytest.mark.parametrize("kind", DATA)
def test_data_of_every_kind_is_read_again_and_left_as_it_was(kind):
    """Six steps of four batches; what the data gives afterwards is what it would have given."""

    def passes(x):
        numpy = keras.ops.convert_to_numpy
        rounds = []
        for _ in range(2):
            if isinstance(x, Shuffling):
                x.on_epoch_end()
            rounds += [[numpy(part) for part in batch] for batch in (x() if callable(x) else x)]
        return [part for batch in rounds for part in batch]

    inputs = keras.Input(X.shape[1:] if kind != "loader" else (1, 1, 4))
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(inputs)))
    model.compile("sgd", "mse", run_eagerly=True)
    data = DATA[kind]()
    before = trace(model)
    result = sweep(model, data)
    assert (result.stopped, len(result.losses)) == ("end", 6)
    assert len(set(result.losses[:4])) == 4
    assert changes(before, trace(model)) == []
    if kind == "loader":
        assert data.epoch == 0
    if kind != "arrays":
        wanted = passes(DATA[kind]())
        assert all(np.array_equal(a, b) for a, b in zip(passes(data), wanted, strict=True))


class Slow(keras.utils.PyDataset):
    """Takes its time for each batch, and draws numbers before and after."""

    reads = 0

    def __init__(self):
        super().__init__(workers=2)

    def __len__(self):
        return 50

    def __getitem__(self, index):
        random.random()
        time.sleep(0.02)
        type(self).reads += 1
        np.random.rand(3)  # noqa: NPY002
        return BATCHES[index % 4]


@pytest.mark.parametrize("kind", ["PyDataset", "function"])
@pytest.mark.parametrize("interrupted", [False, True])
def test_nothing_reads_on_when_it_is_over(kind, interrupted):
    calls = itertools.count()

    def loss(y_true, y_pred):
        if interrupted and next(calls) == 3:
            raise KeyboardInterrupt
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)

    data = Slow()
    model = line("sgd", loss, run_eagerly=True)
    before, threads = trace(model), threading.active_count()
    with pytest.raises(KeyboardInterrupt) if interrupted else contextlib.nullcontext() as _caught:
        sweep(model, data if kind == "PyDataset" else lambda: (data[i] for i in range(50)))
    # While the exception is held, so are the iterators of `fit`.
    reads = Slow.reads
    time.sleep(0.1)
    assert Slow.reads == reads
    assert changes(before, trace(model)) == []
    assert threading.active_count() <= threads


@pytest.mark.parametrize("data", [iter(BATCHES), (batch for batch in BATCHES)])
def test_one_shot_iterators_are_refused(data, once_fitted):
    before = trace(once_fitted)
    with pytest.raises(TypeError, match=r"read again.*Pass the function.*Received: data of type"):
        sweep(once_fitted, data)
    assert len(list(data)) == 4
    assert changes(before, trace(once_fitted)) == []


def test_data_that_cannot_be_copied_is_refused(once_fitted):
    data = Shuffling()
    data.handle = sys.modules  # as a file or a lock
    with pytest.raises(TypeError, match="give it a __deepcopy__. Received: data of type Shuffling"):
        sweep(once_fitted, data)


def test_a_function_without_batches_is_an_error(once_fitted):
    before = trace(once_fitted)
    with pytest.raises(ValueError, match="at least one batch"):
        sweep(once_fitted, lambda: iter(()))
    assert changes(before, trace(once_fitted)) == []


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras has errors of its own on the others")
def test_data_without_batches_is_an_error():
    tf = pytest.importorskip("tensorflow")
    with pytest.raises(ValueError, match="data must have at least one batch"):
        sweep(line("sgd"), tf.data.Dataset.from_tensor_slices((X, Y)).batch(5).take(0))


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [(X,), (X, Y, WEIGHTS)])
def test_a_tuple_is_x_and_y(data, once_fitted):
    before = trace(once_fitted)
    message = rf"data must be \(x, y\), if it is a tuple. Received: data, a tuple of {len(data)}"
    with pytest.raises(ValueError, match=message):
        sweep(once_fitted, data)
    assert changes(before, trace(once_fitted)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"min_lr": 1.0, "max_lr": 1.0},
            r"min_lr must be below max_lr.*Received: min_lr=1.0, max_lr=1.0",
        ),
        ({"min_lr": 2.0, "max_lr": 1.0}, "min_lr must be below max_lr"),
        ({"min_lr": 0.0}, "min_lr must be a finite number above 0. Received: min_lr=0.0"),
        ({"num_steps": 4}, "num_steps must be an integer of at least 5. Received: num_steps=4"),
        ({"sweep": "lineal"}, "'exponential' or 'linear'; did you mean linear?"),
        ({"smoothing": 1.0}, r"smoothing must be a number in \[0, 1\). Received: smoothing=1.0"),
        ({"stop_factor": 1.0}, "stop_factor must be a number above 1. Received: stop_factor=1.0"),
    ],
)
def test_arguments_without_sense(once_fitted, options, message):
    before = trace(once_fitted)
    with pytest.raises(ValueError, match=message):
        sweep(once_fitted, **options)
    assert changes(before, trace(once_fitted)) == []


def test_models_that_cannot_be_swept():
    with pytest.raises(TypeError, match="model must be a keras.Model. Received: model='model'"):
        sweep("model")
    model = line("sgd")
    model.layers[0].trainable = False
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="has nothing to train"):
        sweep(model)
    bare = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    with pytest.raises(ValueError, match=r"is not compiled with an optimizer; call model.compile"):
        sweep(bare)
    bare = keras.Sequential([layers.Dense(1)])
    bare.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"is not built; call model.build"):
        sweep(bare)


@pytest.mark.parametrize("as_loader", [False, True])
def test_class_weights_are_those_of_classes(as_loader):
    images, labels = np.ones((8, 2, 2, 1), "float32"), np.array([0] * 6 + [1] * 2)
    images[labels == 1] *= 2
    ends = [layers.Flatten(), layers.Dense(2, activation="softmax")]
    model = keras.Sequential([keras.Input((2, 2, 1)), *ends])
    model.compile("sgd", "sparse_categorical_crossentropy")
    data = (images, labels)
    if as_loader:
        data = kt.Loader(data, 4, class_names=["few", "many"])

    def losses(class_weight):
        options = {"num_steps": 6, "batch_size": 4, "class_weight": class_weight, "verbose": 0}
        return kt.find_lr(model, data, shuffle=False, **options).losses

    np.testing.assert_array_equal(losses("balanced"), losses({0: 8 / 12, 1: 2.0}))
    assert not np.array_equal(losses("balanced"), losses(None))
    with pytest.raises(ValueError, match="'man' is none"):
        losses({"man": 2.0})
    if as_loader:
        np.testing.assert_array_equal(losses({"many": 2.0}), losses({1: 2.0}))


def test_an_optimizer_without_a_rate_is_refused():
    several = optimizers.MultiOptimizer(optimizers.OptimizerMap(optimizers.SGD(0.1)))
    model = line(several)
    attributes = dict(vars(model))
    with pytest.raises(
        ValueError, match="one learning rate among its settings. Received: a MultiOptimizer"
    ):
        sweep(model)
    assert vars(model) == attributes


def test_a_guarded_model_that_must_be_recompiled_says_so():
    model = line("sgd")
    model.add(layers.Dense(1))
    model.compile("sgd", "mse")
    kt.freeze_to(model, -1)
    before = trace(model)
    with pytest.raises(ValueError, match=r"has changed since it was compiled; call kt.recompile"):
        sweep(model)
    assert changes(before, trace(model)) == []


def test_progress(capsys):
    model = line("sgd", run_eagerly=True)
    sweep(model, num_steps=5, verbose=2)
    shown = capsys.readouterr().out
    assert "5/5" in shown
    assert "learning_rate: 0.1000" in shown
    sweep(model, num_steps=5)
    assert capsys.readouterr().out == ""
