"""Snapshots: when they are written, what they hold, and what happens where they can't be written."""

import os
import resource
import shutil
from collections import namedtuple

import keras
import numpy as np
import pytest

import keras_transfer as kt

RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 2, 2, 3), "float32")
Y = np.arange(8) % 2


def network(units=2):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((2, 2, 3))
    x = keras.layers.Dense(units, name="backbone")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="out")(x))


def compiled(rate=1e-2, **options):
    model = network(**options)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", run_eagerly=True)
    return model


class Keep(keras.callbacks.Callback):
    """Keeps the weights after each epoch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


def fit(model, snapshots, epochs, first=0):
    keep = Keep()
    model.fit(
        *(X, Y),
        initial_epoch=first,
        epochs=epochs,
        shuffle=False,
        callbacks=[snapshots, keep],
        verbose=0,
    )
    return keep.weights


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_holds(file, weights):
    with np.load(file) as arrays:
        for mine, theirs in zip(arrays.values(), weights, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_weights_at_the_end_of_each_cycle(tmp_path):
    model = compiled()
    snapshots = kt.callbacks.SnapshotEnsemble(tmp_path / "new" / "folder", 2)
    weights = fit(model, snapshots, 4)
    assert names(tmp_path / "new" / "folder") == ["cycle_1.npz", "cycle_2.npz"]
    assert_holds(snapshots.files[0], weights[1])
    assert_holds(snapshots.files[1], weights[3])
    # The methods, in this process and for a callback that was never in a fit.
    parts = []
    for epoch in (1, 3):
        model.set_weights(weights[epoch])
        parts.append(model.predict(X, verbose=0))
    for ensemble in (snapshots, kt.callbacks.SnapshotEnsemble(snapshots.output, 2)):
        predicted = ensemble.ensemble(model).predict(X, verbose=0)
        np.testing.assert_allclose(predicted, np.mean(parts, axis=0), rtol=1e-5)
    predicted = snapshots.ensemble(model, last=1).predict(X, verbose=0)
    np.testing.assert_allclose(predicted, parts[1], rtol=1e-6)
    averaged = snapshots.averaged(model).get_weights()
    for mean, first, second in zip(averaged, weights[1], weights[3], strict=True):
        np.testing.assert_allclose(mean, (first + second) / 2, rtol=1e-5)


@pytest.mark.parametrize("first_epoch", [0, 1])
def test_the_rate_is_annealed_in_each_cycle(first_epoch, tmp_path):
    """As by WarmRestartsLR; afterwards the optimizer has its own rate."""
    ours, plain = compiled(), compiled()
    snapshots = kt.callbacks.SnapshotEnsemble(tmp_path, 2, first_epoch=first_epoch)
    restarts = kt.callbacks.WarmRestartsLR(1e-2, cycle_epochs=2, first_epoch=first_epoch)
    histories = []
    for model, callback in ((ours, snapshots), (plain, restarts)):
        history = model.fit(
            *(X, Y),
            batch_size=4,
            initial_epoch=first_epoch,
            epochs=first_epoch + 4,
            shuffle=False,
            callbacks=[callback],
            verbose=0,
        )
        histories.append(history.history)
    assert histories[0] == histories[1]
    assert len(set(histories[0]["learning_rate"])) == 2
    assert_holds(snapshots.files[1], plain.get_weights())
    assert float(ours.optimizer.learning_rate) == pytest.approx(1e-2)


def test_another_schedule(tmp_path):
    halved = keras.optimizers.schedules.ExponentialDecay(1e-2, 1, 0.5)
    snapshots = kt.callbacks.SnapshotEnsemble(tmp_path / "new", 2)
    with pytest.raises(ValueError, match="compiled with a number as learning rate"):
        fit(compiled(halved), snapshots, 4)
    assert not (tmp_path / "new").exists()

    ours, plain = compiled(halved), compiled(halved)
    snapshots = kt.callbacks.SnapshotEnsemble(tmp_path, 2, anneal=False)
    fit(ours, snapshots, 4)
    fit(plain, Keep(), 4)
    assert_holds(snapshots.files[1], plain.get_weights())


def test_a_fit_that_was_stopped_goes_on(tmp_path):
    snapshots = kt.callbacks.SnapshotEnsemble(tmp_path, 2)
    first = fit(compiled(), snapshots, 4)
    early = snapshots.files[0].read_bytes()
    (tmp_path / "mine.txt").touch()

    model = compiled()
    model.set_weights(first[2])
    fit(model, kt.callbacks.SnapshotEnsemble(tmp_path, 2), 4, 3)
    assert snapshots.files[0].read_bytes() == early
    assert_holds(snapshots.files[1], model.get_weights())

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    # A new run: what is left of the one before would not belong to it.
    model.fit(X, Y, epochs=4, callbacks=[snapshots, Stop()], verbose=0)
    assert names(tmp_path) == ["mine.txt"]
    with pytest.raises(ValueError, match="must hold 1 snapshots"):
        snapshots.ensemble(model)


def test_in_a_phase(tmp_path):
    """Where the model that is trained ends in logits and shares its layers with the classifier."""
    backbone = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Conv2D(2, 1)], name="backbone")
    model = kt.classifier(backbone, 2)
    snapshots = kt.callbacks.SnapshotEnsemble(tmp_path, 2, first_epoch=1)
    keep = Keep()
    phases = [kt.Phase("head", 1), kt.Phase("all", 2, train="all", callbacks=[snapshots, keep])]
    kt.fine_tune(model, (X, Y), phases=phases, verbose=0)
    parts = []
    for weights in keep.weights:
        model.set_weights(weights)
        parts.append(model.predict(X, verbose=0))
    predicted = snapshots.ensemble(model).predict(X, verbose=0)
    np.testing.assert_allclose(predicted, np.mean(parts, axis=0), rtol=1e-5)


class TestWhatCannotBeWritten:
    def assert_refused(self, snapshots, message, epochs=4):
        model = compiled()
        before = model.get_weights()
        with pytest.raises(ValueError, match=message):
            fit(model, snapshots, epochs)
        assert int(model.optimizer.iterations) == 0
        for mine, theirs in zip(model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(mine, theirs)

    def test_epochs_that_cannot_be_divided(self, tmp_path):
        snapshots = kt.callbacks.SnapshotEnsemble(tmp_path / "new", 3)
        self.assert_refused(snapshots, r"cycles must divide the 4 epochs.*Received: cycles=3")
        assert not (tmp_path / "new").exists()
        late = kt.callbacks.SnapshotEnsemble(tmp_path / "new", 2, first_epoch=5)
        self.assert_refused(late, "cycles must divide the 0 epochs from epoch 5")

    def test_a_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        snapshots = kt.callbacks.SnapshotEnsemble(tmp_path / "file", 2)
        self.assert_refused(snapshots, "output must be a folder that can be written")

    def test_a_folder_without_room(self, tmp_path, monkeypatch):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10_000, 9_900, 100))
        snapshots = kt.callbacks.SnapshotEnsemble(tmp_path, 2)
        self.assert_refused(snapshots, "must have room for 2 snapshots")
        assert names(tmp_path) == []

    # Keras 3.15.0 leaves its archive open, which Python then fails to close.
    @pytest.mark.filterwarnings("ignore:Exception ignored.*ZipFile.__del__")
    def test_a_disk_that_becomes_full(self, tmp_path):
        """Really: the system lets no file grow beyond a limit, as if there were no room."""
        model, snapshots = compiled(units=5000), kt.callbacks.SnapshotEnsemble(tmp_path, 2)

        class Fill(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch == 1:
                    limits = (snapshots.files[0].stat().st_size // 2, hard)
                    resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        keep = Keep()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            with pytest.raises(OSError, match=r"can't write the snapshot of cycle 2 of 2 to .*cycle_2"):
                model.fit(X, Y, epochs=2, callbacks=[Fill(), keep, snapshots], verbose=0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert names(tmp_path) == ["cycle_1.npz"]
        snapshots.ensemble(model).predict(X, verbose=0)
        for mine, theirs in zip(model.get_weights(), keep.weights[1], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert model.optimizer is not None

    @pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write everywhere")
    def test_a_folder_that_may_not_be_written(self, tmp_path):
        tmp_path.chmod(0o500)
        self.assert_refused(kt.callbacks.SnapshotEnsemble(tmp_path, 2), "that can be written")

    def test_more_than_there_are(self, tmp_path):
        model, snapshots = compiled(), kt.callbacks.SnapshotEnsemble(tmp_path, 1)
        fit(model, snapshots, 1)
        with pytest.raises(ValueError, match=r"must hold 2 snapshots\. Received: 1 in output"):
            snapshots.ensemble(model, last=2)
