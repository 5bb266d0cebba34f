"""Flowers in two stages, and three backbones compared: exploration, training, curves, bars, a table.

A well-known article takes networks that were trained on ImageNet to Oxford's 102 kinds of flowers, and
asks which does best. Its order of work, and that of this file:

1. **Exploration.** Which pretrained networks are there, how large are they, which groups of layers do
   they fall into, and which head has to make room for a new one?
2. **The head.** The backbone stays frozen; a new classifier learns for 16 epochs, at 1e-3.
3. **Everything.** All layers train for 8 epochs, at rates that fall towards the input, where the filters
   are general and need the least change: for VGG16 in a straight line from 1e-4 at the head to 1e-7 at
   the first layer, for the others by a third from each stage to the one before it.
4. **The comparison.** Curves with a line where the stage changes, the rates of all groups, a bar chart,
   images with what is predicted of them, and a table.

Training images are cropped, flipped, rotated and their colours changed, the others are not; both stages
have weight decay (AdamW).

    python examples/flowers_compare.py --backend jax
    python examples/flowers_compare.py --split large --backbones vgg16,resnet50
    python examples/flowers_compare.py --folder photos --backbones mobilenet_v2 --seeds 3

Without `--folder` it downloads Oxford's flowers, and always the ImageNet weights, when they are first
used. `photos` has the folders `train` and `val`, each with a folder for each class. `--quick` draws its
images, and small random networks stand in for the backbones: it shows in seconds that all works, and no
more than that.

**What is reported.** The article chooses the epoch by the images that it reports on. Here the best epoch
is chosen by one set of images and the accuracies in the table are those of another, which chose nothing:

| | trains on | chooses the epoch | is reported |
|---|---|---|---|
| `--split official` | train, 1,020 images | validation, 1,020 | test, 6,149 |
| `--split large` | test, 6,149 images, as the article does | validation, 1,020 | train, 1,020 |
| `--folder` | four fifths of `train` | a fifth of `train` | `val` |

Curves and bars show the images that choose, so their best values flatter a little.

Where this departs from the article otherwise, and why:

* VGG16 has a single new layer on the average of its last feature map, as the ResNets do. The article
  keeps its two layers of 4,096 units, which are nine tenths of its parameters. To keep them:
  `kt.replace_head(keras.applications.VGG16(), 102)`.
* In the second stage an epoch is kept only if it is better than all before it, those of the head alone
  included. So where fine-tuning adds nothing on the images that choose, the table says +0.0.
* Batch norm stays as it is while the head trains; in the second stage it trains, as in the article, or
  stays, too, with `--batch-norm freeze`. Take that for weights whose statistics are not to be moved.
* The bars show what the article shows: the head after three epochs beside the best fine-tuned epoch.
  Most of that step is more epochs of the head; the table has what fine-tuning adds to all 16 of them.

**Measured** with five kinds of flowers of TensorFlow's photographs, 250 in `train` and 100 in `val`, on
PyTorch, with ImageNet weights of MobileNetV2 whose batch norm is not to be moved:

    python examples/flowers_compare.py --backend torch --folder flowers --backbones mobilenet_v2
        --weights mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5
        --batch-norm freeze --image-size 96 --seeds 3

| | head | fine-tuned | gain |
|---|---|---|---|
| seeds 0, 1, 2 | 82, 75, 72 % | 83, 77, 75 % | +1, +2, +3 |
| mean and its standard error | 76.3 +- 3.0 % | 78.3 +- 2.4 % | +2.0 +- 0.6 |

As in the article, fine-tuning adds to what the head reaches; with 100 images, one is one percent.
"""

from __future__ import annotations  # so that a type hint imports no Keras

import argparse
import dataclasses
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

import keras_transfer as kt  # imports no Keras yet, so that --backend can still choose

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

