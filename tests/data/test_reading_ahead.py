"""Threads that make the next batches: the same batches in the same order, however they are read."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_transfer.data import Compose, Loader, mixup_or_cutmix
from keras_transfer.data.reading_ahead import made_ahead
from keras_transfer.data.sources import Source

COUNTS = [0, 1, 2, 5]


def numbered(samples=10):
    images = np.zeros((samples, 2, 2, 1), "float32")
    images[:, 0, 0, 0] = np.arange(samples)
    return images, np.arange(samples)


def noise(image, rng):
    """Fill the second row with noise, which tells a sample's epochs apart."""
    image[1] = rng.random((2, 1))
    return image


def make(num_threads, **arguments):
    arguments = {"batch_size": 4, "seed": 3, "augmentation": noise, **arguments}
    return Loader(numbered(), num_threads=num_threads, **arguments)


def assert_batches(found, loader, *places):
    """Check batches against those of (epoch, index) that `loader` makes without threads."""
    assert len(found) == len(places)
    for batch, place in zip(found, places, strict=True):
        for array, wanted in zip(batch, loader.batch(*place), strict=True):
            assert (type(array), array.dtype) == (np.ndarray, wanted.dtype)
            np.testing.assert_array_equal(array, wanted)


def epochs(*numbers):
    return [(epoch, index) for epoch in numbers for index in range(3)]


_old = set()  # threads of what other tests have left behind, as in the frames of an error


def reading_threads():
    every = (thread for thread in threading.enumerate() if thread not in _old)
    return [thread for thread in every if thread.name.startswith("keras_transfer-reading")]


def soon(condition, seconds=600.0):
    """Whether a condition comes true."""
    end = time.perf_counter() + seconds
    while not condition() and time.perf_counter() < end:
        time.sleep(0.005)
    return condition()


@pytest.fixture(autouse=True)
def _no_threads_of_others():
    _old.clear()
    _old.update(reading_threads())


# The same batches


@pytest.mark.parametrize("num_threads", COUNTS)
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("augmentation", [noise, Compose([noise], mix=mixup_or_cutmix)])
def test_loops_give_the_batches_in_order(num_threads, shuffle, augmentation):
    loader = make(num_threads, shuffle=shuffle, augmentation=augmentation, num_classes=10)
    assert_batches([*loader, *loader, *loader], loader, *epochs(0, 1, 2))
    assert loader.epoch == 3


@pytest.mark.parametrize("num_threads", COUNTS)
def test_assigning_the_epoch_moves_the_reading(num_threads):
    loader = make(num_threads)
    assert_batches(list(loader), loader, *epochs(0))
    loader.epoch = 7
    assert_batches([*loader, *loader], loader, *epochs(7, 8))
    loader.epoch = 0
    assert_batches(list(loader), loader, *epochs(0))


@pytest.mark.parametrize("num_threads", COUNTS)
def test_a_pass_that_was_broken_off_is_begun_again(num_threads):
    loader = make(num_threads)
    for stop in (1, 2):
        found = [batch for batch, _ in zip(loader, range(stop), strict=False)]
        assert_batches(found, loader, *epochs(0)[:stop])
    assert_batches(list(loader), loader, *epochs(0))


@pytest.mark.parametrize("num_threads", COUNTS)
def test_two_passes_at_a_time(num_threads):
    loader = make(num_threads)
    pairs = list(zip(loader, loader, strict=True))
    assert_batches([batch for pair in pairs for batch in pair], loader, *np.repeat(epochs(0), 2, axis=0))


def test_single_batches_are_read_in_between():
    loader = make(2)
    found = []
    for batch in loader:
        found.append(batch)
        assert_batches([loader.batch(5, 1), loader[2]], make(0), (5, 1), (0, 2))
    assert_batches(found, loader, *epochs(0))


def model_of(shape=(2, 2, 1)):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(inputs)))
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    return model


