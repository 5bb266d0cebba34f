"""Input that nobody meant to give, and files that somebody has changed: an error with a message at most.

python -m pytest tests/faults/test_fuzz.py --hypothesis-profile thorough

tries 2,000 examples of each property.
"""

import contextlib
import copy
import hashlib
import json
import math
import os
import shutil
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from kill import images, network

import keras_transfer as kt
from keras_transfer._lib.arrays import DamagedError
from keras_transfer.features.cache import folder
from keras_transfer.layers.about import attach_class_names, origin_of
from keras_transfer.layers.freezing import trainable_state
from keras_transfer.optimizers.patterns import resolve
from keras_transfer.probabilities.calibration import calibrate_by_logits
from keras_transfer.results.training import FineTuneResult
from keras_transfer.training.checkpoints import Checkpoints
from keras_transfer.training.checks import checked_phases
from keras_transfer.training.phase import Phase
from keras_transfer.training.resuming import Recorder
from keras_transfer.training.state import RunState
from keras_transfer.training.written import read_finished

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.timeout(7200)


def some(few):
    """Return settings for few examples, or for as many as the profile says."""
    thorough = settings().max_examples == settings.get_profile("thorough").max_examples
    return settings(
        max_examples=settings().max_examples if thorough else few,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["../../etc/passwd", "/etc/passwd", "arrays_00000001.bin", "../arrays_00000001.bin"]
    ),
    st.sampled_from(["float32", "object", "O", "nan", "head", "from:block2_conv1", "from:(", "adam"]),
)
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([2**31, 2**63, 10**30, -1, 0.5, 1e308, math.nan, math.inf, -math.inf]),
    st.floats(),
)
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


def tree_changed(draw, content):
    """Return plain data with something in it replaced, removed or moved."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        at, within = content, None
        while isinstance(at, (dict, list)) and at and (within is None or draw(st.integers(0, 3))):
            key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            within, at = (at, key), at[key]
        if within is None:
            return draw(PLAIN)
        holder, key = within
        if draw(st.integers(0, 3)) == 0:
            del holder[key]
        else:
            holder[key] = draw(PLAIN)
    return content


def bytes_changed(draw, content):
    """Return bytes that are cut, flipped, or longer than they were."""
    kind = draw(st.sampled_from(["cut", "flip", "insert", "random"]))
    at = draw(st.integers(0, max(0, len(content) - 1)))
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
    more = draw(st.binary(min_size=1, max_size=40))
    return more if kind == "random" else content[:at] + more + content[at:]


def snapshot(folder, but=()):
    """Return all files below a folder, except for some folders."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(path.is_relative_to(other) for other in but)
    }


def check_message(error, part=""):
    """Check that an error says something, that a terminal can show."""
    assert str(error)
    assert part in str(error)
    str(error).encode()


def values(model):
    return [np.array(weight) for weight in model.get_weights()]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def model():
    keras.utils.clear_session(free_memory=False)
    return network(0)


@pytest.fixture(scope="module")
def outer(tmp_path_factory):
    """Return a folder with the folder of a run in it, and a file that nobody may touch."""
    folder = tmp_path_factory.mktemp("outer")
    (folder / "precious").write_text("mine")
    return folder


class StopError(Exception):
    pass


