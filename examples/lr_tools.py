"""Learning rates on a Keras model of your own: find one, then let it cycle or restart.

The model below is plain Keras, compiled and fitted as ever; `keras_transfer` adds the range test and a
callback, and changes nothing else. The images are drawn here: stripes of eight directions under noise.

1. `kt.find_lr` trains for a hundred steps at rising rates, leaves no trace of it, and suggests a rate.
2. Three fits begin with the same weights and differ in one callback: a constant rate, `CyclicLR` (two
   cycles, "triangular2") and `WarmRestartsLR` (1, 2 and 4 epochs, so that the last ends with the fit).

    python examples/lr_tools.py --backend torch --output lr_run

It writes three pictures: `range_test.png`, `rates.png` and `losses.png`.
"""

import argparse
import os
from pathlib import Path

CLASSES = 8


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--backend", choices=["tensorflow", "torch", "jax"], help="Keras' backend")
    parser.add_argument("--samples", type=int, default=4096, help="images to train on")
    parser.add_argument("--epochs", type=int, default=7, help="7 is three cycles of restarts: 1 + 2 + 4")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("lr_run"), help="a folder")
    return parser.parse_args()


def draw(samples: int, seed: int):
    """Return images of shape (samples, 16, 16, 1), stripes under noise, and their directions."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % CLASSES
    angles = labels * np.pi / CLASSES
    rows, columns = np.mgrid[:16, :16]
    along = np.cos(angles)[:, None, None] * columns + np.sin(angles)[:, None, None] * rows
    images = np.sin(along + rng.uniform(0, 2 * np.pi, (samples, 1, 1)))
    return (images + rng.normal(0, 1.0, images.shape))[..., None].astype("float32"), labels


def build():
    """Return a small network, compiled with SGD. Use your own here."""
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Conv2D(16, 5, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(CLASSES),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(momentum=0.9), loss, metrics=["accuracy"])
    return model


def plot(lines, title: str, x_label: str, path: Path, *, log: bool = False) -> None:
    """Write a picture of one line for each name."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in lines.items():
        axes.plot(x, y, label=name)
    axes.set(title=title, xlabel=x_label, yscale="log" if log else "linear")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Find a rate, fit in three ways, and write the pictures."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    images, labels = draw(arguments.samples, arguments.seed)
    test_images, test_labels = draw(1024, arguments.seed + 1)
    keras.utils.set_random_seed(arguments.seed)
    model = build()
    begin = model.get_weights()

    result = kt.find_lr(model, (images, labels), min_lr=1e-5, batch_size=arguments.batch_size)
    print(result)
    kt.plots.lr_finder(result).savefig(arguments.output / "range_test.png", dpi=120)
    rate = result.suggest()

    steps = -(-arguments.samples // arguments.batch_size)  # an epoch
    half = steps * arguments.epochs // 4
    cyclic = {"base_lr": rate / 4, "max_lr": 3 * rate, "step_size": half, "mode": "triangular2"}
    restarts = {"max_lr": 3 * rate, "cycle_steps": steps, "cycle_mult": 2}
    ways = {
        "constant": (None, lambda step: rate),
        "cyclic": (kt.callbacks.CyclicLR(**cyclic), kt.schedules.Cyclic(**cyclic)),
        "restarts": (kt.callbacks.WarmRestartsLR(**restarts), kt.schedules.WarmRestarts(**restarts)),
    }
    rates, losses = {}, {}
    for name, (callback, schedule) in ways.items():
        model = build()
        model.set_weights(begin)
        model.optimizer.learning_rate = rate
        history = model.fit(
            *(images, labels),
            batch_size=arguments.batch_size,
            epochs=arguments.epochs,
            validation_data=(test_images, test_labels),
            callbacks=[callback] if callback else None,
            verbose=0,
        ).history
        batches = np.arange(steps * arguments.epochs)
        rates[name] = batches, [float(keras.ops.convert_to_numpy(schedule(step))) for step in batches]
        losses[name] = range(1, arguments.epochs + 1), history["val_loss"]
        loss, accuracy = history["val_loss"][-1], history["val_accuracy"][-1]
        print(f"{name:9} loss on other images {loss:.4f}, accuracy {accuracy:.4f}")
    plot(rates, "learning rate", "step", arguments.output / "rates.png")
    plot(losses, "loss on other images", "epoch", arguments.output / "losses.png", log=True)
    print(f"written: range_test.png, rates.png and losses.png in {arguments.output}")


if __name__ == "__main__":
    arguments = parse_arguments()
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend  # Keras reads it when it is imported
    import keras
    import numpy as np
    from matplotlib.figure import Figure

    import keras_transfer as kt

    main()
