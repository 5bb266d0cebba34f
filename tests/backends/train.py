"""Train VGG16 for 20 steps in each of two phases and write its variables after both: train.py FILE."""

import contextlib
import os
import sys

# Here JAX's programs run long enough that it pays to optimise them, which the suite switches off.
os.environ.pop("XLA_FLAGS", None)

with contextlib.suppress(ImportError):
    import torch  # noqa: F401  before TensorFlow

import keras
import numpy as np
from weights import assign_weights

import keras_transfer as kt

STEPS, BATCH = 20, 4


class Record(keras.callbacks.Callback):
    """Copies the variables when a phase ends."""

    def __init__(self, model, into, prefix):
        super().__init__()
        self.kept, self.into, self.prefix = model, into, prefix

    def on_train_end(self, logs=None):
        for variable in self.kept.trainable_variables:
            self.into[f"{self.prefix} {variable.path}"] = np.array(keras.ops.convert_to_numpy(variable))


def main(path):
    model = kt.classifier("vgg16", 5, image_size=32, weights=None, pooling="flatten", hidden_units=(64,))
    assign_weights(model)
    kernel = model.get_layer("predictions").kernel
    kernel.assign(0.1 * keras.ops.convert_to_numpy(kernel))
    # None of these images comes so near to a tie (in a ReLU, in a pooling window) that rounding decides
    # it: float32 ends within 3e-6 of float64. With a tie, processors differ by 1e-5.
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (STEPS * BATCH, 32, 32, 3), dtype="uint8")
    labels = rng.integers(0, 5, STEPS * BATCH)
    found = {}
    phases = [
        kt.Phase("head", 1, learning_rate=1e-4, callbacks=[Record(model, found, "head")]),
        kt.Phase(
            "block5",
            1,
            train="from:block5_conv1",
            learning_rate=1e-5,
            callbacks=[Record(model, found, "block5")],
        ),
    ]
    loader = kt.Loader((images, labels), BATCH, seed=3, augmentation="light")
    result = kt.fine_tune(model, loader, phases=phases, verbose=0)
    found["loss"] = np.array(result.history["loss"])
    np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])