@pytest.fixture(scope="module")
def stopped(outer, tmp_path_factory):
    """Return a folder with the checkpoints of a run that stopped, and what is needed to resume it."""
    keras.utils.clear_session(free_memory=False)
    x, y = images()
    phases = [kt.Phase("head", 2), kt.Phase("all", 2, train="all")]
    calls = []

    class Noting(Recorder):
        def __init__(self, *arguments, **named):
            calls.append(arguments)
            super().__init__(*arguments, **named)

        def save(self, state, callbacks):
            super().save(state, callbacks)
            if state.epoch == 3:
                raise StopError

    data = (x[:24], y[:24]), (x[48:], y[48:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras_transfer.runs.fine_tune.Recorder", Noting)
        with pytest.raises(StopError):
            kt.fine_tune(network(0), *data, phases, batch_size=8, output=outer / "run", verbose=0)
    kept = tmp_path_factory.mktemp("kept")
    shutil.copytree(outer / "run" / "checkpoint", kept / "checkpoint")
    return outer / "run", kept / "checkpoint", calls[0]


def restore(stopped):
    """Put the checkpoints back as they were, and return their folder."""
    run, kept, _ = stopped
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(kept, run / "checkpoint")
    return run / "checkpoint"


RATES = st.one_of(NUMBERS, st.none(), st.sampled_from(["find", "found", "fast"]))
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "epochs": st.one_of(st.integers(1, 4), NUMBERS, TEXTS),
        "train": st.one_of(TEXTS, st.sampled_from(["head", "new", "all", "from:block1_conv1"]), NUMBERS),
        "learning_rate": RATES,
        "optimizer": st.one_of(st.sampled_from(["adam", "sgd", "AdamW", "nadam"]), TEXTS),
        "multipliers": st.one_of(
            st.none(), st.dictionaries(st.sampled_from([".*", "block2.*", "(", "x"]), NUMBERS)
        ),
        "schedule": st.one_of(st.none(), PLAIN, st.just(lambda rate, steps: rate)),
        "batch_norm": st.one_of(st.sampled_from(["freeze", "train"]), TEXTS),
        "augmentation": st.one_of(st.sampled_from(["inherit", "light", None]), TEXTS, NUMBERS),
    },
)


@some(60)
@given(fields=st.lists(FIELDS, max_size=3))
def test_phase_lists(fields, model):
    before, flags = values(model), [layer.trainable for layer in model.layers]
    try:
        phases = checked_phases([Phase("a", **{"epochs": 1, **each}) for each in fields], model)
    except (ValueError, TypeError) as error:
        check_message(error)
    else:
        for phase in phases:
            assert phase.epochs >= 1
            assert phase.layers(model)
            json.dumps(phase.describe())
    assert same(values(model), before)
    assert [layer.trainable for layer in model.layers] == flags


KEYS = st.one_of(TEXTS, st.sampled_from([".*", "block1.*", ".*kernel", "((", "[", "*"]))


@some(60)
@given(multipliers=st.one_of(st.dictionaries(KEYS, st.one_of(NUMBERS, PLAIN), max_size=4), PLAIN))
def test_multiplier_maps(multipliers, model):
    try:
        phase = Phase("a", 1, train="all", multipliers=multipliers)
        phase.check(model)
    except (ValueError, TypeError) as error:
        check_message(error)
        return
    found = resolve(multipliers or {}, model.trainable_variables, strict=False)
    assert all(math.isfinite(each) and each >= 0.0 for each in found)
    assert found == resolve(dict(multipliers or {}), model.trainable_variables, strict=False)


ARGUMENT = st.one_of(
    st.floats(1e-9, 10.0),
    st.integers(1, 2000),
    NUMBERS,
    st.sampled_from(["cosine", "triangular2", None]),
)
SCHEDULES = {
    kt.schedules.Cyclic: ["base_lr", "max_lr", "step_size", "mode", "gamma"],
    kt.schedules.OneCycle: [],
    kt.schedules.WarmRestarts: ["max_lr", "cycle_steps", "cycle_mult", "min_lr", "cycle_decay"],
}


def drawn_schedule(draw, kind):
    """Return a schedule with drawn arguments, most of which make sense."""
    low, high = draw(st.floats(0.0, 1.0)), draw(st.floats(1e-6, 10.0))
    steps = draw(st.integers(1, 3000))
    if kind is kt.schedules.Cyclic:
        mode = draw(st.sampled_from(["triangular", "triangular2", "exp_range"]))
        given_ = {"base_lr": low, "max_lr": low + high, "step_size": steps, "mode": mode}
        given_["gamma"] = draw(st.floats(0.5, 1.0)) if mode == "exp_range" else 1.0
    elif kind is kt.schedules.WarmRestarts:
        given_ = {"max_lr": low + high, "cycle_steps": steps, "min_lr": low}
        given_ |= {"cycle_mult": draw(st.sampled_from([1.0, 1.01, 1.5, 2.0, 3.0]))}
        given_ |= {"cycle_decay": draw(st.floats(0.1, 1.0))}
    else:
        given_ = {"max_lr": low + high, "total_steps": steps + 1}
    if draw(st.booleans()):
        given_[draw(st.sampled_from(sorted(given_)))] = draw(ARGUMENT)
    # Rates that float32 can't hold are infinite there.
    assume(not any(isinstance(value, (int, float)) and abs(value) > 1e38 for value in given_.values()))
    return kind(**given_)


