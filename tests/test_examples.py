"""The examples run."""

import os
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from scripts import run, start


@pytest.mark.slow
def test_quickstart(tmp_path):
    done = start("quickstart.py", "--quick", "--output", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "model.keras",
        "history.json",
        "curves.png",
    }


@pytest.mark.slow
def test_lr_tools(tmp_path):
    done = run("lr_tools.py", "--samples", 2048, "--epochs", 4, "--output", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for way in ("constant", "cyclic", "restarts"):
        accuracy = float(re.search(rf"{way} .* accuracy ([\d.]+)", done.stdout)[1])
        assert accuracy > 0.3  # chance is 0.125
    pictures = {"range_test.png", "rates.png", "losses.png"}
    assert {path.name for path in tmp_path.iterdir()} == pictures
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


@pytest.mark.slow
def test_several_devices(tmp_path):
    # By torchrun itself; the others with two devices in this way, with two processes in tests/backends.
    options = ["--quick", "--output", tmp_path / "run"]
    if keras.backend.backend() == "torch":
        done = start(
            "several_devices.py", *options, launcher=("torch.distributed.run", "--nproc-per-node", 2)
        )
    else:
        done = start("several_devices.py", *options, "--devices", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    # Each process has the same result, and one has written it.
    lines = [line for line in done.stdout.splitlines() if line.startswith("accuracy ")]
    assert len(lines) == (2 if keras.backend.backend() == "torch" else 1)
    assert len(set(lines)) == 1
    assert done.stdout.count("Phase 1 of 2: head") == 1
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert model.output_shape == (None, 8)


def test_cifar10_without_a_network(tmp_path):
    """It says what could not be fetched and what to do."""
    nowhere = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = start(
        "cifar10_finetune.py", "--output", tmp_path / "run", KERAS_HOME=str(tmp_path), **nowhere
    )
    assert done.returncode == 1
    assert "could not fetch the ImageNet weights of VGG16 from https://" in done.stderr
    assert "weights=None" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.real_data
def test_cifar10_on_real_images_and_weights(real_data, tmp_path):
    weights = next((Path(os.environ["KERAS_HOME"]) / "models").glob("mobilenet_v2*1.0_224_no_top.h5"))
    done = run(
        "cifar10_finetune.py",
        *("--backbone", "mobilenet_v2", "--weights", weights, "--image-size", 64),
        *("--samples", 300, "--test-samples", 200, "--epochs", 3, 1, "--batch-size", 32),
        *("--rates", 3e-3, 1e-4, "--output", tmp_path),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    accuracy = float(re.search(r"test accuracy ([\d.]+)", done.stdout)[1])
    assert accuracy > 0.3  # chance is 0.1
    model = keras.models.load_model(tmp_path / "model.keras")
    assert model.predict(np.zeros((1, 64, 64, 3)), verbose=0).shape == (1, 10)


def test_cifar10_bad_option(tmp_path):
    done = run("cifar10_finetune.py", "--weights", tmp_path / "no.h5", "--output", tmp_path / "run")
    assert done.returncode == 1
    assert "there is no file" in done.stderr
    assert "Traceback" not in done.stderr
