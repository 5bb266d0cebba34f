"""Ants and bees: keras_transfer against the same recipe in plain Keras.

For each seed MobileNetV2 with its ImageNet weights learns to tell ants from bees twice, once with
`keras_transfer` and once as a Keras user would write it: first the new head on the frozen network, then
everything but batch norm at a lower rate; Adam, batches of 32, no augmentation. Both get the same
decoded images, initial weights and number of steps.

A fifth of `train`, drawn by the seed, is held back, and accuracy on it chooses the epoch whose weights
are kept. Accuracy is reported on the images of `val`, which choose nothing. The plain side uses
`ModelCheckpoint`, which keeps the first of equally accurate epochs; `keras_transfer` keeps the one with
the lowest loss. So the table also has the accuracy after the last epoch, which hangs on no choice within
the second phase. What remains is the order of the training images: each side shuffles in its own way.

    export KERAS_TRANSFER_REAL_DATA=...  # a folder with hymenoptera/{train,val}/{ants,bees}/*.jpg
    export KERAS_HOME=...                # Keras' home; ImageNet weights in its models/, or fetched there
    python benchmarks/ants_and_bees.py --seeds 5 --epochs 5 3 --backend tensorflow --output result.json

Times are for building and training, with the accuracy on the images held back after each epoch, without
decoding and the tests. On a machine shared with others compare processor times, not wall times.
"""

import argparse
import json
import logging
import math
import os
import platform
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table

BATCH_SIZE = 32
HELD_BACK = 0.2

Arrays = tuple[np.ndarray, np.ndarray]


class Stopwatch:
    """Wall and processor seconds since it was made, less those of the blocks inside `with`."""

    def __init__(self) -> None:
        self._start = np.array([time.perf_counter(), time.process_time()])

    def read(self) -> tuple[float, float]:
        """Return wall and processor seconds so far."""
        wall, processor = np.array([time.perf_counter(), time.process_time()]) - self._start
        return float(wall), float(processor)

    def __enter__(self) -> None:
        self._paused = self.read()

    def __exit__(self, *exception: object) -> None:
        self._start += np.subtract(self.read(), self._paused)


@dataclass(frozen=True)
class Recipe:
    """What both sides do: epochs and rates of the head and of fine-tuning, and the images' size."""

    epochs: tuple[int, int]
    learning_rates: tuple[float, float]
    image_size: int


@dataclass
class Outcome:
    """What one side reached with one seed."""

    accuracy: float = math.nan  # of the weights chosen on the images held back
    last_accuracy: float = math.nan  # of the weights after the last epoch
    chosen_epoch: int = -1  # from 0, through both phases
    seconds: float = math.nan
    processor_seconds: float = math.nan  # of all threads
    history: dict[str, list[float]] = field(default_factory=dict)


def run_keras_transfer(
    recipe: Recipe, train: Arrays, held_back: Arrays, test: Arrays, seed: int
) -> Outcome:
    """Train and test with keras_transfer."""
    import keras_transfer as kt

    stopwatch = Stopwatch()
    last = _test_at_end(test, stopwatch)
    size = recipe.image_size
    model = kt.classifier("mobilenet_v2", 2, image_size=size, weights="imagenet", seed=seed)
    (head_epochs, all_epochs), (head_rate, all_rate) = recipe.epochs, recipe.learning_rates
    phases = [
        kt.Phase("head", head_epochs, train="head", learning_rate=head_rate),
        kt.Phase("fine-tune", all_epochs, train="all", learning_rate=all_rate, callbacks=[last]),
    ]
    result = kt.fine_tune(model, train, held_back, phases, batch_size=BATCH_SIZE, seed=seed, verbose=0)
    times = stopwatch.read()
    return Outcome(accuracy(model, test), last.accuracy, result.best.epoch, *times, result.history)


