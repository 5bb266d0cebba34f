"""What is changed for a while is as before at the end, also where blocks overlap in threads."""

import contextlib
import logging
import random
import sys
import threading
import types
import urllib.request
import warnings

import keras
import pytest

from keras_transfer._lib import network
from keras_transfer._lib.attributes import attributes, loggers_at, restored, warnings_ignored
from keras_transfer._lib.random_state import random_state_kept


class Block(threading.Thread):
    """A thread that is inside of a context from `begin` to `end`."""

    def __init__(self, context):
        super().__init__(daemon=True)
        self.context, self.inside, self.leave = context, threading.Event(), threading.Event()
        self.error = None

    def run(self):
        try:
            with self.context:
                self.inside.set()
                assert self.leave.wait(60)
        except BaseException as error:
            self.error = error
        self.inside.set()

    def begin(self):
        self.start()
        assert self.inside.wait(60)
        return self

    def end(self):
        self.leave.set()
        self.join(60)
        assert not self.is_alive()
        assert self.error is None


@pytest.fixture(params=["first in, first out", "first in, last out"])
def overlap(request):
    """Return what lets two contexts overlap in two threads, and calls something in between."""

    def run(one, other, between=lambda: None):
        blocks = [Block(one).begin(), Block(other).begin()]
        if request.param == "first in, last out":
            blocks.reverse()
        blocks[0].end()
        between()
        blocks[1].end()

    return run


def test_an_attribute_that_was_there(overlap):
    thing, seen = types.SimpleNamespace(name="own"), []
    overlap(attributes(thing, name=1), attributes(thing, name=2), lambda: seen.append(thing.name))
    assert thing.name == "own"
    assert seen[0] in (1, 2)


def test_the_attribute_of_the_block_that_goes_on():
    thing = types.SimpleNamespace(name="own")
    one, other = Block(attributes(thing, name=1)).begin(), Block(attributes(thing, name=2)).begin()
    one.end()
    assert thing.name == 2
    other.end()
    assert thing.name == "own"


def test_an_attribute_that_was_not_there(overlap):
    thing = types.SimpleNamespace()
    overlap(attributes(thing, name=1), attributes(thing, name=2, other=3))
    assert vars(thing) == {}


def test_a_block_within_a_block_of_the_same_thread():
    thing = types.SimpleNamespace(name="own")
    with attributes(thing, name=1):
        with attributes(thing, name=2):
            assert thing.name == 2
        assert thing.name == 1
        thing.name = 3  # by what the block does
        with attributes(thing, name=4):
            pass
        assert thing.name == 3
    assert thing.name == "own"


def test_after_an_error():
    thing = types.SimpleNamespace(name="own")
    with pytest.raises(KeyboardInterrupt), attributes(thing, name=1, other=2):
        raise KeyboardInterrupt
    assert vars(thing) == {"name": "own"}


def test_three_that_overlap():
    thing = types.SimpleNamespace(name="own")
    first, second, third = (Block(attributes(thing, name=i)).begin() for i in range(3))
    second.end()
    assert thing.name == 2
    third.end()
    assert thing.name == 0
    first.end()
    assert thing.name == "own"


def test_nothing_is_kept_of_what_is_over():
    from keras_transfer._lib.attributes import _found

    before = dict(_found)
    with attributes(types.SimpleNamespace(), name=1), restored("it", lambda: 1, lambda value: None):
        assert len(_found) == len(before) + 2
    assert _found == before


def test_levels_of_loggers(overlap):
    log = logging.getLogger("keras_transfer.tests.attributes")
    log.setLevel(logging.INFO)
    quiet = logging.CRITICAL
    overlap(loggers_at(quiet, log.name), loggers_at(logging.ERROR, log.name))
    assert log.level == logging.INFO
    assert log.isEnabledFor(logging.INFO)


def test_filters_of_warnings(overlap):
    before = list(warnings.filters)
    overlap(warnings_ignored("one thing"), warnings_ignored("another", UserWarning))
    assert warnings.filters == before
    with warnings_ignored("one thing"):
        warnings.warn("one thing", stacklevel=1)
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", stacklevel=1)


def test_the_opener_of_downloads(overlap, monkeypatch):
    own = urllib.request.build_opener()
    monkeypatch.setattr(urllib.request, "_opener", own)
    overlap(network.fetching("one", "Advice."), network.fetching("another", "Advice."))
    assert urllib.request._opener is own


def test_generators(overlap):
    def states():
        torch = sys.modules.get("torch")
        return random.getstate(), None if torch is None else torch.get_rng_state().tolist()

    before = states()
    overlap(random_state_kept(), random_state_kept(), lambda: keras.utils.set_random_seed(1))
    assert states() == before


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="names of TensorFlow")
def test_what_fit_has_of_keras_and_tensorflow(overlap):
    from keras.src.backend.tensorflow import trainer
    from tensorflow.python.data.ops import multi_device_iterator_ops as devices

    from keras_transfer._lib.keras_private.trainer import untuned_reading

    def names():
        return trainer.TFEpochIterator, devices._create_device_dataset

    before = names()
    overlap(untuned_reading(), untuned_reading())
    assert names() == before


def test_the_policy_is_that_of_the_thread():
    with contextlib.ExitStack() as stack:
        stack.callback(keras.config.set_dtype_policy, keras.config.dtype_policy())
        keras.config.set_dtype_policy("mixed_float16")
        seen = []
        thread = threading.Thread(target=lambda: seen.append(keras.config.dtype_policy().name))
        thread.start()
        thread.join()
    assert seen == ["float32"]
