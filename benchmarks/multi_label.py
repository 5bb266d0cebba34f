"""Several labels an image: `fit_linear_head` beside scikit-learn, and `fine_tune` beside plain Keras.

Two photos stand side by side in an image, which has the classes of both. Pairs are drawn within the
photos for training, each of which is in one pair, and within those for testing, anew for each seed.
MobileNetV2 gives the features of all. On them stand: the head of `fit_linear_head`, whose C is chosen by
folds of the training pairs; scikit-learn's `OneVsRestClassifier(LogisticRegression())`, on raw and on
standardised features; and a head trained for 16 epochs with Adam at 1e-3 by `fine_tune`, and by `fit` of
Keras from the same weights on the same batches. Mean average precision is on the test pairs; +- is the
standard error of the paired difference to the head of `fit_linear_head`. Needs the environment variables
of "Real images and weights" in CONTRIBUTING.md.

    python benchmarks/multi_label.py --backend torch
"""

import argparse
import os
import time
from pathlib import Path


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--data", default="flowers", help="a folder with train and val")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=300, help="for testing")
    parser.add_argument("--epochs", type=int, default=16)
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402
import rich.console  # noqa: E402
import rich.table  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.metrics import average_precision_score, f1_score  # noqa: E402
from sklearn.multiclass import OneVsRestClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

import keras_transfer as kt  # noqa: E402

WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
OURS, PLAIN, SCALED = "fit_linear_head", "scikit-learn", "scikit-learn, standardised"
TUNED, KERAS = "fine_tune", "Keras' fit"


def photos(part):
    """Return halves of images, 224 high and 112 wide, their classes, and how many there are."""
    root = Path(os.environ["KERAS_TRANSFER_REAL_DATA"], given.data)
    loader = kt.data.from_directory(root, part=part, image_size=(224, 112), shuffle=False)
    return *loader.samples(0, loader.num_samples), loader.num_classes


def pairs(halves, labels, classes, count, seed):
    """Return images of two photos side by side, and their rows; each photo once for no count."""
    rng = np.random.default_rng(seed)
    if count is None:
        chosen = rng.permutation(len(labels))[: len(labels) // 2 * 2].reshape(-1, 2)
    else:
        chosen = rng.integers(len(labels), size=(count, 2))
    rows = np.zeros((len(chosen), classes), "int32")
    for side in (0, 1):
        rows[np.arange(len(chosen)), labels[chosen[:, side]]] = 1
    return np.concatenate([halves[chosen[:, side]] for side in (0, 1)], axis=2), rows


def head(seed, width, classes):
    """Return a head on features, the same for a seed."""
    keras.utils.set_random_seed(seed)
    features = keras.Input((1, 1, width))
    x = keras.layers.GlobalAveragePooling2D()(features)
    logits = keras.layers.Dense(classes, name="predictions")(x)
    return keras.Model(features, keras.layers.Activation("sigmoid")(logits))


def compared(seed, train, test):
    """Return by name what each gives for the test pairs, and how long it took."""
    (x, y), (other, _) = train, test
    width, classes = x.shape[-1], y.shape[1]
    flat, flat_other = x[:, 0, 0], other[:, 0, 0]

    def ours():
        return kt.fit_linear_head(head(seed, width, classes), train, verbose=0).predict(other, verbose=0)

    def others(*before):
        estimator = OneVsRestClassifier(LogisticRegression(max_iter=10_000))
        return make_pipeline(*before, estimator).fit(flat, y).predict_proba(flat_other)

    def tuned():
        model = head(seed, width, classes)
        phase = kt.Phase("head", given.epochs, train="all", optimizer=keras.optimizers.Adam(1e-3))
        loader = kt.Loader(train, 32, multi_label=True, seed=seed)
        return kt.fine_tune(model, loader, phases=[phase], verbose=0).model.predict(other, verbose=0)

    def by_keras():
        model = head(seed, width, classes)
        model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
        model.fit(kt.Loader(train, 32, multi_label=True, seed=seed), epochs=given.epochs, verbose=0)
        return model.predict(other, verbose=0)

    found = {}
    for name, give in (
        (OURS, ours),
        (PLAIN, others),
        (SCALED, lambda: others(StandardScaler())),
        (TUNED, tuned),
        (KERAS, by_keras),
    ):
        start = time.perf_counter()
        found[name] = give(), time.perf_counter() - start
    return found


def main():
    """Measure and print a table."""
    weights = Path(os.environ["KERAS_HOME"], "models", WEIGHTS)
    network = kt.classifier("MobileNetV2", 2, image_size=224, weights=weights)
    prefix, _ = kt.split_model(network, "avg_pool")
    parts = [photos(part) for part in ("train", "val")]
    results, furthest = {}, 0.0
    for seed in range(given.seeds):
        data = []
        for number, part in enumerate(parts):
            images, rows = pairs(*part, given.pairs if number else None, [seed, number])
            data.append((prefix.predict(images, verbose=0)[:, None, None], rows))
        found, y = compared(seed, *data), data[1][1]
        there = y.any(axis=0)
        for name, (p, seconds) in found.items():
            average = 100 * average_precision_score(y[:, there], p[:, there])
            f1 = 100 * f1_score(y, p >= 0.5, average="macro", zero_division=0.0)
            loss = -np.log(np.maximum(np.where(y == 1, p, 1.0 - p), 1e-7)).mean()
            results.setdefault(name, []).append((average, f1, loss, seconds))
        furthest = max(furthest, float(np.abs(found[TUNED][0] - found[KERAS][0]).max()))
    columns = ("mAP", "difference to the first", "macro F1 at 0.5", "log-loss", "s")
    title = (
        f"{given.backend}: {given.data}, {len(data[0][1])} + {given.pairs} pairs, {given.seeds} seeds"
    )
    table = rich.table.Table("head", *columns, title=title)
    first = np.array(results[OURS])[:, 0]
    for name, rows in results.items():
        average, f1, loss, seconds = np.array(rows).mean(axis=0)
        difference = np.array(rows)[:, 0] - first
        error = difference.std(ddof=1) / np.sqrt(given.seeds)
        told = "" if name == OURS else f"{difference.mean():+.2f} +- {error:.2f}"
        table.add_row(name, f"{average:.2f}", told, f"{f1:.1f}", f"{loss:.4f}", f"{seconds:.1f}")
    console = rich.console.Console(width=110)
    console.print(table)
    console.print(f"fine_tune and Keras' fit: probabilities differ by at most {furthest:.1e}")


if __name__ == "__main__":
    main()
