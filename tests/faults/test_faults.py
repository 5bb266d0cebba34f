"""Whatever fails in a run: nothing is lost, and the resumed run ends bit for bit as one undisturbed.

What a failure leaves of a model without a folder is in tests/training/test_fine_tune.py; caches alone
are in tests/features/test_cache.py; what comes from outside the process is in test_kills.py.
"""

import contextlib
import json
import os
import pkgutil
import time
import zipfile

import keras
import numpy as np
import pytest
from kill import images, network

import keras_transfer as kt
from keras_transfer.rates.found import FoundRate
from keras_transfer.rates.sweep import LRRecorder
from keras_transfer.training.epochs import EpochKeeper

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("quick_pictures")

FILES = {"model.keras", "history.json", "curves.png"}
FULL = OSError(28, "No space left on device")


class Watch:
    """Keeps the weights after each epoch of a run, and calls a function at a place in it.

    Places are (hook, epoch, batch). It looks through the library's own callback: with one of ours the
    run wouldn't use a cache.
    """

    def __init__(self, place=None, action=None):
        self.finished, self.model, self._place, self._action = [], None, place, action

    @contextlib.contextmanager
    def on(self, model):
        self.model, watch, epoch = model, self, [0]

        def at(hook, batch):
            if watch._place == (hook, epoch[0], batch):
                watch._action()

        class Watched(EpochKeeper):
            def on_epoch_begin(self, number, logs=None):
                epoch[0] = number
                super().on_epoch_begin(number, logs)

            def on_train_batch_begin(self, batch, logs=None):
                at("begin", batch)

            def on_train_batch_end(self, batch, logs=None):
                at("end", batch)

            def on_test_batch_end(self, batch, logs=None):
                at("validation", batch)

            def on_epoch_end(self, number, logs=None):
                super().on_epoch_end(number, logs)
                watch.finished.append(values(model))
                at("epoch end", None)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("keras_transfer.training.engine.EpochKeeper", Watched)
            yield


def values(model):
    return [np.array(weight) for weight in model.get_weights()]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def phases(rate=1e-2):
    """Return two phases behind a frozen part that is cached; the second unfreezes layers."""
    multipliers = {"block2_.*": 0.1}
    block = kt.Phase("block", 2, train="from:block2_conv1", batch_norm="train", multipliers=multipliers)
    return [kt.Phase("head", 2, learning_rate=rate), block]


def run(folder, watch, seed=0, train=None, rate=1e-2, **options):
    """Run the two phases; return the model's result.

    Keras computes the features: so a run gives the same bits where the disk has no room for them.
    """
    options = {"cache": kt.CacheOptions(runtime="keras"), **options}
    x, y = images()
    model = options.pop("model", None) or network(seed)
    with watch.on(model):
        return kt.fine_tune(
            model,
            (x[:24], y[:24]) if train is None else train,
            (x[48:], y[48:]),
            phases(rate),
            batch_size=8,
            output=folder,
            verbose=0,
            **options,
        )


def assert_whole(folder):
    """Check that all files of a folder can be read and nothing half-written is left."""
    names = {path.name for path in folder.iterdir()}
    assert names <= FILES | {"checkpoint"}
    if "history.json" in names:
        json.loads((folder / "history.json").read_text())
    if "model.keras" in names:
        with zipfile.ZipFile(folder / "model.keras") as archive:
            assert archive.testzip() is None
    if "curves.png" in names:
        assert b"IEND" in (folder / "curves.png").read_bytes()[-12:]
    assert not [path for path in folder.rglob(".*") if path.is_file()]


def assert_same(result, expected):
    assert result.history == expected.history
    assert result.best == expected.best
    assert same(values(result.model), values(expected.model))


