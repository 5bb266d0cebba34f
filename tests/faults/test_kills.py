"""A run that is stopped from outside again and again ends as one that was left alone, bit for bit.

KERAS_TRANSFER_KILLS=50 python -m pytest tests/faults/test_kills.py -s
"""

import json
import os
import time
from pathlib import Path
from signal import SIGINT, SIGKILL

import keras
import numpy as np
import pytest
from processes import ONE_THREAD, Server, environment_of, server

pytest.importorskip("matplotlib")
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs are forks"),
    pytest.mark.slow,
    pytest.mark.timeout(7200),
]

KILL = Path(__file__).with_name("kill.py")
KILLS = int(os.environ.get("KERAS_TRANSFER_KILLS", "1"))  # of each kind
IN_A_ROW = 3  # kills of one run, at most
FILES = {"model.keras", "history.json", "curves.png"}


class Runs:
    """Processes that run the recipe of kill.py on this process's backend."""

    def __init__(self, folder):
        self.folder = folder
        backend = keras.backend.backend()
        # A process that is killed while it fills a cache of compiled programs may damage that.
        environment = environment_of(backend, ONE_THREAD)
        without = {name: value for name, value in environment.items() if not name.startswith("JAX_")}
        self._own = Server(backend, without) if backend == "jax" else None
        self._server = self._own or server(backend)

    def run(self, name, after=None, signal=None, **disturbed):
        """Run what is left of a run; return whether it was stopped, and not by what isn't expected.

        Args:
            name: what its folder and its results are called.
            after: how many seconds later it gets a signal.
            signal: the number of that.
            **disturbed: as in kill.py.
        """
        order = {"directory": str(self.folder / name / "run"), **disturbed}
        order["result"] = str(self.folder / name / "result")
        (self.folder / name).mkdir(exist_ok=True)
        status = self._server.run(KILL, json.dumps(order), after=after, signal=signal)
        if signal == SIGKILL or "at" in disturbed:
            assert status in (0, SIGKILL), self._server.printed()
        elif signal is None and not disturbed:
            assert status == 0, self._server.printed()
        return status != 0

    def result(self, name):
        """Return the weights and the history of a run."""
        weights = dict(np.load(self.folder / name / "result.npz"))
        about = json.loads((self.folder / name / "result.json").read_text())
        return weights, about

    def close(self):
        if self._own:
            self._own.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    runs = Runs(tmp_path_factory.mktemp("runs"))
    yield runs
    runs.close()


@pytest.fixture(scope="module")
def reference(runs):
    """Return the result of a run that was left alone, and how many seconds it took."""
    started = time.monotonic()
    assert not runs.run("reference")
    seconds = time.monotonic() - started
    return *runs.result("reference"), seconds


def lost(runs, name, reference):
    """Return what is different from the run that was left alone, or ''."""
    weights, about = runs.result(name)
    expected, expected_about, _ = reference
    kept = [key for key in about if key != "touched"]
    other = [key for key in kept if about[key] != expected_about[key]]
    other += [f"weight {key}" for key in expected if not np.array_equal(weights[key], expected[key])]
    left = {path.name for path in (runs.folder / name / "run").iterdir()} - FILES
    other += [f"{path} was left" for path in sorted(left)]
    return ", ".join(other)


def stop(runs, reference, kind, disturbed):
    """Stop runs until there were KILLS of them, each in a way that a function draws."""
    tried, problems, number = 0, {}, 0
    while tried < KILLS:
        name = f"{kind}{number}"
        number += 1
        over, hits = False, 0
        while not over and hits < min(IN_A_ROW, KILLS - tried):
            over = not runs.run(name, **disturbed())
            hits += not over
        assert over or not runs.run(name)
        tried += hits
        different = lost(runs, name, reference)
        if different:
            problems[name] = (hits, different)
    gone = sum(hits for hits, _ in problems.values())
    print(f"\n{kind}: {tried} tried, {tried - gone} survived, {gone} lost, in {number} runs")  # noqa: T201
    assert not problems


@pytest.mark.parametrize("number", [SIGKILL, SIGINT], ids=["SIGKILL", "Ctrl-C"])
def test_at_random_moments(number, runs, reference):
    rng = np.random.default_rng(0)
    seconds = reference[-1]
    draw = lambda: {"after": rng.uniform(0, seconds), "signal": int(number)}  # noqa: E731
    stop(runs, reference, number.name, draw)


def test_killed_whenever_files_are_touched(runs, reference):
    rng = np.random.default_rng(1)
    touched = reference[1]["touched"]
    stop(runs, reference, "SIGKILL at a file", lambda: {"at": int(rng.integers(touched))})


def test_a_disk_without_room(runs, reference):
    rng = np.random.default_rng(2)
    most = max(path.stat().st_size for path in (runs.folder / "reference" / "run").iterdir())
    draw = lambda: {"room": int(most ** rng.uniform(0, 1))}  # noqa: E731
    stop(runs, reference, "no room", draw)
