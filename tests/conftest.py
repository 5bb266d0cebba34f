"""Shared by all tests, which run unchanged on each backend (the KERAS_BACKEND of the process)."""

import contextlib
import functools
import os
from pathlib import Path

import numpy as np
import pytest
import where
from empty_pictures import empty_pictures
from hypothesis import settings

# No property has a deadline: a busy machine is no fault. The second profile is for
# pytest --hypothesis-profile thorough: of properties that go by it.
settings.register_profile("default", deadline=None)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile("default")
TESTS = Path(__file__).parent


def pytest_configure(config):
    """Import torch before TensorFlow: the other way round the process crashes."""
    if hasattr(config.option, "randomly_reset_seed"):
        config.option.randomly_reset_seed = False  # a random order, but the numbers of `_clean_keras`
    distributes = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not distributes:  # a process that only hands out tests needs neither
        with contextlib.suppress(ImportError):
            import torch  # noqa: F401


def pytest_addoption(parser):
    parser.addoption(
        "--everywhere", action="store_true", help="run on this backend what one backend would do for"
    )
    parser.addoption("--nightly", action="store_true", help="run tests marked `nightly`, too")


def _elsewhere(config, place):
    """Whether a test or file runs on another backend only."""
    group = None if config.getoption("everywhere") else where.alone(place)
    if group is None:
        return False
    import keras

    return not where.runs_here(group, keras.backend.backend())


def pytest_ignore_collect(collection_path, config):
    """Pass over files that need not even be imported here."""
    if collection_path.name.startswith("test_") and collection_path.is_relative_to(TESTS):
        return _elsewhere(config, collection_path.relative_to(TESTS).as_posix()) or None
    return None


def pytest_collection_modifyitems(config, items):
    """Leave out what runs on another backend, or in the night."""
    left_out = [
        item
        for item in items
        if _elsewhere(config, item.nodeid.removeprefix("tests/"))
        or (item.get_closest_marker("nightly") and not config.getoption("nightly"))
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        dropped = set(left_out)
        items[:] = [item for item in items if item not in dropped]


@pytest.fixture(autouse=True, scope="session")
def _no_autotuning():
    """Let TensorFlow free an iterator at once, where its autotuner may sleep for up to a minute.

    That is of iterators that stop before their end: findings/tensorflow_frees_an_iterator_slowly.sh.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    from keras_transfer._lib.keras_private.trainer import untuned

    make = tf.data.Dataset.__iter__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.data.Dataset, "__iter__", lambda self: make(untuned(self)))
        yield


@pytest.fixture(autouse=True)
def _clean_keras():
    """Give each test the same random numbers and layer names, whatever ran before."""
    import keras

    keras.utils.clear_session(free_memory=False)  # collecting garbage takes a second each time
    keras.utils.set_random_seed(0)


@pytest.fixture
def quick_torch_compile(request, monkeypatch):
    """Let torch.compile write no C++ code, which takes a minute; what it traces is the same."""
    import keras

    if keras.backend.backend() == "torch" and not request.config.getoption("nightly"):
        import torch

        traced = functools.partial(torch.compile, backend="eager")
        monkeypatch.setattr(torch, "compile", traced)


@pytest.fixture
def quick_pictures():
    """Save figures without drawing them."""
    with empty_pictures():
        yield


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