# For each way to split Oxford's flowers: what trains, what chooses the epoch, what is reported.
SPLITS = {"official": ("train", "validation", "test"), "large": ("test", "validation", "train")}
HELD_BACK = 0.2  # of the training images of a folder
BAR_EPOCHS = 3  # of the head, before the article takes its accuracy for the bars


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--backend", choices=["tensorflow", "torch", "jax"], help="Keras' backend")
    parser.add_argument("--backbones", default="vgg16,resnet50,resnet152", help="names, with commas")
    parser.add_argument("--weights", default="imagenet", help="imagenet, none, or a file of weights")
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--split", choices=SPLITS, default="official", help="of Oxford's flowers")
    data.add_argument("--folder", type=Path, help="your own images, in the folders train and val")
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, nargs=2, default=[16, 8], metavar=("HEAD", "ALL"))
    parser.add_argument("--weight-decay", type=float, default=1e-2, help="of AdamW, times the rate")
    parser.add_argument("--batch-norm", choices=["train", "freeze"], default="train", help="stage two")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each backbone")
    parser.add_argument("--output", type=Path, default=Path("flowers_run"), help="a folder")
    parser.add_argument("--quick", action="store_true", help="drawn images, random weights, seconds")
    arguments = parser.parse_args()
    if arguments.quick:
        quick = {"weights": "none", "image_size": 32, "batch_size": 16, "epochs": [3, 2], "seeds": 1}
        for name, value in quick.items():
            if getattr(arguments, name) == parser.get_default(name):
                setattr(arguments, name, value)
        if arguments.backbones == parser.get_default("backbones"):
            arguments.backbones = "vgg16,resnet50"
    arguments.backbones = [name.strip() for name in arguments.backbones.split(",")]
    if arguments.quick and arguments.weights != "none":
        parser.error("--quick has no weights to load: leave --weights out")
    if len(arguments.backbones) > 1 and arguments.weights not in ("imagenet", "none"):
        parser.error("a file of weights is that of one backbone: name one with --backbones")
    if len(set(arguments.backbones)) < len(arguments.backbones):
        parser.error("--backbones names one twice")
    if arguments.seeds < 1:
        parser.error("--seeds must be at least 1")
    return arguments


# --- 1. Exploration -------------------------------------------------------------------------------


