"""A run that was stopped anywhere and resumed ends as one that was never stopped, bit for bit."""

import functools
import hashlib
import json
import shutil

import keras
import numpy as np
import pytest
from tiny import tiny_backbone

import keras_transfer as kt
from keras_transfer.features.cache import cache
from keras_transfer.inference import runtimes
from keras_transfer.training.checkpoints import Checkpoints
from keras_transfer.training.resuming import Recorder

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("quick_pictures")

SIZE, CLASSES = 16, 3


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    y = np.arange(24) % CLASSES
    x = rng.integers(0, 90, (24, SIZE, SIZE, 3)) + 70 * y[:, None, None, None]
    return x.astype("uint8"), y


def network(seed=0, dropout=0.3):
    """Return a classifier with batch norm and dropout."""
    keras.utils.set_random_seed(seed)
    return kt.classifier(tiny_backbone(), CLASSES, hidden_units=(5,), dropout=dropout)


class StopError(Exception):
    """What ends a run."""


class Stop(keras.callbacks.Callback):
    """Raises in a batch of an epoch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self._where, self._now = (epoch, batch), [None]

    def on_epoch_begin(self, epoch, logs=None):
        self._now[0] = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self._now[0], batch) == self._where:
            raise StopError


class Idle(keras.callbacks.Callback):
    """Takes the place of Stop where nothing stops."""


Idle.__name__ = "Stop"


def phases(kind):
    """Return phases that differ in what they need to go on."""
    three = [
        kt.Phase("head", 2, learning_rate=1e-2),
        kt.Phase("last", 2, train="from:block2_conv1", learning_rate=1e-3),
        kt.Phase("all", 2, train="all", learning_rate=1e-3, batch_norm="train"),
    ]
    adamw = keras.optimizers.AdamW(weight_decay=1e-2)
    falling = keras.optimizers.schedules.CosineDecay(1e-2, 12)
    return {
        "three": three,
        "kinds": [three[0], kt.Phase("sgd", 2, optimizer="sgd", train="all"), three[2]],
        "rates": [
            kt.Phase("head", 2, learning_rate=falling, optimizer=adamw),
            kt.Phase(
                "all",
                3,
                train="all",
                learning_rate=1e-3,
                optimizer=adamw,
                multipliers={".*conv1.*": 0.1},
            ),
        ],
        "cycles": [
            kt.Phase("head", 2, callbacks=[kt.callbacks.WarmRestartsLR(1e-2, cycle_epochs=1)]),
            kt.Phase(
                "all",
                3,
                train="all",
                callbacks=[kt.callbacks.CyclicLR(1e-4, 1e-3, step_size=2, first_epoch=2)],
            ),
        ],
        "gradual": [
            kt.Phase("gradual", 4, learning_rate=1e-3, callbacks=[kt.callbacks.GradualUnfreezing(2)]),
            kt.Phase("all", 2, train="all", learning_rate=1e-4),
        ],
        "ema": [
            kt.Phase("head", 2, learning_rate=1e-2),
            kt.Phase("all", 3, "all", 1e-2, batch_norm="train", average=kt.EMA(0.8)),
            kt.Phase("again", 1, "all", 1e-3, average=kt.EMA(0.5)),
        ],
        "l2-sp": [
            kt.Phase("last", 1, "from:block2_conv1", 1e-2),
            kt.Phase("all", 2, "all", 1e-2, l2_sp=kt.L2SP(0.5, 0.1)),
            kt.Phase("again", 2, "all", 1e-2, l2_sp=kt.L2SP(2.0), average=kt.EMA(0.7)),
        ],
        "swa": [
            kt.Phase("all", 4, "all", 1e-2, batch_norm="train", average=kt.SWA(3)),
            kt.Phase("again", 2, "all", 1e-3),
        ],
        "plateau": [
            kt.Phase(
                "head",
                5,
                learning_rate=1e-2,
                callbacks=[
                    keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=10.0),
                    keras.callbacks.EarlyStopping("loss", patience=3, min_delta=10.0),
                ],
            ),
            three[2],
        ],
    }[kind]


def fit(model, images, kind, output=None, stop=None, validation=True, **options):
    """Run the phases, up to (epoch, batch) if that is given."""
    callbacks = [Idle() if stop is None else Stop(*stop)]
    return kt.fine_tune(
        model,
        images,
        (images[0][::2], images[1][::2]) if validation else None,
        phases(kind),
        batch_size=8,
        callbacks=callbacks,
        output=output,
        verbose=0,
        **options,
    )


def values(model):
    """Return all weights; where the seed generators stand doesn't matter, as each epoch sets them."""
    return [np.array(w) for w in model.get_weights()]


