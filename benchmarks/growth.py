"""How time and memory grow with the number of images: 1,000, 10,000 and 50,000 of them.

Each step runs in a process of its own for each size. The network is tiny, has 1,280 features and takes
images of 8 pixels, so that what is measured is all but the network. The images are links to a thousand
small JPEGs in the folders of ten classes. Memory is the most that a process has of its own ("RssAnon" of
Linux, which leaves out files that are mapped) while the step runs, beyond what it has before.

- "check" is `from_directory`, which decodes each image; "digest" the fingerprint of the files; "epoch"
  reading all in an order that is shuffled.
- "propose" is the pass of the network with the features in files, and the advice on them; "rank" the
  same for one backbone. "group" is reading an epoch of the features from the files.
- "head" is a linear head in three folds, with C given: 10 / images.
- "calibrate" and "evaluate" predict all images; "report" is the page of an evaluation.

    python benchmarks/growth.py --backend torch
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = (
    "check",
    "digest",
    "epoch",
    "propose",
    "rank",
    "group",
    "head",
    "calibrate",
    "evaluate",
    "report",
)
CLASSES, COLUMNS, SIZE, FILES = 10, 1280, 8, 1_000


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 50_000])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # of the images: one step, in this process
    return parser.parse_args()


def make_images(folder, count):
    """Fill a folder with images in folders of classes, and some damaged ones."""
    import numpy as np
    from PIL import Image

    first = folder / "class 0" / "0.jpg"
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"class {index % CLASSES}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index < FILES:
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3), "uint8") // (1 + index % CLASSES)
            Image.fromarray(pixels).save(path, quality=95)
        else:
            same = index % FILES
            path.hardlink_to(folder / f"class {same % CLASSES}" / f"{same}.jpg")
    for index in range(count // 1_000):
        (first.parent / f"damaged {index}.jpg").write_bytes(first.read_bytes()[:100])


def network():
    """Return a classifier of two groups of layers whose head is given 1,280 features."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(16, 2, 2, activation="relu", name="early")(x)
    x = layers.Conv2D(COLUMNS, 2, 2, activation="relu", name="late")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(CLASSES, "softmax", name="predictions")(x))


def prepared(step, folder, stack):
    """Return what does a step, after all that comes before it."""
    import keras

    import keras_transfer as kt

    options = {"image_size": SIZE, "verbose": 0}
    if step == "check":
        return lambda: kt.data.from_directory(folder, on_error="skip", **options)
    model = network()
    how = {"on_error": "skip"} if step == "report" else {"part": None, "on_error": "defer"}
    loader = kt.data.from_directory(folder, **how, **options)
    good = [i for i in range(loader.num_samples) if "damaged" not in loader.file(i).name]
    loader = loader.subset(good).replace(shuffle=True)
    in_order = loader.replace(shuffle=False)
    if step == "digest":
        return in_order.fingerprint
    if step == "epoch":
        return lambda: [None for _ in loader]
    if step == "propose":
        return lambda: kt.automatic.propose(model, loader, verbose=0)
    if step == "rank":
        body = keras.Model(model.inputs, model.get_layer("pool").output, name="body")
        return lambda: kt.rank_backbones([body], loader, verbose=0)
    if step == "calibrate":
        return lambda: kt.calibration.calibrate(model, loader, verbose=0)
    if step == "evaluate":
        return lambda: kt.evaluation.evaluate(model, loader, verbose=0)
    if step == "report":
        few = loader.subset(range(0, loader.num_samples, loader.num_samples // 100))
        result = kt.fine_tune(model, few, phases=[kt.Phase("head", 1)], verbose=0)
        evaluation = kt.evaluation.evaluate(model, loader, verbose=0)
        page = Path(stack.enter_context(tempfile.TemporaryDirectory()), "report.html")
        return lambda: kt.report(result, loader, page, train=loader, evaluation=evaluation)
    cache = stack.enter_context(tempfile.TemporaryDirectory())
    prefix = keras.Model(model.inputs, model.get_layer("pool").output)
    if step == "group":
        features = stack.enter_context(
            contextlib.closing(kt.FeatureCache(prefix, cache).build(loader, 32, verbose=0))
        )
        return lambda: [None for _ in features]
    kt.FeatureCache(prefix, cache).build(in_order, 32, verbose=0).close()
    # C is of the sum of the losses: this one asks for the same regularisation, and steps, at each size.
    head = {"C": 10 / loader.num_samples, "folds": 3, "cache": cache, "verbose": 0}
    return lambda: kt.features.cross_validate_head(model, loader, **head)


def do(step, folder):
    """Do one step, told by lines before and after it."""
    with contextlib.ExitStack() as stack:
        act = prepared(step, folder, stack)
        print("begins", flush=True)
        start = time.perf_counter()
        act()
        print(time.perf_counter() - start, flush=True)


def own_memory(process):
    """Return the megabytes that a process has of its own now, or 0 if it is no more."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    return 0.0


def measured(step, folder):
    """Return the seconds of a step in a process of its own, and the megabytes that it takes."""
    command = [sys.executable, __file__, "--backend", given.backend, "--steps", step]
    command += ["--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout.readline() != "begins\n":
            raise RuntimeError(f"{step} did not begin")
        before = highest = own_memory(process)
        while process.poll() is None:
            highest = max(highest, own_memory(process))
            time.sleep(0.005)
        return float(process.stdout.read()), highest - before


def main():
    """Print a table of each step at each size."""
    import rich.console
    import rich.table

    table = rich.table.Table("step", title=f"{given.backend}: seconds, and MB beyond those before")
    for count in given.images:
        table.add_column(f"{count:,} images", justify="right")
    for column in ("time, times", "MB, times", "bytes an image"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for count in given.images:
            make_images(Path(folder, str(count)), count)
        for step in given.steps:
            rows = [measured(step, Path(folder, str(count))) for count in given.images]
            (slow, much), (slower, more) = rows[-2:] if len(rows) > 1 else rows * 2
            each = (more - much) * 2**20 / max(given.images[-1] - given.images[-2:][0], 1)
            ratios = f"{slower / slow:.1f}", f"{more / max(much, 0.1):.1f}", f"{each:,.0f}"
            table.add_row(step, *(f"{s:.2f} s, {m:,.0f} MB" for s, m in rows), *ratios)
            print(step, rows, flush=True)
    times = f"{given.images[-1] / given.images[-2:][0]:g} times the images"
    table.caption = f"Times and bytes: from the second last column to the last, {times}"
    rich.console.Console(width=120).print(table)


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if __name__ == "__main__":
    if given.folder is None:
        main()
    else:
        do(given.steps[0], Path(given.folder))
