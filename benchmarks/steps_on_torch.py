"""A training step on torch that copies no feature maps between layouts, beside Keras' own.

Both steps are those of Keras with the same weights and images, and change the weights to the same bits;
they take turns in one process. Printed is the median of the ratios of the two times, for each part of
the network that trains.

    python benchmarks/steps_on_torch.py
    python benchmarks/steps_on_torch.py --network resnet50 --parts conv4_block6_out conv5_block2_out
"""

import argparse
import contextlib
import os
import time

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import rich.console
import rich.table

import keras_transfer as kt
from keras_transfer._lib.keras_private.layout import maps_not_copied

SIZE, BATCH, CLASSES = 224, 32, 5


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--parts", nargs="*", default=("block_12_add", "block_15_add"), help="cuts")
    parser.add_argument("--pairs", type=int, default=9)
    return parser.parse_args()


def measure(model, pairs):
    """Return the median seconds of a step of Keras, and that of the ratios to it."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (BATCH, *model.input_shape[1:])).astype("float32")
    y = rng.integers(0, CLASSES, BATCH)
    model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy")

    def seconds(context):
        with context():
            start = time.perf_counter()
            model.train_on_batch(x, y)
            return time.perf_counter() - start

    sides = contextlib.nullcontext, maps_not_copied
    times = [[seconds(side) for side in sides] for _ in range(pairs + 1)][1:]
    return np.median([usual for usual, _ in times]), np.median([quick / usual for usual, quick in times])


def main():
    """Measure and print a table."""
    given = arguments()
    model = kt.classifier(given.network, CLASSES, image_size=SIZE, weights=None)
    table = rich.table.Table("what trains", "Keras, s", "without copies / Keras")
    for at in (None, *given.parts):
        part = model if at is None else kt.split_model(model, at)[1]
        usual, ratio = measure(part, given.pairs)
        table.add_row("everything" if at is None else f"behind {at}", f"{usual:.3f}", f"{ratio:.2f}")
    rich.console.Console(width=100).print(table)


if __name__ == "__main__":
    main()