@pytest.mark.parametrize("kind", SCHEDULES)
@some(40)
@given(data=st.data())
def test_schedules(kind, data):
    try:
        schedule = drawn_schedule(data.draw, kind)
    except (ValueError, TypeError) as error:
        check_message(error)
        return
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert again.get_config() == schedule.get_config()
    for step in data.draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3)):
        rate = float(schedule(step))
        assert math.isfinite(rate)
        assert 0.0 <= rate <= schedule.max_lr * (1 + 1e-6)
        assert float(again(step)) == rate


@some(60)
@given(data=st.data())
def test_checkpoints_with_other_bytes(data, stopped, outer):
    folder = restore(stopped)
    others = snapshot(outer, [folder.parent])
    files = sorted(folder.glob("*_*"))
    contents = [path.read_bytes() for path in files]
    expected = {}
    for number in data.draw(st.lists(st.integers(0, len(files) - 1), min_size=1, unique=True)):
        path = files[number]
        kind = data.draw(st.sampled_from(["change", "swap", "remove", "link", "folder"]))
        if kind == "change":
            path.write_bytes(bytes_changed(data.draw, contents[number]))
        elif kind == "swap":
            path.write_bytes(data.draw(st.sampled_from(contents)))
        else:
            path.unlink()
            if kind == "link":
                path.symlink_to(data.draw(st.sampled_from([outer / "precious", folder, path])))
            elif kind == "folder":
                path.mkdir()
    _, kept, _ = stopped
    for manifest in kept.glob("*.json"):
        arrays, about, _ = _loaded_alone(kept, manifest)
        expected[json.dumps(about)] = arrays
    try:
        loaded = Checkpoints(folder).load()
    except DamagedError as error:
        check_message(error)
    else:
        if loaded is not None:  # one of those that were written, bit for bit
            arrays, about, _ = loaded
            known = expected[json.dumps(about)]
            assert arrays.keys() == known.keys()
            assert all(np.array_equal(arrays[name], known[name]) for name in known)
    assert snapshot(outer, [folder.parent]) == others


def _loaded_alone(folder, manifest):
    return Checkpoints(folder)._read(manifest)


def reseal(path, content):
    """Write a manifest whose digest is right, as somebody could who means harm."""
    text = json.dumps(content)
    path.write_text(json.dumps([hashlib.sha256(text.encode()).hexdigest(), text]))


@some(60)
@given(data=st.data())
def test_checkpoints_that_somebody_has_rewritten(data, stopped, outer):
    folder = restore(stopped)
    others = snapshot(outer, [folder.parent])
    last = sorted(folder.glob("*.json"))[-1]
    content = json.loads(json.loads(last.read_text())[1])
    reseal(last, tree_changed(data.draw, content))
    check_resume(stopped, outer)
    assert snapshot(outer, [folder.parent]) == others


def check_resume(stopped, outer):
    """Resume from changed checkpoints: either it is refused and nothing changed, or all fits."""
    _, job, settings = stopped[2]
    model = job.model
    recorder = Recorder(outer / "run", job, settings)
    before = values(model)
    flags = [layer.trainable for layer in model.layers]
    state = RunState(values(model))
    try:
        resumed = recorder.resume(state)
    except ValueError as error:
        check_message(error, "Received: ")
        assert same(values(model), before)
        return
    finally:
        recorder.close()
    assert resumed
    assert 0 <= state.phase < len(job.phases)
    assert 0 <= state.first_epoch <= state.epoch
    assert state.seconds >= 0.0 or math.isnan(state.seconds)
    assert all(isinstance(value, float) for logs in state.logs for value in logs.values())
    assert len(state.flags) == len(trainable_state(model))
    for layer, flag in zip(model.layers, flags, strict=True):
        layer.trainable = flag


