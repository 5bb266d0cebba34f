"""One meaning of `verbose` for all functions, and no control characters where there is no terminal."""

import inspect
import io
import sys
import tarfile
import threading
import types

import keras
import numpy as np
import pytest
from test_network import Answers, server  # noqa: F401  a fixture
from tiny import tiny_backbone, tiny_task

import keras_transfer as kt
from keras_transfer._lib import messages
from keras_transfer._lib.messages import BARS, LINES, SILENT, progress, say, verbosity
from keras_transfer._lib.network import fetching

pytest.importorskip("sklearn")


class Terminal(io.StringIO):
    """An output that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def in_terminal(monkeypatch):
    """Return what lets a test go on in a terminal; pytest replaces the output of a fixture."""

    def begin():
        shown = Terminal()
        monkeypatch.setattr(sys, "stdout", shown)
        return shown

    return begin


@pytest.fixture
def _no_interactive_logging():
    keras.config.disable_interactive_logging()
    yield
    keras.config.enable_interactive_logging()


def is_plain(text):
    """Whether a text has no control characters but the ends of lines."""
    return all(line.isprintable() for line in text.split("\n"))


# The meaning


@pytest.mark.parametrize(
    ("verbose", "in_a_file", "in_a_terminal"),
    [("auto", LINES, BARS), (1, LINES, BARS), (2, LINES, LINES), (0, SILENT, SILENT)],
)
def test_what_it_comes_to(verbose, in_a_file, in_a_terminal, monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert verbosity(verbose) == in_a_file
    assert verbosity(in_a_file) == in_a_file
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert verbosity(verbose) == in_a_terminal
    assert verbosity(in_a_terminal) == in_a_terminal


def test_a_notebook_is_a_terminal(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    assert verbosity("auto") == BARS


def test_a_process_without_output(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert verbosity("auto") == LINES


@pytest.mark.usefixtures("_no_interactive_logging")
def test_a_log_is_no_terminal(in_terminal):
    terminal = in_terminal()
    assert verbosity("auto") == LINES
    say(LINES, "said")
    with progress(LINES, "a computation", 3) as advance:
        advance(3)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("verbose", [3, -1, "no", None, 1.5, np.array([1, 2])])
def test_nothing_else_is_taken(verbose):
    with pytest.raises(ValueError, match=r"verbose must be 'auto', 0, 1 or 2\. Received: verbose="):
        verbosity(verbose)


# What is shown


def test_lines(capsys):
    with progress(LINES, "Looking", 1_000, "image") as advance:
        for _ in range(10):
            advance(100)
    first, last, end = capsys.readouterr().out.split("\n")
    assert first == "Looking"
    assert last.startswith("1000/1000 - 0s - ")
    assert last.endswith("/image")
    assert end == ""


def test_a_line_tells_where_it_was_broken_off(capsys):
    def broken_off():
        with progress(LINES, "Looking", 10) as advance:
            advance(3)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken_off()
    assert " 3/10 - " in capsys.readouterr().out


def test_a_bar(in_terminal):
    terminal = in_terminal()
    with progress(BARS, "Looking", 2) as advance:
        advance()
        advance()
    assert "\r" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")


def test_silence(capsys):
    say(SILENT, "nothing")
    with progress(SILENT, "Looking", 2) as advance:
        advance(2)
    assert capsys.readouterr().out == ""


# Each public function


def classifier():
    return kt.classifier(tiny_backbone(), 3, seed=0)


def compiled():
    model = classifier()
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def photos(folder):
    image = pytest.importorskip("PIL.Image")
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        image.new("RGB", (20, 10)).save(folder / name / "1.png")
    return folder


def pairs(folder):
    return [(path, path.parent.name) for path in photos(folder).glob("*/*.png")]


def shard(folder):
    with tarfile.open(photos(folder) / "photos.tar", "w") as tar:
        for path, name in pairs(folder / "more"):
            label = io.BytesIO(name.encode())
            info = tarfile.TarInfo(f"{name}.cls")
            info.size = len(name)
            tar.addfile(info, label)
            tar.add(path, f"{name}.png")
    return folder / "photos.tar"


def rows(folder):
    datasets = pytest.importorskip("datasets")
    found = pairs(folder)
    columns = {"image": [str(path) for path, _ in found], "label": [name for _, name in found]}
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def backbones():
    return {"tiny": tiny_backbone()}


PHASES = [kt.Phase("head", 2, learning_rate=0.01)]
# What each function with `verbose` is called with, and what it tells.
CALLS = {
    "find_lr": (
        lambda **o: kt.find_lr(compiled(), tiny_task(24), min_lr=1e-4, num_steps=5, batch_size=8, **o),
        "smoothed_loss",
    ),
    "fine_tune": (
        lambda **o: kt.fine_tune(classifier(), tiny_task(24), tiny_task(9), PHASES, batch_size=8, **o),
        "Phase 1 of 1: head",
    ),
    "fit_linear_head": (
        lambda **o: kt.fit_linear_head(classifier(), tiny_task(24), **o),
        "Linear head: C = ",
    ),
    "advise": (lambda **o: kt.advise(classifier(), tiny_task(24), **o), "Feature cache: 24 samples"),
    "rank_backbones": (
        lambda **o: kt.rank_backbones(backbones(), tiny_task(24), **o),
        "Feature cache: 24 samples",
    ),
    "automatic.propose": (lambda **o: kt.automatic.propose(classifier(), tiny_task(24), **o), "24/24"),
    "automatic.train": (lambda **o: kt.automatic.train(classifier(), tiny_task(48), **o), "Trying: "),
    "automatic.follow": (
        lambda **o: kt.automatic.follow(classifier(), tiny_task(30), PHASES, **o),
        "Phase 1 of 1: head",
    ),
    "calibration.calibrate": (
        lambda **o: kt.calibration.calibrate(classifier(), tiny_task(24), **o),
        "24/24",
    ),
    "calibration.find_thresholds": (
        lambda **o: kt.calibration.find_thresholds(
            kt.classifier(tiny_backbone(), 3, task="multi-label"),
            (tiny_task(24)[0], np.eye(3, dtype=int)[tiny_task(24)[1]]),
            **o,
        ),
        "24/24",
    ),
    "evaluation.evaluate": (
        lambda **o: kt.evaluation.evaluate(classifier(), tiny_task(24), **o),
        "24/24",
    ),
    "features.extract": (
        lambda **o: kt.features.extract(tiny_backbone(), tiny_task(24), o.pop("folder") / "f", **o),
        "24/24",
    ),
    "features.cross_validate_head": (
        lambda **o: kt.features.cross_validate_head(classifier(), tiny_task(24), C=1.0, **o),
        "Linear heads",
    ),
    "FeatureCache.build": (
        lambda **o: kt.FeatureCache(tiny_backbone(), o.pop("folder") / "f").build(tiny_task(24), **o),
        "24/24",
    ),
    "data.from_directory": (
        lambda **o: kt.data.from_directory(photos(o.pop("folder") / "photos"), image_size=8, **o),
        "Looking at 2 images",
    ),
    "data.from_table": (
        lambda **o: kt.data.from_table(pairs(o.pop("folder") / "photos"), image_size=8, **o),
        "Looking at 2 images",
    ),
    "data.from_webdataset": (
        lambda **o: kt.data.from_webdataset(shard(o.pop("folder") / "photos"), image_size=8, **o),
        "Looking at 2 images",
    ),
    "data.from_huggingface": (
        lambda **o: kt.data.from_huggingface(rows(o.pop("folder") / "photos"), image_size=8, **o),
        "Looking at 2 images",
    ),
}


def public():
    """Yield the functions and methods that users call, by name."""
    for name in kt.__all__:
        value = getattr(kt, name)
        for inner in getattr(value, "__all__", ()) if inspect.ismodule(value) else ():
            if inner not in kt.__all__:
                yield f"{name}.{inner}", getattr(value, inner)
        if inspect.isclass(value):
            for inner, method in inspect.getmembers(value, inspect.isfunction):
                if method.__module__.startswith("keras_transfer."):
                    yield f"{name}.{inner}", method
        yield name, value


def test_each_function_is_tested():
    found = {
        name
        for name, value in public()
        if name.rpartition(".")[2][0] != "_"
        and inspect.isfunction(value)
        and "verbose" in inspect.signature(value).parameters
    }
    assert found == CALLS.keys()
    defaults = {
        inspect.signature(value).parameters["verbose"].default
        for name, value in public()
        if name in found
    }
    assert defaults == {"auto"}


@pytest.mark.parametrize("name", CALLS)
def test_its_meaning_is_the_same(name, capsys, tmp_path):
    call, told = CALLS[name]
    shown = {}
    for verbose in (0, 1, 2, "auto"):
        folder = {"folder": tmp_path / str(verbose)} if "folder" in call.__code__.co_consts else {}
        call(verbose=verbose, **folder)
        shown[verbose] = capsys.readouterr()
    assert shown[0].out == ""
    assert told in shown[2].out
    for verbose in (1, 2, "auto"):  # the output is no terminal
        assert is_plain(shown[verbose].out)
        assert shown[verbose].out.count("\n") == shown[2].out.count("\n")
        assert shown[verbose].err == ""


@pytest.mark.parametrize("name", CALLS)
def test_what_it_must_be_is_said(name, tmp_path):
    call, _ = CALLS[name]
    folder = {"folder": tmp_path} if "folder" in call.__code__.co_consts else {}
    with pytest.raises(ValueError, match=r"Received: verbose='loud'"):
        call(verbose="loud", **folder)


def test_keras_bars_are_what_the_rule_is_for(capsys):
    # Where Keras asks for a terminal itself, this rule can go.
    compiled().fit(*tiny_task(24), verbose=1)
    assert not is_plain(capsys.readouterr().out)


# Downloads


def fetch(url, folder):
    with fetching("the file", "Advice."):
        keras.utils.get_file(origin=f"{url}/data.bin", cache_dir=folder)


def test_a_download_is_a_line(server, tmp_path, capsys):  # noqa: F811
    fetch(server, tmp_path)
    assert capsys.readouterr().out == f"Downloading {server}/data.bin\n"
    assert keras.config.is_interactive_logging_enabled()


def test_a_download_has_a_bar_in_a_terminal(server, tmp_path, in_terminal):  # noqa: F811
    terminal = in_terminal()
    fetch(server, tmp_path)
    assert "\r" in terminal.getvalue()
    assert terminal.getvalue().count("Downloading") == 1  # by Keras


@pytest.mark.usefixtures("_no_interactive_logging")
def test_a_download_where_nothing_is_to_be_printed(server, tmp_path, capsys):  # noqa: F811
    fetch(server, tmp_path)
    assert capsys.readouterr().out == ""
    assert not keras.config.is_interactive_logging_enabled()


def test_other_threads_print_on():
    seen = []
    with messages.downloads_in_lines():
        thread = threading.Thread(
            target=lambda: seen.append(keras.config.is_interactive_logging_enabled())
        )
        thread.start()
        thread.join()
    assert seen == [True]
