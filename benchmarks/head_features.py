"""Linear heads on the last features beside those on features of several depths, on real photos.

MobileNetV2 with its ImageNet weights; of all heads C, and of several depths how many, are chosen by
folds of the training images; accuracy is on images on which nothing was chosen. The paired difference
to logistic regression on the last features, and its standard error, are over these images. Seconds are
those of the head alone, whose features are computed already. Needs the environment variables of "Real
images and weights" in CONTRIBUTING.md.

With --views, ridge heads on several depths of several views of each image (kt.multi_view), beside that
of one view, with the images a second that the whole classifier takes from memory, and how many passes of
one view that is. For a second size the images are read at 288 pixels (CIFAR-10: 128) and seen at both.

    python benchmarks/head_features.py --backend torch
    python benchmarks/head_features.py --backend torch --sets flowers44
    python benchmarks/head_features.py --backend torch --views --sets hymenoptera flowers flowers44
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

SETS = {"hymenoptera": 224, "flowers": 224, "flowers44": 224, "cifar10": 96}
SIDES = (("last", "logistic"), ("last", "ridge"), ("several", "ridge"))
BATCH, TURNS = 32, 7
LARGER = {224: 288, 96: 128}
WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=tuple(SETS))
    parser.add_argument("--views", action="store_true", help="compare numbers of views of an image")
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend

import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402
import rich.console  # noqa: E402
import rich.table  # noqa: E402

import keras_transfer as kt  # noqa: E402
from keras_transfer.inference.predictions import predictions  # noqa: E402
from keras_transfer.inference.runtimes import by_the_first, started  # noqa: E402


def loaders(name, size):
    """Return the images for training and those to report on."""
    if name == "cifar10":
        parts = [kt.data.load(name, split, image_size=size) for split in ("train", "test")]
        return [part.replace(shuffle=False) for part in parts]
    root = Path(os.environ["KERAS_TRANSFER_REAL_DATA"], name)
    return [
        kt.data.from_directory(root, part=part, image_size=size, shuffle=False, verbose=0)
        for part in ("train", "val")
    ]


def classifier(classes, features, size):
    """Return a classifier that is not fitted."""
    weights = keras.utils.get_file(WEIGHTS, "", cache_subdir="models")  # as there are none for 96 px
    return kt.classifier("mobilenet_v2", classes, image_size=size, features=features, weights=weights)


def fitted(model, method, train):
    """Return a model with a head, and the seconds of the head alone."""
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):  # the features are computed in the first
            start = time.perf_counter()
            made = kt.fit_linear_head(model, train, method=method, cache=folder, verbose=0)
            seconds = time.perf_counter() - start
    return made, seconds


def right(model, test):
    """Return which test images a model gets right, and their log-loss."""
    given, y = predictions(model, test, 0), test.known_labels()
    return given.argmax(axis=1) == y, -np.log(given[np.arange(len(y)), y]).mean()


def computing(model, images):
    """Return what computes a model by the rule of kt.FeatureCache; a line says why not ONNX Runtime."""
    return by_the_first(model, "auto", lambda runtime: started(model, runtime, images, BATCH), 2)


def images_a_second(models):
    """Return how many images a second, from memory, each of some models takes in its best turn."""
    computed = []
    for model in models:
        images = 255 * np.random.default_rng(0).random((BATCH, *model.input_shape[1:]), "float32")
        computed.append((computing(model, images), images))
    seconds = [[] for _ in models]
    for _ in range(TURNS):
        for (compute, images), taken in zip(computed, seconds, strict=True):
            start = time.perf_counter()
            compute(images)
            taken.append(time.perf_counter() - start)
    return [BATCH / min(taken) for taken in seconds]


def difference(found, first):
    """Return a paired difference and its standard error in words."""
    gains = found.astype(float) - first
    return f"{gains.mean():+.3f} +- {np.sqrt((gains**2).mean() / len(gains)):.3f}"


def compare_features(name, table):
    """Add a row for each kind of features and head."""
    train, test = loaders(name, SETS[name])
    first = None
    for features, method in SIDES:
        model = classifier(len(train.class_names), features, SETS[name])
        made, seconds = fitted(model, method, train)
        found, loss = right(made, test)
        first = found if first is None else first
        table.add_row(
            f"{name}: {train.num_samples:,} + {test.num_samples:,}",
            features,
            method,
            f"{found.mean():.3f}",
            difference(found, first),
            f"{loss:.3f}",
            f"{seconds:.1f}",
        )


def compare_views(name, table):
    """Add a row for each kind of views; those of the larger size alone tell what it gains by itself."""
    size, larger = SETS[name], LARGER[SETS[name]]
    models, scores = [], []
    for taken, views in (
        (size, None),
        (size, {}),
        (larger, None),
        (larger, {}),
        (larger, {"sizes": (size,)}),
    ):
        train, test = loaders(name, taken)
        model = classifier(len(train.class_names), "several", taken)
        if views is not None:
            model = kt.multi_view(model, **views)
        models.append(fitted(model, "ridge", train)[0])
        pixels = f"{taken}, {size}" if views else f"{taken}"
        scores.append((pixels if views is None else f"{pixels}, mirrored", *right(models[-1], test)))
    speeds = images_a_second(models)
    for (views, found, loss), speed in zip(scores, speeds, strict=True):
        table.add_row(
            f"{name}: {train.num_samples:,} + {test.num_samples:,}",
            views,
            f"{found.mean():.3f}",
            difference(found, scores[0][1]),
            f"{loss:.3f}",
            f"{speed:.1f}",
            f"{speeds[0] / speed:.2f}",
        )


def main():
    """Measure and print a table."""
    columns = ("photos", "features", "head", "accuracy", "paired difference", "log-loss", "seconds")
    of_views = ("photos", "views", *columns[3:6], "images a second", "passes")
    table = rich.table.Table(*(of_views if given.views else columns))
    for name in given.sets:
        (compare_views if given.views else compare_features)(name, table)
    rich.console.Console(width=120).print(table)


if __name__ == "__main__":
    main()