def run_plain_keras(
    recipe: Recipe, train: Arrays, held_back: Arrays, test: Arrays, seed: int
) -> Outcome:
    """Train and test with Keras alone."""
    import keras

    stopwatch = Stopwatch()
    last = _test_at_end(test, stopwatch)
    keras.utils.set_random_seed(seed)
    shape = (recipe.image_size, recipe.image_size, 3)
    base = keras.applications.MobileNetV2(include_top=False, weights="imagenet", input_shape=shape)
    inputs = keras.Input(shape)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = base(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    # The initial weights of keras_transfer's head with this seed.
    initializer = keras.initializers.GlorotUniform(seed)
    outputs = keras.layers.Dense(2, activation="softmax", kernel_initializer=initializer)(x)
    model = keras.Model(inputs, outputs)

    history: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        best = Path(folder, "best.weights.h5")
        checkpoint = keras.callbacks.ModelCheckpoint(
            best, monitor="val_accuracy", mode="max", save_best_only=True, save_weights_only=True
        )
        for phase, (epochs, rate) in enumerate(zip(recipe.epochs, recipe.learning_rates, strict=True)):
            base.trainable = phase > 0
            # training=False above has no effect inside fit on Keras 3.15, so batch norm is frozen here.
            for layer in base.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.trainable = False
            model.compile(
                keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
            )
            logs = model.fit(
                *train,
                batch_size=BATCH_SIZE,
                epochs=epochs,
                validation_data=held_back,
                callbacks=[checkpoint, last] if phase else [checkpoint],
                verbose=0,
            ).history
            for name, values in logs.items():
                history.setdefault(name, []).extend(values)
            model.load_weights(best)
    times = stopwatch.read()
    chosen = int(np.argmax(history["val_accuracy"]))
    return Outcome(accuracy(model, test), last.accuracy, chosen, *times, history)


SIDES = {"keras_transfer": run_keras_transfer, "plain Keras": run_plain_keras}


def accuracy(model: Any, data: Arrays) -> float:
    """Return the fraction of images whose class the model gives the highest score."""
    images, labels = data
    scores = model.predict(images, batch_size=BATCH_SIZE, verbose=0)
    return float(np.mean(np.argmax(scores, axis=-1) == labels))


def _test_at_end(test: Arrays, stopwatch: Stopwatch) -> Any:
    import keras

    class TestAtEnd(keras.callbacks.Callback):
        """Tests the weights that the last epoch of a fit left."""

        accuracy = math.nan

        def on_train_end(self, logs: dict[str, float] | None = None) -> None:
            with stopwatch:
                self.accuracy = accuracy(self.model, test)

    return TestAtEnd()


def read_arrays(loader: Any) -> Arrays:
    """Return all images and labels of an unshuffled loader."""
    images, labels = zip(*loader, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Return the mean and its standard error, which is NaN for a single value."""
    if len(values) < 2:
        return float(np.mean(values)), math.nan
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def summarize(runs: list[dict[str, Outcome]]) -> dict[str, Any]:
    """Return means with standard errors, and the paired differences, keras_transfer less plain Keras."""
    summary: dict[str, Any] = {}
    for quantity in ("accuracy", "last_accuracy", "seconds", "processor_seconds"):
        columns = {side: [getattr(run[side], quantity) for run in runs] for side in SIDES}
        columns["difference"] = list(np.subtract(*columns.values()))
        for name, values in columns.items():
            mean, error = mean_and_error(values)
            entry = {"mean": mean, "standard_error": None if math.isnan(error) else error}
            summary.setdefault(quantity, {})[name] = entry
    return summary


def table(runs: list[dict[str, Outcome]], summary: dict[str, Any], title: str) -> rich.table.Table:
    """Return the table to show."""
    result = rich.table.Table(
        title=title,
        caption="kt: keras_transfer; accuracy on val, per cent; diff: kt less plain",
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 0),
    )
    headings = [
        *("seed", "accuracy\nkt", "plain", "diff", "last\nepoch\nkt", "plain", "diff"),
        *("wall\nseconds\nkt", "plain", "CPU\nseconds\nkt", "plain"),
    ]
    for heading in headings:
        result.add_column(heading, justify="right", vertical="bottom", no_wrap=True)
    for seed, run in enumerate(runs):
        ours, plain = run.values()
        cells = []
        for a, b in ((ours.accuracy, plain.accuracy), (ours.last_accuracy, plain.last_accuracy)):
            cells += [f"{100 * a:.2f}", f"{100 * b:.2f}", f"{100 * (a - b):+.2f}"]
        times = (ours.seconds, plain.seconds, ours.processor_seconds, plain.processor_seconds)
        result.add_row(str(seed), *cells, *(f"{t:.0f}" for t in times))
    result.add_section()
    for label, key in (("mean", "mean"), ("s.e.", "standard_error")):
        cells = []
        for quantity, entries in summary.items():
            for name, entry in entries.items():
                value = entry[key]
                if "accuracy" in quantity:
                    sign = "+" if name == "difference" and key == "mean" else ""
                    cells.append("" if value is None else f"{100 * value:{sign}.2f}")
                elif name != "difference":
                    cells.append("" if value is None else f"{value:.0f}")
        result.add_row(label, *cells)
    return result


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 (default 5)")
    parser.add_argument(
        "--epochs", type=int, nargs=2, default=(5, 3), metavar=("HEAD", "ALL"), help="(default 5 3)"
    )
    parser.add_argument(
        "--learning-rates",
        type=float,
        nargs=2,
        default=(1e-3, 1e-5),
        metavar=("HEAD", "ALL"),
        help="Adam's in each phase (default 1e-3 1e-5)",
    )
    parser.add_argument("--image-size", type=int, default=224, help="pixels a side (default 224)")
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), help="default: Keras' own")
    parser.add_argument("--output", type=Path, help="JSON file for settings, figures and histories")
    arguments = parser.parse_args()
    folder = os.environ.get("KERAS_TRANSFER_REAL_DATA")
    if not folder or not Path(folder, "hymenoptera", "train").is_dir():
        parser.error(
            "KERAS_TRANSFER_REAL_DATA must be a folder that holds "
            f"hymenoptera/{{train,val}}/{{ants,bees}}. Received: {folder!r}"
        )
    if not os.environ.get("KERAS_HOME"):
        parser.error(
            "KERAS_HOME must be Keras' home, such as ~/.keras: ImageNet weights are looked for in its "
            "folder models/, or fetched to there; Keras writes into it. Received: nothing"
        )
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each model traces its functions anew
    # The checkpoint of the first phase, loaded in the second, brings that phase's optimizer along.
    warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")

    import keras  # not before the backend is chosen

    import keras_transfer as kt

    recipe = Recipe(tuple(arguments.epochs), tuple(arguments.learning_rates), arguments.image_size)
    root = Path(folder, "hymenoptera")
    reading = {"image_size": recipe.image_size, "shuffle": False}
    test = read_arrays(kt.data.from_directory(root / "val", **reading))
    console = rich.console.Console()
    runs: list[dict[str, Outcome]] = []
    for seed in range(arguments.seeds):
        parts = kt.data.from_directory(root / "train", **reading).split(HELD_BACK, seed=seed)
        train, held_back = map(read_arrays, parts)
        run: dict[str, Outcome] = {}
        for side in sorted(SIDES, reverse=seed % 2 == 1):  # in turn, so that neither is always first
            run[side] = SIDES[side](recipe, train, held_back, test, seed)
            keras.utils.clear_session()
            console.print(
                f"seed {seed}  {side:14}  {run[side].accuracy:.4f}  after the last epoch "
                f"{run[side].last_accuracy:.4f}  {run[side].seconds:.0f} s"
            )
        runs.append({side: run[side] for side in SIDES})

    summary = summarize(runs)
    backend = keras.backend.backend()
    title = (
        f"MobileNetV2, ants and bees, {recipe.image_size} px, {backend}, "
        f"epochs {recipe.epochs}, rates {recipe.learning_rates}"
    )
    console.print(table(runs, summary, title))
    if arguments.output:
        names = ("keras", "numpy", "keras-transfer", backend)
        report = {
            "recipe": asdict(recipe) | {"batch_size": BATCH_SIZE, "held_back": HELD_BACK},
            "images": {"train": len(train[1]), "held_back": len(held_back[1]), "test": len(test[1])},
            "backend": backend,
            "versions": {name: metadata.version(name) for name in names},
            "machine": {"system": platform.platform(), "processors": os.cpu_count()},
            "summary": summary,
            "runs": [{side: asdict(outcome) for side, outcome in run.items()} for run in runs],
        }
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
