"""Do some epochs of a run, on any backend: resume.py FOLDER EPOCH RESULT.

It begins or is resumed in FOLDER. Before the EPOCH (from 0) it is stopped; a run that ends before writes
its variables to RESULT.
"""

import contextlib
import sys

with contextlib.suppress(ImportError):
    import torch  # noqa: F401  before TensorFlow

import keras
import numpy as np
from tiny import smooth_backbone
from weights import assign_weights

import keras_transfer as kt

CLASSES = 3


class StopError(Exception):
    """What ends a run."""


class Stop(keras.callbacks.Callback):
    """Raises before an epoch."""

    def __init__(self, before):
        super().__init__()
        self.before = before

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.before:
            raise StopError


def network():
    """Return a network in which rounding decides nothing, with the same weights on each backend."""
    model = kt.classifier(smooth_backbone(), CLASSES)
    assign_weights(model)
    return model


def main(folder, epoch, result):
    model = network()
    rng = np.random.default_rng(0)
    y = np.arange(40) % CLASSES
    x = (rng.integers(0, 200, (40, 16, 16, 3)) + 25 * y[:, None, None, None]).astype("uint8")
    phases = [
        kt.Phase("head", 2, learning_rate=1e-3),
        kt.Phase(
            "block",
            2,
            train="from:block2_conv1",
            learning_rate=1e-3,
            multipliers={"block2.*": 0.1},
            batch_norm="train",
        ),
        kt.Phase("all", 2, train="all", learning_rate=1e-4),
    ]
    with contextlib.suppress(StopError):
        kt.fine_tune(
            model,
            (x[:32], y[:32]),
            (x[32:], y[32:]),
            phases,
            batch_size=8,
            callbacks=[Stop(int(epoch))],
            output=folder,
            resume=True,
            verbose=0,
        )
        found = {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.weights}
        np.savez(result, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
