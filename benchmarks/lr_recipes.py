"""Recipes on ants and bees: snapshot ensembles, `step_decay` and `warm_restarts`; or all, in full.

For each seed MobileNet (a quarter of its width, ImageNet weights for 224 px, at 128 px to save time)
learns to tell ants from bees in several ways, without augmentation other than the recipe's own:

- snapshots: two epochs of the head, then everything in three cycles of two epochs, with
  `kt.callbacks.SnapshotEnsemble`. The ensemble, and the mean of the weights, are compared with the mean
  of the members.
- the two recipes, each beside plain Keras with as many steps of batches of the same size: half of the
  epochs the head on the frozen network, half everything but batch norm, with Adam, as in Keras' own
  guide. The second half is done at each of three rates, of which the held-back photos choose the best.
  The steps of the range tests of `warm_restarts`, at most 100 each, come on top.

`step_decay` has 8 epochs here, not 25, and `warm_restarts` 1 + 1 + 3. A fifth of `train`, drawn by the
seed, is held back and chooses the epoch whose weights are kept, save with the snapshots. Accuracy is
that on the images of `val`, which choose nothing.

`--full` runs each recipe of `kt.recipes` with all its epochs instead, with nothing beside it, and tells
the mean accuracy, the lowest and the highest: what its docstring says is to be expected.

    export KERAS_TRANSFER_REAL_DATA=...  # a folder with hymenoptera/{train,val}/{ants,bees}/*.jpg
    export KERAS_HOME=...                # Keras' home; ImageNet weights in its models/, or fetched there
    python benchmarks/lr_recipes.py --seeds 5 --backend tensorflow --output result.json
    python benchmarks/lr_recipes.py --full --image-size 224 --seeds 3 --backend torch
"""

import argparse
import functools
import json
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table
from ants_and_bees import Arrays, accuracy, mean_and_error, read_arrays

HELD_BACK = 0.2
STEP_DECAY = {"epochs": 8, "batch_size": 4}
WARM_RESTARTS = {"head_epochs": 1, "cycles": 2, "batch_size": 16}
SNAPSHOTS = {"cycles": 3, "epochs": (2, 6), "batch_size": 16, "learning_rate": 1e-3}
HEAD_RATE, PLAIN_RATES = 1e-3, (1e-3, 1e-4, 1e-5)

Row = dict[str, float]


def new_model(seed: int, images: np.ndarray) -> Any:
    """Return a classifier of such images with ImageNet weights and a new head."""
    import keras

    import keras_transfer as kt

    def mobilenet(size: int, weights: str | None) -> Any:
        return keras.applications.MobileNet(
            input_shape=(size, size, 3), alpha=0.25, include_top=False, weights=weights
        )

    network = mobilenet(images.shape[1], None)
    network.set_weights(mobilenet(224, "imagenet").get_weights())
    inputs = keras.Input(images.shape[1:])
    outputs = network(keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs))
    return kt.classifier(keras.Model(inputs, outputs, name="backbone"), 2, seed=seed)


def leaves(model: Any) -> list[Any]:
    """Return the layers of a model, those of models inside it in their place."""
    inner = [leaves(layer) if hasattr(layer, "layers") else [layer] for layer in model.layers]
    return [layer for layers in inner for layer in layers]


def by_recipe(phases: Any, batch_size: int, data: tuple[Arrays, Arrays, Arrays], seed: int) -> Row:
    """Train by a recipe."""
    import keras_transfer as kt

    train, held_back, test = data
    started = time.process_time()
    model = new_model(seed, train[0])
    result = kt.fine_tune(
        model, train, held_back, phases(model), batch_size=batch_size, seed=seed, verbose=0
    )
    row = {"accuracy": accuracy(model, test), "seconds": time.process_time() - started}
    found = [p.settings["learning_rate"] for p in result.phases if p.settings["range_test"]]
    return row | {f"rate {number}": rate for number, rate in enumerate(found, start=1)}


