"""Running a script on another backend, as the backend of a process is fixed."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import keras
import pytest

BACKENDS = ["tensorflow", "torch", "jax"]
FOLDER = Path(__file__).with_name("backends")
FORKS = Path(__file__).with_name("forks.py")
# Of a process that forks: one thread, also of what it imports.
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # of pyarrow, which Keras imports
}


def require(backend):
    """Skip where a backend isn't installed."""
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")


def each_backend():
    """Return the backends as parameters of a test: the next one, and in the night all."""
    place = BACKENDS.index(keras.backend.backend())
    following, last, own = (BACKENDS[(place + step) % 3] for step in (1, 2, 3))
    return [following, *(pytest.param(name, marks=pytest.mark.nightly) for name in (last, own))]


def others():
    """Return the backends that are not this process's."""
    return [backend for backend in BACKENDS if backend != keras.backend.backend()]


def environment_of(backend, environment=()):
    """Return the variables of a process on a backend, with those of `environment`."""
    own = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {**os.environ, **own, **dict(environment)}


class Server:
    """A process with imported Keras that runs scripts in forks of itself (see forks.py).

    Args:
        backend: its backend.
        environment: its variables; None: those of this process.
    """

    def __init__(self, backend, environment=None):
        self._folder = tempfile.TemporaryDirectory()
        self._errors, self._log = (Path(self._folder.name, name) for name in ("errors", "log"))
        variables = environment_of(backend, ONE_THREAD) if environment is None else environment
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(FORKS)],
                env=variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._answer() == "ready", self.printed()

    def run(self, script, *arguments, **disturbed):
        """Run a script to its end; return its status (as of `os.waitpid`).

        Args:
            script: its path.
            *arguments: of its command line.
            **disturbed: "after" and "signal", as in forks.py.
        """
        self._log.write_text("")
        order = {"script": str(script), "arguments": [*map(str, arguments)], "log": str(self._log)}
        self._process.stdin.write(json.dumps(order | disturbed) + "\n")
        self._process.stdin.flush()
        return int(self._answer())

    def printed(self):
        """Return what the server and the last script have printed."""
        return "".join(path.read_text() for path in (self._errors, self._log) if path.exists())

    def _answer(self):
        line = self._process.stdout.readline().strip()
        assert line, self.printed()
        return line

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._folder.cleanup()


@functools.cache
def server(backend):
    """Return the server of a backend, which lives as long as this process."""
    started = Server(backend)
    atexit.register(started.close)
    return started


def run(backend, script, *arguments):
    """Run a script of this folder on a backend; a failure shows what it printed."""
    if not hasattr(os, "fork"):
        run_alone(backend, script, *arguments)
    else:
        status = server(backend).run(FOLDER / script, *arguments)
        assert status == 0, server(backend).printed()


def run_alone(backend, script, *arguments, options=(), environment=()):
    """Run a script of this folder in a process of its own, with options of Python and variables."""
    command = [sys.executable, *options, str(FOLDER / script), *map(str, arguments)]
    done = subprocess.run(
        command,
        env=environment_of(backend, environment),
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
