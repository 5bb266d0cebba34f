"""Callbacks see a run of several phases as one training, and the whole model."""

import csv
import json

import keras
import numpy as np
import pytest
from keras import layers
from tiny import same, tiny_backbone, tiny_task, variables

import keras_transfer as kt
from keras_transfer.training.told import Told

NAMES = ["red", "green", "blue"]
HEAD = kt.Phase("head", 2, learning_rate=1e-2)
BLOCK = kt.Phase("block", 2, train="from:block2_conv1", learning_rate=1e-3)
# Each way in which a classifier may end: a softmax of its own, one inside the last layer, logits.
ENDINGS = ("softmax", "activation", "logits")


def network(ending="softmax"):
    keras.utils.set_random_seed(0)
    if ending == "softmax":
        return kt.classifier(tiny_backbone(), 3, class_names=NAMES)
    base = tiny_backbone()
    x = layers.GlobalAveragePooling2D()(base.output)
    activation = "softmax" if ending == "activation" else None
    return keras.Model(base.inputs, layers.Dense(3, activation=activation, name="predictions")(x))


def run(model, callbacks=(), phases=(HEAD, BLOCK), validation=True, **options):
    data = kt.Loader(tiny_task(24), 8, class_names=NAMES)
    held = tiny_task(12, seed=1) if validation else None
    return kt.fine_tune(model, data, held, phases, callbacks=callbacks, verbose=0, **options)


class Notes(keras.callbacks.Callback):
    """Writes down what it is told, and what it sees."""

    def __init__(self, act=None):
        super().__init__()
        self.told, self.epochs, self.rates, self.trained, self._act = [], [], [], [], act

    def on_train_begin(self, logs=None):
        self.told.append("begin")

    def on_epoch_begin(self, epoch, logs=None):
        self.told.append(epoch)
        self.epochs.append(self.params["epochs"])
        if self._act is not None:
            self._act(self.model, epoch)

    def on_epoch_end(self, epoch, logs=None):
        self.rates.append(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))
        self.trained.append(len(self.model.trainable_variables))

    def on_train_end(self, logs=None):
        self.told.append("end")


def test_one_training_with_epochs_numbered_through():
    notes, own = Notes(), Notes()
    second = kt.Phase("block", 2, train="from:block2_conv1", learning_rate=1e-3, callbacks=[own])
    result = run(network(), [notes], [HEAD, second])
    assert notes.told == ["begin", 0, 1, 2, 3, "end"]
    assert own.told == ["begin", 2, 3, "end"]
    assert notes.epochs == [4, 4, 4, 4]
    assert own.epochs == [4, 4]
    assert notes.params["steps"] == 3
    np.testing.assert_allclose(notes.rates, [1e-2, 1e-2, 1e-3, 1e-3], rtol=1e-6)
    assert notes.trained == [2, 2, 3, 3]
    assert notes.model.history.history == result.history


def test_a_callback_changes_nothing():
    plain, told = network(), network()
    expected = run(plain).history
    # With a class of its own there is no cache, and so other sums.
    without = network()
    assert run(without, cache=False).history == run(told, [Notes()]).history
    assert same(variables(without), variables(told))
    np.testing.assert_allclose(run(network(), [Notes()]).history["loss"], expected["loss"], rtol=1e-3)


