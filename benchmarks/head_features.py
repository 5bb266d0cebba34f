"""A linear head on the last features beside one on features of several depths, on real photos.

MobileNetV2 with its ImageNet weights, 224 px; of both heads C is chosen by folds of the training
images; accuracy is on images on which nothing was chosen. The paired difference and its standard error
are over these images. Seconds are those of the head alone, and of the features of all training images.
Needs the environment variables of "Real images and weights" in CONTRIBUTING.md.

    python benchmarks/head_features.py --backend torch
    python benchmarks/head_features.py --backend torch --sets flowers44 --features block_15_add last
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

SETS = ("hymenoptera", "flowers", "flowers44")
FEATURES = ("block_13_expand_relu", "block_16_expand_relu", "last")
SIZE = 224


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--features", nargs="+", default=FEATURES)
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend

import numpy as np  # noqa: E402  after the choice of the backend
import rich.console  # noqa: E402
import rich.table  # noqa: E402

import keras_transfer as kt  # noqa: E402


def right(features, train, test, folder):
    """Return which test images a head gets right, and the seconds of features and of the head."""
    classes = len(train.class_names)
    model = kt.classifier("mobilenet_v2", classes, image_size=SIZE, features=features)
    seconds = []
    for _ in range(2):  # the features are computed in the first
        start = time.perf_counter()
        fitted = kt.fit_linear_head(model, train, cache=folder, verbose=0)
        seconds.append(time.perf_counter() - start)
    logits = fitted.predict(test, verbose=0)
    return logits.argmax(axis=1) == test.known_labels(), seconds


def main():
    """Measure and print a table."""
    columns = ("photos", "training + test", "classes", "last", "several", "paired difference")
    table = rich.table.Table(*columns, "seconds: last", "several", title=", ".join(given.features))
    for name in given.sets:
        root = Path(os.environ["KERAS_TRANSFER_REAL_DATA"], name)
        train, test = (
            kt.data.from_directory(root, part=part, image_size=SIZE, shuffle=False, verbose=0)
            for part in ("train", "val")
        )
        with tempfile.TemporaryDirectory() as folder:
            sides = [right(each, train, test, folder) for each in ("last", given.features)]
        (last, before), (several, after) = sides
        gains = several.astype(float) - last
        table.add_row(
            name,
            f"{train.num_samples:,} + {test.num_samples:,}",
            str(len(train.class_names)),
            f"{last.mean():.3f}",
            f"{several.mean():.3f}",
            f"{gains.mean():+.3f} +- {np.sqrt((gains**2).mean() / len(gains)):.3f}",
            *(f"{both - head:.1f} + {head:.1f}" for both, head in (before, after)),
        )
    rich.console.Console(width=120).print(table)


if __name__ == "__main__":
    main()
