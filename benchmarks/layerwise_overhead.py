"""What a learning rate for every layer costs: median step time over that of the plain optimizer.

Both train the same network in one process, a few steps each by turns, so that a busy machine slows both.
`MultiOptimizer` of Keras, with one optimizer for each group, stands beside them.

    python benchmarks/layerwise_overhead.py --backend torch
"""

import argparse
import os
import statistics
import time


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--pairs", type=int, default=40, help="how often each gets its turn")
    parser.add_argument("--only", choices=("mlp", "cnn", "vgg16"), help="one network instead of all")
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402
import rich.console  # noqa: E402
import rich.progress  # noqa: E402
import rich.table  # noqa: E402

import keras_transfer as kt  # noqa: E402


def mlp():
    """30 dense layers, 60 variables; AdamW with 12 multipliers."""
    layers = [keras.layers.Dense(64, activation="relu") for _ in range(29)]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10)])
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 64), "float32"), rng.integers(0, 10, 64)
    multipliers = {
        variable.path: 2.0 ** -(index * 12 // 60)
        for index, variable in enumerate(model.trainable_variables)
    }
    return model, x, y, lambda: keras.optimizers.AdamW(1e-4), multipliers, 10


def cnn():
    """A small VGG at 32 pixels; Adam, geometric over its layers."""
    inputs = keras.Input((32, 32, 3))
    x = inputs
    for block, filters in enumerate((16, 32, 64), start=1):
        for conv in (1, 2):
            name = f"block{block}_conv{conv}"
            x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
        x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((32, 32, 32, 3), "float32")
    multipliers = dict(kt.multipliers.geometric(model, 2.0, per="layer"))
    return model, images, rng.integers(0, 10, 32), lambda: keras.optimizers.Adam(1e-4), multipliers, 5


def vgg16():
    """VGG16 at 48 pixels, all layers; Adam, linear over 13 convolutions and the head."""
    model = kt.classifier("vgg16", 10, input_shape=(48, 48, 3), weights=None)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 48, 48, 3)).astype("float32")
    multipliers = dict(kt.multipliers.linear(model))
    return model, images, rng.integers(0, 10, 16), lambda: keras.optimizers.Adam(1e-5), multipliers, 1


def multi_optimizer(make, multipliers):
    """Keras' own way: an optimizer for each multiplier."""
    parts = {}
    for multiplier in set(multipliers.values()):
        parts[multiplier] = make()
        parts[multiplier].learning_rate = float(parts[multiplier].learning_rate) * multiplier
    of = {path: parts[multiplier] for path, multiplier in multipliers.items()}
    optimizer_map = keras.optimizers.OptimizerMap(make(), of)
    return keras.optimizers.MultiOptimizer(optimizer_map)


def measure(build, progress):
    """Return median step times in milliseconds, and the median ratios to the plain optimizer."""
    steppers = {}
    for kind in ("plain", "LayerwiseLR", "MultiOptimizer"):
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        model, x, y, make, multipliers, steps = build()
        if kind == "LayerwiseLR":
            optimizer = kt.optimizers.LayerwiseLR(make(), multipliers)
        else:
            optimizer = make() if kind == "plain" else multi_optimizer(make, multipliers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=model.layers[-1].name != "softmax")
        model.compile(optimizer, loss)
        steppers[kind] = (model, x, y, steps)
        for _ in range(3):
            model.train_on_batch(x, y)
    times = {kind: [] for kind in steppers}
    for _ in progress.track(range(given.pairs), description=build.__name__):
        for kind, (model, x, y, steps) in steppers.items():
            start = time.perf_counter()
            for _ in range(steps):
                model.train_on_batch(x, y)
            times[kind].append((time.perf_counter() - start) / steps)
    ratios = {
        kind: statistics.median(a / b for a, b in zip(values, times["plain"], strict=True))
        for kind, values in times.items()
    }
    return {kind: 1e3 * statistics.median(values) for kind, values in times.items()}, ratios


def main():
    """Measure each network and print a table."""
    table = rich.table.Table("network", "optimizer", "ms a step", "over plain", title=given.backend)
    with rich.progress.Progress(transient=True) as progress:
        for build in (mlp, cnn, vgg16):
            if given.only in (None, build.__name__):
                times, ratios = measure(build, progress)
                for kind in times:
                    name = build.__doc__.strip() if kind == "plain" else ""
                    table.add_row(name, kind, f"{times[kind]:.2f}", f"{ratios[kind]:.3f}")
    rich.console.Console(width=100).print(table)


if __name__ == "__main__":
    main()