def assert_survives(tmp_path, expected, watch, error, train=None, again=None, **options):
    """Have a run fail; check what it leaves, and what becomes of it when it is resumed."""
    model = network(0)
    kt.unfreeze_from(model, "block2_conv1")
    before, flags = values(model), [layer.trainable for layer in model.layers]
    with pytest.raises(error):
        run(tmp_path, watch, train=train, model=model, **options)
    assert [layer.trainable for layer in model.layers] == flags
    last = values(model)
    assert all(np.isfinite(value).all() for value in last)
    # Between two phases the model has gone back to its best.
    assert any(same(last, weights) for weights in watch.finished or [before])
    assert_whole(tmp_path)
    resumed = run(tmp_path, Watch(), 7, train if again is None else again, resume=True, **options)
    assert_same(resumed, expected)
    assert {path.name for path in tmp_path.iterdir()} == FILES


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Return the result of a run that nothing disturbs."""
    keras.utils.clear_session(free_memory=False)
    return run(tmp_path_factory.mktemp("whole"), Watch())


def raises(error):
    def function(*arguments, **options):
        raise error

    return function


def raises_at(number, error, function, until=None):
    """Return a function that fails when called for the `number`-th time, and until another."""
    calls = [-1]

    def call(*arguments, **options):
        calls[0] += 1
        if calls[0] == number or (until is not None and number <= calls[0] < until):
            raise error
        return function(*arguments, **options)

    call.calls = calls
    return call


def out_of_memory():
    """Return what this backend raises when it has no memory left."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return torch.OutOfMemoryError("out of memory")
    if backend == "jax":
        import jax

        return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
    import tensorflow as tf

    return tf.errors.ResourceExhaustedError(None, None, "out of memory")


PLACES = {
    "the first batch": ("begin", 0, 0),
    "after the first step": ("end", 0, 0),
    "validation": ("validation", 1, 1),
    "the end of an epoch": ("epoch end", 1, None),
    "the first step after unfreezing": ("end", 2, 0),
    "the last epoch": ("end", 3, 2),
}


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c(place, expected, tmp_path):
    watch = Watch(PLACES[place], raises(KeyboardInterrupt()))
    assert_survives(tmp_path, expected, watch, KeyboardInterrupt)


# Where it is raised: the function, and when it is called for the how many-th time.
FUNCTIONS = {
    "a cache is computed": ("keras_transfer.features.cache.cache._predict", 1),
    "another cache is computed": ("keras_transfer.features.cache.cache._predict", 6),
    "a checkpoint is written": ("keras_transfer.training.checkpoints.replacing", 1),
    "its arrays are written": ("keras_transfer.training.checkpoints.write_arrays", 1),
    "a checkpoint is on the disk": ("keras_transfer.training.checkpoints._sync", 2),
    "a file is moved into its place": ("keras_transfer._lib.files.os.replace", 4),
    "a model is written": ("keras_transfer.runs.fine_tune._write", 0),
    "the last model is written": ("keras_transfer.runs.fine_tune._write", 1),
    "a history is written": ("keras_transfer.runs.fine_tune.write_json", 1),
}


@pytest.mark.parametrize(
    ("where", "error"),
    [
        *((where, KeyboardInterrupt()) for where in FUNCTIONS),
        ("another cache is computed", MemoryError()),
        ("the last model is written", MemoryError()),
    ],
)
def test_while(where, error, expected, tmp_path, monkeypatch):
    target, number = FUNCTIONS[where]

    with monkeypatch.context() as patch:
        function = pkgutil.resolve_name(target)
        failing = raises_at(number, error, function)
        patch.setattr(target, failing)
        watch = Watch()
        model = network(0)
        with pytest.raises(type(error)):
            run(tmp_path, watch, model=model)
        assert failing.calls[0] == number
    assert any(same(values(model), weights) for weights in watch.finished or [values(network(0))])
    assert_whole(tmp_path)
    assert_same(run(tmp_path, Watch(), 7, resume=True), expected)


@pytest.mark.parametrize("kind", ["own", "memory"])
def test_no_memory_after_unfreezing(kind, expected, tmp_path):
    """On JAX the first step has taken the memory of the weights when it fails."""
    error = MemoryError() if kind == "own" else out_of_memory()
    watch = Watch(PLACES["the first step after unfreezing"], raises(error))
    assert_survives(tmp_path, expected, watch, type(error))


@pytest.mark.parametrize("error", ["Ctrl-C", "memory"])
def test_while_a_rate_is_sought(error, tmp_path, monkeypatch):
    error = KeyboardInterrupt() if error == "Ctrl-C" else out_of_memory()
    # Of a network as small as this one the curve suggests a rate with some initial weights only.
    monkeypatch.setattr(
        "keras_transfer.training.engine.found_rate",
        lambda test, phase: FoundRate(float(test.learning_rates[test.losses.argmin()]), "lowest"),
    )
    expected = run(tmp_path / "whole", Watch(), rate="find")
    hook = "keras_transfer.rates.sweep.LRRecorder.on_train_batch_end"
    with monkeypatch.context() as patch:
        patch.setattr(hook, raises_at(3, error, LRRecorder.on_train_batch_end))
        model = network(0)
        before = values(model)
        with pytest.raises(type(error)):
            run(tmp_path / "run", Watch(), model=model, rate="find")
    assert same(values(model), before)
    assert all(layer.trainable for layer in model.layers)
    assert_whole(tmp_path / "run")
    assert_same(run(tmp_path / "run", Watch(), 7, rate="find", resume=True), expected)


