"""Recall of a class of 8 images beside one of 2,000, with and without each way to help it.

The common class is five kinds of animals of CIFAR-10 (birds, deer, dogs, frogs, horses), the rare one
cats, of which 8 are drawn for each seed; measured on the test images of the five and on all other cats.
The head is on features of MobileNetV2, which are computed once: fitted in closed form and by logistic
regression, or trained with Adam in batches of 32 for 8 epochs. Needs the environment variables of "Real
images and weights" in CONTRIBUTING.md.

    python benchmarks/imbalance.py --backend torch
"""

import argparse
import os
from pathlib import Path


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rare", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--cache", default="imbalance_cache", help="folder for features, kept")
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402

import keras_transfer as kt  # noqa: E402

COMMON, RARE = (2, 4, 5, 6, 7), 3
SIZE = 96
WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_160_no_top.h5"
WAYS = {
    "ridge": {},
    "ridge, class_weight": {"class_weight": "balanced"},
    "ridge, logit_adjustment": {"logit_adjustment": 1.0},
    "logistic": {},
    "logistic, class_weight": {"class_weight": "balanced"},
    "logistic, logit_adjustment": {"logit_adjustment": 1.0},
    "Adam": {},
    "Adam, class_weight": {"class_weight": "balanced"},
    "Adam, sampling": {"sampling": "balanced"},
}


def features():
    """Return features of shape (images, 1, 1, channels) and labels, of images for training and test."""
    weights = Path(os.environ["KERAS_HOME"], "models", WEIGHTS)
    network = kt.classifier("MobileNetV2", 2, image_size=SIZE, weights=weights)
    prefix, _ = kt.split_model(network, "avg_pool")
    found = []
    for part in ("train", "test"):
        loader = kt.data.load("cifar10", part, image_size=SIZE, shuffle=False)
        cached = kt.FeatureCache(prefix, given.cache).build(loader)
        x, y = cached.samples(0, cached.num_samples)
        found.append((x[:, None, None], y))
    return found


def head(width, seed):
    """Return a head on features, the same for a seed."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((1, 1, width))
    return keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)))


def trained(way, options, data, seed):
    """Return a head that was made in a way."""
    model = head(data[0].shape[-1], seed)
    if not way.startswith("Adam"):
        method = way.split(",")[0]
        return kt.fit_linear_head(model, data, method=method, seed=seed, verbose=0, **options)
    options = dict(options)
    loader = kt.Loader(data, 32, seed=seed, sampling=options.pop("sampling", None))
    phase = kt.Phase("head", given.epochs, train="all", learning_rate=1e-3)
    kt.fine_tune(model, loader, phases=[phase], seed=seed, verbose=0, **options)
    return model


def main():
    """Print the table."""
    (x, y), (x_test, y_test) = features()
    common, rare = np.flatnonzero(np.isin(y, COMMON)), np.flatnonzero(y == RARE)
    other = x_test[np.isin(y_test, COMMON)]
    found = {way: [] for way in WAYS}
    for seed in range(given.seeds):
        rng = np.random.default_rng(seed)
        few, many = rng.permutation(rare)[: given.rare], rng.permutation(common)[:2000]
        data = np.concatenate([x[many], x[few]]), np.repeat([0, 1], [len(many), len(few)])
        cats = np.concatenate([x[np.setdiff1d(rare, few)], x_test[y_test == RARE]])
        for way, options in WAYS.items():
            model = trained(way, options, data, seed)
            recalls = [
                float((model.predict(part, verbose=0).argmax(axis=1) == label).mean())
                for label, part in enumerate((other, cats))
            ]
            found[way].append(recalls)
    print(f"{len(many)} : {given.rare}; measured on {len(other)} and {len(cats)}; {given.seeds} seeds")
    for way, recalls in found.items():
        first, second = np.array(recalls).T
        macro = (first + second) / 2
        error = macro.std(ddof=1) / np.sqrt(len(macro))
        print(
            f"{way:28} rare {second.mean():6.1%} ({second.min():.1%} to {second.max():.1%}), common "
            f"{first.mean():6.1%}, macro {macro.mean():6.1%} +- {100 * error:.1f}"
        )


main()
