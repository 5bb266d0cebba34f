"""Builds caches in processes of their own: "kill", "together" or "memory", and a folder.

They are forked from this one, which has imported all and computed nothing: to start afresh takes
seconds each time.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

with contextlib.suppress(ImportError):
    import torch  # noqa: F401  before TensorFlow: the other way round the process crashes

import keras
import numpy as np

import keras_transfer as kt
from keras_transfer.features.cache import cache as cache_module

SIZE = 12
KILLS, SAMPLES = 20, 1_000


class Made:
    """Images that are made when they are asked for, slowly once the digest is known."""

    def __init__(self, samples, pause):
        self.samples, self.pause, self.reads = samples, pause, 0

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        self.reads += 1
        if self.pause and self.reads > self.samples + 32:
            time.sleep(self.pause)
        value = (np.arange(SIZE * SIZE * 3, dtype="int64") * (index + 7)) % 251
        return value.astype("uint8").reshape(SIZE, SIZE, 3), index % 3


def build(folder, samples, pause=0.0, batch_size=4):
    """Build a cache of files of `batch_size` samples; yield "ready" before, then what was computed."""
    cache_module._SHARD_BYTES = batch_size * 4 * 8 * 4
    computed = []
    predict = cache_module._predict
    cache_module._predict = lambda *args: computed.append(len(args[1])) or predict(*args)
    if pause:  # there is time to be killed between writing a file and giving it its name
        sync = os.fsync
        os.fsync = lambda file: time.sleep(3 * pause) or sync(file)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(8, 3, 5, kernel_initializer=keras.initializers.Constant(0.1))(inputs)
    cache = kt.FeatureCache(keras.Model(inputs, x, name="prefix"), folder)
    yield "ready"
    cache.build(kt.Loader(Made(samples, pause), batch_size), batch_size, verbose=0)
    yield sum(computed)


def child(steps):
    """Run a generator in a process of its own; return its number, and a file of what it yields."""
    read, write = os.pipe()
    number = os.fork()
    if number:
        os.close(write)
        return number, os.fdopen(read)
    os.close(read)
    with os.fdopen(write, "w") as output:
        for step in steps:
            output.write(f"{step}\n")
            output.flush()
    os._exit(0)


def last(process):
    """Return the last that a process yields."""
    number, output = process
    *_, line = output.read().split()
    assert os.waitpid(number, 0)[1] == 0
    return int(line)


def kill(folder):
    rng = np.random.default_rng(0)
    left, files = 0, []

    def wait_for_writing(known):
        until = time.monotonic() + 5.0
        while time.monotonic() < until and not set((folder / "other").glob("*/.*")) - known:
            time.sleep(0.001)

    for turn in range(KILLS):
        known = set((folder / "other").glob("*/.*"))
        number, output = child(build(folder / "other", SAMPLES, 0.01))
        output.readline()
        if turn >= KILLS // 4:  # before, while it starts
            wait_for_writing(known)
        time.sleep(rng.uniform(0.0, 0.5))
        if turn % 2:
            wait_for_writing(known)
        os.kill(number, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(number, 0)[1]) == signal.SIGKILL
        left += len(set((folder / "other").glob("*/.*")) - known)
        files.append(len(list((folder / "other").glob("*/[0-9]*.bin"))))
    rest = last(child(build(folder / "other", SAMPLES)))
    last(child(build(folder / "alone", SAMPLES)))
    return {"files": files, "left": left, "rest": rest}


def together(folder):
    both = [child(build(folder / "other", 60, 0.01)) for _ in range(2)]
    computed = [last(process) for process in both]
    last(child(build(folder / "alone", 60)))
    return {"computed": sorted(computed)}


def memory(folder):
    def peak(samples):
        yield from build(folder / str(samples), samples, batch_size=128)
        yield resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    return {"peaks": [last(child(peak(samples))) for samples in (2_000, 20_000)]}


if __name__ == "__main__":
    keras.layers.Rescaling(1.0).get_config()  # for which Keras imports TensorFlow where it is installed
    found = {"kill": kill, "together": together, "memory": memory}[sys.argv[1]](Path(sys.argv[2]))
    sys.stdout.write(json.dumps(found) + "\n")