class Recording(Loader):
    """Keeps what it serves."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.served = []

    def _next(self, epoch, index):
        batch = super()._next(epoch, index)
        self.served.append(batch)
        return batch


class Halt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("num_threads", COUNTS)
def test_fit_is_served_the_batches_in_order(num_threads):
    model = model_of()
    model.fit(make(0), epochs=1, verbose=0)  # from now on it draws nothing beforehand
    loader = Recording(numbered(), 4, seed=3, augmentation=noise, num_threads=num_threads)
    fits = ({"epochs": 2}, {"epochs": 1, "callbacks": [Halt()]}, {"epochs": 2})
    served = []
    for arguments in fits:
        try:
            model.fit(loader, verbose=0, **arguments)
        except KeyboardInterrupt:
            soon(lambda: len(loader.served) == 3, 1.0)  # TensorFlow may ask for the rest all the same
            assert len(loader.served) >= 2
        served.append(loader.served)
        loader.served = []
    assert_batches(served[0], loader, *epochs(0, 1))
    assert_batches(served[1], loader, *epochs(2)[: len(served[1])])
    assert_batches(served[2], loader, *epochs(2, 3))
    assert loader.epoch == 4


# Errors


class Fails:
    """An augmentation that raises for one image, as long as it is told to."""

    def __init__(self, number):
        self.number, self.failing = number, True

    def __call__(self, image, rng):
        if self.failing and image[0, 0, 0] == self.number:
            raise RuntimeError(f"no good: {self.number}")
        return noise(image, rng)


@pytest.mark.parametrize("num_threads", COUNTS)
def test_an_error_comes_where_its_batch_would_and_another_try_works(num_threads):
    fails = Fails(5)
    loader = make(num_threads, augmentation=fails, shuffle=False)
    for _ in range(2):
        found = []
        with pytest.raises(RuntimeError) as error:
            found.extend(loader)
        assert str(error.value) == "no good: 5"
        del error  # which has the frames of the threads in it
        assert_batches(found, make(0, shuffle=False), (0, 0))
    assert loader.epoch == 0
    fails.failing = False
    assert_batches([*loader, *loader], make(0, shuffle=False), *epochs(0, 1))


@pytest.mark.parametrize("num_threads", [0, 3])
def test_an_error_comes_through_fit_and_another_try_works(num_threads):
    fails = Fails(5)
    loader, model = make(num_threads, augmentation=fails), model_of()
    with pytest.raises(Exception, match=r"(?s)no good: 5"):  # TensorFlow puts it into one of its own
        model.fit(loader, verbose=0)
    fails.failing = False
    model.fit(loader, verbose=0)
    assert loader.epoch == 1


def test_an_error_of_a_thread_comes_as_it_is():
    images, labels = numbered()
    loader = Loader(list(zip([*images[:9], images[9][:1]], labels, strict=True)), 10, num_threads=1)
    with pytest.raises(ValueError, match="all images must have one shape") as error:
        list(loader)
    assert not getattr(error.value, "__notes__", [])


# Threads


def test_the_threads_end_with_the_loader():
    """At once, and not when the garbage is collected, which can be never."""
    gc.disable()
    try:
        loader = make(3)
        list(loader)
        assert 1 <= len(reading_threads()) <= 3
        gone = weakref.ref(loader)
        del loader
        assert gone() is None
        assert soon(lambda: not reading_threads())
    finally:
        gc.enable()


def test_reading_elsewhere_leaves_no_threads_behind():
    loader = make(3)
    for epoch in range(5):
        loader.epoch = 10 * epoch
        next(iter(loader))
    assert soon(lambda: len(reading_threads()) <= 3)


@pytest.mark.parametrize("end", ["close", "error", "let go"])
def test_what_is_made_ahead_ends_with_its_iterator(end):
    begun, held = [], threading.Event()

    def make(number):
        begun.append(number)
        if number == 1 and end == "error":
            raise RuntimeError("no good")
        if number > 1:
            held.wait(600)
        return number

    made = made_ahead(make, range(100), 2)
    assert next(made) == 0
    assert soon(lambda: 2 in begun)
    if end == "close":
        made.close()
    elif end == "error":
        with pytest.raises(RuntimeError, match="no good"):
            next(made)
    del made
    held.set()
    assert soon(lambda: not reading_threads())
    assert len(begun) <= 5  # what was begun is ended, what was waiting isn't begun


FORKED = """
import os, sys
import numpy as np
import keras_transfer as kt
pixels = np.arange(20, dtype="float32").reshape(20, 1, 1, 1)
loader = kt.Loader((pixels, np.arange(20)), 4, augmentation=lambda image, rng: image, num_threads=2)
list(loader)
if process := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
found = np.concatenate([labels for _, labels in loader])
assert loader.epoch == 2
np.testing.assert_array_equal(found, loader.order(1))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_reads_with_threads_of_its_own():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


def test_there_are_as_many_threads_as_asked_for():
    started = threading.Barrier(3, timeout=10)  # three are at work at once, or it breaks
    names = set()

    def augmentation(image, rng):
        names.add(threading.current_thread().name)
        if image[0, 0, 0] in (0, 4, 8):  # one of each batch
            started.wait()
        return image

    loader = make(3, augmentation=augmentation, shuffle=False)
    list(loader)
    assert len(names) == 3
    assert all(name.startswith("keras_transfer-reading") for name in names)


