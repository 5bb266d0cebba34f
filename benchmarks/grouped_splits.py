"""What folds report of bursts with and without groups, beside the truth on unseen photos.

Of each of some real photos of flowers six pictures are made: crops and shifts of a few pixels in
another light, as a burst or frames of a film have them. A linear head on MobileNetV2 is judged by
cross-validation and by a fifth that is held back, each with every picture by itself and with the photos
as groups; the truth is what the head of all of them reaches on the photos that nobody has used, several
times as many. Needs "flowers" of "Real images and weights" in CONTRIBUTING.md.

    python benchmarks/grouped_splits.py --backend torch
"""

import argparse
import os
from pathlib import Path


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--photos", type=int, default=12, help="of each class, that are known")
    parser.add_argument("--burst", type=int, default=6, help="pictures that are made of a photo")
    parser.add_argument("--cache", default="grouped_splits_cache", help="folder for features, kept")
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402

import keras_transfer as kt  # noqa: E402

SIZE, LARGER = 160, 184  # pixels of a picture, and of the photo that it is a part of
WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_160_no_top.h5"
CLASSES = 5
FOLDS = 10


def photos():
    """Return all photos in one size, their classes, in an order of their own."""
    root = Path(os.environ["KERAS_TRANSFER_REAL_DATA"], "flowers")
    found = []
    for part in ("train", "val"):
        loader = kt.data.from_directory(root, part=part, image_size=LARGER, shuffle=False, verbose=0)
        found.append(loader.samples(0, loader.num_samples))
    return map(np.concatenate, zip(*found, strict=True))


def burst(photo, number):
    """Return pictures of one photo: parts of it, shifted by some pixels, in another light."""
    rng = np.random.default_rng([number, given.burst])
    made = []
    for top, left in rng.integers(0, LARGER - SIZE + 1, (given.burst, 2)):
        part = photo[top : top + SIZE, left : left + SIZE] * rng.uniform(0.85, 1.15)
        made.append(np.clip(part, 0, 255).astype("uint8"))
    return made


def features(x):
    """Return what the network makes of pictures, of shape (pictures, channels)."""
    weights = Path(os.environ["KERAS_HOME"], "models", WEIGHTS)
    network = kt.classifier("MobileNetV2", CLASSES, image_size=SIZE, weights=weights)
    prefix, _ = kt.split_model(network, "avg_pool")
    loader = kt.Loader((x, np.zeros(len(x), int)), shuffle=False)
    cached = kt.FeatureCache(prefix, given.cache).build(loader)
    return cached.samples(0, cached.num_samples)[0].reshape(len(x), -1)


def head(width):
    """Return a classifier whose input is features."""
    image = keras.Input((1, 1, width))
    return keras.Model(image, keras.layers.Dense(CLASSES)(keras.layers.Flatten()(image)))


def accuracy(model, loader):
    """Return the accuracy of a model."""
    scores = model.predict(loader.replace(shuffle=False), verbose=0)
    return float((scores.argmax(axis=1) == loader.labels).mean())


def measured(x, y, groups, unseen, seed):
    """Return what is reported and what is true: accuracies, and the standard error by photos."""
    found = {}
    for name, of in (("pictures", None), ("photos", groups)):
        loader = kt.Loader((x, y), groups=of, seed=seed)
        options = {"method": "ridge", "seed": seed, "verbose": 0}
        score = kt.features.cross_validate_head(head(x.shape[-1]), loader, folds=FOLDS, **options)
        train, held_back = loader.split(0.2)
        model = kt.fit_linear_head(head(x.shape[-1]), train, **options)
        found[name] = score.mean, accuracy(model, held_back)
        if of is not None:
            found["low"], found["high"] = score.interval
    model = kt.fit_linear_head(head(x.shape[-1]), kt.Loader((x, y), groups=groups), **options)
    found["truth"] = accuracy(model, kt.Loader(unseen))
    return found


def main():
    """Print the table."""
    x, y = photos()
    pictures = np.stack([part for number, photo in enumerate(x) for part in burst(photo, number)])
    z = features(pictures).reshape(len(x), given.burst, 1, 1, -1)
    rows = []
    for seed in range(given.seeds):
        rng = np.random.default_rng(seed)
        known = np.concatenate(
            [rng.permutation(np.flatnonzero(y == k))[: given.photos] for k in range(CLASSES)]
        )
        rest = np.setdiff1d(np.arange(len(y)), known)
        flat = z[known].reshape(-1, 1, 1, z.shape[-1])
        of = np.repeat(known, given.burst)
        rows.append(measured(flat, y[of], of, (z[rest, 0], y[rest]), seed))
        print(seed, {name: np.round(value, 4) for name, value in rows[-1].items()}, flush=True)
    truth = np.array([row["truth"] for row in rows])
    print(f"{len(known)} photos known, {given.burst} pictures of each; {len(rest)} unseen")
    print(f"truth: {truth.mean():.1%}")
    for name in ("pictures", "photos"):
        for index, way in enumerate((f"{FOLDS} folds", "a fifth held back")):
            told = np.array([row[name][index] for row in rows])
            off = told - truth
            error = off.std(ddof=1) / np.sqrt(len(rows))
            print(f"{way}, by {name}: {told.mean():.1%}, {100 * off.mean():+.1f} +- {100 * error:.1f}")
    within = [row["low"] <= row["truth"] <= row["high"] for row in rows]
    print(f"truth within the interval by photos: {sum(within)} of {len(within)}")


main()
