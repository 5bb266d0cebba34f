"""Builds a cache: folder, seconds that a sample takes to read, number of samples."""

import contextlib
import resource
import sys
import time

with contextlib.suppress(ImportError):
    import torch  # noqa: F401  before TensorFlow: the other way round the process crashes

import keras
import numpy as np

import keras_transfer as kt
from keras_transfer.features import cache as cache_module

SIZE = 12


class Slow:
    """Images that are made when they are asked for, slowly once the digest is known."""

    def __init__(self, samples, pause):
        self.samples, self.pause, self.reads = samples, pause, 0

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        self.reads += 1
        time.sleep(self.pause if self.reads > self.samples + 32 else 0.0)
        value = (np.arange(SIZE * SIZE * 3, dtype="int64") * (index + 7)) % 251
        return value.astype("uint8").reshape(SIZE, SIZE, 3), index % 3


def main():
    folder, pause, samples = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    cache_module._SHARD_BYTES = 4 * 4 * 8 * 4 if samples < 100 else 2**20
    computed = []
    predict = cache_module._predict
    cache_module._predict = lambda *args: computed.append(len(args[1])) or predict(*args)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(8, 3, 5, kernel_initializer=keras.initializers.Constant(0.1))(inputs)
    cache = kt.FeatureCache(keras.Model(inputs, x, name="prefix"), folder)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    cache.build(Slow(samples, pause), 4 if samples < 100 else 64, verbose=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(f"{peak} {sum(computed)}\n")


if __name__ == "__main__":
    main()
