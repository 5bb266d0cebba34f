"""Automatic training beside four plain-Keras ways, on real photos, with the weights of MobileNetV2.

All train on the same images at the same size and are measured on the same others, on which nothing is
chosen. "automatic" is what `keras-transfer train` does: `keras_transfer.automatic.train` with its
defaults, on features of several depths, within `--minutes`. The plain ways have the last features.
"logistic regression" is scikit-learn's, at its defaults, on standardised features. "head" is 16 epochs
of a dense layer with Adam at 1e-3 on these features. "everything" goes on from there, and "linear, then
everything" from the logistic regression, for 8 epochs with Adam at 1e-4, batch norm frozen.

A line for each seed tells what `automatic` took, the expected calibration error and log-loss before and
after, and the coverage of its candidates (90 % are promised). The differences are paired over images, of
all seeds. `--splits` draws other images for training with each seed, as many, of all there are.

Needs the environment variables of "Real images and weights" in CONTRIBUTING.md.

    python benchmarks/automatic.py --backend torch --sets hymenoptera flowers --splits
    python benchmarks/automatic.py --backend torch --sets flowers44 cifar10 --seeds 1
    python benchmarks/automatic.py --backend torch --seeds 1 --sides automatic --minutes 1
"""

import argparse
import os
import time
from pathlib import Path

SIDES = ("automatic", "logistic regression", "head", "everything", "linear, then everything")


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--sets", nargs="+", choices=("hymenoptera", "flowers", "flowers44", "cifar10"))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--splits", action="store_true", help="other images with each seed")
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402
import rich.console  # noqa: E402
import rich.table  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

import keras_transfer as kt  # noqa: E402
from keras_transfer.runs.budget import Budget  # noqa: E402

SETS = {"hymenoptera": 224, "flowers": 224, "flowers44": 224, "cifar10": 96}
WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


def loaders(name):
    """Return the images for training and those to report on."""
    size = SETS[name]
    if name == "cifar10":
        return [kt.data.load(name, split, image_size=size) for split in ("train", "test")]
    root = Path(os.environ["KERAS_TRANSFER_REAL_DATA"], name)
    return [kt.data.from_directory(root, part=part, image_size=size) for part in ("train", "val")]


def arrays(loader):
    """Return all images and labels in order."""
    return loader.replace(augmentation=None, shuffle=False).samples(0, loader.num_samples)


def divided(train, test, seed):
    """Return as many images for training and for measuring as there are, drawn by class."""
    x, y = (np.concatenate(each) for each in zip(train, test, strict=True))
    first, second = train_test_split(
        np.arange(len(y)), test_size=len(test[1]), stratify=y, random_state=seed
    )
    return (x[first], y[first]), (x[second], y[second])


def classifier(name, names, features="last"):
    """Return the network with the weights of 224 px; by name there are others for each size."""
    weights = Path(os.environ["KERAS_HOME"], "models", WEIGHTS)
    shared = {"image_size": SETS[name], "weights": weights, "class_names": names}
    return kt.classifier("mobilenet_v2", len(names), features=features, **shared)


def right(model, test):
    """Return which of the images a model gets right."""
    images, labels = test
    return model.predict(images, verbose=0).argmax(axis=1) == labels


def tuned(model, dense, train):
    """Train everything but batch norm, from weights of the last layer."""
    model.get_layer("predictions").set_weights(dense)
    for layer in model.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    model.fit(*train, epochs=8, verbose=0)
    return model


def linear_weights(fitted):
    """Return the weights of a layer on raw features that gives what scikit-learn's pipeline does."""
    scale, logistic = fitted[0], fitted[1]
    kernel, bias = logistic.coef_.T, logistic.intercept_
    if kernel.shape[1] == 1:
        kernel, bias = kernel * [-0.5, 0.5], bias * [-0.5, 0.5]
    kernel = kernel / scale.scale_[:, None]
    return [kernel, bias - scale.mean_ @ kernel]