def test_csv_has_every_epoch(tmp_path):
    result = run(network(), [keras.callbacks.CSVLogger(tmp_path / "log.csv")])
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    np.testing.assert_allclose([float(row["loss"]) for row in rows], result.history["loss"])
    np.testing.assert_allclose([float(r["val_accuracy"]) for r in rows], result.history["val_accuracy"])


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("ending", ENDINGS)
def test_checkpoints_are_whole_and_open_everywhere(ending, cache, tmp_path):
    model = network(ending)
    seen = []

    def predict(seen_model, epoch):
        if epoch:
            seen.append(seen_model.predict(tiny_task(4)[0], verbose=0))

    phases = [HEAD, kt.Phase("block", 2, "from:block2_conv1", 1e-3, multipliers={".*kernel": 0.5})]
    files = keras.callbacks.ModelCheckpoint(str(tmp_path / "m{epoch}.keras"))
    callbacks = [files] if cache else [files, Notes(predict)]
    run(model, callbacks, phases, validation=False, cache=cache)
    for epoch in (1, 2, 3, 4):
        path = tmp_path / f"m{epoch}.keras"
        stock = keras.models.load_model(path)
        assert not stock.compiled
        assert kt.class_names(kt.load_model(path)) == NAMES
        found = stock.predict(tiny_task(4)[0], verbose=0)
        if epoch < 4 and not cache:
            np.testing.assert_array_equal(found, seen[epoch - 1])
    expected = model.predict(tiny_task(4)[0], verbose=0)
    np.testing.assert_array_equal(found, expected)  # without validation data the last weights stay
    if ending != "logits":
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_checkpoints_of_a_phase_and_of_weights(tmp_path):
    path = tmp_path / "of-phase.keras"
    own = kt.Phase("head", 2, callbacks=[keras.callbacks.ModelCheckpoint(str(path))])
    best = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "best.weights.h5"), "val_accuracy", save_best_only=True, save_weights_only=True
    )
    model = network()
    result = run(model, [best], [own, BLOCK])
    assert kt.class_names(path) == NAMES
    assert keras.models.load_model(path).layers[-1].__class__ is layers.Softmax
    other = network()
    other.load_weights(tmp_path / "best.weights.h5")
    first = int(np.argmax(result.history["val_accuracy"]))
    x, y = tiny_task(12, seed=1)
    accuracy = np.mean(other.predict(x, verbose=0).argmax(axis=1) == y)
    assert accuracy == pytest.approx(result.history["val_accuracy"][first])


def test_h5_has_the_whole_model(tmp_path):
    model = network()
    run(model, [keras.callbacks.ModelCheckpoint(str(tmp_path / "m.h5"))], [HEAD], validation=False)
    loaded = keras.models.load_model(tmp_path / "m.h5")
    x = tiny_task(4)[0]
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_stop_training_ends_the_run_or_the_phase():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    notes = Notes()
    result = run(network(), [Stop(), notes])
    assert [(phase.name, phase.epochs) for phase in result.phases] == [("head", 1)]
    assert notes.told == ["begin", 0, "end"]
    own = kt.Phase("head", 2, callbacks=[Stop()])
    notes = Notes()
    result = run(network(), [notes], [own, BLOCK])
    assert [(phase.name, phase.epochs) for phase in result.phases] == [("head", 1), ("block", 2)]
    assert notes.told == ["begin", 0, 1, 2, "end"]


def test_early_stopping_counts_through_and_restores_once():
    rising = iter([1.0, 0.5, 2.0, 3.0, 4.0, 5.0])

    class Rises(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.weights = []

        def on_epoch_end(self, epoch, logs=None):
            logs["tried"] = next(rising)
            self.weights.append(self.model.get_weights())

    rises = Rises()
    stop = keras.callbacks.EarlyStopping("tried", patience=2, mode="min", restore_best_weights=True)
    model = network()
    result = run(model, [rises, stop], [HEAD, kt.Phase("block", 4, "from:block2_conv1")])
    # The best epoch is the last of the first phase; with validation data ours may be another.
    assert len(result.history["loss"]) == 4
    assert (stop.best_epoch, stop.stopped_epoch) == (1, 3)
    assert same(model.get_weights(), rises.weights[1])
    assert not same(rises.weights[1], rises.weights[3])


def test_directions_of_metrics_are_known():
    stop = keras.callbacks.EarlyStopping("val_accuracy", patience=9)
    run(network(), [stop])
    assert stop.best == pytest.approx(max(stop.model.history.history["val_accuracy"]))
    assert stop.monitor_op is keras.ops.greater

    x, y = tiny_task(16)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return x[8 * index :][:8], np.eye(3, dtype="float32")[y[8 * index :][:8]]

    stop = keras.callbacks.EarlyStopping("accuracy", patience=9)
    seen = []

    class Evaluate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.evaluate(x, np.eye(3)[y], verbose=0, return_dict=True))

    result = kt.fine_tune(network(), Batches(), phases=[HEAD], callbacks=[stop, Evaluate()], verbose=0)
    assert stop.monitor_op is keras.ops.greater
    assert seen[-1]["loss"] < result.history["loss"][0]


