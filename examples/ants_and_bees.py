"""Ants and bees: PyTorch's tutorial on transfer learning, both scenarios.

The tutorial has about 120 photographs of ants and as many of bees for training, which is far too few to
learn from scratch, and tells of two ways to use a network that was trained on ImageNet:

1. **Finetuning.** The network begins with ImageNet's weights and a new output layer, and all of it is
   trained further.
2. **A fixed feature extractor.** All of the network stays as it is, only the new output layer trains.

Both train for 25 epochs in batches of 4, by SGD with momentum 0.9, at a rate of 1e-3 that falls tenfold
every seven epochs (`kt.recipes.step_decay`), and both end with the weights of the epoch that was best
on the validation images. The script shows, as the tutorial does, some training images before, and some
predictions after; and the curves of both runs.

    python examples/ants_and_bees.py --folder hymenoptera_data --backend torch

The photographs are at https://download.pytorch.org/tutorial/hymenoptera_data.zip. We know of no
published checksum of that file, so it is not fetched here: unpack it, and name the folder, which has
train/ants, train/bees, val/ants and val/bees. Any other folder with a folder for each class will do,
too; without train and val in it a fifth of the images is for validation.

Where this departs from the tutorial, and why:

* MobileNetV2 stands in for ResNet-18, which Keras has no weights of. With the extra `hub`,
  `--backbone resnet_18_imagenet` takes the tutorial's own.
* In the second scenario batch norm stays in inference mode, as a fixed feature extractor should. In the
  tutorial its moving averages go on changing, although no weight of it does.
* Of equally accurate epochs the one with the lower loss is kept, instead of the first.

The accuracy that is shown is that of the best epoch, on the images that chose it, as in the tutorial: it
flatters a little, the more the fewer images there are.

Each scenario leaves `model.keras`, `history.json` and `curves.png` in a folder of its own, and there are
`training_images.png`, `predictions_*.png` and `accuracy.txt` beside them.
"""

from __future__ import annotations  # so that a type hint imports no Keras

import argparse
import io
import logging
import os
import sys
from pathlib import Path

SCENARIOS = {"finetuning": "all", "feature_extractor": "head"}
ARCHIVE = "https://download.pytorch.org/tutorial/hymenoptera_data.zip"


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--backend", choices=["tensorflow", "torch", "jax"], help="Keras' backend")
    parser.add_argument("--folder", type=Path, help="the photographs")
    parser.add_argument("--backbone", default="mobilenet_v2", help="a name of kt.list_backbones()")
    parser.add_argument(
        "--weights", default="imagenet", help="imagenet, none, or a file of the backbone's weights"
    )
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="only see that it works: tiny and untrained"
    )
    parser.add_argument("--output", type=Path, default=Path("ants_and_bees_run"), help="a folder")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.weights, arguments.image_size, arguments.epochs = "none", 32, 2
    return arguments


# --- The photographs ------------------------------------------------------------------------------


