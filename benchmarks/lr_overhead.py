"""What a learning rate that changes with every step costs: median time of an epoch over plain `fit`.

All train the same network in one process, an epoch each by turns, so that a busy machine slows all. The
obvious way, a callback that assigns the rate before each batch, stands beside those of the package.

    python benchmarks/lr_overhead.py --backend torch
"""

import argparse
import os
import statistics
import time


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--pairs", type=int, default=20, help="how often each gets its turn")
    parser.add_argument("--steps", type=int, default=200, help="batches of an epoch")
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

BATCH, WIDTH, LAYERS = 8, 8, 100


class AssignEachBatch(keras.callbacks.Callback):
    """The obvious way: a new rate before every batch, straight into the optimizer."""

    def on_train_batch_begin(self, batch, logs=None):
        """Let the rate climb."""
        self.model.optimizer.learning_rate = 1e-5 + 1e-7 * batch


CALLBACKS = {
    "plain fit": list,
    "CyclicLR": lambda: [kt.callbacks.CyclicLR(1e-6, 1e-5, 50)],
    "WarmRestartsLR": lambda: [kt.callbacks.WarmRestartsLR(1e-5, 50)],
    "WarmRestartsLR, cycle_mult=2": lambda: [kt.callbacks.WarmRestartsLR(1e-5, 50, cycle_mult=2)],
    "OneCycleLR": lambda: [kt.callbacks.OneCycleLR(1e-5, 10_000)],
    "a callback that assigns": lambda: [AssignEachBatch()],
}


def mlp():
    """Return a compiled network of 200 variables."""
    layers = [keras.layers.Dense(WIDTH, activation="relu") for _ in range(LAYERS - 1)]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(1e-5), "mse")
    return model


def epochs(callbacks, x, y):
    """Train a network of its own epoch by epoch, and give the seconds of each."""
    model = mlp()
    epoch = 0
    while True:
        start = time.perf_counter()
        model.fit(
            x,
            y,
            batch_size=BATCH,
            initial_epoch=epoch,
            epochs=epoch + 1,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )
        yield time.perf_counter() - start
        epoch += 1


def callback_table():
    """Measure the callbacks."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((given.steps * BATCH, WIDTH), "float32")
    y = rng.standard_normal((given.steps * BATCH, 1), "float32")
    running = {name: epochs(make(), x, y) for name, make in CALLBACKS.items()}
    times = {name: [] for name in running}
    with rich.progress.Progress(transient=True) as progress:
        for turn in progress.track(range(given.pairs + 2), description="callbacks"):
            for name, run in running.items():
                seconds = next(run)
                if turn >= 2:  # the first ones compile
                    times[name].append(seconds)
    table = rich.table.Table("learning rate", "ms a step", "over plain fit", title=given.backend)
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["plain fit"], strict=True))
        table.add_row(name, f"{1e3 * statistics.median(values) / given.steps:.2f}", f"{ratio:.3f}")
    return table


def main():
    """Print the tables."""
    rich.console.Console(width=100).print(callback_table())


if __name__ == "__main__":
    main()
