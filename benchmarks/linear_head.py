"""`fit_linear_head` beside 16 epochs of Adam on the head, over random splits of real images.

The features of MobileNetV2 are computed once for each data set. For each split a head is fitted, its C
chosen by folds of the training part, and another trained from random weights with Adam at 1e-3 and
batches of 32, both on the features. Accuracy is on the test part. Needs the environment variables of
"Real images and weights" in CONTRIBUTING.md; ants and bees and the flowers are in the folders
"hymenoptera" and "flowers" there.

    python benchmarks/linear_head.py --backend torch
"""

import argparse
import os
import time
from pathlib import Path


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--method", choices=("logistic", "svm"), default="logistic")
    parser.add_argument("--only", choices=("hymenoptera", "flowers", "cifar10"), help="one data set")
    parser.add_argument("--cache", default="linear_head_cache", help="folder for features, kept")
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402
import rich.console  # noqa: E402
import rich.table  # noqa: E402

import keras_transfer as kt  # noqa: E402

# Data set: classes, size of the images, how many train and how many test in each split.
SETS = {
    "hymenoptera": (2, 224, 250, 147),
    "flowers": (5, 224, 250, 100),
    "cifar10": (10, 96, 2000, 1000),
}
WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


def loaders(name, size):
    """Return what there is of a data set."""
    if name == "cifar10":
        splits = ("train", "test")
        return [kt.data.load(name, split, image_size=size, shuffle=False) for split in splits]
    root = Path(os.environ["KERAS_TRANSFER_REAL_DATA"], name)
    options = {"image_size": size, "shuffle": False}
    return [kt.data.from_directory(root, part=part, **options) for part in ("train", "val")]


def features(name):
    """Return features of shape (images, 1, 1, channels), labels, and the seconds that they took."""
    classes, size, *_ = SETS[name]
    # Not weights="imagenet", which are others for each size.
    weights = Path(os.environ["KERAS_HOME"], "models", WEIGHTS)
    network = kt.classifier("MobileNetV2", classes, image_size=size, weights=weights)
    prefix, _ = kt.split_model(network, "avg_pool")
    found, start = [], time.perf_counter()
    for loader in loaders(name, size):
        cached = kt.FeatureCache(prefix, given.cache).build(loader)
        found.append(cached.samples(0, cached.num_samples))
    x, y = map(np.concatenate, zip(*found, strict=True))
    return x[:, None, None], y, time.perf_counter() - start


def head(seed, width, classes):
    """Return a head on features, the same for a seed."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((1, 1, width))
    x = keras.layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, keras.layers.Dense(classes)(x))


def scores(seed, name, x, y):
    """Return accuracy and seconds of both heads on one split."""
    classes, _, train, test = SETS[name]
    order = np.random.default_rng(seed).permutation(len(x))
    parts = order[:train], order[train : train + test]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = []
    for trained in (False, True):
        model = head(seed, x.shape[-1], classes)
        start = time.perf_counter()
        if not trained:
            model = kt.fit_linear_head(model, (x[parts[0]], y[parts[0]]), method=given.method, verbose=0)
        model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
        if trained:
            model.fit(x[parts[0]], y[parts[0]], epochs=given.epochs, batch_size=32, verbose=0)
        seconds = time.perf_counter() - start
        accuracy = model.evaluate(x[parts[1]], y[parts[1]], verbose=0, return_dict=True)["accuracy"]
        found.append((accuracy, seconds))
    return found


def main():
    """Measure and print a table."""
    title = f"{given.backend}, {given.method}: accuracy in points over {given.splits} splits"
    columns = ("images", "features, s", "fit", "s", f"{given.epochs} epochs", "s", "paired difference")
    table = rich.table.Table("data", *columns, title=title)
    for name in [given.only] if given.only else SETS:
        x, y, passed = features(name)
        results = np.array([scores(seed, name, x, y) for seed in range(given.splits)])
        points = 100 * results[..., 0]
        difference = points[:, 0] - points[:, 1]
        error = difference.std(ddof=1) / np.sqrt(given.splits)
        cells = []
        for side in (0, 1):
            cells += [f"{points[:, side].mean():.2f}", f"{results[:, side, 1].mean():.1f}"]
        train = f"{SETS[name][2]:,} + {SETS[name][3]:,}"
        table.add_row(name, train, f"{passed:.0f}", *cells, f"{difference.mean():+.2f} +- {error:.2f}")
    rich.console.Console(width=110).print(table)


if __name__ == "__main__":
    main()
