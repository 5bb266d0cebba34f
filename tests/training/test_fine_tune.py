import dataclasses
import json
import os

import keras
import numpy as np
import pytest
from tiny import same, tiny_backbone, tiny_task, variables

import keras_transfer as kt
from keras_transfer.data import Compose, mixup
from keras_transfer.layers.freezing import trainable_state
from keras_transfer.training.state import RunState

HEAD = kt.Phase("head", 2, learning_rate=1e-2)
ALL = kt.Phase("all", 2, train="all", learning_rate=1e-3)


def decay(rate, steps_per_epoch):
    return keras.optimizers.schedules.ExponentialDecay(rate, steps_per_epoch, 0.5)


class Raises(keras.callbacks.Callback):
    """Raises an error at one batch of one epoch."""

    def __init__(self, error, epoch=0, batch=0):
        super().__init__()
        self.error, self.epoch, self.batch, self.now = error, epoch, batch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch):
            raise self.error


def state_of(model):
    return (
        variables(model),
        [flag for _, flag in trainable_state(model)],
        model.compiled,
        getattr(model, "optimizer", None),
    )


def assert_unharmed(model, before, images):
    weights, flags, compiled, optimizer = before
    assert same(variables(model), weights)
    assert [flag for _, flag in trainable_state(model)] == flags
    assert model.compiled == compiled
    assert getattr(model, "optimizer", None) is optimizer
    assert np.isfinite(model.predict(images, verbose=0)).all()  # the weights are really there