def assert_same(result, expected):
    assert result.history == expected.history
    assert result.best == expected.best
    shown = [(p.name, p.first_epoch, p.epochs, p.settings) for p in result.phases]
    assert shown == [(p.name, p.first_epoch, p.epochs, p.settings) for p in expected.phases]
    for one, other in zip(values(result.model), values(expected.model), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(images, whole_folder):
    """Return what the three phases end with where nothing stops them: one fit for many tests."""
    return fit(network(), images, "three", whole_folder)


@pytest.fixture(scope="module")
def stopped_runs(images, tmp_path_factory):
    """Return a function that gives a copy of a run of the three phases that was stopped in an epoch."""
    made = {}

    def stopped(epoch, folder):
        if epoch not in made:
            made[epoch] = tmp_path_factory.mktemp("stopped") / "run"
            with pytest.raises(StopError):
                fit(network(), images, "three", made[epoch], (epoch, 0))
        shutil.copytree(made[epoch], folder, dirs_exist_ok=True)
        return folder

    return stopped


# The middle of an epoch, the first batch of a phase; the fault suite stops at random moments.
@pytest.mark.parametrize(
    ("kind", "stops", "validation"),
    [
        ("three", [(0, 0), (3, 2)], False),
        ("kinds", [(4, 0)], True),
        ("rates", [(4, 1)], True),
        ("cycles", [(3, 1)], False),
        ("gradual", [(1, 0), (5, 0)], True),
        ("gradual", [(3, 1)], False),
        ("plateau", [(3, 2)], False),
        ("ema", [(3, 1), (5, 0)], True),
        ("ema", [(4, 0), (5, 2)], False),
        ("l2-sp", [(0, 1), (2, 0), (4, 2)], True),
        ("l2-sp", [(1, 1), (3, 0)], False),
        ("swa", [(2, 1), (4, 0)], True),
        ("swa", [(3, 0), (5, 1)], False),
    ],
)
def test_bit_for_bit(kind, stops, validation, images, tmp_path):
    expected = fit(network(), images, kind, tmp_path / "whole", validation=validation)
    for stop in stops:
        with pytest.raises(StopError):
            fit(network(), images, kind, tmp_path / "run", stop, validation)
        # Another process has other initial weights where there was a random head.
        resumed = fit(network(7), images, kind, tmp_path / "run", validation=validation, resume=True)
        assert_same(resumed, expected)
        assert {path.name for path in (tmp_path / "run").iterdir()} == {
            "model.keras",
            "history.json",
            "curves.png",
        }
        shutil.rmtree(tmp_path / "run")


def test_stopped_again_and_again(whole, images, tmp_path):
    for number, stop in enumerate([(0, 1), (1, 0), (1, 2), (4, 0), (5, 2)]):
        with pytest.raises(StopError):
            fit(network(number), images, "three", tmp_path / "run", stop, resume=bool(number))
    # The first process made the initial weights, that is with the seed 0.
    assert_same(fit(network(7), images, "three", tmp_path / "run", resume=True), whole)


@pytest.mark.parametrize(
    "options",
    [
        {"augmentation": "light"},
        {"cache": False},
        {"cache": kt.CacheOptions(views=2), "augmentation": "light"},
        {"class_weight": {0: 2.0, 1: 1.0, 2: 0.5}, "seed": 5},
    ],
    ids=["augmented", "no cache", "views", "weighted"],
)
def test_options(options, images, tmp_path):
    expected = fit(network(), images, "three", tmp_path / "whole", **options)
    with pytest.raises(StopError):
        fit(network(), images, "three", tmp_path / "run", (3, 1), **options)
    resumed = fit(network(7), images, "three", tmp_path / "run", resume=True, **options)
    assert_same(resumed, expected)


def test_a_rate_that_was_found_is_not_sought_again(images, tmp_path, monkeypatch):
    def run(model, stop=None, **options):
        return kt.fine_tune(
            model,
            images,
            phases=[
                kt.Phase("head", 2, learning_rate="find"),
                kt.Phase("all", 2, train="all", learning_rate="found"),
            ],
            callbacks=[Idle() if stop is None else Stop(*stop)],
            verbose=0,
            **options,
        )

    expected = run(network())
    for stop in [(0, 0), (3, 0)]:
        with pytest.raises(StopError):
            run(network(), stop, output=tmp_path)
        with monkeypatch.context() as patch:
            if stop[0]:
                patch.setattr("keras_transfer.training.engine.find_lr", None)
            assert_same(run(network(7), output=tmp_path, resume=True), expected)


def test_averages(images, tmp_path):
    def run(model, stop=None, **options):
        averaging = keras.optimizers.Adam(use_ema=True, ema_momentum=0.5)
        return kt.fine_tune(
            model,
            images,
            phases=[
                kt.Phase("head", 2, optimizer=averaging, learning_rate=1e-2),
                kt.Phase("all", 1, optimizer=averaging, learning_rate=1e-3, train="all"),
            ],
            callbacks=[Idle() if stop is None else Stop(*stop)],
            verbose=0,
            **options,
        )

    expected = run(network())
    for stop in [(1, 0), (2, 0)]:
        with pytest.raises(StopError):
            run(network(), stop, output=tmp_path)
        assert_same(run(network(7), output=tmp_path, resume=True), expected)


def test_snapshots(images, tmp_path):
    def run(model, folder, stop=None, **options):
        ensemble = kt.callbacks.SnapshotEnsemble(folder / "snapshots", cycles=2, first_epoch=1)
        kt.fine_tune(
            model,
            images,
            phases=[
                kt.Phase("head", 1),
                kt.Phase("all", 4, train="all", callbacks=[ensemble]),
            ],
            callbacks=[Idle() if stop is None else Stop(*stop)],
            output=folder / "run",
            verbose=0,
            **options,
        )
        return [dict(np.load(file)) for file in ensemble.files]

    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    expected = run(network(), tmp_path / "whole")
    with pytest.raises(StopError):
        run(network(), tmp_path / "stopped", (3, 0))
    found = run(network(7), tmp_path / "stopped", resume=True)
    assert len(found) == len(expected) == 2
    for one, other in zip(found, expected, strict=True):
        for name in other:
            np.testing.assert_array_equal(one[name], other[name])


def test_killed_after_the_last_epoch_of_a_phase(whole, images, tmp_path, monkeypatch):
    for phase in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr("keras_transfer.runs.fine_tune._write", fails_at(phase))
            with pytest.raises(StopError):
                fit(network(), images, "three", tmp_path / "run")
        assert_same(fit(network(7), images, "three", tmp_path / "run", resume=True), whole)


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_killed_after_the_last_epoch_of_a_phase_that_averages(kind, images, tmp_path, monkeypatch):
    """What the next phase begins with comes from the checkpoint."""
    expected = fit(network(), images, kind, validation=False)
    with monkeypatch.context() as patch:
        patch.setattr("keras_transfer.runs.fine_tune._write", fails_at(2 if kind == "ema" else 1))
        with pytest.raises(StopError):
            fit(network(), images, kind, tmp_path, validation=False)
    assert_same(fit(network(7), images, kind, tmp_path, validation=False, resume=True), expected)


def test_where_a_callback_writes_is_not_read_from_a_file(images, tmp_path):
    class Writer(keras.callbacks.Callback):
        def __init__(self, folder):
            super().__init__()
            self.place, self.count, self.nothing = str(folder / "log.txt"), 0, None

        def on_epoch_begin(self, epoch, logs=None):
            self.count += 1

    def run(writer, stop=None, **options):
        callbacks = [writer, Idle() if stop is None else Stop(*stop)]
        kt.fine_tune(
            network(),
            images,
            phases=[kt.Phase("head", 3)],
            callbacks=callbacks,
            output=tmp_path,
            verbose=0,
            **options,
        )

    with pytest.raises(StopError):
        run(Writer(tmp_path / "old"), (2, 0))
    path = sorted((tmp_path / "checkpoint").glob("*.json"))[-1]
    content = json.loads(json.loads(path.read_text())[1])
    known = content["about"]["callbacks"][0]
    assert known["count"] == 2
    known |= {"place": "elsewhere", "nothing": "elsewhere", "count": 5}
    text = json.dumps(content)
    path.write_text(json.dumps([hashlib.sha256(text.encode()).hexdigest(), text]))
    writer = Writer(tmp_path / "new")
    run(writer, resume=True)
    assert (writer.place, writer.nothing) == (str(tmp_path / "new" / "log.txt"), None)
    assert writer.count == 6


def test_what_a_killed_process_was_writing_goes_away(stopped_runs, images, tmp_path):
    stopped_runs(3, tmp_path)
    for name in (".model-ab_1cd2e.keras", ".history-abcdefgh.json", ".curves-00000000.png"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".model-ab_1cd2e.txt").write_text("mine")
    fit(network(7), images, "three", tmp_path, resume=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model.keras", "history.json", "curves.png", ".model-ab_1cd2e.txt"}


def fails_at(count):
    calls = []

    def write(*arguments, **options):
        calls.append(None)
        if len(calls) == count:
            raise StopError

    return write


def test_a_run_that_is_over_comes_back(whole, whole_folder, images, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", None)
    again = fit(network(7), images, "three", whole_folder, resume=True)
    assert_same(again, whole)
    assert again.model.evaluate(*images, verbose=0, return_dict=True).keys() == {"accuracy", "loss"}


def test_a_finished_run_comes_back_into_a_compiled_model(whole, whole_folder, images, monkeypatch):
    model = network(7)
    model.compile(kt.optimizers.LayerwiseLR("adam", {".*": 0.1}), "sparse_categorical_crossentropy")
    model.fit(*images, verbose=0)  # whose optimizer has slots, of which the file knows nothing
    monkeypatch.setattr(keras.Model, "fit", None)
    assert_same(fit(model, images, "three", whole_folder, resume=True), whole)


def test_nothing_to_go_on_with(whole, images, tmp_path):
    assert_same(fit(network(), images, "three", tmp_path, resume=True), whole)


def test_another_run_begins_anew_without_resume(whole, images, tmp_path):
    with pytest.raises(StopError):
        fit(network(3), images, "three", tmp_path, (1, 0))
    assert_same(fit(network(), images, "three", tmp_path), whole)
    # A finished one, too; and what was stopped counts, not what was over before.
    with pytest.raises(StopError):
        fit(network(), images, "kinds", tmp_path, (0, 0))
    expected = fit(network(), images, "kinds")
    assert_same(fit(network(), images, "kinds", tmp_path, resume=True), expected)


class TestRefused:
    @pytest.fixture
    def stopped(self, stopped_runs, tmp_path):
        stopped_runs(3, tmp_path)
        before = {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()}
        yield tmp_path
        after = {path.name: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()}
        assert after == before

    @pytest.mark.parametrize(
        ("options", "found"),
        [
            ({"seed": 1}, "seed: 0 then, 1 now"),
            ({"kind": "kinds"}, r"phases\[1\].name: \"last\" then, \"sgd\" now"),
            ({"validation": False}, "validation: {.*} then, null now|validation: .* now"),
            ({"loss": "categorical_crossentropy"}, "loss: null then"),
            ({"augmentation": "light"}, 'train.augmentation: null then, "light" now'),
            ({"class_weight": {0: 2.0, 1: 1.0, 2: 1.0}}, "class_weight: null then"),
            ({"cache": False}, "cache: .* then, null now"),
        ],
    )
    def test_other_settings(self, options, found, stopped, images):
        kind = options.pop("kind", "three")
        model = network()
        before = values(model)
        with pytest.raises(ValueError, match=f"as they were.*Received: .*{found}"):
            fit(model, images, kind, stopped, resume=True, **options)
        for one, other in zip(values(model), before, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_another_augmentation_of_the_same_name(self, images, tmp_path):
        def augmented(*stages):
            return {"augmentation": kt.data.Compose(stages), "resume": True}

        turned = functools.partial(kt.data.random_rotation, degrees=5)
        with pytest.raises(StopError):
            fit(network(), images, "three", tmp_path, (0, 0), **augmented(kt.data.random_flip, turned))
        more = functools.partial(kt.data.random_rotation, degrees=6)
        for stages in [(kt.data.random_flip,), (kt.data.random_flip, more)]:
            with pytest.raises(ValueError, match=r"Received: .*train\.augmentation"):
                fit(network(), images, "three", tmp_path, **augmented(*stages))

    def test_another_function_of_the_same_name(self, images, tmp_path):
        """What trains is a function, which is known by its name and by what it chooses."""

        def choosing(*names):
            def chosen(layer):
                return layer.name in names

            return chosen

        def run(model, chosen, **callbacks):
            phases = [kt.Phase("own", 2, ["head", chosen])]
            data = {"batch_size": 8, "output": tmp_path, "verbose": 0, "resume": True}
            return kt.fine_tune(model, images, None, phases, **data, **callbacks)

        with pytest.raises(StopError):
            run(network(), choosing("block2_conv1"), callbacks=[Stop(1, 0)])
        with pytest.raises(ValueError, match=r"Received: .*phases\[0\]\.layers"):
            run(network(), choosing("block1_conv1"), callbacks=[Idle()])
        found = run(network(), choosing("block2_conv1"), callbacks=[Idle()])
        name = f"{__name__}.{choosing().__qualname__}"
        assert found.phases[0].settings["train"] == ["head", name]
        written = json.loads((tmp_path / "history.json").read_text())
        assert written["phases"][0]["settings"]["train"] == ["head", name]

    def test_other_data(self, stopped, images):
        x, y = images
        with pytest.raises(ValueError, match="Received: .*train.images and labels"):
            fit(network(), (x + 1, y), "three", stopped, resume=True)

    def test_another_model(self, stopped, images):
        with pytest.raises(ValueError, match="Received: .*model.digest"):
            fit(network(dropout=0.4), images, "three", stopped, resume=True)

    def test_another_version(self, stopped, images, monkeypatch):
        monkeypatch.setattr("keras_transfer.training.settings.__version__", "99.0")
        with pytest.raises(ValueError, match='keras_transfer: "[^"]*" then, "99.0" now'):
            fit(network(), images, "three", stopped, resume=True)

    def test_a_run_at_the_same_time(self, images, tmp_path):
        class Another(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                for resume in (False, True):
                    with pytest.raises(ValueError, match=r"one run at a time.*Received: output="):
                        fit(network(), images, "three", tmp_path, resume=resume)

        kt.fine_tune(
            network(),
            images,
            phases=[kt.Phase("head", 1, callbacks=[Another()])],
            output=tmp_path,
            verbose=0,
        )

    def test_data_that_comes_once(self, images, tmp_path):
        batches = ((images[0], images[1]) for _ in range(9))
        with pytest.raises(ValueError, match=r"resume needs train to be arrays.*type generator"):
            kt.fine_tune(network(), batches, output=tmp_path, resume=True)
        with pytest.raises(ValueError, match=r"resume needs the output"):
            fit(network(), images, "three", resume=True)

    def test_a_finished_run_with_other_settings(self, whole, whole_folder, images):
        content = (whole_folder / "history.json").read_bytes()
        with pytest.raises(ValueError, match="seed: 0 then, 1 now"):
            fit(network(), images, "three", whole_folder, resume=True, seed=1)
        assert (whole_folder / "history.json").read_bytes() == content


class TestDamage:
    @pytest.mark.parametrize("damage", ["cut", "changed", "empty", "gone", "text"])
    @pytest.mark.parametrize("kind", ["json", "bin"])
    def test_the_one_before_is_read(self, kind, damage, tmp_path):
        checkpoints = Checkpoints(tmp_path)
        frozen = np.arange(1000.0)
        for number in range(3):
            checkpoints.save({"frozen": frozen, "new": np.full(100, number)}, {"number": number})
        last = sorted(tmp_path.glob(f"*.{kind}"))[-1]
        content = last.read_bytes()
        middle = len(content) // 2
        new = {
            "cut": content[:middle],
            "changed": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "empty": b"",
            "text": b"[1, 2, {",
        }
        last.unlink() if damage == "gone" else last.write_bytes(new[damage])
        arrays, about, problems = Checkpoints(tmp_path).load()
        assert about == {"number": 1}
        np.testing.assert_array_equal(arrays["frozen"], frozen)
        np.testing.assert_array_equal(arrays["new"], np.full(100, 1))
        assert len(problems) == ((kind, damage) != ("json", "gone"))

    def test_a_run_goes_on_from_the_one_before(self, whole, stopped_runs, images, tmp_path, capsys):
        last = sorted((stopped_runs(3, tmp_path) / "checkpoint").glob("arrays_*"))[-1]
        last.write_bytes(last.read_bytes()[:-1])
        resumed = kt.fine_tune(
            network(7),
            images,
            (images[0][::2], images[1][::2]),
            phases("three"),
            batch_size=8,
            callbacks=[Idle()],
            output=tmp_path,
            resume=True,
            verbose=2,
        )
        assert_same(resumed, whole)
        said = capsys.readouterr().out
        assert "Passed over a damaged checkpoint: checkpoint_" in said
        assert "Resumed after 2 finished epochs" in said

    def test_all_are_damaged(self, stopped_runs, images, tmp_path):
        for path in (stopped_runs(3, tmp_path) / "checkpoint").glob("*_*"):
            path.write_bytes(b"")
        with pytest.raises(ValueError, match=r"every checkpoint there is damaged.*resume=False"):
            fit(network(), images, "three", tmp_path, resume=True)

    def test_a_full_disk_does_not_end_the_run(self, whole, images, tmp_path, monkeypatch, caplog):
        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("keras_transfer.training.checkpoints.Checkpoints.save", full)
        assert_same(fit(network(), images, "three", tmp_path), whole)
        assert "no checkpoint of epoch 1 was written" in caplog.text

    def test_two_are_kept_and_what_is_frozen_is_written_once(self, stopped_runs, tmp_path):
        stopped_runs(3, tmp_path)
        manifests = sorted((tmp_path / "checkpoint").glob("*.json"))
        assert [path.name for path in manifests] == [f"checkpoint_0000000{k}.json" for k in (3, 4)]
        _, text = json.loads(manifests[-1].read_text())
        places = json.loads(text)["arrays"]
        assert places["weights.0"]["file"] == "arrays_00000001.bin"  # a frozen kernel
        assert any(place["file"] == "arrays_00000004.bin" for place in places.values())
        files = {place["file"] for place in places.values()}
        assert files <= {path.name for path in (tmp_path / "checkpoint").iterdir()}


# By what frozen parts are computed


@pytest.mark.parametrize("begun", ["other", "onnxruntime"])
def test_it_goes_on_by_the_runtime_that_it_began_with(begun, images, tmp_path, monkeypatch, capsys):
    """And where it can't, it says so."""
    onnx_runtime = pytest.importorskip("keras_transfer.inference.onnx_runtime", exc_type=ImportError)
    three = [kt.Phase("head", 3, learning_rate=1e-2)]
    used = []

    def tune(output, resume=False):
        model = network(dropout=0.0)
        return kt.fine_tune(
            model, images, None, three, batch_size=8, output=output, resume=resume, verbose=2
        )

    def watched(model, runtime, *arguments):
        used.append(runtime.name)
        return start(model, runtime, *arguments)

    start = cache.started
    monkeypatch.setattr(cache, "started", watched)
    without = pytest.MonkeyPatch()
    if begun == "other":
        without.setattr(runtimes, "_obstacle", lambda model: "it isn't installed")
    whole = tune(tmp_path / "whole")
    save = Recorder.save

    def stopping(self, state, callbacks):
        save(self, state, callbacks)
        if state.epoch == 1:
            raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "save", stopping)
        with pytest.raises(StopError):
            tune(tmp_path / "run")
    without.undo()
    shutil.rmtree(tmp_path / "run" / "checkpoint" / "features", ignore_errors=True)
    capsys.readouterr()
    if begun == "onnxruntime":
        monkeypatch.setattr(onnx_runtime, "identity", lambda: "onnxruntime 9, of another processor")
    resumed = tune(tmp_path / "run", resume=True)
    jax = keras.backend.backend() == "jax"
    assert used == ["onnxruntime" if begun == "onnxruntime" else "keras" if jax else "folded"] * 3
    assert ("their last bits may differ" in capsys.readouterr().out) == (begun == "onnxruntime")
    assert resumed.history == whole.history
