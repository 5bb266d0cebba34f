"""A training step with convolutions as `fine_tune` makes them, beside Keras' own.

On torch they copy no feature maps between layouts, and the weights change to the same bits; on JAX
depthwise and pointwise ones are products. Both steps have the same weights and images, and take turns
in one process. Printed is the median of the ratios of the two times, for each part of the network that
trains. The first step of each, which compiles on JAX, has a column of its own.

    KERAS_BACKEND=torch python benchmarks/training_steps.py
    KERAS_BACKEND=jax python benchmarks/training_steps.py
    KERAS_BACKEND=torch python benchmarks/training_steps.py --network resnet50 --parts conv4_block6_out
"""

import argparse
import contextlib
import time

import keras
import numpy as np
import rich.console
import rich.table

import keras_transfer as kt
from keras_transfer._lib.keras_private.convolutions import quick_convolutions

SIZE, BATCH, CLASSES = 224, 32, 5


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--parts", nargs="*", default=("block_12_add", "block_15_add"), help="cuts")
    parser.add_argument("--pairs", type=int, default=9)
    return parser.parse_args()


def measure(model, pairs):
    """Return the seconds of the first steps, the median of Keras' later ones, and that of the ratios."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (BATCH, *model.input_shape[1:])).astype("float32")
    y = rng.integers(0, CLASSES, BATCH)
    sides = []
    for context in (contextlib.nullcontext, quick_convolutions):
        copy = keras.models.clone_model(model)  # a step is compiled for good
        copy.set_weights(model.get_weights())
        copy.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy")
        sides.append((context, copy))

    def seconds(context, copy):
        with context():
            start = time.perf_counter()
            copy.train_on_batch(x, y)
            return time.perf_counter() - start

    first, *times = [[seconds(*side) for side in sides] for _ in range(pairs + 1)]
    return first, np.median([usual for usual, _ in times]), np.median([b / a for a, b in times])


def main():
    """Measure and print a table."""
    given = arguments()
    model = kt.classifier(given.network, CLASSES, image_size=SIZE, weights=None)
    columns = ("what trains", "Keras, s", "ours / Keras", "first: Keras, s", "first: ours, s")
    table = rich.table.Table(*columns)
    for at in (None, *given.parts):
        part = model if at is None else kt.split_model(model, at)[1]
        first, usual, ratio = measure(part, given.pairs)
        name = "everything" if at is None else f"behind {at}"
        table.add_row(name, f"{usual:.3f}", f"{ratio:.2f}", *(f"{each:.1f}" for each in first))
    rich.console.Console(width=100).print(table)


if __name__ == "__main__":
    main()
