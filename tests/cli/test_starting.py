"""What a command loads, builds and reads before it can begin, and what it doesn't."""

import json
import subprocess
import sys

import keras
import pytest
from folders import SMALL, write_images

import keras_transfer as kt
from keras_transfer.cli import starting

BACKENDS = {"jax", "tensorflow", "torch"}
LOADED = """
import json, sys
from keras_transfer.cli import main
for command in json.loads(sys.argv[1]):
    sys.argv[1:] = command
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code
    print("loaded:", *(name for name in sys.modules if sys.modules[name] is not None))
"""


def loaded(*commands):
    """Return the modules that are loaded when each of some commands, in one process, is over."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    command = [sys.executable, "-c", LOADED, words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1000, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("loaded:")]
    assert len(lines) == len(commands)
    return [set(line.split()[1:]) for line in lines]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model for images of 32 pixels, in a file."""
    path = tmp_path_factory.mktemp("model") / "model.keras"
    kt.classifier("mobilenet", 2, image_size=32, weights=None).save(path)
    return path


def test_help_needs_no_keras():
    found = loaded(("--help",), ("train", "--help"), ("predict", "--help"))
    assert not set.union(*found) & {"keras", "sklearn", "matplotlib", "PIL", *BACKENDS}


@pytest.fixture(scope="module")
def loaded_by(model, photos, tmp_path_factory):
    """Return the modules that are loaded after `predict`, then a dry run, then `train`."""
    train = ("train", photos, *SMALL, "--minutes", "0.01", "--quiet")  # which times what it leaves out
    folder = tmp_path_factory.mktemp("trained") / "model"
    commands = ("predict", model, photos / "dark" / "000.png"), (*train, "--dry-run")
    return loaded(*commands, (*train, "-o", folder))


def test_predict_loads_the_backend_and_nothing_beside(loaded_by):
    backend = keras.backend.backend()
    found = loaded_by[0]
    assert not found & ({"matplotlib", "pandas", "sklearn", "keras_hub", *BACKENDS} - {backend})
    assert {"keras", backend} <= found


def test_a_dry_run_neither_fits_nor_draws(loaded_by):
    found = loaded_by[1]
    others = BACKENDS - {keras.backend.backend()}
    assert not found & {"matplotlib", "pandas", "sklearn", "jinja2", "keras_hub", *others}


def test_train_loads_what_it_uses_and_no_other_backend(loaded_by):
    found = loaded_by[2]
    assert {"matplotlib", "sklearn", "jinja2"} <= found
    assert not found & {"matplotlib.pyplot", "keras_hub", *(BACKENDS - {keras.backend.backend()})}


def test_garbage_is_looked_for_in_what_came_later():
    code = """
import gc
from keras_transfer.cli import starting
starting.import_keras({backend!r})
print(gc.isenabled(), gc.get_freeze_count() > 100_000, len(gc.get_objects()) < 1_000)
"""
    code = code.format(backend=keras.backend.backend())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3


class TestMissing:
    def test_is_over_with_the_block(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "wave", raising=False)
        with starting.missing("wave"), pytest.raises(ImportError):
            import wave
        import wave

        assert wave.open

    def test_leaves_what_is_there(self):
        with starting.missing("json"):
            import json
        assert sys.modules["json"] is json

    def test_is_over_after_an_error(self, monkeypatch):
        monkeypatch.delitem(sys.modules, "wave", raising=False)
        with pytest.raises(KeyError), starting.missing("wave"):
            raise KeyError
        assert "wave" not in sys.modules


@pytest.fixture
def counted(monkeypatch):
    """Count how often MobileNet is built, weights are loaded and a kernel of a convolution is drawn."""
    counts = {"built": 0, "read": 0, "drawn": 0}

    def counts_calls(owner, name, what, matters=lambda *arguments: True):
        function = getattr(owner, name)

        def call(*arguments, **named):
            counts[what] += matters(*arguments)
            return function(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    counts_calls(keras.Model, "load_weights", "read")
    counts_calls(
        keras.initializers.GlorotUniform,
        *("__call__", "drawn"),
        lambda initializer, shape, *rest: len(shape) == 4,
    )
    build = keras.applications.MobileNet

    def mobilenet(*arguments, **named):
        counts["built"] += 1
        return build(*arguments, **named)

    mobilenet.__module__ = build.__module__
    monkeypatch.setattr(keras.applications, "MobileNet", mobilenet)
    return counts


def test_train_builds_once_and_reads_weights_once(counted, keras_transfer, tmp_path):
    write_images(tmp_path / "photos" / "dark", 0, 8)
    write_images(tmp_path / "photos" / "light", 180, 8, first=100)
    weights = tmp_path / "mobilenet.weights.h5"
    keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3)).save_weights(
        weights
    )
    counted.update(built=0, drawn=0)
    small = [weights if option == "none" else option for option in SMALL]
    result = keras_transfer(
        "train", tmp_path / "photos", *small, "-o", tmp_path / "model", "--quiet", "--fast"
    )
    assert result.exit_code == 0, result.output
    assert counted == {"built": 1, "read": 1, "drawn": 0}


def test_predict_draws_nothing(counted, keras_transfer, model, photos):
    result = keras_transfer("predict", model, photos / "dark" / "000.png")
    assert result.exit_code == 0, result.output
    assert counted == {"built": 0, "read": 0, "drawn": 0}


def ended(before, *arguments):
    """Run what the installed script runs, after some code; return status, output and errors."""
    code = f"import atexit, sys\n{before}\nfrom keras_transfer.cli import run\nrun()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1000, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_process_ends_with_all_that_was_to_be_done_and_frees_nothing():
    before = (
        "class Kept:\n    def __del__(self): print('freed')\n"
        "kept = Kept()\natexit.register(lambda: print('called'))"
    )
    code, output, errors = ended(before, "--version")
    assert (code, output.split(), errors) == (0, [kt.__version__, "called"], "")


def test_a_mistake_ends_it_with_its_status_and_line(tmp_path):
    code, output, errors = ended("", "evaluate", tmp_path / "none.keras", tmp_path)
    assert (code, output) == (1, "")
    assert "none.keras" in errors
    assert ended("", "--no-such-option")[0] == 2


def test_without_the_extra_it_ends_with_the_command_that_installs_it():
    code, output, errors = ended("sys.modules['typer'] = None", "--version")
    assert (code, output) == (1, "")
    assert errors == "The command line needs typer: pip install 'keras-transfer[cli]'\n"


def test_a_fault_of_ours_has_its_traceback():
    code, _, errors = ended("import keras_transfer.cli as c\ndef main(): 1 / 0\nc.main = main")
    assert code == 1
    assert "ZeroDivisionError" in errors.splitlines()[-1]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_nobody_reads_what_it_prints():
    code = "from keras_transfer.cli import run; run()"
    command = [sys.executable, "-c", code, "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