def centre(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return what is left of an image whose shorter side is resized to 256 and 224 x 224 cut out."""
    side = round(min(height, width) * 224 / 256)
    return (height - side) // 2, (width - side) // 2, side, side


def load_data(arguments: argparse.Namespace) -> tuple[kt.Loader, kt.Loader]:
    """Return the photographs for training, augmented, and for validation."""
    if arguments.folder:
        options = {
            "image_size": arguments.image_size,
            "batch_size": arguments.batch_size,
            "seed": arguments.seed,
        }
        if (arguments.folder / "val").is_dir():
            parts = ("train", "val")
            train, validation = (
                kt.data.from_directory(arguments.folder, part=part, **options) for part in parts
            )
        else:
            train, validation = kt.data.from_directory(arguments.folder, **options).split(0.2)
    elif arguments.quick:
        train, validation = (drawn(count, arguments) for count in (24, 12))
    else:
        raise ValueError(f"--folder must name the folder that {ARCHIVE} was unpacked to")
    augmentation = kt.data.Compose((kt.data.random_flip,), crop=kt.data.random_resized_crop)
    return (
        train.replace(augmentation=augmentation),
        validation.replace(augmentation=kt.data.Compose(crop=centre), shuffle=False),
    )


def drawn(count: int, arguments: argparse.Namespace) -> kt.Loader:
    """Draw dark spots and yellow ones in the grass: enough to see that everything runs."""
    rng = np.random.default_rng(count)
    x = rng.integers(0, 60, (count, 48, 48, 3)) + np.array([0, 120, 0])
    y = np.arange(count) % 2
    x[:, 18:30, 14:34] = np.where(y[:, None, None, None] == 0, (40, 20, 10), (230, 190, 30))
    return kt.Loader(
        (x.astype("uint8"), y),
        arguments.batch_size,
        seed=arguments.seed,
        image_size=arguments.image_size,
        class_names=["ants", "bees"],
    )


# --- The two scenarios ----------------------------------------------------------------------------


def build(arguments: argparse.Namespace, names: list[str]) -> keras.Model:
    """Return the pretrained network with an output for each class."""
    keras.utils.set_random_seed(arguments.seed)
    if arguments.quick:
        return kt.classifier(
            small_network(arguments), len(names), class_names=names, seed=arguments.seed
        )
    return kt.classifier(
        arguments.backbone,
        len(names),
        image_size=arguments.image_size,
        weights=None if arguments.weights == "none" else arguments.weights,
        class_names=names,
        seed=arguments.seed,
    )


def small_network(arguments: argparse.Namespace) -> keras.Model:
    """Return a backbone that never saw an image, for --quick."""
    inputs = keras.Input((arguments.image_size, arguments.image_size, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for filters in (8, 16):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    return keras.Model(inputs, x, name="small_network")


def train_scenario(
    arguments: argparse.Namespace, scenario: str, train: kt.Loader, validation: kt.Loader, bars: Progress
) -> kt.FineTuneResult:
    """Train in one of the two ways; the model in the result has the weights of its best epoch."""
    bar = bars.add_task(scenario, total=arguments.epochs)
    step = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: bars.advance(bar))
    return kt.fine_tune(
        build(arguments, train.class_names),
        train,
        validation,
        kt.recipes.step_decay(SCENARIOS[scenario], epochs=arguments.epochs),
        seed=arguments.seed,
        callbacks=[step],
        output=arguments.output / scenario,
        verbose=0,
    )


def main(arguments: argparse.Namespace) -> None:
    """Show training images, train in both ways, show predictions."""
    console = Console()
    train, validation = load_data(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    console.print(f"{train.num_samples} images for training, {validation.num_samples} for validation")
    save(arguments, "training_images.png", kt.plots.show_batch(train))

    results = {}
    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        for scenario in arguments.scenarios:
            result = train_scenario(arguments, scenario, train, validation, bars)
            predictions = kt.plots.show_predictions(result.model, validation)
            save(arguments, f"predictions_{scenario}.png", predictions)
            results[scenario] = result
    text = io.StringIO()
    for each in (console, Console(file=text, width=100)):
        each.print(table(results))
    save(arguments, "accuracy.txt", text.getvalue())
    console.print(
        f"In {arguments.output}: accuracy.txt, training_images.png, predictions_*.png, and for each "
        "scenario a folder with model.keras, history.json and curves.png",
        highlight=False,
    )


# --- What is shown --------------------------------------------------------------------------------


def table(results: dict[str, kt.FineTuneResult]) -> Table:
    """Return how well each scenario did in its best epoch."""
    made = Table(title="Best epoch, on the validation images")
    made.add_column("scenario")
    for column in ("accuracy", "loss", "epoch", "minutes"):
        made.add_column(column, justify="right")
    for scenario, result in results.items():
        metrics = result.best.metrics
        made.add_row(
            scenario,
            f"{metrics['val_accuracy']:.1%}",
            f"{metrics['val_loss']:.3f}",
            str(result.best.epoch + 1),
            f"{sum(phase.seconds for phase in result.phases) / 60:.1f}",
        )
    return made


def save(arguments: argparse.Namespace, name: str, content: Figure | str) -> None:
    """Write a picture or a text whole or not at all: under another name first."""
    part = arguments.output / f".{name}"
    if isinstance(content, str):
        part.write_text(content, encoding="utf-8")
    else:
        content.savefig(part, dpi=120)
    os.replace(part, arguments.output / name)


if __name__ == "__main__":
    arguments = parse_arguments()
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend  # Keras reads it when it is imported
    # Each scenario compiles steps of its own, which TensorFlow takes for a mistake and warns about.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    import keras
    import numpy as np
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    import keras_transfer as kt

    try:
        main(arguments)
    except (ConnectionError, ImportError, OSError, ValueError) as error:
        sys.exit(f"ants_and_bees: {error}")
