"""What a learning rate that changes with every step costs: median time of an epoch over plain `fit`.

All train networks of the same shape in one process, an epoch each by turns, so that a busy machine slows
all. "CPU" is the same by the time of the process, which other programs hardly change. A network may be
4 % slower than its twin, by where its memory lies: all are made several times, each first in its turn,
and "plain fit, again" tells how much of that is left. The obvious way, a callback that assigns the rate
before each batch, stands beside those of the package.

    python benchmarks/lr_overhead.py --backend torch
"""

import argparse
import os
import time


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--networks", type=int, default=7, help="how many each trains")
    parser.add_argument("--epochs", type=int, default=5, help="measured of each network")
    parser.add_argument("--steps", type=int, default=100, help="batches of an epoch")
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
    "plain fit, again": list,
    "a callback that assigns": lambda: [AssignEachBatch()],
}


def mlp():
    """Return a compiled network of 200 variables."""
    layers = [keras.layers.Dense(WIDTH, activation="relu") for _ in range(LAYERS - 1)]
    model = keras.Sequential([keras.Input((WIDTH,)), *layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(1e-5), "mse")
    return model


def epochs(callbacks, x, y):
    """Train a network of its own epoch by epoch, and give the seconds of each, by clock and of CPU."""
    model = mlp()
    epoch = 0
    while True:
        start = np.array([time.perf_counter(), time.process_time()])
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
        yield np.array([time.perf_counter(), time.process_time()]) - start
        epoch += 1


def callback_table():
    """Measure the callbacks."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((given.steps * BATCH, WIDTH), "float32")
    y = rng.standard_normal((given.steps * BATCH, 1), "float32")
    times = {name: [] for name in CALLBACKS}
    names = list(CALLBACKS)
    with rich.progress.Progress(transient=True) as progress:
        for first in progress.track(range(given.networks), description="networks"):
            order = [*names[first % len(names) :], *names[: first % len(names)]]
            running = {name: epochs(CALLBACKS[name](), x, y) for name in order}
            for turn in range(given.epochs + 1):
                for name, run in running.items():
                    seconds = next(run)
                    if turn > 0:  # the first compiles
                        times[name].append(seconds)
            keras.utils.clear_session()
    columns = ("learning rate", "ms a step", "over plain fit", "CPU over plain fit")
    table = rich.table.Table(*columns, title=given.backend)
    for name, values in times.items():
        ratios = np.median(np.array(values) / np.array(times["plain fit"]), axis=0)
        step = 1e3 * np.median(values, axis=0)[0] / given.steps
        table.add_row(name, f"{step:.2f}", *(f"{ratio:.3f}" for ratio in ratios))
    return table


def main():
    """Print the tables."""
    rich.console.Console(width=100).print(callback_table())


if __name__ == "__main__":
    main()