def test_weights_that_become_nan(expected, tmp_path):
    def spoil():
        watch.model.layers[-2].kernel.assign(np.full((6, 3), np.nan, "float32"))

    # Before the first step of an epoch, when JAX has not yet taken over the variables.
    watch = Watch(("begin", 1, 0), spoil)
    with pytest.raises(FloatingPointError, match="the loss became nan in epoch 2"):
        run(tmp_path, watch)
    assert_whole(tmp_path)
    assert_same(run(tmp_path, Watch(), 7, resume=True), expected)


class Sequence:
    """Samples that can't be read while `dead` is set."""

    def __init__(self, dead=False):
        (self.x, self.y), self.dead = images(), dead

    def __len__(self):
        return 24

    def __getitem__(self, index):
        if self.dead and index == 20:
            raise RuntimeError("the loader died")
        return self.x[index], self.y[index]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_loader_that_dies(threads, tmp_path):
    def loader():
        sequence = Sequence()
        return sequence, kt.Loader(sequence, 8, num_threads=threads)

    expected = run(tmp_path / "whole", Watch(), train=loader()[1], cache=False)
    sequence, train = loader()
    watch = Watch(("end", 1, 0), lambda: setattr(sequence, "dead", True))
    again = loader()[1]
    assert_survives(tmp_path / "run", expected, watch, Exception, train=train, again=again, cache=False)


def test_an_image_that_goes_away_and_comes_back(tmp_path):
    image = pytest.importorskip("PIL.Image")
    x, y = images()
    for index in range(24):
        path = tmp_path / "photos" / f"class{y[index]}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(x[index]).save(path)
    # Not the first ones, which are looked at to see whether the images are the same each time.
    lost, away = path, tmp_path / "away.png"

    def loader():
        return kt.data.from_directory(tmp_path / "photos", image_size=(16, 16), batch_size=8)

    expected = run(tmp_path / "whole", Watch(), train=loader(), cache=False)
    watch = Watch(("begin", 1, 0), lambda: lost.rename(away))
    model = network(0)
    with pytest.raises(Exception, match="23.png"):
        run(tmp_path / "run", watch, train=loader(), cache=False, model=model)
    assert same(values(model), watch.finished[-1])
    assert_whole(tmp_path / "run")
    away.rename(lost)
    resumed = run(tmp_path / "run", Watch(), 7, train=loader(), cache=False, resume=True)
    assert_same(resumed, expected)


# Which of the calls find no room on the disk; KERAS_TRANSFER_KILLS as in test_kills.py.
@pytest.mark.parametrize("stays", [False, True], ids=["once", "from then on"])
def test_a_disk_that_is_full_at_some_write(stays, expected, tmp_path, monkeypatch):
    rng = np.random.default_rng(int(stays))
    counting = raises_at(-1, None, os.fsync)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counting)
        run(tmp_path / "whole", Watch())
    writes = counting.calls[0] + 1
    count = int(os.environ.get("KERAS_TRANSFER_KILLS", "2"))
    failed = 0
    for number in rng.permutation(writes)[:count]:
        folder, watch = tmp_path / f"{number}", Watch()
        model, result = network(0), None
        with monkeypatch.context() as patch:
            until = 10**9 if stays else None
            patch.setattr(os, "fsync", raises_at(number, FULL, os.fsync, until))
            try:
                result = run(folder, watch, model=model)
            except OSError as error:
                assert error is FULL  # noqa: PT017
                failed += 1
                last = values(model)
                assert any(same(last, known) for known in watch.finished or [values(network(0))])
        assert_whole(folder)
        if result is None:
            # Where there was never room for a checkpoint the run begins anew, with its own weights.
            begun = any(folder.glob("checkpoint/*.json"))
            result = run(folder, Watch(), 7 if begun else 0, resume=True)
        assert_same(result, expected)
    print(f"\n{min(count, writes)} of {writes} writes without room, {failed} ended the run, 0 lost")  # noqa: T201


# Matplotlib warns of a legend that took long, as it seems.
@pytest.mark.filterwarnings("ignore:Creating legend:UserWarning")
def test_clocks_that_jump(expected, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name in ("time", "perf_counter"):
        real = getattr(time, name)
        monkeypatch.setattr(time, name, lambda real=real: real() + rng.uniform(-1e7, 1e7))
    assert_survives(tmp_path, expected, Watch(("end", 1, 1), raises(ValueError())), ValueError)
