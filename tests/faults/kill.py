"""Run a recipe of three phases that can be resumed, in a fork of forks.py: kill.py ORDER.

ORDER is a JSON object with "directory" and "result", and with what shall disturb the run. With "at" it
kills itself at the so many-th time that it makes a file, brings it to the disk, moves or removes it:
moments that a clock meets rarely. With "room" no file can become larger than so many bytes: whatever
writes more gets an error in the middle, C libraries, too, as on a disk without room.
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from tiny import tiny_backbone

import keras_transfer as kt

SIZE, CLASSES = 16, 3


def network(seed):
    """Return a classifier with batch norm, and dropout in the head."""
    keras.utils.set_random_seed(seed)
    return kt.classifier(tiny_backbone(), CLASSES, hidden_units=(6,), dropout=0.3)


def phases():
    """Return three phases: two behind a frozen part that is cached, and one of all layers."""
    return [
        kt.Phase("head", 3, learning_rate=1e-2),
        kt.Phase(
            "last block",
            3,
            train="from:block2_conv1",
            learning_rate=3e-3,
            batch_norm="train",
            multipliers={"block2_.*": 0.1},
        ),
        kt.Phase("all", 2, train="all", learning_rate=1e-3),
    ]


def images():
    """Return images that can be told apart, but not by all: so the best epoch is not always the last."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % CLASSES
    x = rng.integers(0, 170, (60, SIZE, SIZE, 3)) + 30 * y[:, None, None, None]
    return x.astype("uint8"), y


def train(directory, seed):
    """Run the recipe, or what is left of it."""
    x, y = images()
    return kt.fine_tune(
        network(seed),
        (x[:48], y[:48]),
        (x[48:], y[48:]),
        phases(),
        batch_size=8,
        output=directory,
        resume=True,
        verbose=0,
    )


def kill_at(number):
    """Kill this process when the files of the run are touched for the `number`-th time."""
    left = [number]

    def counted(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for module, name in ((os, "fsync"), (os, "replace"), (os, "unlink"), (tempfile, "mkstemp")):
        setattr(module, name, counted(getattr(module, name)))
    return left


def main(directory, result, at=None, room=None):
    """Run the recipe and write what became of it.

    Where nothing was begun the weights are those of the seed 0; a run that is resumed begins with
    others, which mustn't matter.
    """
    begun = Path(directory, "checkpoint").is_dir() and any(Path(directory, "checkpoint").glob("*.json"))
    count = 10**9 if at is None else at
    if room is not None:
        import resource  # which Windows hasn't got

        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    left = kill_at(count)
    done = train(directory, seed=7 if begun else 0)
    touched = count - left[0]
    weights = {str(index): np.array(weight) for index, weight in enumerate(done.model.get_weights())}
    np.savez(f"{result}.npz", **weights)
    about = {"history": done.history, "best": vars(done.best), "touched": touched}
    about["phases"] = [
        [phase.name, phase.first_epoch, phase.epochs, phase.settings] for phase in done.phases
    ]
    Path(f"{result}.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