@some(80)
@given(data=st.data())
def test_histories(data, model, outer):
    folder = outer / "history"
    folder.mkdir(exist_ok=True)
    content = {
        "format": 1,
        "model": "m",
        "history": {"loss": [1.0, 0.5], "val_loss": [1.0, None]},
        "phases": [{"name": "a", "first_epoch": 0, "epochs": 2, "seconds": 1.0, "settings": {}}],
        "best": {"phase": "a", "epoch": 1, "metrics": {"loss": 0.5}},
        "run": {"seed": 0},
        "finished": True,
    }
    path = folder / "history.json"
    text = json.dumps(tree_changed(data.draw, content)).encode()
    path.write_bytes(bytes_changed(data.draw, text) if data.draw(st.booleans()) else text)
    found = read_finished(path, model)
    if found is not None:
        _, result = found
        assert isinstance(result, FineTuneResult)
        assert all(isinstance(v, float) for values in result.history.values() for v in values)
        for phase in result.phases:
            assert isinstance(phase.name, str)
            assert isinstance(phase.epochs, int)


@pytest.fixture(scope="module")
def cached(outer):
    keras.utils.clear_session(free_memory=False)
    inputs = keras.Input((4, 4, 3))
    prefix = keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs), name="prefix")
    rng = np.random.default_rng(0)
    task = rng.integers(0, 256, (6, 4, 4, 3), "uint8"), np.arange(6) % 2
    cache = kt.FeatureCache(prefix, outer / "caches")
    loader = cache.build(task, 3, verbose=0)
    files = snapshot(outer / "caches")
    return cache, task, files, np.concatenate([x for x, _ in loader])


@some(40)
@given(data=st.data())
def test_caches(data, cached, outer):
    cache, task, files, expected = cached
    shutil.rmtree(cache.folder)
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    others = snapshot(outer, [cache.folder])
    of_cache = sorted(path for path in files if path.name.endswith((".bin", "manifest.json")))
    path = data.draw(st.sampled_from(of_cache))
    kind = data.draw(st.sampled_from(["bytes", "plain", "link"]))
    if kind == "plain" and path.suffix == ".json":
        path.write_text(json.dumps(tree_changed(data.draw, json.loads(files[path]))))
    elif kind == "link":
        path.unlink()
        path.symlink_to(outer / "precious")
    else:
        path.write_bytes(bytes_changed(data.draw, files[path]))
    assert len(folder.caches(cache.folder)) <= 1
    found = np.concatenate([x for x, _ in cache.build(task, 3, verbose=0)])
    np.testing.assert_array_equal(found, expected)
    assert snapshot(outer, [cache.folder]) == others


@pytest.fixture(scope="module")
def saved(outer):
    """Return a `.keras` file with all members of ours."""
    keras.utils.clear_session(free_memory=False)
    model = kt.classifier("mobilenet", 3, image_size=32, weights=None)
    names = ["ant", "bee", "cat"]
    attach_class_names(model, names)
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((60, 3)) + 2 * np.eye(3)[np.arange(60) % 3], np.arange(60) % 3
    calibrate_by_logits(model, logits, labels)
    path = outer / "model.keras"
    model.save(path)
    return path


MEMBERS = ["assets/class_names.json", "assets/calibration.json", "assets/origin.json"]
READERS = [kt.class_names, kt.calibration.of, origin_of]