def test_the_rate_and_the_weights_that_train_can_be_set():
    class Plateau(keras.callbacks.ReduceLROnPlateau):
        def __init__(self):
            super().__init__("loss", factor=0.1, patience=1, min_delta=1e9, min_lr=0.0)

    notes = Notes()
    run(network(), [Plateau(), notes], [kt.Phase("head", 3, learning_rate=1e-2), BLOCK])
    # Nothing is better than the first epoch by so much: a tenth after each, also in the next phase.
    np.testing.assert_allclose(notes.rates, [1e-2, 1e-3, 1e-4, 1e-4, 1e-5], rtol=1e-5)

    weights = network().get_weights()

    def reset(model, epoch):
        if epoch == 3:
            model.optimizer.learning_rate = 0.0
            model.set_weights(weights)

    model = network()
    run(
        model,
        [Notes(reset)],
        [kt.Phase("head", 4, optimizer="sgd", learning_rate=0.1)],
        validation=False,
    )
    assert same(model.get_weights(), weights)


def test_a_scheduler_of_keras():
    notes = Notes()
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 10.0 ** -(epoch + 1))
    run(network(), [scheduler, notes])
    np.testing.assert_allclose(notes.rates, [1e-1, 1e-2, 1e-3, 1e-4], rtol=1e-5)


def test_callbacks_that_drive_the_step_belong_to_the_fit():
    cycles = kt.callbacks.CyclicLR(1e-4, 1e-2, step_epochs=1)
    log = Notes()
    result = run(network(), [cycles, log])
    assert "learning_rate" in log.model.history.history
    assert log.told == ["begin", 0, 1, 2, 3, "end"]
    assert len(result.history["loss"]) == 4
    gradual = kt.callbacks.GradualUnfreezing(2)
    notes = Notes()
    run(network(), [gradual, notes], [kt.Phase("gradual", 4)])
    assert notes.trained == [2, 2, 3, 3]


@pytest.mark.parametrize(
    "given",
    [None, keras.callbacks.TerminateOnNaN(), [keras.callbacks.TerminateOnNaN], [print]],
)
def test_what_is_no_list_of_callbacks_is_refused(given):
    with pytest.raises(TypeError, match="callbacks must be a list of Keras callbacks.* Received: "):
        run(network(), given)
    phase = kt.Phase("mine", 1, train="head", callbacks=given)
    with pytest.raises(TypeError, match="callbacks of phase 'mine' must be a list of Keras callbacks"):
        run(network(), phases=[phase])


def test_compiling_the_model_is_refused():
    def compile_again(model, epoch):
        model.compile("sgd", "mse")

    model = network()
    weights = variables(model)
    with pytest.raises(
        ValueError, match="must not compile the model of a run.* has compiled it in on_e"
    ):
        run(model, [Notes(compile_again)])
    assert same(variables(model)[:-1], weights[:-1])


def test_only_what_a_callback_has_is_told():
    """Keras waits for each step where a callback has hooks for batches."""

    class Older(keras.callbacks.Callback):
        def on_batch_end(self, batch, logs=None):
            batches.append(batch)

    batches, made = [], []
    init = Told.__init__

    def noted(self, callback, *args):
        init(self, callback, *args)
        made.append((type(callback).__name__, {hook for hook in vars(self) if hook.startswith("on_")}))

    ends = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Told, "__init__", noted)
        run(network(), [Older(), ends], [kt.Phase("head", 1)])
    assert batches == [0, 1, 2]
    assert dict(made) == {
        "Older": {"on_train_batch_end"},
        "LambdaCallback": {"on_epoch_end"},
        "History": {"on_epoch_end"},
    }


class Break(keras.callbacks.Callback):
    """Breaks a run off when an epoch begins."""

    def __init__(self, before=None):
        super().__init__()
        self._before = (before,)  # no number, as numbers are taken along

    def on_epoch_begin(self, epoch, logs=None):
        if epoch in self._before:
            raise KeyboardInterrupt