@pytest.mark.parametrize("source", ["arrays", "threads"])
def test_whole_batches_and_no_threads_are_read_by_the_caller(source):
    callers = set()

    def augmentation(image, rng):
        callers.add(threading.current_thread())
        return image

    if source == "arrays":
        loader = make(3, augmentation=None)
    else:
        loader = make(0, augmentation=augmentation)
    list(loader)
    assert not reading_threads()
    assert callers == (set() if source == "arrays" else {threading.current_thread()})


def test_by_default_there_is_a_thread_for_each_processor_up_to_eight(monkeypatch):
    for processors, threads in ((1, 1), (2, 2), (64, 8), (None, 1)):
        monkeypatch.setattr("os.cpu_count", lambda processors=processors: processors)
        assert Loader(numbered()).num_threads == threads
    assert Loader(numbered(), num_threads=20).num_threads == 20


class Slow(Source):
    """Takes its time for each sample, and counts what it is asked for."""

    def __init__(self, samples, seconds):
        self.images, self.labels = numbered(samples)
        self.seconds, self.asked = seconds, []

    def __len__(self):
        return len(self.images)

    def sample(self, index, size, crop=None):
        self.asked.append(index)
        time.sleep(self.seconds)
        return self.images[index], self.labels[index]


def test_no_more_is_read_ahead_than_a_batch_for_each_thread():
    source = Slow(40, 0.0)
    loader = Loader(source, 4, num_threads=3)
    next(iter(loader))
    assert soon(lambda: len(source.asked) == 16)
    time.sleep(0.05)
    assert len(source.asked) == 16


def test_nothing_is_read_twice_where_one_epoch_follows_the_other():
    source = Slow(10, 0.0)
    loader = Loader(source, 4, num_threads=2)
    for _ in range(4):
        list(loader)
    assert soon(lambda: len(source.asked) == 48)  # with two batches of four of the fifth epoch
    assert set(np.bincount(source.asked)) == {4, 5}


class Counts(Slow):
    """Counts how many samples are being read at once."""

    def __init__(self, samples, seconds):
        super().__init__(samples, seconds)
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def sample(self, index, size, crop=None):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        found = super().sample(index, size, crop)
        with self.lock:
            self.now -= 1
        return found


@pytest.mark.parametrize("num_threads", [0, 1, 2, 3])
def test_as_many_samples_are_read_at_once_as_there_are_threads(num_threads):
    source = Counts(40, 0.01)
    list(Loader(source, 2, num_threads=num_threads))
    assert source.most == max(num_threads, 1)


class Waits(keras.callbacks.Callback):
    """Lets no step end before samples are read for the one after the next."""

    def __init__(self, source):
        super().__init__()
        self.source, self.waited = source, []

    def on_train_batch_end(self, batch, logs=None):
        wanted = min(len(self.source), 2 * (batch + 3))
        self.waited.append(soon(lambda: len(self.source.asked) >= wanted))


def test_threads_read_while_a_model_trains():
    model, source = model_of(), Slow(20, 0.0)
    model.fit(Loader(source, 2), verbose=0)  # compiled from now on
    source.asked.clear()
    waits = Waits(source)
    model.fit(Loader(source, 2, num_threads=2), callbacks=[waits], verbose=0)
    assert waits.waited == [True] * 10


# Sequences of users


class Sequence:
    """Tells how many threads are in it at most."""

    def __init__(self, samples=24):
        self.images, self.labels = numbered(samples)
        self.inside, self.most = 0, 0
        self.lock = threading.Lock()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.001)
        with self.lock:
            self.inside -= 1
        return self.images[index], self.labels[index]


def read_by_two_threads(*loaders):
    """Read all loaders at once."""
    readers = [threading.Thread(target=lambda loader=loader: list(loader)) for loader in loaders]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()


def test_a_user_s_sequence_is_never_read_by_two_threads_at_once():
    sequence = Sequence()
    loader = Loader(sequence, 2, num_threads=4)
    list(loader)
    assert sequence.most == 1
    # Nor by two loaders, of parts of it, of the same or of another source.
    parts = [loader.subset(range(12)), loader.subset(range(12, 24))]
    read_by_two_threads(*parts, Loader(sequence, 2, num_threads=2))
    assert sequence.most == 1
    gone = weakref.ref(sequence)
    del sequence, loader, parts
    assert soon(lambda: gone() is None)


def test_two_sequences_are_read_at_once():
    here, there = threading.Event(), threading.Event()

    class Waits(Sequence):
        def __init__(self, mine, other):
            super().__init__(2)
            self.mine, self.other = mine, other

        def __getitem__(self, index):
            self.mine.set()
            assert self.other.wait(10)
            return super().__getitem__(index)

    read_by_two_threads(Loader(Waits(here, there), 1), Loader(Waits(there, here), 1))
    assert here.is_set()
    assert there.is_set()
