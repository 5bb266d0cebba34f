"""What 16 bits in a feature cache do to accuracy: 16 epochs of the head on MobileNetV2's features.

The features are computed, or kept, in 16 bits; the head is trained by `fine_tune` from the same start,
with the same seed, and scored on the validation photos. "distance" is that of the features from float32,
over their norm. Needs the environment variables of "Real images and weights" in CONTRIBUTING.md.

    python benchmarks/cache_precision.py --backend torch
"""

import argparse
import os
import tempfile
from pathlib import Path


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=16)
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402
import rich.console  # noqa: E402
import rich.table  # noqa: E402

import keras_transfer as kt  # noqa: E402

OPTIONS = {
    "float32": {},
    "kept in float16": {"dtype": "float16"},
    "kept in bfloat16": {"dtype": "bfloat16"},
    "computed in bfloat16": {"compute_dtype": "bfloat16"},
}


def features(model, at, data, folder, **options):
    """Return the features of images as an array."""
    prefix, _ = kt.split_model(model, at)
    loader = kt.FeatureCache(prefix, folder, **options).build(data, verbose=0)
    return loader.samples(0, loader.num_samples)[0]


def main():
    """Measure and print a table for each set of photos."""
    console = rich.console.Console(width=100)
    root = Path(os.environ["KERAS_TRANSFER_REAL_DATA"])
    for name in ("flowers", "hymenoptera"):
        train, validation = (
            kt.data.from_directory(root / name, part=part, image_size=224) for part in ("train", "val")
        )
        table = rich.table.Table("features", "distance", "accuracy", "minus float32", title=name)
        scores, exact = {}, None
        for label, options in OPTIONS.items():
            with tempfile.TemporaryDirectory() as folder:
                model = kt.classifier("mobilenet_v2", train.num_classes)
                found = features(model, "avg_pool", validation, folder, **options)
                exact = found if exact is None else exact
                cache = kt.CacheOptions(folder, **options)
                scores[label] = []
                for seed in range(given.seeds):
                    keras.utils.set_random_seed(seed)
                    model = kt.classifier("mobilenet_v2", train.num_classes, seed=seed)
                    phases = [kt.Phase("head", given.epochs)]
                    kt.fine_tune(model, train, None, phases, cache=cache, seed=seed, verbose=0)
                    _, tail = kt.split_model(model, "avg_pool")
                    logits = tail.predict(found, verbose=0)
                    scores[label].append(np.mean(logits.argmax(axis=1) == validation.labels))
            differences = np.subtract(scores[label], scores["float32"])
            distance = np.linalg.norm(found - exact) / np.linalg.norm(exact)
            error = np.std(differences, ddof=1) / np.sqrt(given.seeds)
            table.add_row(
                label,
                f"{distance:.1e}",
                f"{100 * np.mean(scores[label]):.2f} %",
                f"{100 * np.mean(differences):+.2f} +- {100 * error:.2f}",
            )
        console.print(table)


if __name__ == "__main__":
    main()
