"""What a learning rate for every layer costs: median step time over that of the plain optimizer.

Both train the same network in one process, a few steps each by turns, so that a busy machine slows both.
`MultiOptimizer` of Keras, with one optimizer for each group, stands beside them; for the CNN also what
it saves to give its first two blocks multiplier 0, or to freeze them.

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
    model = kt.classifier("vgg16", 10, image_size=48, weights=None)
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


def frozen(model, make):
    """The plain optimizer for what is not in the first two blocks."""
    kt.freeze_to(model, 2)
    return make()


# From the model, what makes the plain optimizer, and the multipliers to the optimizer.
KINDS = {
    "plain": lambda model, make, multipliers: make(),
    "LayerwiseLR": lambda model, make, multipliers: kt.optimizers.LayerwiseLR(make(), multipliers),
    "MultiOptimizer": lambda model, make, multipliers: multi_optimizer(make, multipliers),
}
SAVING = {
    "multiplier 0 in blocks 1, 2": lambda model, make, multipliers: kt.optimizers.LayerwiseLR(
        make(), {"block[12].*": 0.0}
    ),
    "blocks 1, 2 frozen": lambda model, make, multipliers: frozen(model, make),
}


def measure(build, progress):
    """Return median step times in milliseconds, and the median ratios to the plain optimizer."""
    steppers = {}
    for kind, optimizer in (KINDS | (SAVING if build is cnn else {})).items():
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        model, x, y, make, multipliers, steps = build()
        from_logits = model.layers[-1].name != "softmax"
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
        model.compile(optimizer(model, make, multipliers), loss)
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
    for build in (mlp, cnn, vgg16):
        if given.only not in (None, build.__name__):
            continue
        with rich.progress.Progress(transient=True) as progress:
            times, ratios = measure(build, progress)
        table = rich.table.Table("optimizer", "ms a step", "over plain", title=build.__doc__)
        for kind in times:
            table.add_row(kind, f"{times[kind]:.2f}", f"{ratios[kind]:.3f}")
        rich.console.Console(width=100).print(given.backend, table)


if __name__ == "__main__":
    main()
