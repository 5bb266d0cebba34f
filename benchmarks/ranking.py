"""`rank_backbones` beside training: does LogME order backbones as their trained heads do?

MobileNetV2, MobileNet of a quarter of its width, and MobileNetV2 with random weights. Each is ranked on
the training photos, then its head is trained on their features for 16 epochs with Adam at 1e-3, with
five seeds; accuracy is on the validation photos. Of CIFAR-10 there are 2,000 for training and 1,000 for
validation. Needs the environment variables of "Real images and weights" in CONTRIBUTING.md.

    python benchmarks/ranking.py --backend torch
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
    parser.add_argument("--cache", default="ranking_cache", help="folder for features, kept")
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402
import rich.console  # noqa: E402
import rich.table  # noqa: E402

import keras_transfer as kt  # noqa: E402

SIZES = {"hymenoptera": 224, "flowers": 224, "cifar10": 96}
WEIGHTS = {
    "MobileNet": "mobilenet_2_5_224_tf_no_top.h5",
    "MobileNetV2": "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
}


def photos(name):
    """Return the loaders of the images for training and validation."""
    size = SIZES[name]
    if name == "cifar10":
        return [kt.data.load(name, split, image_size=size) for split in ("train[:2000]", "test")]
    root = Path(os.environ["KERAS_TRANSFER_REAL_DATA"], name)
    return [kt.data.from_directory(root, part=part, image_size=size) for part in ("train", "val")]


def backbones(classes, size):
    """Return classifiers, with the weights of 224 px: by name there are others for each size."""
    keras.utils.set_random_seed(0)
    files = {each: Path(os.environ["KERAS_HOME"], "models", file) for each, file in WEIGHTS.items()}
    quarter = keras.applications.MobileNet(
        (size, size, 3), alpha=0.25, include_top=False, weights=files["MobileNet"]
    )
    scaled = keras.layers.Rescaling(1 / 127.5, -1.0)
    return {
        "random weights": kt.classifier("MobileNetV2", classes, image_size=size, weights=None),
        "MobileNet 0.25": kt.classifier(quarter, classes, preprocessing=scaled),
        "MobileNetV2": kt.classifier(
            "MobileNetV2", classes, image_size=size, weights=files["MobileNetV2"]
        ),
    }


def trained(model, loaders, classes):
    """Return the accuracy of trained heads, one for each seed."""
    prefix, _ = kt.split_model(model, "avg_pool")
    train, validation = (kt.FeatureCache(prefix, given.cache).build(each) for each in loaders)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = []
    for seed in range(given.seeds):
        keras.utils.set_random_seed(seed)
        head = keras.Sequential([keras.Input(prefix.output_shape[1:]), keras.layers.Dense(classes)])
        head.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
        head.fit(train.replace(seed=seed), epochs=given.epochs, verbose=0)
        found.append(head.evaluate(validation, verbose=0, return_dict=True)["accuracy"])
    return np.array(found)


def main():
    """Measure and print a table for each data set."""
    console = rich.console.Console(width=110)
    for name in SIZES:
        loaders = photos(name)
        classes = len(loaders[0].class_names)
        models = backbones(classes, SIZES[name])
        ranking = kt.rank_backbones(models, loaders[0], method="probe", cache=given.cache)
        columns = ("backbone", "LogME", "probe", "parameters", "ms/image", f"{given.epochs} epochs")
        table = rich.table.Table(*columns, title=f"{given.backend}: {name}")
        for row in sorted(ranking, key=lambda row: -row.logme):
            probe = f"{row.probe.mean:.3f} +- {row.probe.std:.3f}"
            scores = trained(models[row.name], loaders, classes)
            after = f"{scores.mean():.3f} +- {scores.std(ddof=1):.3f}"
            cells = f"{row.logme:.3f}", probe, f"{row.parameters:,}", f"{row.milliseconds:.1f}", after
            table.add_row(row.name, *cells)
        console.print(table)
        console.print(kt.advise(models["MobileNetV2"], loaders[0], cache=given.cache))


if __name__ == "__main__":
    main()
