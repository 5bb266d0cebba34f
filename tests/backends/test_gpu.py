"""A GPU trains to the same weights as the CPU, and where one must be there, its absence is a failure."""

import subprocess
import sys

import devices
import keras
import numpy as np
import pytest
from processes import FOLDER, environment_of, run_alone

# Each convolution adds in another order, by which float32 differs in its last digits, and so in the
# first steps' gradients. On one CPU torch and JAX end within 1e-6 of each other.
BOUND = 1e-4
RATE = 1e-3


def trained(folder, device, rate=RATE):
    """Return the variables after a run on a device of this process' backend."""
    path = folder / f"{device} {rate}.npz"
    if not path.exists():
        hidden = devices.WITHOUT_GPU if device == "cpu" else {}
        run_alone(keras.backend.backend(), "on_device.py", path, device, rate, environment=hidden)
    with np.load(path) as arrays:
        return dict(arrays)


def distances(found, expected):
    """Return for each variable the norm of the difference over the norm."""
    assert found.keys() == expected.keys()
    return {
        name: np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name])
        for name in expected
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("devices")


@pytest.mark.slow
def test_a_gpu_trains_to_the_weights_of_the_cpu(folder):
    devices.require_gpu()
    found = distances(trained(folder, "gpu"), trained(folder, "cpu"))
    assert max(found.values()) < BOUND, found


@pytest.mark.nightly
@pytest.mark.slow
def test_the_comparison_sees_a_rate_that_is_a_percent_off(folder):
    expected = trained(folder, "cpu")
    assert expected["loss"][3] < 0.95 * expected["loss"][0]  # batch norm trains from the fifth on
    found = distances(trained(folder, "cpu", 1.01 * RATE), expected)
    trains_late = [d for name, d in found.items() if name.startswith("block3_conv1")]
    assert min(trains_late) > BOUND, found


@pytest.mark.parametrize(
    ("wanted", "outcome"), [("1", pytest.fail.Exception), ("0", pytest.skip.Exception)]
)
def test_no_gpu_is_a_failure_where_one_must_be(wanted, outcome, monkeypatch):
    monkeypatch.setattr(devices, "gpus", list)
    monkeypatch.setenv(devices.WANTED, wanted)
    with pytest.raises(outcome, match=f"{keras.backend.backend()} sees no GPU"):
        devices.require_gpu()


@pytest.mark.slow
def test_the_check_before_a_session_fails_without_a_gpu():
    environment = environment_of(keras.backend.backend(), devices.WITHOUT_GPU)
    done = subprocess.run(
        [sys.executable, str(FOLDER / "devices.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )
    assert done.returncode == 1
    assert f"{keras.backend.backend()} sees no GPU" in done.stderr
    assert not done.stdout