def rewritten(saved, path, members, extra=()):
    """Write a `.keras` file with other members; `extra` come after them, whatever their names."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name in MEMBERS:
                new.writestr(name, members.get(name, old.read(name)))
        for name, content in extra:
            new.writestr(name, content)


@some(80)
@given(data=st.data())
def test_members_of_keras_files(data, saved, outer):
    with zipfile.ZipFile(saved) as archive:
        content = {name: archive.read(name) for name in MEMBERS}
    name = data.draw(st.sampled_from(MEMBERS))
    if data.draw(st.booleans()):
        content[name] = bytes_changed(data.draw, content[name])
    else:
        content[name] = json.dumps(tree_changed(data.draw, json.loads(content[name]))).encode()
    names = st.sampled_from(["/etc/passwd", "../../x", "assets/../../x", "assets/", "C:\\x", *MEMBERS])
    extra = data.draw(st.lists(st.tuples(names, st.binary(max_size=20)), max_size=2))
    path = outer / "other.keras"
    path.unlink(missing_ok=True)
    before = snapshot(outer)
    names = [*MEMBERS, *(name for name, _ in extra)]
    doubled = len(set(names)) < len(names)
    with pytest.warns(UserWarning, match="Duplicate") if doubled else contextlib.nullcontext():
        rewritten(saved, path, content, extra)
    if data.draw(st.booleans()):
        path.write_bytes(bytes_changed(data.draw, path.read_bytes()))
    for read in READERS:
        try:
            found = read(path)
        except ValueError as error:
            check_message(error, "Received: ")
        else:
            json.dumps(found if isinstance(found, (list, type(None))) else vars(found))
    path.unlink()
    assert snapshot(outer) == before


def test_bombs_in_keras_files(saved, outer):
    for name, read in zip(MEMBERS, READERS, strict=True):
        for content in (b"[" * 200_000, b" " * (17 * 2**20), b'{"a":' * 100_000, b"9" * 100_000):
            rewritten(saved, outer / "bomb.keras", {name: content})
            with pytest.raises(ValueError, match="can't read"):
                read(outer / "bomb.keras")


NAMES = st.one_of(
    st.sampled_from(
        # From the right to the left, a line break, no UTF-8, as long as names can be.
        [b"\xe2\x80\xaegnp", b"a\nb", b"\xff\xfe", b"x" * 251]
    ),
    st.sampled_from(b"-rf|--help|\x01|~|*|CON|'| |$(id)|%00|...".split(b"|")),
    st.binary(min_size=1, max_size=8).filter(lambda name: not set(name) & set(b"/\0")),
).filter(lambda name: name not in (b".", b".."))


@pytest.mark.skipif(os.name != "posix", reason="names are bytes there")
@some(40)
@given(data=st.data())
def test_names_in_image_folders(data, outer):
    pil = pytest.importorskip("PIL.Image")
    root = outer / "photos"
    shutil.rmtree(root, ignore_errors=True)
    others = snapshot(outer, [root])
    classes = data.draw(st.lists(NAMES, min_size=2, max_size=3, unique=True))
    for each in classes:
        folder = os.path.join(os.fsencode(root), each)
        try:
            os.makedirs(folder)
        except OSError:  # names that this file system doesn't have
            assume(False)
        for name in {data.draw(NAMES)[:251], b"1"}:
            with open(os.path.join(folder, name + b".png"), "wb") as file:
                if data.draw(st.integers(0, 5)):
                    pil.new("RGB", (4, 4)).save(file, "png")
                else:
                    file.write(data.draw(st.binary(max_size=60)))
    try:
        loader = kt.data.from_directory(root, image_size=4, batch_size=2, on_error="skip")
    except (ValueError, TypeError, OSError) as error:
        check_message(error)
    else:
        x, y = loader.samples(0, loader.num_samples)
        assert x.shape == (len(y), 4, 4, 3)
        shown = [each for each in classes if not each.startswith(b".")]  # others are hidden
        assert len(loader.class_names) == len(shown)
        assert np.all((y >= 0) & (y < len(classes)))
    assert snapshot(outer, [root]) == others


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Return the bytes of a picture by their format."""
    pil = pytest.importorskip("PIL.Image")
    picture, found = pil.effect_noise((8, 8), 50), {}
    for kind in ("png", "jpeg", "gif", "bmp", "webp"):
        path = tmp_path_factory.mktemp("pictures") / f"1.{kind}"
        picture.save(path)
        found[kind] = path.read_bytes()
    return found


@some(80)
@given(data=st.data())
def test_bytes_of_images(data, outer, encoded):
    root = outer / "bytes"
    shutil.rmtree(root, ignore_errors=True)
    (root / "a").mkdir(parents=True)
    suffix = data.draw(st.sampled_from(sorted(encoded)))
    path = root / "a" / f"1.{suffix}"
    content = data.draw(st.sampled_from([encoded[suffix], *encoded.values(), b"x"]))
    path.write_bytes(bytes_changed(data.draw, content))
    try:
        x, _ = kt.data.from_directory(root, image_size=8).samples(0, 1)
    except (ValueError, OSError) as error:
        check_message(error, path.name)
    else:
        assert x.shape == (1, 8, 8, 3)
