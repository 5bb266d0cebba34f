"""Linear heads on the last features beside those on features of several depths, on real photos.

MobileNetV2 with its ImageNet weights; of all heads C, and of several depths how many, are chosen by
folds of the training images; accuracy is on images on which nothing was chosen. The paired difference
to logistic regression on the last features, and its standard error, are over these images. Seconds are
those of the head alone, whose features are computed already. Needs the environment variables of "Real
images and weights" in CONTRIBUTING.md.

    python benchmarks/head_features.py --backend torch
    python benchmarks/head_features.py --backend torch --sets flowers44
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

SETS = {"hymenoptera": 224, "flowers": 224, "flowers44": 224, "cifar10": 96}
SIDES = (("last", "logistic"), ("last", "ridge"), ("several", "ridge"))
WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=tuple(SETS))
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend

import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402
import rich.console  # noqa: E402
import rich.table  # noqa: E402

import keras_transfer as kt  # noqa: E402


def loaders(name):
    """Return the images for training and those to report on."""
    size = SETS[name]
    if name == "cifar10":
        parts = [kt.data.load(name, split, image_size=size) for split in ("train", "test")]
        return [part.replace(shuffle=False) for part in parts]
    root = Path(os.environ["KERAS_TRANSFER_REAL_DATA"], name)
    return [
        kt.data.from_directory(root, part=part, image_size=size, shuffle=False, verbose=0)
        for part in ("train", "val")
    ]


def right(name, features, method, folder, train, test):
    """Return which test images a head gets right, their log-loss, and the seconds of the head."""
    weights = keras.utils.get_file(WEIGHTS, "", cache_subdir="models")  # as there are none for 96 px
    classes = len(train.class_names)
    model = kt.classifier(
        "mobilenet_v2", classes, image_size=SETS[name], features=features, weights=weights
    )
    for _ in range(2):  # the features are computed in the first
        start = time.perf_counter()
        fitted = kt.fit_linear_head(model, train, method=method, cache=folder, verbose=0)
        seconds = time.perf_counter() - start
    given = fitted.predict(test, verbose=0)
    y = test.known_labels()
    return given.argmax(axis=1) == y, -np.log(given[np.arange(len(y)), y]).mean(), seconds


def main():
    """Measure and print a table."""
    columns = ("photos", "features", "head", "accuracy", "paired difference", "log-loss", "seconds")
    table = rich.table.Table(*columns)
    for name in given.sets:
        train, test = loaders(name)
        first = None
        for features, method in SIDES:
            with tempfile.TemporaryDirectory() as folder:
                found, loss, seconds = right(name, features, method, folder, train, test)
            first = found if first is None else first
            gains = found.astype(float) - first
            table.add_row(
                f"{name}: {train.num_samples:,} + {test.num_samples:,}",
                features,
                method,
                f"{found.mean():.3f}",
                f"{gains.mean():+.3f} +- {np.sqrt((gains**2).mean() / len(gains)):.3f}",
                f"{loss:.3f}",
                f"{seconds:.1f}",
            )
    rich.console.Console(width=120).print(table)


if __name__ == "__main__":
    main()
