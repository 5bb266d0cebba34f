"""What 100 steps of an LR range test cost: their time over that of 100 steps of training.

Both train the same network in one process, by turns, so that a busy machine slows both. "steps" is a
range test inside `fit` against `fit` alone, from the tenth step on, so without what is compiled first,
which is done anew for both: a step that was just compiled is slower than a seasoned one. "CPU" is the
same by the time of the process, which other programs hardly change.
"call" is `find_lr` against compiling anew and `fit`, all included; "snapshot" is what copying the
variables to the host and back takes, over 100 steps.

    python benchmarks/lr_finder_overhead.py --backend torch
"""

import argparse
import os
import statistics
import time


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--pairs", type=int, default=10, help="how often each gets its turn")
    parser.add_argument("--layers", type=int, default=100, help="each has two variables")
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

STEPS, WARM_UP, BATCH = 100, 10, 32


class Clock(keras.callbacks.Callback):
    """Measures from the last step of the warm-up to the end of the epoch."""

    def on_train_batch_end(self, batch, logs=None):
        """Start."""
        if batch == WARM_UP - 1:
            self.start = np.array([time.perf_counter(), time.process_time()])

    def on_epoch_end(self, epoch, logs=None):
        """Stop."""
        self.seconds = np.array([time.perf_counter(), time.process_time()]) - self.start


def mlp():
    """Dense layers with AdamW, small enough that what surrounds a step shows."""
    layers = [keras.layers.Dense(32, activation="relu") for _ in range(given.layers - 1)]
    model = keras.Sequential([keras.Input((32,)), *layers, keras.layers.Dense(10)])
    rng = np.random.default_rng(0)
    samples = BATCH * (STEPS + WARM_UP)
    return model, rng.standard_normal((samples, 32), "float32"), rng.integers(0, 10, samples)


def compiled(model):
    """Compile anew, with a new optimizer."""
    model.compile(
        keras.optimizers.AdamW(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )


def seconds(action):
    """Return how long an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def finder(progress):
    """Return the median ratios of a range test to training."""
    model, x, y = mlp()
    clock = Clock()
    sweep = {"max_lr": 1e-4, "stop_factor": float("inf")}  # it shall not end early
    callback = kt.callbacks.LRFinder(num_steps=STEPS + WARM_UP, **sweep)

    def steps(*callbacks):
        compiled(model)
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[*callbacks, clock])
        return clock.seconds

    def train():
        compiled(model)
        model.fit(x[: BATCH * STEPS], y[: BATCH * STEPS], batch_size=BATCH, verbose=0)

    def find():
        kt.find_lr(model, (x, y), batch_size=BATCH, num_steps=STEPS, verbose=0, **sweep)

    def snapshot():
        for variable in model.variables:
            variable.assign(np.array(keras.ops.convert_to_numpy(variable)))

    steps()
    ratios = {"steps": [], "CPU": [], "call": [], "snapshot": []}
    times = []
    for _ in progress.track(range(given.pairs), description="pairs"):
        alone, swept = steps(), steps(callback)
        times.append(alone[0])
        for name, ratio in zip(("steps", "CPU"), swept / alone, strict=True):
            ratios[name].append(ratio)
        ratios["snapshot"].append(seconds(snapshot) / alone[0])
        ratios["call"].append(seconds(find) / seconds(train))
    return 1e3 * statistics.median(times) / STEPS, ratios


def main():
    """Measure and print a table."""
    with rich.progress.Progress(transient=True) as progress:
        step, ratios = finder(progress)
    title = f"{given.backend}: {2 * given.layers} variables, {step:.2f} ms a step of training"
    table = rich.table.Table("finder", "over training", "lowest", "highest", title=title)
    for name, values in ratios.items():
        table.add_row(name, *(f"{f(values):.3f}" for f in (statistics.median, min, max)))
    rich.console.Console(width=100).print(table)


if __name__ == "__main__":
    main()