def explore(names: list[str], console: Console) -> None:
    """Show what there is to choose from, and all that matters here of the chosen."""
    rows = kt.list_backbones()
    smallest, largest = (pick(rows, key=lambda row: row.parameters) for pick in (min, max))
    console.print(
        f"{len(rows)} backbones, from {smallest.name} ({smallest.parameters / 1e6:.1f} million "
        f"parameters) to {largest.name} ({largest.parameters / 1e6:.1f} million)."
    )
    table = Table(title="The backbones that are compared")
    table.add_column("backbone", no_wrap=True)
    for column in ("parameters", "of its own head", "depth"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("head for ImageNet, to be replaced", "groups, each with a rate of its own"):
        table.add_column(column)
    for name in names:
        facts = kt.describe_backbone(name)  # builds it, to see its groups
        head_part = (facts.parameters or facts.backbone_parameters) - facts.backbone_parameters
        table.add_row(
            facts.name,
            f"{facts.backbone_parameters + head_part:,}",
            f"{head_part:,}",
            str(facts.depth),
            ", ".join(facts.head) or "none",
            ", ".join((*facts.groups, "head")),
        )
    console.print(table)


# --- The images -----------------------------------------------------------------------------------


def load_data(arguments: argparse.Namespace) -> tuple[kt.Loader, kt.Loader, kt.Loader]:
    """Return the images that train, those that choose the epoch, and those that are reported."""
    options = {"image_size": arguments.image_size, "batch_size": arguments.batch_size}
    if arguments.folder:
        # What trains and what chooses are parts of one folder, what is reported is in another.
        folders = [arguments.folder / name for name in ("train", "val")]
        train, choosing = kt.data.from_directory(folders[0], **options).split(HELD_BACK)
        reported = kt.data.from_directory(folders[1], shuffle=False, **options)
        if reported.class_names != train.class_names:
            raise ValueError(
                f"the folders train and val must have the same classes. Received: {train.class_names} "
                f"and {reported.class_names}"
            )
        return train, choosing, reported
    if arguments.quick:
        parts = [draw_flowers(8, seed) for seed in range(3)]
        names = [f"{petals} petals" for petals in QUICK_PETALS]
        return tuple(
            kt.Loader(part, class_names=names, shuffle=number == 0, **options)
            for number, part in enumerate(parts)
        )
    return tuple(
        kt.data.load("oxford_flowers102", split, shuffle=number == 0, **options)
        for number, split in enumerate(SPLITS[arguments.split])
    )


# --- What stands in for all that with --quick -----------------------------------------------------

QUICK_PETALS = (3, 4, 5, 6)


def small_backbone(name: str) -> keras.Model:
    """Build three blocks of a convolution each, with batch norm unless it stands in for a VGG."""
    import keras

    inputs = x = keras.Input((32, 32, 3))
    for block, filters in enumerate((8, 16, 16), start=1):
        x = keras.layers.Conv2D(filters, 3, padding="same", name=f"block{block}_conv1")(x)
        if not is_vgg(name):
            x = keras.layers.BatchNormalization(name=f"block{block}_norm")(x)
        x = keras.layers.ReLU(name=f"block{block}_relu")(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return keras.Model(inputs, x, name=f"small_{name}")


def draw_flowers(per_kind: int, seed: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Draw flowers of some numbers of petals, in any colour and turned anyhow."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(QUICK_PETALS)), per_kind)
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    angles, radii = np.arctan2(rows, columns), np.hypot(rows, columns)
    images = rng.integers(0, 90, (len(labels), size, size, 3))  # leaves, out of focus
    for image, label in zip(images, labels, strict=True):
        wave = np.cos(QUICK_PETALS[label] * (angles + rng.uniform(0, 2 * np.pi)))
        image[radii < size * (0.3 + 0.15 * wave)] = rng.integers(120, 256, 3)
        image[radii < size * 0.1] = (250, 210, 40)
    return images.astype("uint8"), labels


# --- 2 and 3. The head, then everything -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Run:
    """What came of one backbone with one seed; accuracies are those of the reported images."""

    result: kt.FineTuneResult
    head_accuracy: float
    accuracy: float
    minutes: float


def build(name: str, class_names: list[str], seed: int, arguments: argparse.Namespace) -> keras.Model:
    """Return a backbone with a new head for the classes; it takes raw 0-255 RGB images."""
    import keras

    options = {"class_names": class_names, "seed": seed}
    if arguments.quick:
        scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)
        return kt.classifier(small_backbone(name), len(class_names), preprocessing=scaled, **options)
    return kt.classifier(
        name,
        len(class_names),
        image_size=arguments.image_size,
        weights=None if arguments.weights == "none" else arguments.weights,
        **options,
    )


def is_vgg(name: str) -> bool:
    """Say whether the article's straight line of rates is for this backbone."""
    return name.lower().startswith("vgg")


def train(
    name: str,
    seed: int,
    data: tuple[kt.Loader, kt.Loader, kt.Loader],
    arguments: argparse.Namespace,
    output: Path | None,
) -> Run:
    """Train both stages of one backbone; with `output`, write model, history and pictures there."""
    import keras

    training, choosing, reported = data
    training = training.replace(seed=seed)
    model = build(name, training.class_names, seed, arguments)
    head, everything = kt.recipes.layerwise_decay(
        model,
        rates="linear" if is_vgg(name) else "geometric",
        epochs=tuple(arguments.epochs),
        optimizer=keras.optimizers.AdamW(weight_decay=arguments.weight_decay),
    )
    # The second stage begins with the best weights of the first: what the head alone reaches on the
    # reported images is measured there.
    after_head: list[float] = []
    measure = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: after_head.append(accuracy(model, reported))
    )
    everything = dataclasses.replace(everything, batch_norm=arguments.batch_norm, callbacks=[measure])
    if output:
        output.mkdir(parents=True, exist_ok=True)
        rates = kt.plots.learning_rates(model, [head, everything], len(training))
        save(rates, output / "rates.png")

    started = time.perf_counter()
    result = kt.fine_tune(
        model,
        training,
        choosing,
        [head, everything],
        augmentation="standard",  # of the training images only
        seed=seed,
        output=output,  # model.keras, history.json and curves.png
        verbose=2,
    )
    minutes = (time.perf_counter() - started) / 60
    if output:
        save(kt.plots.show_predictions(model, reported), output / "predictions.png")
    return Run(result, after_head[0], accuracy(model, reported), minutes)


def accuracy(model: keras.Model, images: kt.Loader) -> float:
    """Return the fraction of images whose class the model names."""
    said = model.predict(images, verbose=0).argmax(axis=1)
    return float(np.mean(said == images.known_labels()))


# --- 4. The comparison ----------------------------------------------------------------------------


def results_table(runs: dict[str, list[Run]], count: int) -> Table:
    """Return the table: of several seeds the mean, with the standard error of the mean."""
    table = Table(title=f"Accuracy on {count:,} images that chose nothing")
    table.add_column("backbone", no_wrap=True)
    for column in ("head", "fine-tuned", "gain", "parameters", "min"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, of_seeds in runs.items():
        head = [100 * run.head_accuracy for run in of_seeds]
        tuned = [100 * run.accuracy for run in of_seeds]
        # Seed by seed, so that what the seeds share drops out of the error.
        gain = [after - before for before, after in zip(head, tuned, strict=True)]
        table.add_row(
            name,
            with_error(head, "{:.1f}"),
            with_error(tuned, "{:.1f}"),
            with_error(gain, "{:+.1f}"),
            f"{of_seeds[0].result.model.count_params():,}",
            f"{np.mean([run.minutes for run in of_seeds]):.1f}",
        )
    table.caption = "Percent" + ("; mean and its standard error" if len(of_seeds) > 1 else "")
    return table


def with_error(values: list[float], form: str) -> str:
    """Return the mean, and its standard error where there are several values."""
    text = form.format(np.mean(values))
    if len(values) > 1:
        text += f" +- {np.std(values, ddof=1) / math.sqrt(len(values)):.1f}"
    return text


def save(figure: Figure, path: Path) -> None:
    """Write a picture whole or not at all."""
    part = path.with_suffix(".part.png")
    figure.savefig(part, dpi=120)
    part.replace(path)


def main(arguments: argparse.Namespace) -> None:
    """Explore, train each backbone in both stages, and compare."""
    console = Console()
    explore(arguments.backbones[:1] if arguments.quick else arguments.backbones, console)
    data = load_data(arguments)
    sizes = [f"{part.num_samples:,}" for part in data]
    console.print(
        f"{len(data[0].class_names)} classes; {sizes[0]} images train, {sizes[1]} choose the epoch, "
        f"{sizes[2]} are reported."
    )
    runs: dict[str, list[Run]] = {name: [] for name in arguments.backbones}
    for name in arguments.backbones:
        for seed in range(arguments.seeds):
            console.rule(f"{name}, seed {seed}")
            output = arguments.output / name if seed == 0 else None
            run = train(name, seed, data, arguments, output)
            runs[name].append(run)
            console.print(
                f"{name}, seed {seed}: {run.head_accuracy:.1%} with the head alone, "
                f"{run.accuracy:.1%} fine-tuned, {run.minutes:.1f} minutes"
            )
    first = {name: of_seeds[0].result for name, of_seeds in runs.items()}
    bars = kt.plots.compare(first, head_epochs=min(BAR_EPOCHS, arguments.epochs[0]))
    save(bars, arguments.output / "comparison.png")

    console.print(results_table(runs, data[2].num_samples))
    console.print(
        f"Written to {arguments.output}: comparison.png, and for each backbone model.keras, "
        "history.json, curves.png, rates.png and predictions.png."
    )
    if arguments.weights == "none":
        console.print("These weights were random: the figures say nothing of the backbones.")


if __name__ == "__main__":
    # Each stage compiles steps of its own, which TensorFlow takes for a mistake and warns about.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    arguments = parse_arguments()
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend  # Keras reads it when it is imported
    try:
        main(arguments)
    except (ConnectionError, ImportError, ValueError) as error:
        sys.exit(f"flowers_compare: {error}")