class TestBackups:
    def test_bring_weights_and_epoch_back(self, tmp_path):
        def backup():
            return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

        broken = network()
        with pytest.raises(KeyboardInterrupt):
            run(broken, [backup(), Break(3)])
        assert (tmp_path / "backup").is_dir()
        notes = Notes()
        model = network()
        result = run(model, [backup(), notes], validation=False)
        assert notes.told == ["begin", 3, "end"]
        assert [(phase.name, phase.first_epoch, phase.epochs) for phase in result.phases] == [
            ("head", 0, 2),
            ("block", 2, 2),
        ]
        assert np.isnan(result.history["loss"]).tolist() == [True, True, True, False]
        assert not (tmp_path / "backup").exists()
        # As from the weights of the third epoch, but with slots that begin anew.
        again = network()
        again.set_weights(broken.get_weights())
        rest = kt.Phase("block", 1, train="from:block2_conv1", learning_rate=1e-3)
        expected = kt.fine_tune(again, tiny_task(24), phases=[rest], batch_size=8, verbose=0).history
        assert result.history["loss"][3] == pytest.approx(expected["loss"][0], rel=0.2)
        assert result.history["loss"][3] < run(network(), validation=False).history["loss"][0]

    def test_a_rate_that_was_found_is_not_among_what_comes_back(self, tmp_path):
        phases = [kt.Phase("head", 1, learning_rate="find"), kt.Phase("all", 2, "all", "found")]
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        with pytest.raises(KeyboardInterrupt):
            run(network(), [backup, Break(2)], phases)
        with pytest.raises(ValueError, match=r"'all' must be known, but BackupAndRestore.*resume=True"):
            run(network(), [backup], phases)

    def test_without_a_backup_nothing_differs(self, tmp_path):
        model, plain = network(), network()
        callback = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        assert run(model, [callback]).history == run(plain).history
        assert same(variables(model), variables(plain))
        assert not (tmp_path / "backup").exists()

    def test_refused(self, tmp_path):
        callback = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        with pytest.raises(ValueError, match=r"BackupAndRestore must be among the callbacks of the run"):
            run(network(), phases=[kt.Phase("head", 1, callbacks=[callback])])
        with pytest.raises(ValueError, match=r"resume must be without BackupAndRestore"):
            run(network(), [callback], output=tmp_path / "run", resume=True)


class TestResuming:
    def test_begins_once_in_each_process_and_goes_on_counting(self, tmp_path):
        pytest.importorskip("matplotlib")

        def stop():
            # Nothing is ever better than the first epoch: it ends the run after the fourth.
            return keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=3)

        phases = [HEAD, kt.Phase("block", 4, train="from:block2_conv1", learning_rate=1e-3)]
        whole = run(network(), [stop(), Break()], phases, output=tmp_path / "whole")
        assert len(whole.history["loss"]) == 4
        for before in (1, 2, 3):
            folder = tmp_path / str(before)
            with pytest.raises(KeyboardInterrupt):
                run(network(), [stop(), Break(before)], phases, output=folder)
            resumed = run(network(), [stop(), Break()], phases, output=folder, resume=True)
            assert resumed.history == whole.history
            assert same(resumed.model.get_weights(), whole.model.get_weights())
        told = json.loads((tmp_path / "3" / "history.json").read_text())
        assert told["finished"]
        assert [phase["name"] for phase in told["phases"]] == ["head", "block"]
        # And a run that a callback has ended is over.
        assert (
            run(network(), [stop(), Break()], phases, output=folder, resume=True).history
            == whole.history
        )

    def test_lost_weights_of_the_best_epoch_are_told_of(self, tmp_path, caplog):
        pytest.importorskip("matplotlib")
        stop = keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)
        with pytest.raises(KeyboardInterrupt):
            run(network(), [stop, Break(3)], output=tmp_path)
        assert not caplog.records
        again = keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)
        run(network(), [again, Break()], output=tmp_path, resume=True)
        (record,) = caplog.records
        assert "EarlyStopping has lost the weights of epoch 3" in record.getMessage()

    def test_killed_after_the_epoch_that_ended_the_run(self, tmp_path, monkeypatch):
        pytest.importorskip("matplotlib")

        def broken(*args):
            raise KeyboardInterrupt

        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.stop_training = True

        with monkeypatch.context() as patch:
            patch.setattr("keras_transfer.runs.fine_tune._write", broken)
            with pytest.raises(KeyboardInterrupt):
                run(network(), [Stop()], output=tmp_path)
        result = run(network(), [Stop()], output=tmp_path, resume=True)
        assert [(phase.name, phase.epochs) for phase in result.phases] == [("head", 1)]


def test_tensorboard_has_one_log_of_all_epochs(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras' TensorBoard writes by TensorFlow, which takes seconds to import elsewhere")
    from tensorflow.python.summary.summary_iterator import summary_iterator

    board = keras.callbacks.TensorBoard(tmp_path, histogram_freq=1)
    run(network(), [board])
    steps = []
    histograms = set()
    for path in (tmp_path / "train").iterdir():
        for event in summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == "epoch_loss":
                    steps.append(event.step)
                if value.tag.endswith("histogram"):
                    histograms.add(value.tag)
    assert sorted(steps) == [0, 1, 2, 3]
    assert len(list((tmp_path / "train").iterdir())) == 1
    assert any("block1_conv1" in tag for tag in histograms)
