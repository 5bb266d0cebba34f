"""What a feature cache costs: building it over bare `predict`, and reading it over arrays in memory.

Each pair runs by turns in one process, so that a busy machine slows both.

- "build" is `FeatureCache.build` in an empty folder, digests, checksums and disk included, over
  `predict` of the same images with the same network.
- "read" is an epoch of `fit` of the tail on the loader that it gives, over `fit` on the same features as
  arrays in memory; "direct" is an epoch of the whole network with the same layers frozen.

    python benchmarks/feature_cache.py --backend torch
"""

import argparse
import os
import tempfile
import time


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--pairs", type=int, default=5, help="how often each gets its turn")
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402
import rich.console  # noqa: E402
import rich.progress  # noqa: E402
import rich.table  # noqa: E402

import keras_transfer as kt  # noqa: E402

BATCH, CLASSES, SIZE = 64, 10, 48
CUTS = ("block4_pool", "flatten")


def seconds(action):
    """Return how long an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def compiled(model):
    """Return a model after it was compiled for logits."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def measure(at, x, y, advance):
    """Return the seconds of every turn, by what was done, for a cut of VGG16."""
    head = {"pooling": "flatten", "hidden_units": (1000,)}
    model = kt.classifier("vgg16", CLASSES, image_size=SIZE, weights=None, **head)
    view = keras.Model(model.inputs, model.get_layer("predictions").output)
    prefix, tail = kt.split_model(view, at)
    if at == "flatten":
        kt.freeze_backbone(model)
    else:
        kt.unfreeze_from(model, "block5_conv1")
    times = {"predict": [], "build": [], "direct": [], "memory": [], "read": []}
    with tempfile.TemporaryDirectory() as folder:
        features = kt.FeatureCache(prefix, f"{folder}/first").build((x, y), BATCH, verbose=0)
        memory = features.samples(0, len(x))
        arrays = {"x": memory[0], "y": memory[1], "batch_size": BATCH}
        fits = {
            "direct": (compiled(view), {"x": kt.Loader((x, y), BATCH)}),
            "memory": (compiled(tail), arrays),
            "read": (tail, {"x": features}),
        }
        for turn in range(given.pairs + 1):
            found = {
                "predict": seconds(lambda: prefix.predict(x, BATCH, verbose=0)),
                "build": seconds(
                    lambda turn=turn: kt.FeatureCache(prefix, f"{folder}/{turn}").build(
                        (x, y), BATCH, verbose=0
                    )
                ),
            }
            for name, (network, data) in fits.items():
                found[name] = seconds(lambda n=network, data=data: n.fit(**data, verbose=0))
            if turn > 0:  # the first compiles
                for name, value in found.items():
                    times[name].append(value)
            advance()
    return times


def main():
    """Measure and print a table."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (given.images, SIZE, SIZE, 3), "uint8")
    y = rng.integers(0, CLASSES, given.images)
    columns = ("predict", "build over it", "epoch in memory", "read over it", "direct over read")
    table = rich.table.Table(
        "cut of VGG16", *columns, title=f"{given.backend}: {given.images} images of {SIZE} px"
    )
    with rich.progress.Progress(transient=True) as progress:
        task = progress.add_task("pairs", total=len(CUTS) * (given.pairs + 1))
        for at in CUTS:
            times = measure(at, x, y, lambda: progress.advance(task))

            def ratio(one, two, times=times):
                return f"{np.median(np.divide(times[one], times[two])):.3f}"

            predict, memory = (f"{np.median(times[name]):.2f} s" for name in ("predict", "memory"))
            over = [ratio("build", "predict"), ratio("read", "memory"), ratio("direct", "read")]
            table.add_row(at, predict, over[0], memory, over[1], over[2])
    rich.console.Console(width=110).print(table)


if __name__ == "__main__":
    main()
