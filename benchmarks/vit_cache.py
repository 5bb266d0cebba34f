"""An epoch of the last blocks of a ViT-S, on features from a cache, beside plain Keras.

A vision transformer of 22 million weights (12 blocks of width 384, 224 px, patches of 16; weights are
random, as no figure depends on them) on drawn images. The head and the last block or two train.
"cached" trains what is behind the cut, on features that were computed once and are read from files;
"plain" is Keras' `fit` of the same model with the other layers frozen, on images in memory. An epoch is
the median of those after the first, which compiles. Filling the cache is reported apart, over a plain
`predict` of the frozen part, and so is the process's highest memory so far.

A step that trains k of them costs 12 + 2 k passes of a block in plain Keras and 3 k
behind the cut: 14 / 3 = 4.7 times and 16 / 6 = 2.7 times are the most that there is to gain.

    python benchmarks/vit_cache.py --backend torch
    python benchmarks/vit_cache.py --backend jax --images 96
"""

import argparse
import os
import tempfile
import time

CLASSES, SIZE = 10, 224


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--blocks", type=int, nargs="+", default=(1, 2), help="how many of them train")
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402
import rich.console  # noqa: E402
import rich.table  # noqa: E402

import keras_transfer as kt  # noqa: E402
from keras_transfer.backbones.transformers.vit import (  # noqa: E402
    VisionTransformer,
    vision_transformer,
)

CONFIG = VisionTransformer((SIZE, SIZE), (16, 16), width=384, depth=12, heads=6, mlp_width=1536)


def classifier():
    """Return a ViT-S with a head on the token of the class."""
    image = keras.Input((SIZE, SIZE, 3), name="image")
    x = keras.layers.Rescaling(1 / 127.5, -1.0, name="preprocessing")(image)
    x = vision_transformer(CONFIG, x)
    x = keras.layers.Flatten(name="token")(keras.layers.Cropping1D((0, 196), name="class_token")(x))
    logits = keras.layers.Dense(CLASSES, name="predictions")(x)
    return keras.Model(image, keras.layers.Softmax(name="softmax", dtype="float32")(logits))


def memory():
    """Return the most gigabytes that the process has had so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def compiled(model):
    """Return a model after it was compiled for its logits."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss, metrics=["accuracy"])
    return model


def seconds(action):
    """Return how long an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(x, y, blocks):
    """Return the figures of a row."""
    model = classifier()
    kt.unfreeze_from(model, f"block{CONFIG.depth + 1 - blocks}_norm1")
    logits = keras.Model(model.inputs, model.get_layer("predictions").output)
    prefix, tail = kt.split_model(logits, kt.frozen_prefix(model))
    size = given.batch_size
    with tempfile.TemporaryDirectory() as folder:
        cache = kt.FeatureCache(prefix, folder)
        filling = seconds(lambda: cache.build((x, y), size, verbose=0))
        features, used = cache.build((x, y), size, verbose=0), memory()
        fits = (compiled(logits), (x, y)), (compiled(tail), (features,))
        times = [[], []]
        for _ in range(given.epochs + 1):  # by turns, so that both have the machine as it is
            for (network, data), found in zip(fits, times, strict=True):
                size_of = {"batch_size": size} if len(data) == 2 else {}
                found.append(seconds(lambda n=network, d=data, s=size_of: n.fit(*d, **s, verbose=0)))
    whole, behind = (np.array(each[1:]) for each in times)  # the first compiles
    predicted = seconds(lambda: prefix.predict(x, size, verbose=0))
    ratio = np.median(whole / behind)
    return np.median(whole), np.median(behind), ratio, filling, predicted, used, memory()


def main():
    """Measure and print a table."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (given.images, SIZE, SIZE, 3), "uint8")
    y = np.arange(given.images) % CLASSES
    columns = ("blocks that train", "plain, s", "cached, s", "times faster", "filling, s", "predict, s")
    table = rich.table.Table(*columns, "GB", title=f"{given.backend}: {given.images} images, an epoch")
    for blocks in given.blocks:
        *figures, used, highest = measure(x, y, blocks)
        numbers = (f"{figure:.2f}" for figure in figures)
        table.add_row(str(blocks), *numbers, f"{used:.1f}, then {highest:.1f}")
    rich.console.Console(width=110).print(table)


if __name__ == "__main__":
    main()