def by_plain_keras(epochs: int, batch_size: int, data: tuple[Arrays, Arrays, Arrays], seed: int) -> Row:
    """Train with Keras alone: the head, then everything."""
    import keras

    train, held_back, test = data
    started = time.process_time()
    model = new_model(seed, train[0])
    keras.utils.set_random_seed(seed)
    stages = [(HEAD_RATE, epochs // 2), *((rate, epochs - epochs // 2) for rate in PLAIN_RATES)]
    with tempfile.TemporaryDirectory() as folder:
        best = keras.callbacks.ModelCheckpoint(
            Path(folder, "best.weights.h5"),
            monitor="val_accuracy",
            mode="max",
            save_best_only=True,
            save_weights_only=True,
        )
        head = None
        for rate, count in stages:
            for layer in leaves(model):
                norm = isinstance(layer, keras.layers.BatchNormalization)
                layer.trainable = not norm and (head is not None or layer.name == "predictions")
            if head is not None:
                model.set_weights(head)
            model.compile(
                keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
            )
            model.fit(
                *train,
                batch_size=batch_size,
                epochs=count,
                validation_data=held_back,
                callbacks=[best],
                verbose=0,
            )
            if head is None:
                model.load_weights(best.filepath)
                head = model.get_weights()
        model.load_weights(best.filepath)
    return {"accuracy": accuracy(model, test), "seconds": time.process_time() - started}


def by_snapshots(data: tuple[Arrays, Arrays, Arrays], seed: int) -> Row:
    """Train the head, then everything in cycles; test the members, their ensemble and their mean."""
    import keras

    import keras_transfer as kt

    train, _, test = data
    model = new_model(seed, train[0])
    with tempfile.TemporaryDirectory() as folder:
        head_epochs, epochs = SNAPSHOTS["epochs"]
        snapshots = kt.callbacks.SnapshotEnsemble(folder, SNAPSHOTS["cycles"], first_epoch=head_epochs)
        phases = [
            kt.Phase("head", head_epochs, learning_rate=1e-3),
            kt.Phase(
                "cycles",
                epochs,
                train="all",
                learning_rate=SNAPSHOTS["learning_rate"],
                optimizer=keras.optimizers.SGD(momentum=0.9),
                batch_norm="train",
                callbacks=[snapshots],
            ),
        ]
        kt.fine_tune(
            model, train, phases=phases, batch_size=SNAPSHOTS["batch_size"], seed=seed, verbose=0
        )
        members = []
        for file in snapshots.files:
            with np.load(file) as arrays:
                model.set_weights([arrays[name] for name in arrays.files])
            members.append(accuracy(model, test))
        return {
            "members": float(np.mean(members)),
            "last": members[-1],
            "ensemble": accuracy(snapshots.ensemble(model), test),
            "averaged": accuracy(snapshots.averaged(model, train), test),
        }


def short_recipes() -> dict[str, Any]:
    """Return the sides that are compared."""
    import keras_transfer as kt

    steps = dict(WARM_RESTARTS)
    epochs, four, sixteen = STEP_DECAY["epochs"], STEP_DECAY["batch_size"], steps.pop("batch_size")
    all_epochs = 2 * steps["head_epochs"] + 2 ** steps["cycles"] - 1
    step_decay = functools.partial(kt.recipes.step_decay, epochs=epochs)
    warm_restarts = functools.partial(kt.recipes.warm_restarts, **steps)
    return {
        "snapshots": by_snapshots,
        "step_decay": functools.partial(by_recipe, lambda model: step_decay(), four),
        "plain beside step_decay": functools.partial(by_plain_keras, epochs, four),
        "warm_restarts": functools.partial(by_recipe, warm_restarts, sixteen),
        "plain beside warm_restarts": functools.partial(by_plain_keras, all_epochs, sixteen),
    }


def whole_recipes() -> dict[str, Any]:
    """Return each recipe as it is."""
    import keras_transfer as kt

    recipes = {
        "one_cycle": (kt.recipes.one_cycle, 16),
        "warm_restarts": (kt.recipes.warm_restarts, 16),
        "step_decay": (lambda model: kt.recipes.step_decay(), 4),
        "faster_head": (functools.partial(kt.recipes.faster_head, batch_size=16), 16),
        "layerwise_decay": (kt.recipes.layerwise_decay, 16),
    }
    return {name: functools.partial(by_recipe, *recipe) for name, recipe in recipes.items()}


def compared(first: list[float], second: list[float]) -> dict[str, float]:
    """Return the means of two paired columns, and of their difference, with its standard error."""
    mean, error = mean_and_error(list(np.subtract(first, second)))
    return {
        "first": float(np.mean(first)),
        "second": float(np.mean(second)),
        "difference": mean,
        "standard_error": error,
    }


def differences(runs: list[dict[str, Row]]) -> dict[str, dict[str, float]]:
    """Return what is compared of the short recipes and the snapshots."""

    def column(side: str, name: str = "accuracy") -> list[float]:
        return [run[side][name] for run in runs]

    ensemble, averaged, members, last = (
        column("snapshots", name) for name in ("ensemble", "averaged", "members", "last")
    )
    return {
        "ensemble - mean of members": compared(ensemble, members),
        "ensemble - last member": compared(ensemble, last),
        "averaged weights - mean of members": compared(averaged, members),
        **{
            f"{name} - plain Keras": compared(column(name), column(f"plain beside {name}"))
            for name in ("step_decay", "warm_restarts")
        },
    }


def spread(runs: list[dict[str, Row]]) -> dict[str, dict[str, float]]:
    """Return the mean over the seeds for each whole recipe, the lowest and the highest."""
    columns = {side: [run[side]["accuracy"] for run in runs] for side in runs[0]}
    return {
        side: {"mean": float(np.mean(values)), "lowest": min(values), "highest": max(values)}
        for side, values in columns.items()
    }


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 (default 5)")
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), help="default: Keras' own")
    parser.add_argument("--image-size", type=int, default=128, help="pixels a side (default 128)")
    parser.add_argument("--full", action="store_true", help="each recipe of kt.recipes with all epochs")
    parser.add_argument("--output", type=Path, help="JSON file for settings and figures")
    arguments = parser.parse_args()
    folder = os.environ.get("KERAS_TRANSFER_REAL_DATA")
    if not folder or not Path(folder, "hymenoptera", "train").is_dir():
        parser.error(
            "KERAS_TRANSFER_REAL_DATA must be a folder that holds "
            f"hymenoptera/{{train,val}}/{{ants,bees}}. Received: {folder!r}"
        )
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # each model traces its functions anew
    warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")

    import keras  # not before the backend is chosen

    import keras_transfer as kt

    root = Path(folder, "hymenoptera")
    reading = {"image_size": arguments.image_size, "shuffle": False}
    test = read_arrays(kt.data.from_directory(root / "val", **reading))
    sides = whole_recipes() if arguments.full else short_recipes()
    console = rich.console.Console(width=100)
    runs: list[dict[str, Row]] = []
    for seed in range(arguments.seeds):
        parts = kt.data.from_directory(root / "train", **reading).split(HELD_BACK, seed=seed)
        data = (*map(read_arrays, parts), test)
        run: dict[str, Row] = {}
        for side in sides if seed % 2 == 0 else reversed(sides):  # in turn, so that none is always first
            run[side] = sides[side](data, seed)
            keras.utils.clear_session()
            figures = ", ".join(f"{name} {value:.4g}" for name, value in run[side].items())
            console.print(f"seed {seed}  {side}: {figures}")
        runs.append(run)

    summary = spread(runs) if arguments.full else differences(runs)
    backend = keras.backend.backend()
    table = rich.table.Table(title=f"Ants and bees, MobileNet 0.25, {backend}", box=rich.box.SIMPLE_HEAD)
    table.add_column("accuracy on val, per cent")
    for heading in next(iter(summary.values())):
        table.add_column(heading.replace("_", " "), justify="right")
    for label, row in summary.items():
        table.add_row(label, *(f"{100 * value:.2f}" for value in row.values()))
    console.print(table)
    if arguments.output:
        settings = {
            "step_decay": STEP_DECAY,
            "warm_restarts": WARM_RESTARTS,
            "snapshots": SNAPSHOTS,
            "plain_rates": [HEAD_RATE, *PLAIN_RATES],
        }
        report = {"backend": backend, "settings": settings, "summary": summary, "runs": runs}
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
