"""Automatic training beside three plain-Keras ways, on real photos, with the weights of MobileNetV2.

All train on the same images at the same size and are measured on the same others, on which nothing is
chosen. "logistic regression" is scikit-learn's, at its defaults, on standardised features of the last
layer. "head" is 16 epochs of a dense layer with Adam at 1e-3 on these features. "everything" goes on
from there for 8 epochs with Adam at 1e-4, batch norm frozen. "automatic" is
`keras_transfer.automatic.train` with all its defaults; a line for each seed tells what it took, the
expected calibration error and log-loss before and after, and the coverage of its candidates (90 % are
promised).

Needs the environment variables of "Real images and weights" in CONTRIBUTING.md.

    python benchmarks/automatic.py --backend torch --sets hymenoptera flowers
    python benchmarks/automatic.py --backend torch --sets cifar10 --seeds 1
"""

import argparse
import os
import time
from pathlib import Path

SIDES = ("automatic", "logistic regression", "head", "everything")


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--sets", nargs="+", choices=("hymenoptera", "flowers", "flowers44", "cifar10"))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--seeds", type=int, default=5)
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402
import rich.console  # noqa: E402
import rich.table  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

import keras_transfer as kt  # noqa: E402

SETS = {"hymenoptera": 224, "flowers": 224, "flowers44": 224, "cifar10": 96}
WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


def loaders(name):
    """Return the images for training and those to report on."""
    size = SETS[name]
    if name == "cifar10":
        return [kt.data.load(name, split, image_size=size) for split in ("train", "test")]
    root = Path(os.environ["KERAS_TRANSFER_REAL_DATA"], name)
    return [kt.data.from_directory(root, part=part, image_size=size) for part in ("train", "val")]


def classifier(name, train):
    """Return the network with the weights of 224 px; by name there are others for each size."""
    weights = Path(os.environ["KERAS_HOME"], "models", WEIGHTS)
    names = train.class_names
    return kt.classifier(
        "mobilenet_v2", len(names), image_size=SETS[name], weights=weights, class_names=names
    )


def arrays(loader):
    """Return all images and labels in order."""
    return loader.replace(augmentation=None, shuffle=False).samples(0, loader.num_samples)


def accuracy(model, test):
    """Return the part of the images that a model gets right."""
    images, labels = test
    return float((model.predict(images, verbose=0).argmax(axis=1) == labels).mean())


def plain(name, loader, train, test, sides):
    """Return the accuracies of the three plain ways."""
    model = classifier(name, loader)
    features = keras.Model(model.inputs, model.get_layer("predictions").input)
    x, z = (features.predict(images, verbose=0) for images, _ in (train, test))
    found = {}
    if "logistic regression" in sides:
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000)).fit(x, train[1])
        found["logistic regression"] = fitted.score(z, test[1])
    if not {"head", "everything"} & set(sides):
        return found
    vector = keras.Input(x.shape[1:])
    dense = keras.layers.Dense(model.output_shape[-1])
    head = keras.Model(vector, dense(vector))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    head.compile(keras.optimizers.Adam(1e-3), loss)
    head.fit(x, train[1], epochs=16, verbose=0)
    found["head"] = accuracy(head, (z, test[1]))
    if "everything" in sides:
        model.get_layer("predictions").set_weights(dense.get_weights())
        for layer in model.layers:
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
        model.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
        model.fit(*train, epochs=8, verbose=0)
        found["everything"] = accuracy(model, test)
    return found


def automatic(name, loader, test, seed):
    """Return accuracy, and what else there is to tell."""
    model = classifier(name, loader)
    start = time.perf_counter()
    trained = kt.automatic.train(model, loader, seed=seed, verbose=0)
    seconds = time.perf_counter() - start
    return kt.evaluation.evaluate(model, test, verbose=0), trained.chosen, seconds


def main():
    """Measure and print a table for each set."""
    console = rich.console.Console(width=110)
    for name in given.sets or SETS:
        train_loader, test_loader = loaders(name)
        found = {side: [] for side in given.sides}
        kept = []
        for seed in range(given.seeds):
            keras.utils.set_random_seed(seed)
            if "automatic" in found:
                kept.append(automatic(name, train_loader, test_loader, seed))
                found["automatic"].append(kept[-1][0].accuracy)
            others = [side for side in given.sides if side != "automatic"]
            if others:
                train, test = arrays(train_loader), arrays(test_loader)
                for side, value in plain(name, train_loader, train, test, others).items():
                    if side in found:
                        found[side].append(value)
            keras.utils.clear_session()
            console.print(name, seed, {side: round(v[-1], 4) for side, v in found.items()})
        title = f"{given.backend}: {name}, {train_loader.num_samples} + {test_loader.num_samples} images"
        table = rich.table.Table("", "accuracy, points", title=title)
        for side, values in found.items():
            spread = f" +- {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            table.add_row(side, f"{100 * np.mean(values):.2f}{spread}")
        console.print(table)
        for evaluation, chosen, seconds in kept:
            console.print(
                f"{chosen}, {seconds:.0f} s; calibration error {evaluation.uncalibrated_error:.3f} "
                f"before, {evaluation.calibration_error:.3f} after, log-loss "
                f"{evaluation.uncalibrated_log_loss:.3f} and {evaluation.log_loss:.3f}; coverage "
                f"{evaluation.coverage:.3f}, unsure of {evaluation.unsure:.3f}"
            )


if __name__ == "__main__":
    main()