def test_learns_and_reports(model, task):
    validation = tiny_task(seed=1)
    phases = [
        kt.Phase("head", 3, learning_rate=3e-2),
        kt.Phase("block2", 8, train="from:block2_conv1", learning_rate=1e-2),
    ]
    result = kt.fine_tune(model, task, validation, phases, batch_size=8, verbose=0)
    assert result.model is model
    assert set(result.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(len(values) == 11 for values in result.history.values())
    assert [(p.name, p.first_epoch, p.epochs) for p in result.phases] == [
        ("head", 0, 3),
        ("block2", 3, 8),
    ]
    scores = model.evaluate(*validation, verbose=0, return_dict=True)
    assert scores["accuracy"] > 0.8
    # The kept weights are those of the best epoch.
    assert scores["accuracy"] == pytest.approx(max(result.history["val_accuracy"]))
    assert scores["accuracy"] == pytest.approx(result.best.metrics["val_accuracy"])
    assert scores["loss"] == pytest.approx(result.best.metrics["val_loss"], rel=1e-4)


def test_only_the_phase_trains(model, task):
    before = {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.variables}

    def moved():
        return {
            v.path.split("/")[-2]
            for v in model.variables
            if not np.array_equal(before[v.path], keras.ops.convert_to_numpy(v))
        }

    kt.fine_tune(model, task, phases=[HEAD], verbose=0)
    assert moved() == {"predictions"}
    kt.fine_tune(model, task, phases=[kt.Phase("b", 1, train="from:block2_conv1")], verbose=0)
    assert moved() == {"predictions", "block2_conv1"}
    kt.fine_tune(model, task, phases=[kt.Phase("b", 1, train="all", batch_norm="train")], verbose=0)
    assert moved() == {"predictions", "block2_conv1", "block1_conv1", "block2_bn"}


def test_equals_plain_keras(model, task):
    """Without validation a phase is a plain `fit` on the logits, in the loader's order.

    Its optimizer is of another kind than that of the phase before, so that it starts afresh.
    """
    twin = kt.classifier(tiny_backbone(), 3, seed=0)
    twin.set_weights(model.get_weights())
    everything = dataclasses.replace(ALL, optimizer="rmsprop")
    kt.fine_tune(model, task, phases=[HEAD, everything], batch_size=8, seed=5, verbose=0)

    loader = kt.Loader(task, 8, seed=5)
    logits = keras.Model(twin.inputs, twin.get_layer("predictions").output)
    adam, rmsprop = keras.optimizers.Adam, keras.optimizers.RMSprop
    for phase, kind, epochs in ((HEAD, adam, range(2)), (ALL, rmsprop, range(2, 4))):
        for layer in twin.get_layer("tiny").layers:
            norm = isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = phase is ALL and not norm
        logits.compile(
            optimizer=kind(phase.learning_rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        x, y = (
            np.concatenate(parts)
            for parts in zip(*(loader.batch(e, i) for e in epochs for i in range(6)), strict=True)
        )
        logits.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for ours, plain in zip(variables(model), variables(twin), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-7)


def test_an_optimizer_goes_on_through_phases_of_its_kind(task):
    """Two phases that train the same at the same rate are one, bit for bit."""
    runs = []
    for phases in ([HEAD, HEAD], [dataclasses.replace(HEAD, epochs=4)]):
        keras.utils.set_random_seed(0)
        model = kt.classifier(tiny_backbone(), 3, seed=0)
        kt.fine_tune(model, task, phases=phases, batch_size=8, verbose=0)
        runs.append(variables(model))
    assert same(*runs)


def test_going_back_to_the_best_epoch_takes_its_slots_along(model):
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    state = RunState(variables(model))
    for epoch, accuracy in enumerate((0.5, 0.9, 0.7), start=1):
        for variable in (*model.trainable_variables, *optimizer.variables):
            variable.assign(np.full(variable.shape, epoch))
        logs = {"loss": 1.0, "val_loss": 1.0, "val_accuracy": accuracy}
        state.finish_epoch("phase", variables(model), optimizer, logs)
    state.go_back_to_best(model)
    assert all((value == 2).all() for value in variables(optimizer))
    assert all((np.array(keras.ops.convert_to_numpy(v)) == 2).all() for v in model.trainable_variables)
    assert same(state.weights, variables(model))


@pytest.mark.parametrize(
    "phase",
    [
        kt.Phase("head", 1, optimizer=keras.optimizers.SGD(use_ema=True)),
        kt.Phase("head", 1, callbacks=[keras.callbacks.SwapEMAWeights()]),
    ],
)
def test_moving_averages_are_for_runs_without_validation(model, task, phase):
    with pytest.raises(ValueError, match="need a run without validation data"):
        kt.fine_tune(model, task, task, phases=[phase], verbose=0)


def test_repeatable_bit_for_bit(task):
    def run():
        # No seed: the dropout layer's own is random; fine_tune's seed decides.
        model = kt.classifier(tiny_backbone(), 3, hidden_units=(8,), dropout=0.5)
        model.set_weights([np.full(w.shape, 0.05, w.dtype) for w in model.get_weights()])
        kt.fine_tune(model, task, phases=[HEAD, ALL], augmentation="light", seed=3, verbose=0)
        return model.get_weights()

    first = run()
    keras.utils.set_random_seed(123)
    np.random.default_rng().random()
    assert same(first, run())


def test_layers_with_a_seed_draw_anew_in_each_epoch(task):
    backbone = tiny_backbone()
    x = keras.layers.GlobalAveragePooling2D()(backbone.output)
    x = keras.layers.Dropout(0.5, seed=1)(x)
    model = keras.Model(backbone.inputs, keras.layers.Dense(3, activation="softmax")(x))
    (state,) = [v for v in model.variables if v.name == "seed_generator_state"]
    begun = []

    class Notes(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 0:
                begun.append(tuple(keras.ops.convert_to_numpy(state)))

    phase = kt.Phase("all", 3, train="all", callbacks=[Notes()])
    kt.fine_tune(model, task, phases=[phase], cache=False, verbose=0)
    assert len(set(begun)) == 3


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow's generator")
def test_tensorflow_keeps_what_it_compiled_for_a_phase(model, task, monkeypatch):
    seeds = []
    monkeypatch.setattr("tensorflow.random.set_seed", seeds.append)  # would throw it away
    kt.fine_tune(model, task, phases=[HEAD, ALL], verbose=0)
    assert len(set(seeds)) == len(seeds) == 2


class Counts(keras.layers.Layer):
    """Passes on what comes in and counts how often it is traced or called."""

    calls = 0

    def call(self, x):
        self.calls += 1
        return x


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of functions of TensorFlow")
@pytest.mark.parametrize("augmentation", [None, Compose(mix=mixup)], ids=["integers", "rows"])
def test_tensorflow_traces_a_step_once(augmentation, task):
    counts, backbone = Counts(), tiny_backbone()
    x = counts(keras.layers.GlobalAveragePooling2D()(backbone.output))
    model = keras.Model(backbone.inputs, keras.layers.Dense(3, activation="softmax")(x))
    traced = []

    class Notes(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            counts.calls = 0

        def on_train_batch_end(self, batch, logs=None):
            traced.append(counts.calls)

    phase = kt.Phase("all", 2, train="all", augmentation=augmentation, callbacks=[Notes()])
    kt.fine_tune(model, task, phases=[phase], batch_size=16, cache=False, verbose=0)
    assert traced == [1] * 6  # of 48 images in two epochs


def test_each_phase_goes_on_from_the_best_weights(model, task):
    begun_with = []

    class Ruin(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            begun_with.append(variables(model))
            kernel = model.get_layer("predictions").kernel
            kernel.assign(np.zeros(kernel.shape, "float32"))

    head = kt.Phase("head", 3, learning_rate=3e-2)
    ruin = kt.Phase("ruin", 2, learning_rate=0.0, callbacks=[Ruin()])
    result = kt.fine_tune(model, task, task, [head, ruin, ruin], verbose=0)
    assert result.best.phase == "head"
    for first, second, final in zip(*begun_with, variables(model), strict=True):
        assert np.array_equal(first, second)
        assert np.array_equal(first, final)


def test_loader_is_left_alone_and_epochs_go_on_through_phases(model, task):
    orders = []

    def record(image, rng):
        orders.append(int(image[0, 0, 0]))
        return image

    images = task[0].copy()
    images[:, 0, 0, 0] = np.arange(48)
    loader = kt.Loader((images, task[1]), 16, seed=2, augmentation=record, num_threads=0)
    loader.epoch = 7
    orders.clear()
    kt.fine_tune(model, loader, phases=[HEAD, ALL], verbose=0)
    assert loader.epoch == 7
    # What is drawn besides (a peek at shapes) comes before an epoch, never inside it.
    expected = [int(i) for epoch in range(4) for i in loader.order(epoch)]
    assert _is_subsequence(expected, orders)


def _is_subsequence(wanted, given):
    rest = iter(given)
    return all(item in rest for item in wanted)


@pytest.mark.parametrize("labels", ["integers", "column", "one-hot"])
def test_label_formats(model, task, labels):
    x, y = task
    y = {"integers": y, "column": y[:, None], "one-hot": np.eye(3, dtype="float32")[y]}[labels]
    result = kt.fine_tune(model, (x, y), (x, y), [HEAD], verbose=0)
    scores = model.evaluate(x, y if labels != "column" else y[:, 0], verbose=0, return_dict=True)
    assert scores["loss"] == pytest.approx(result.best.metrics["val_loss"], rel=1e-4)
    assert scores["accuracy"] == pytest.approx(result.best.metrics["val_accuracy"])


def test_takes_what_fit_takes(model, task):
    class Data(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()

        def __len__(self):
            return 3

        def __getitem__(self, index):
            part = slice(16 * index, 16 * index + 16)
            return task[0][part], task[1][part]

    result = kt.fine_tune(model, Data(), Data(), [HEAD], verbose=0)
    assert len(result.history["val_loss"]) == 2
    with pytest.raises(ValueError, match="augmentation needs train"):
        kt.fine_tune(model, Data(), phases=[HEAD], augmentation="light", verbose=0)


def test_a_schedule_of_the_number_of_steps(task):
    """Six batches an epoch: as the schedule for six steps, given as such."""
    runs = []
    for arguments in (
        {"learning_rate": 1e-2, "schedule": decay},
        {"learning_rate": decay(1e-2, 6)},
    ):
        keras.utils.set_random_seed(0)
        model = kt.classifier(tiny_backbone(), 3, seed=0)
        phase = kt.Phase("head", 2, **arguments)
        result = kt.fine_tune(model, task, phases=[phase], batch_size=8, verbose=0)
        runs.append(variables(model))
        settings = result.phases[0].settings
        assert settings["schedule"] == "ExponentialDecay"
        assert settings["learning_rate"] == pytest.approx(1e-2)
    assert same(*runs)


def test_a_range_test_changes_nothing_but_the_rate(task, capfd):
    """As with the rates that it found, written down; the second phase takes over the first's."""
    keras.utils.set_random_seed(0)
    model = kt.classifier(tiny_backbone(), 3, seed=0)
    multipliers = kt.multipliers.geometric(model)
    phases = [
        kt.Phase("head", 1, learning_rate="find", schedule=decay),
        kt.Phase("again", 1, learning_rate="found"),
        kt.Phase("all", 1, train="all", learning_rate="find", multipliers=multipliers),
    ]
    result = kt.fine_tune(model, task, phases=phases, batch_size=8, verbose=2)
    rates = [phase.settings["learning_rate"] for phase in result.phases]
    tests = [phase.settings["range_test"] for phase in result.phases]
    assert (tests[0], tests[1], tests[2] in ("valley", "edge")) == ("valley", None, True)
    assert rates[0] == pytest.approx(rates[1])
    assert f"Learning rate: {rates[2]:.3g}, found by a range test ({tests[2]})" in capfd.readouterr().out

    keras.utils.set_random_seed(0)
    twin = kt.classifier(tiny_backbone(), 3, seed=0)
    told = [dataclasses.replace(p, learning_rate=r) for p, r in zip(phases, rates, strict=True)]
    kt.fine_tune(twin, task, phases=told, batch_size=8, verbose=0)
    assert same(variables(model), variables(twin))


def test_a_range_test_that_finds_nothing(model, task):
    """Where nothing counts, the loss can't fall; the phases before are kept."""
    phases = [HEAD, kt.Phase("again", 1, learning_rate="find")]
    finished = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            _ = self.model
            finished.append(variables(model))

    with pytest.raises(ValueError, match=r"no learning rate for phase 'again'; give it a number"):
        kt.fine_tune(
            model,
            task,
            phases=phases,
            class_weight=dict.fromkeys(range(3), 0.0),
            callbacks=[Keep()],
            verbose=0,
        )
    assert len(finished) == 2
    assert same(variables(model), finished[-1])


def test_class_weight_and_callbacks(model, task):
    weights = variables(model)
    kt.fine_tune(model, task, phases=[HEAD], class_weight={0: 0.0, 1: 0.0, 2: 0.0}, verbose=0)
    assert same(variables(model)[:-1], weights[:-1])  # nothing counts, nothing moves
    data = kt.Loader(task, class_names=["red", "green", "blue"])
    nothing = {"red": 0.0, 1: 0.0, "blue": 0.0}
    kt.fine_tune(model, data, phases=[HEAD], class_weight=nothing, verbose=0)
    assert same(variables(model)[:-1], weights[:-1])

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    long = kt.Phase("long", 9, callbacks=[Stop()])
    result = kt.fine_tune(model, task, phases=[long, kt.Phase("head", 1)], verbose=0)
    assert [p.epochs for p in result.phases] == [1, 1]
    assert [p.first_epoch for p in result.phases] == [0, 1]
    assert len(result.history["loss"]) == 2


def test_balanced_classes_weigh_as_in_scikit_learn(task):
    x, y = task[0], np.minimum(np.arange(48) // 8, 2)
    found = []
    for class_weight in ("balanced", {0: 2.0, 1: 2.0, 2: 0.5}):
        keras.utils.set_random_seed(0)
        model = kt.classifier(tiny_backbone(), 3)
        kt.fine_tune(model, (x, y), phases=[HEAD], class_weight=class_weight, verbose=0)
        found.append(variables(model))
    assert same(*found)


def test_several_labels_train_by_a_loss_for_them(task):
    """A sigmoid with binary cross-entropy says nothing of one class an image."""
    body = tiny_backbone()
    pooled = keras.layers.GlobalAveragePooling2D()(body.output)
    outputs = keras.layers.Dense(3, activation="sigmoid")(pooled)
    model = keras.Model(body.inputs, outputs)
    rows = np.maximum(np.eye(3)[task[1]], [1, 0, 0])
    options = {"loss": "binary_crossentropy", "metrics": ["binary_accuracy"], "verbose": 0}
    result = kt.fine_tune(model, (task[0], rows), phases=[HEAD], **options)
    assert result.history["loss"][1] < result.history["loss"][0]
    with pytest.raises(ValueError, match="train must have one class an image"):  # which has a weight
        kt.fine_tune(model, (task[0], rows), phases=[HEAD], class_weight={0: 2.0}, **options)


def test_writes_its_files(model, task, tmp_path):
    loader = kt.Loader(task, 16, class_names=["low", "middle", "high"])
    result = kt.fine_tune(model, loader, task, [HEAD, ALL], output=tmp_path / "a" / "b", verbose=0)
    folder = tmp_path / "a" / "b"
    assert sorted(p.name for p in folder.iterdir()) == ["curves.png", "history.json", "model.keras"]
    loaded = keras.models.load_model(folder / "model.keras")
    assert not loaded.compiled
    np.testing.assert_array_equal(loaded.predict(task[0], verbose=0), model.predict(task[0], verbose=0))
    assert kt.class_names(folder / "model.keras") == ["low", "middle", "high"] == kt.class_names(model)
    written = json.loads((folder / "history.json").read_text())
    assert written["history"] == result.history
    assert [p["name"] for p in written["phases"]] == ["head", "all"]
    assert written["phases"][1]["settings"]["train"] == "all"
    assert written["phases"][1]["settings"]["augmentation"] is None
    assert written["best"]["epoch"] == result.best.epoch
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_files_are_whole_or_not_written(model, task, tmp_path, monkeypatch):
    """A disk that fills up while the second phase is saved leaves the files of the first."""
    kt.fine_tune(model, task, phases=[HEAD], output=tmp_path, verbose=0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    weights = variables(model)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        kt.fine_tune(model, task, phases=[ALL], output=tmp_path, verbose=0)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert not same(variables(model), weights)  # the finished epochs are kept
    assert np.isfinite(model.predict(task[0], verbose=0)).all()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("boom")], ids=["ctrl-c", "error"])
@pytest.mark.parametrize("where", ["first batch", "later epoch", "second phase"])
def test_an_exception_loses_nothing(model, task, error, where):
    model.compile(optimizer="sgd", loss="mse")
    kt.freeze_backbone(model)
    before = state_of(model)
    epoch, batch = {"first batch": (0, 0), "later epoch": (1, 1), "second phase": (3, 0)}[where]
    finished = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            _ = self.model
            finished.append(variables(model))

    with pytest.raises(type(error)):
        kt.fine_tune(
            model, task, phases=[HEAD, ALL], callbacks=[Keep(), Raises(error, epoch, batch)], verbose=0
        )
    assert len(finished) == epoch
    weights = finished[-1] if finished else before[0]
    assert_unharmed(model, (weights, *before[1:]), task[0])
    # And it can go on.
    kt.fine_tune(model, task, phases=[HEAD, ALL], verbose=0)


def test_a_failing_first_step_keeps_the_weights(model, task):
    """On JAX the step is given the memory of the weights, and they are gone if it fails."""

    class Fails(keras.losses.Loss):
        def call(self, y_true, y_pred):
            raise RuntimeError("inside the step")

    before = state_of(model)
    with pytest.raises(RuntimeError, match="inside the step"):
        kt.fine_tune(model, task, phases=[HEAD], loss=Fails(), verbose=0)
    assert_unharmed(model, before, task[0])


def test_a_loss_that_is_no_number_stops_the_run(model, task):
    kt.fine_tune(model, task, phases=[HEAD], verbose=0)
    weights = variables(model)
    explode = kt.Phase("explode", 5, train="all", optimizer="sgd", learning_rate=1e30)
    with pytest.raises(FloatingPointError, match=r"epoch [12] .*'explode'"):
        kt.fine_tune(model, task, phases=[explode], verbose=0)
    assert np.isfinite(model.predict(task[0], verbose=0)).all()
    assert len(weights) == len(variables(model))


class Broken:
    """A sequence in which one sample is broken."""

    def __init__(self, task, sample):
        self.images, self.labels = task[0].astype("float32"), task[1].copy()
        self.sample = sample

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if index == 20 and isinstance(self.sample, Exception):
            raise self.sample
        image, label = self.images[index], self.labels[index]
        if index == 20:
            image, label = (np.full_like(image, np.nan), label) if self.sample == "nan" else (image, 3)
        return image, label


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("nan", "finite.*image 20"),
        ("label", "label 3 for sample 20"),
        (ValueError("bad.jpg"), "bad.jpg"),
    ],
    ids=["nan", "label", "broken"],
)
def test_a_broken_sample_met_while_training(model, task, sample, message):
    before = state_of(model)
    with pytest.raises(Exception, match=message):
        kt.fine_tune(model, kt.Loader(Broken(task, sample), 16), phases=[HEAD, ALL], verbose=0)
    assert_unharmed(model, before, task[0])


class Batches(keras.utils.PyDataset):
    """Arrays in batches of 16."""

    def __init__(self, x, y):
        super().__init__()
        self._arrays = x, y

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return tuple(array[16 * index :][:16] for array in self._arrays)


# What is given as train, other arguments, and what the error says.
BAD_CALLS = {
    "labels outside": (lambda x, y: (x, y + 1), {}, "labels must be integers from 0 to 2.*label 3"),
    "negative label": (lambda x, y: (x, y - 1), {}, "labels must be integers from 0 to 2.*label -1"),
    "fractional label": (lambda x, y: (x, y + 0.5), {}, "integers from 0 to 2.*label 0.5 for sample 0"),
    "several labels": (
        lambda x, y: (x, np.maximum(np.eye(3)[y], [1, 0, 0])),
        {},
        r"train must have one class an image.*\[1. 1. 0.\] for sample 1, one of 32",
    ),
    "no label at all": (lambda x, y: (x, np.zeros((48, 3))), {}, "train must have one class an image"),
    "several labels in a sequence": (
        lambda x, y: kt.Loader(list(zip(x, np.ones((48, 3)), strict=True))),
        {},
        "train must have one class an image",
    ),
    "several labels in batches": (
        lambda x, y: Batches(x, np.ones((48, 3))),
        {},
        "train must have one class an image",
    ),
    "labels outside in batches": (lambda x, y: Batches(x, y + 1), {}, "integers from 0 to 2"),
    "several labels to validate": (
        lambda *xy: xy,
        {"validation": (tiny_task()[0], np.ones((48, 3)))},
        "validation must have one class an image",
    ),
    "a class that isn't there": (
        lambda *xy: xy,
        {"class_weight": {3: 2.0}},
        r"must have integers from 0 to 2 as keys, and 3 is none\..*Received: class_weight=",
    ),
    "names of classes that nobody knows": (
        lambda *xy: xy,
        {"class_weight": {"red": 2.0}},
        "no names of classes are known.*'red' is none",
    ),
    "a name that isn't there": (
        lambda *xy: kt.Loader(xy, class_names=["red", "green", "blue"]),
        {"class_weight": {"gren": 2.0}},
        "names of classes or integers from 0 to 2 as keys, and 'gren' is none; did you mean green",
    ),
    "class weights in a list": (
        lambda *xy: xy,
        {"class_weight": [1, 2, 3]},
        "must be 'balanced', a dict",
    ),
    "balance": (lambda *xy: xy, {"class_weight": "balance"}, "class_weight must be 'balanced', a dict"),
    "balanced, of what nobody can count": (
        lambda *xy: Batches(*xy),
        {"class_weight": "balanced"},
        "can be 'balanced' only where labels can be counted",
    ),
    "negative weight": (
        lambda *xy: xy,
        {"class_weight": {0: -1.0}},
        r"class_weight\[0\] must be a finite",
    ),
    "one-hot too wide": (lambda x, y: (x, np.eye(4)[y]), {}, "3 columns"),
    "empty": (lambda x, y: (x[:0], y[:0]), {}, "at least one sample"),
    "sizes differ": (lambda x, y: (x, y[:-1]), {}, "labels must be 48"),
    "image size": (lambda x, y: (x[:, :8, :8], y), {}, r"\(16, 16, 3\).*image_size"),
    "channels": (lambda x, y: (x[..., :1], y), {}, r"images of shape \(16, 16, 3\)"),
    "three in a tuple": (lambda x, y: (x, y, y), {}, "tuple"),
    "class names": (lambda *xy: kt.Loader(xy, class_names=list("abcd")), {}, "each of the 4 classes"),
    "no layer": (
        lambda *xy: xy,
        {"phases": [HEAD, kt.Phase("b", 1, train="from:block2_conv")]},
        "did you mean block2_conv1",
    ),
    "found before a test": (
        lambda *xy: xy,
        {"phases": [kt.Phase("a", 1, learning_rate="found"), kt.Phase("b", 1, learning_rate="find")]},
        "'found' only after a phase with 'find'",
    ),
    "no length": (
        lambda *xy: iter([xy]),
        {"phases": [kt.Phase("head", 1, schedule=decay)]},
        r"train must tell its length in batches by len\(train\)",
    ),
    "no schedule": (
        lambda *xy: xy,
        {"phases": [HEAD, kt.Phase("b", 1, schedule=lambda rate, steps: rate * steps)]},
        "schedule of phase 'b' must",
    ),
    "no phases": (lambda *xy: xy, {"phases": []}, "phases must be"),
    "phase is a string": (lambda *xy: xy, {"phases": ["head"]}, "phases must be"),
    "augmentation": (lambda *xy: xy, {"augmentation": "lite"}, "did you mean light"),
    "folder below a file": (lambda *xy: xy, {"output": "file/run"}, "output must be"),
    "validation labels": (
        lambda *xy: xy,
        {"validation": (tiny_task()[0], tiny_task()[1] + 1)},
        "labels must be",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_input_changes_nothing(model, task, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    model.compile(optimizer="sgd", loss="mse")
    kt.freeze_backbone(model)
    before = state_of(model)
    train, arguments, message = BAD_CALLS[case]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        kt.fine_tune(model, train(*task), **{"verbose": 0, **arguments})
    assert "Received:" in str(caught.value)
    assert_unharmed(model, before, task[0])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_nan_pixels_in_arrays(model, task, tmp_path):
    before = state_of(model)
    x = task[0].astype("float32")
    x[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="image 3 with 1 of 768"):
        kt.fine_tune(model, (x, task[1]), phases=[HEAD], output=tmp_path, verbose=0)
    assert_unharmed(model, before, task[0])
    assert list(tmp_path.iterdir()) == []


def test_models_that_do_not_fit(task):
    inputs = keras.Input((16, 16, 3))
    two = keras.Model(inputs, [keras.layers.Flatten()(inputs), keras.layers.Flatten()(inputs)])
    with pytest.raises(ValueError, match=r"one input and one output.*2 outputs"):
        kt.fine_tune(two, task, phases=[HEAD], verbose=0)
    with pytest.raises(TypeError, match="model must be"):
        kt.fine_tune("vgg16", task, phases=[HEAD], verbose=0)


def test_class_names_must_agree(task):
    model = kt.classifier(tiny_backbone(), 3, class_names=["a", "b", "c"])
    with pytest.raises(ValueError, match="same classes in the same order"):
        kt.fine_tune(model, kt.Loader(task, class_names=["b", "a", "c"]), phases=[HEAD], verbose=0)


def test_validation_must_have_the_classes_of_the_training_data(model, task):
    train = kt.Loader(task, class_names=["a", "b", "c"])
    validation = kt.Loader(task, class_names=["b", "c", "a"])
    with pytest.raises(ValueError, match=r"validation must have the same classes.*\['a', 'b', 'c'\]"):
        kt.fine_tune(model, train, validation, [HEAD], verbose=0)


def test_a_folder_in_the_place_of_a_file(model, task, tmp_path):
    (tmp_path / "model.keras").mkdir()
    before = state_of(model)
    with pytest.raises(ValueError, match=r"model.keras can be written"):
        kt.fine_tune(model, task, phases=[HEAD], output=tmp_path, verbose=0)
    assert_unharmed(model, before, task[0])


def test_shows_what_trains(model, task, capsys):
    odd = kt.Phase("[/b] odd", 1)
    kt.fine_tune(model, task, phases=[HEAD, odd], verbose=2)
    shown = capsys.readouterr().out
    assert "Phase 1 of 2: head" in shown
    assert "Phase 2 of 2: [/b] odd" in shown
    assert "predictions" in shown
    assert "0.01" in shown
    kt.fine_tune(model, task, phases=[HEAD], verbose=0)
    assert capsys.readouterr().out == ""


def test_default_phases(model, task):
    result = kt.fine_tune(model, task, verbose=0)
    assert [p.settings["train"] for p in result.phases] == ["head", "all"]
