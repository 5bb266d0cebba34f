"""Learning-rate recipes on ants and bees: snapshot ensembles, `ants_and_bees`, `eight_steps`.

For each seed MobileNet (a quarter of its width, ImageNet weights for 224 px, at 128 px to save time)
learns to tell ants from bees in several ways, without augmentation other than the recipe's own:

- snapshots: two epochs of the head, then everything in three cycles of two epochs, with
  `kt.callbacks.SnapshotEnsemble`. The ensemble, and the mean of the weights, are compared with the mean
  of the members.
- the two recipes, each beside plain Keras with as many steps of batches of the same size: half of the
  epochs the head on the frozen network, half everything but batch norm, with Adam, as in Keras' own
  guide. The second half is done at each of three rates, of which the held-back photos choose the best.
  The steps of the range tests of `eight_steps`, at most 100 each, come on top.

`ants_and_bees` has 8 epochs here, not 25, and `eight_steps` 1 + 1 + 3. A fifth of `train`, drawn by the
seed, is held back and chooses the epoch whose weights are kept, save with the snapshots. Accuracy is
that on the images of `val`, which choose nothing.

    export KERAS_TRANSFER_REAL_DATA=...  # a folder with hymenoptera/{train,val}/{ants,bees}/*.jpg
    export KERAS_HOME=...                # Keras' home; ImageNet weights in its models/, or fetched there
    python benchmarks/lr_recipes.py --seeds 5 --backend tensorflow --output result.json
"""

import argparse
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

IMAGE_SIZE = 128
HELD_BACK = 0.2
ANTS_AND_BEES = {"epochs": 8, "batch_size": 4}
EIGHT_STEPS = {"head_epochs": 1, "cycles": 2, "batch_size": 16}
SNAPSHOTS = {"cycles": 3, "epochs": (2, 6), "batch_size": 16, "learning_rate": 1e-3}
HEAD_RATE, PLAIN_RATES = 1e-3, (1e-3, 1e-4, 1e-5)

Row = dict[str, float]


def new_model(seed: int) -> Any:
    """Return a classifier with ImageNet weights and a new head."""
    import keras

    import keras_transfer as kt

    def mobilenet(size: int, weights: str | None) -> Any:
        return keras.applications.MobileNet(
            input_shape=(size, size, 3), alpha=0.25, include_top=False, weights=weights
        )

    network = mobilenet(IMAGE_SIZE, None)
    network.set_weights(mobilenet(224, "imagenet").get_weights())
    inputs = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3))
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
    model = new_model(seed)
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
    model = new_model(seed)
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
    model = new_model(seed)
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


def compared(label: str, first: list[float], second: list[float]) -> tuple[str, dict[str, Any]]:
    """Return the means of two paired columns, and of their difference, with its standard error."""
    mean, error = mean_and_error(list(np.subtract(first, second)))
    return label, {
        "first": float(np.mean(first)),
        "second": float(np.mean(second)),
        "difference": mean,
        "standard_error": error,
    }


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 (default 5)")
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), help="default: Keras' own")
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
    reading = {"image_size": IMAGE_SIZE, "shuffle": False}
    test = read_arrays(kt.data.from_directory(root / "val", **reading))
    steps = dict(EIGHT_STEPS)
    ants, eight = dict(ANTS_AND_BEES), steps.pop("batch_size")
    eight_epochs = 2 * steps["head_epochs"] + 2 ** steps["cycles"] - 1
    sides = {
        "snapshots": by_snapshots,
        "ants_and_bees": lambda *rest: by_recipe(
            lambda model: kt.recipes.ants_and_bees(epochs=ants["epochs"]), ants["batch_size"], *rest
        ),
        "plain beside ants_and_bees": lambda *rest: by_plain_keras(
            ants["epochs"], ants["batch_size"], *rest
        ),
        "eight_steps": lambda *rest: by_recipe(
            lambda model: kt.recipes.eight_steps(model, **steps), eight, *rest
        ),
        "plain beside eight_steps": lambda *rest: by_plain_keras(eight_epochs, eight, *rest),
    }
    console = rich.console.Console(width=100)
    runs: list[dict[str, Row]] = []
    for seed in range(arguments.seeds):
        parts = kt.data.from_directory(root / "train", split=HELD_BACK, seed=seed, **reading)
        data = (*map(read_arrays, parts), test)
        run: dict[str, Row] = {}
        for side in sides if seed % 2 == 0 else reversed(sides):  # in turn, so that none is always first
            run[side] = sides[side](data, seed)
            keras.utils.clear_session()
            figures = ", ".join(f"{name} {value:.4g}" for name, value in run[side].items())
            console.print(f"seed {seed}  {side}: {figures}")
        runs.append(run)

    def column(side: str, name: str = "accuracy") -> list[float]:
        return [run[side][name] for run in runs]

    snapshots = "snapshots"
    summary = dict(
        [
            compared(
                "ensemble - mean of members", column(snapshots, "ensemble"), column(snapshots, "members")
            ),
            compared("ensemble - last member", column(snapshots, "ensemble"), column(snapshots, "last")),
            compared(
                "averaged weights - mean of members",
                column(snapshots, "averaged"),
                column(snapshots, "members"),
            ),
            *(
                compared(f"{name} - plain Keras", column(name), column(f"plain beside {name}"))
                for name in ("ants_and_bees", "eight_steps")
            ),
        ]
    )
    backend = keras.backend.backend()
    table = rich.table.Table(title=f"Ants and bees, MobileNet 0.25, {backend}", box=rich.box.SIMPLE_HEAD)
    for heading in ("accuracy on val, per cent", "first", "second", "difference", "s.e."):
        table.add_column(heading, justify="left" if heading.startswith("acc") else "right")
    for label, row in summary.items():
        table.add_row(label, *(f"{100 * value:.2f}" for value in row.values()))
    console.print(table)
    if arguments.output:
        settings = {
            "ants_and_bees": ANTS_AND_BEES,
            "eight_steps": EIGHT_STEPS,
            "snapshots": SNAPSHOTS,
            "plain_rates": [HEAD_RATE, *PLAIN_RATES],
        }
        report = {"backend": backend, "settings": settings, "summary": summary, "runs": runs}
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
