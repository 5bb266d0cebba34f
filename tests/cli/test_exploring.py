"""`backbones`, `rank`, `lr`, `cache`, help, version and the choice of the backend."""

import logging
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from folders import SMALL, Image

import keras_transfer as kt
from keras_transfer.cli import main

COMMANDS = ("backbones", "rank", "lr", "train", "compare", "predict", "evaluate", "export", "cache")


def test_backbones(keras_transfer):
    result = keras_transfer("backbones")
    assert result.exit_code == 0
    assert "ResNet50" in result.stdout
    one = keras_transfer("backbones", "resnet50")
    assert "25,6" in one.stdout
    wrong = keras_transfer("backbones", "resnet5")
    assert wrong.exit_code == 1
    assert "did you mean" in wrong.stderr


def test_rank(keras_transfer, photos):
    arguments = ("--backbones", "mobilenet, mobilenet_v2", "--weights", "none", "--image-size", "32")
    result = keras_transfer("rank", photos, *arguments, "--quiet")
    assert result.exit_code == 0, result.output
    assert "LogME" in result.stdout
    assert "mobilenet_v2" in result.stdout


def test_lr(keras_transfer, photos, tmp_path, monkeypatch):
    from keras_transfer.cli import exploring

    def colours(backbone, weights, size, names):
        """Return a network that learns: without ImageNet's weights the features of others are alike."""
        image = keras.Input((size, size, 3))
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
        return kt.classifier(keras.Model(image, keras.layers.Dense(4)(x)), len(names), seed=0)

    monkeypatch.setattr(exploring, "network", colours)
    plot = tmp_path / "curve.png"
    result = keras_transfer("lr", photos, *SMALL, "--train", "all", "--plot", plot, "--quiet")
    assert result.exit_code == 0, result.output
    rate = float(result.stdout.split("Learning rate:")[1].split()[0])
    assert 1e-6 < rate < 1.0
    with Image.open(plot) as image:
        assert min(image.size) > 100


def test_lr_names_its_options(keras_transfer, photos, tmp_path):
    options = (*SMALL, "--quiet", "--steps", 10, "--min-lr", 1e-9, "--max-lr", 1e-8)
    result = keras_transfer("lr", photos, *options, "--plot", tmp_path / "lr.png")
    assert result.exit_code == 1
    told = " ".join(result.stderr.split())
    assert "a range test finds no learning rate: the loss must fall" in told
    assert "lower --min-lr if" in told
    inside = photos / "dark" / "lr.svg"
    result = keras_transfer("lr", photos, *options, "--plot", inside)
    assert result.exit_code == 1
    assert re.search(r"plot must be outside of the images, .*say --plot .*-plot\.svg\.", result.stderr)
    assert not inside.exists()


def test_caches_are_listed_and_removed(keras_transfer, tmp_path):
    image = keras.Input((8, 8, 3))
    network = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image), name="colour")
    data = (np.zeros((6, 8, 8, 3), "uint8"), np.arange(6))
    kt.FeatureCache(network, tmp_path).build(data, verbose=0)
    listed = keras_transfer("cache", "list", tmp_path)
    assert listed.exit_code == 0, listed.output
    assert "colour" in listed.stdout
    cleared = keras_transfer("cache", "clear", tmp_path)
    assert cleared.exit_code == 0, cleared.output
    assert kt.features.caches(tmp_path) == []
    other = keras_transfer("cache", "list", tmp_path.parent)
    assert other.exit_code == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command, keras_transfer):
    commands = (command, "list") if command == "cache" else (command,)
    result = keras_transfer(*commands, "--help")
    assert result.exit_code == 0
    assert f"keras-transfer {command}" in " ".join(result.stdout.split())


def test_help_lists_the_commands(keras_transfer):
    result = keras_transfer("--help")
    for command in COMMANDS:
        assert command in result.stdout


def test_version(keras_transfer):
    assert kt.__version__ in keras_transfer("--version").stdout


def test_no_command_shows_help(keras_transfer):
    assert "train" in keras_transfer().output


@pytest.fixture
def command(monkeypatch, capsys):
    """Return a function that runs the installed command; it returns the status and what was printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["keras-transfer", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


def test_a_mistake_is_one_line_unless_tracebacks_are_asked_for(command, tmp_path):
    code, _, errors = command("train", tmp_path / "none")
    assert code == 1
    assert errors.startswith("Error: directory must be a folder of images")
    assert "Traceback" not in errors
    with pytest.raises(ValueError, match="directory must be a folder"):
        command("--debug", "train", tmp_path / "none")


def test_warnings_name_options(command, tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("I;16", (9, 9), 40 * number + 9).save(tmp_path / name / f"{number}.png")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as where nobody asks for a log
    monkeypatch.setattr(logging, "lastResort", logging._StderrHandler(logging.WARNING))
    _, _, errors = command("train", tmp_path, "--weights", "none", "--image-size", "32", "--dry-run")
    assert "; --value-range 0 255 keeps 8)" in errors
    assert "value_range" not in errors


def test_completion_is_offered(command):
    code, output, _ = command("--help")
    assert code == 0
    assert "--install-completion" in output


def test_the_backend_that_is_asked_for(tmp_path):
    code = (
        "import sys; sys.argv[1:] = ['--backend', 'jax', 'backbones']\n"
        "from keras_transfer.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "import os; print(os.environ['KERAS_BACKEND'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == "jax"
