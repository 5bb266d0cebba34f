"""Shared by all tests, which run unchanged on each backend (the KERAS_BACKEND of the process)."""

import contextlib
import os
from pathlib import Path

with contextlib.suppress(ImportError):
    import torch  # noqa: F401  before TensorFlow: the other way round the process crashes

import keras
import numpy as np
import pytest
from hypothesis import settings

# For pytest --hypothesis-profile thorough: of properties that go by the profile.
settings.register_profile("thorough", max_examples=2000)


@pytest.fixture(autouse=True)
def _clean_keras():
    """Give each test the same random numbers and layer names, whatever ran before."""
    keras.utils.clear_session(free_memory=False)  # collecting garbage takes a second each time
    keras.utils.set_random_seed(0)


@pytest.fixture
def rng():
    """Return a NumPy generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def real_data():
    """Return the folder of real images, or skip."""
    folder = os.environ.get("KERAS_TRANSFER_REAL_DATA")
    if not folder or not os.environ.get("KERAS_HOME"):
        pytest.skip("set KERAS_TRANSFER_REAL_DATA and KERAS_HOME (see CONTRIBUTING.md)")
    return Path(folder)
