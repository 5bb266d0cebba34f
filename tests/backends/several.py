"""Fine-tune on one device or several, and write weights and histories.

several.py FOLDER DEVICES COUNT INDEX PORT RUNS...: DEVICES are those of each process, COUNT the
processes, INDEX the number of this one. What is written is FOLDER/DEVICES-COUNT-INDEX.npz.
"""

import contextlib
import functools
import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={sys.argv[2]}"
    )

import keras
import numpy as np
import pytest
from tiny import smooth_backbone

import keras_transfer as kt
from keras_transfer.features.cache import cache
from keras_transfer.training import engine
from keras_transfer.training.epochs import EpochKeeper

BACKEND = keras.backend.backend()


def start(devices, count, index, port):
    """Set up the engine of the backend, as its guide says, and return the context to make models in."""
    if devices * count == 1:
        return contextlib.nullcontext()
    address = f"127.0.0.1:{port}"
    if BACKEND == "jax":
        if count > 1:
            keras.distribution.initialize(address, count, index)
        parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
        assert parallel.num_model_replicas == devices * count
        keras.distribution.set_distribution(parallel)
        return contextlib.nullcontext()
    if BACKEND == "torch":
        assert devices == 1
        import torch

        where = f"tcp://{address}"
        torch.distributed.init_process_group("gloo", init_method=where, rank=index, world_size=count)
        return contextlib.nullcontext()
    import tensorflow as tf

    if count > 1:
        workers = [f"127.0.0.1:{port + number}" for number in range(count)]
        task = {"type": "worker", "index": index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    if count > 1:
        return tf.distribute.MultiWorkerMirroredStrategy().scope()
    return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(devices)]).scope()


def network():
    keras.utils.set_random_seed(0)
    return kt.classifier(smooth_backbone(8), 3)


def recipe(model):
    # Without clipping by the global norm, which Keras does on each replica on TensorFlow.
    layerwise = kt.multipliers.geometric(model, 2.0)
    restarts = kt.schedules.WarmRestarts(1e-2, cycle_steps=3, cycle_mult=1.5)
    decaying = keras.optimizers.AdamW(restarts, weight_decay=0.05)
    return [
        kt.Phase("head", 2, train="head", learning_rate=1e-2),
        kt.Phase("last block", 1, train="from:block2_conv1", learning_rate=1e-2),
        kt.Phase("all", 2, "all", restarts, decaying, multipliers=layerwise, augmentation="light"),
        kt.Phase("head again", 1, train="head", learning_rate=1e-3, optimizer="sgd"),
    ]


def statistics(model):
    return [kt.Phase("all", 2, train="all", learning_rate=1e-2, optimizer="sgd", batch_norm="train")]


def found(model):
    return [kt.Phase("all", 1, train="all", learning_rate="find")]


class BreaksOff(EpochKeeper):
    """Ends the run when its fourth epoch begins; with a callback of ours it wouldn't use a cache."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt
        super().on_epoch_begin(epoch, logs)


def counted(write, written):
    """Note the file of each call of `write_shard`."""

    def write_and_count(*arguments):
        written.append(write(*arguments).name)
        return arguments[0] / written[-1]

    return write_and_count


def train(folder, devices, count, index=0, port=0, runs=("recipe", "statistics", "found")):
    """Train a model for each of the runs, and write their weights and histories."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 96, (34, 8, 8, 3), "uint8"), np.arange(34) % 3
    x[np.arange(34), :, :, y] += 150  # something to learn
    data = kt.Loader((x[:32], y[:32]), 8, seed=3)
    shared = {
        # Of sizes that nothing divides: with two devices neither a batch nor what is left of it is even.
        "validation": kt.Loader((x[3:16], y[3:16]), 3, shuffle=False),
        "batch_size": 8,
        "class_weight": {0: 2.0, 1: 1.0, 2: 0.5},
        "verbose": 0,
    }
    with start(devices, count, index, port):
        models = {name: network() for name in runs}

    def fit(name, **options):
        make = {"recipe": recipe, "statistics": statistics, "found": found, "resumed": recipe}[name]
        return kt.fine_tune(models[name], data, phases=make(models[name]), **options, **shared)

    files, written = [], {}
    with pytest.MonkeyPatch.context() as patch:
        # A test of fewer steps, as each waits for the other process.
        patch.setattr(engine, "find_lr", functools.partial(engine.find_lr, num_steps=40))
        patch.setattr(cache, "_SHARD_BYTES", 4096)
        patch.setattr(cache, "write_shard", counted(cache.write_shard, files))
        for name in runs:
            options = {"cache": False}
            if name == "recipe":
                options = {"cache": kt.CacheOptions(folder / f"features-{devices}-{count}")}
            elif name == "resumed":
                options = {"output": folder / f"run-{devices}-{count}"}
                with pytest.MonkeyPatch.context() as breaking:
                    breaking.setattr("keras_transfer.training.engine.EpochKeeper", BreaksOff)
                    with pytest.raises(KeyboardInterrupt):
                        fit(name, **options)
                options["resume"] = True
            history = fit(name, **options).history
            for number, variable in enumerate(models[name].weights):
                value = keras.ops.convert_to_numpy(variable)
                written[f"{name} {number} {variable.path}"] = value
            written.update({f"{name} {key}": value for key, value in history.items()})
    written["files"] = np.array(files)
    np.savez(folder / f"{devices}-{count}-{index}.npz", **written)


if __name__ == "__main__":
    train(Path(sys.argv[1]), *map(int, sys.argv[2:6]), sys.argv[6:])
