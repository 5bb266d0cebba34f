"""One device or several, one process or several: the same weights and the same history."""

import contextlib
import os
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest
import several
from processes import FOLDER, environment_of

BACKEND = keras.backend.backend()
# Devices of a process, and processes. Torch has one device a process.
TWO_DEVICES = pytest.param(2, 1, marks=pytest.mark.nightly)
PLACES = [(1, 2)] if BACKEND == "torch" else [(1, 2), TWO_DEVICES]


def is_free(port):
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports():
    """Return the first of two ports that nobody listens at, from a place that other tests don't try."""
    first = 20_000 + 2 * (os.getpid() % 6_000)
    return next(port for port in range(first, 32_000, 2) if is_free(port) and is_free(port + 1))


def train(folder, devices, count, runs):
    """Run the script in `count` processes; return what each has written."""
    port = free_ports()
    logs = [folder / f"{devices}-{count}-{index}.log" for index in range(count)]
    with contextlib.ExitStack() as stack:
        started = []
        for index, log in enumerate(logs):
            arguments = map(str, (folder, devices, count, index, port, *runs))
            process = subprocess.Popen(
                [sys.executable, FOLDER / "several.py", *arguments],
                env=environment_of(BACKEND, {"PYTHONPATH": str(FOLDER.parent)}),  # for tiny.py
                stdout=stack.enter_context(log.open("w")),
                stderr=subprocess.STDOUT,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)  # before it is waited for
            started.append(process)
        codes = [process.wait(timeout=1000) for process in started]
    assert not any(codes), "".join(log.read_text() for log in logs)
    return [dict(np.load(folder / f"{devices}-{count}-{index}.npz")) for index in range(count)]


def difference(found, wanted, run):
    """Return the largest difference of an array of a run, in units of its norm."""
    keys = [key for key in wanted if key.startswith(run)]
    assert len(keys) >= 10
    return max(
        np.linalg.norm(found[key] - wanted[key]) / max(np.linalg.norm(wanted[key]), 1e-12)
        for key in keys
    )


def check_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return what one process writes on one device, and which files of features."""
    folder = tmp_path_factory.mktemp("alone")
    several.train(folder, 1, 1)
    one = dict(np.load(folder / "1-1-0.npz"))
    return one, one.pop("files").tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "count"), PLACES)
def test_several_equal_one(devices, count, alone, tmp_path, request):
    one, files = alone
    # In the night the run that is broken off is compared bit for bit with one that isn't.
    whole = ["recipe"] * request.config.getoption("nightly")
    processes = train(tmp_path, devices, count, [*whole, "resumed", "statistics", "found"])
    # Each has computed a part of the features in the folder that they share.
    shares = [process.pop("files").tolist() for process in processes]
    assert sorted(name for share in shares for name in share) == sorted(files * (1 + len(whole)))
    assert min(map(len, shares)) >= len(files) // count - 1 >= 1
    for process in processes:
        recipe = {key: value for key, value in one.items() if key.startswith("recipe")}
        assert difference(process, one, "found") <= 1e-5
        resumed = {key: process[key.replace("recipe", "resumed")] for key in recipe}
        assert difference(resumed, one, "recipe") <= 1e-5
        if whole:
            check_equal(resumed, {key: process[key] for key in recipe})
        # A batch norm that trains has statistics of a device's part, but on JAX, as in plain Keras.
        apart = difference(process, one, "statistics")
        assert apart <= 1e-5 if BACKEND == "jax" else apart > 1e-3
        # However different their parts were.
        check_equal(process, processes[0])
    written = {path.name for path in (tmp_path / f"run-{devices}-{count}").iterdir()}
    assert written == {"model.keras", "history.json", "curves.png"}
