"""The rate that `find_lr` suggests against a grid of nine, for a head on features of MobileNetV2.

For each seed a new head is made and swept, then trained from the same start at the suggested rate and at
each rate of the grid. The score is the accuracy on the validation images after the last epoch. Needs the
environment variables of "Real images and weights" in CONTRIBUTING.md; the flowers are in the folder
"flowers" there.

    python benchmarks/lr_finder_flowers.py --backend torch
"""

import argparse
import os
from pathlib import Path


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--smoothing", type=float, default=0.98)
    parser.add_argument("--plot", type=Path, help="where the curve of the first seed goes")
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

GRID = np.geomspace(1e-5, 1e-1, 9)
METHODS = ("valley", "steepest", "minimum")
SIZE, CLASSES = 224, 5


def features():
    """Return (features, labels) of the training and of the validation images."""
    root = Path(os.environ["KERAS_TRANSFER_REAL_DATA"], "flowers")
    network = kt.classifier("MobileNetV2", CLASSES, image_size=SIZE, weights="imagenet")
    prefix = keras.Model(network.inputs, network.get_layer("predictions").input)
    found = []
    for part in ("train", "val"):
        loader = kt.data.from_directory(root, part=part, image_size=SIZE, shuffle=False)
        found.append((prefix.predict(loader, verbose=0), np.array(loader.labels)))
    return found


def head(seed, width):
    """Return a new head, the same for a seed, and the state of the process."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def accuracy(seed, rate, train, validation):
    """Train a new head at a rate and return its accuracy."""
    model = head(seed, train[0].shape[1])
    model.optimizer.learning_rate = rate
    model.fit(*train, epochs=given.epochs, verbose=0)
    return model.evaluate(*validation, verbose=0, return_dict=True)["accuracy"]


def main():
    """Measure and print a table."""
    train, validation = features()
    scores = {}
    suggested = {method: [] for method in METHODS}
    with rich.progress.Progress(transient=True) as progress:
        for seed in progress.track(range(given.seeds), description="seeds"):
            model = head(seed, train[0].shape[1])
            result = kt.find_lr(model, train, smoothing=given.smoothing, verbose=0)
            if seed == 0 and given.plot:
                kt.plots.lr_finder(result).savefig(given.plot, dpi=120)
            for method in METHODS:
                rate = result.suggest(method)
                suggested[method].append(rate)
                scores.setdefault(method, []).append(accuracy(seed, rate, train, validation))
            for rate in GRID:
                scores.setdefault(f"{rate:.1e}", []).append(accuracy(seed, rate, train, validation))
    title = f"{given.backend}: accuracy of {given.seeds} heads after {given.epochs} epochs"
    table = rich.table.Table("rate", "mean", "std", "rates of the seeds", title=title)
    for name, values in scores.items():
        rates = " ".join(f"{rate:.1e}" for rate in suggested.get(name, ()))
        table.add_row(name, f"{np.mean(values):.3f}", f"{np.std(values, ddof=1):.3f}", rates)
    rich.console.Console(width=100).print(table)


if __name__ == "__main__":
    main()