def head_weights(x, y, classes):
    """Return the weights of a layer after 16 epochs on features."""
    vector = keras.Input(x.shape[1:])
    dense = keras.layers.Dense(classes)
    head = keras.Model(vector, dense(vector))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    head.compile(keras.optimizers.Adam(1e-3), loss)
    head.fit(x, y, epochs=16, verbose=0)
    return dense.get_weights()


def plain(name, names, train, test, sides):
    """Return for each of the plain ways which of the images it gets right."""
    model = classifier(name, names)
    features = keras.Model(model.inputs, model.get_layer("predictions").input)
    x, z = (features.predict(images, verbose=0) for images, _ in (train, test))
    found = {}
    if {"logistic regression", "linear, then everything"} & set(sides):
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000)).fit(x, train[1])
        found["logistic regression"] = fitted.predict(z) == test[1]
    if {"head", "everything"} & set(sides):
        kernel, bias = head_weights(x, train[1], len(names))
        found["head"] = (z @ kernel + bias).argmax(axis=1) == test[1]
    if "everything" in sides:
        found["everything"] = right(tuned(model, [kernel, bias], train), test)
    if "linear, then everything" in sides:
        model = tuned(classifier(name, names), linear_weights(fitted), train)
        found["linear, then everything"] = right(model, test)
    return {side: found[side] for side in found if side in sides}


def automatic(name, names, train, test, seed):
    """Return which of the images it gets right, and what else there is to tell."""
    start = time.perf_counter()
    model = classifier(name, names, "several")
    budget = Budget(given.minutes, len(test[1]), started=start)
    trained = kt.automatic.train(model, train, views=True, minutes=budget, seed=seed, verbose=0)
    evaluation = kt.evaluation.evaluate(trained.model, test, verbose=0)
    seconds = time.perf_counter() - start
    return right(trained.model, test), (evaluation, trained, seconds)


def told(evaluation, trained, seconds):
    """Return a line on one training."""
    left_out = ", ".join(each.name for each in trained.left_out) or "nothing"
    return (
        f"{trained.chosen}, {seconds:.0f} s, left out: {left_out}; calibration error "
        f"{evaluation.uncalibrated_error:.3f} before, {evaluation.calibration_error:.3f} after, "
        f"log-loss {evaluation.uncalibrated_log_loss:.3f} and {evaluation.log_loss:.3f}; coverage "
        f"{evaluation.coverage:.3f}, unsure of {evaluation.unsure:.3f}"
    )


def main():
    """Measure and print a table for each set."""
    console = rich.console.Console(width=110)
    for name in given.sets or SETS:
        loaded = loaders(name)
        names, parts = loaded[0].class_names, [arrays(each) for each in loaded]
        found = {side: [] for side in given.sides}
        for seed in range(given.seeds):
            keras.utils.set_random_seed(seed)
            train, test = divided(*parts, seed) if given.splits else parts
            if "automatic" in found:
                which, about = automatic(name, names, train, test, seed)
                found["automatic"].append(which)
                console.print(told(*about))
            for side, which in plain(name, names, train, test, given.sides).items():
                found[side].append(which)
            keras.utils.clear_session()
            console.print(name, seed, {side: round(each[-1].mean(), 4) for side, each in found.items()})
        title = f"{given.backend}: {name}, {len(parts[0][1])} + {len(parts[1][1])} images"
        table = rich.table.Table("", "accuracy, points", "automatic beyond it", title=title)
        for side, values in found.items():
            spread = f" +- {100 * np.std(np.mean(values, 1), ddof=1):.2f}" if len(values) > 1 else ""
            gains = 100 * (np.array(found["automatic"], float) - values).ravel()
            error = np.std(gains) / len(gains) ** 0.5
            beyond = "" if side == "automatic" else f"{gains.mean():+.2f} +- {error:.2f}"
            table.add_row(side, f"{100 * np.mean(values):.2f}{spread}", beyond)
        console.print(table)


if __name__ == "__main__":
    main()
