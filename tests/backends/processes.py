"""Running a script on another backend, as the backend of a process is fixed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import pytest

BACKENDS = ["tensorflow", "torch", "jax"]
FOLDER = Path(__file__).parent


def require(backend):
    """Skip where a backend isn't installed."""
    if find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")


def others():
    """Return the backends that are not this process's."""
    return [backend for backend in BACKENDS if backend != keras.backend.backend()]


def environment_of(backend, environment=()):
    """Return the variables of a process on a backend, with those of `environment`."""
    own = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {**os.environ, **own, **dict(environment)}


def run(backend, script, *arguments, options=(), environment=()):
    """Run a script of this folder on a backend; a failure shows what it printed."""
    environment = environment_of(backend, environment)
    command = [sys.executable, *options, str(FOLDER / script), *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
