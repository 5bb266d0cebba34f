"""Fine-tune on one device or several, and write weights and histories.

several.py FOLDER DEVICES COUNT INDEX PORT: DEVICES are those of each process, COUNT the processes, INDEX
the number of this one. What is written is FOLDER/DEVICES-COUNT-INDEX.npz.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

folder = Path(sys.argv[1])
devices, count, index, port = map(int, sys.argv[2:])
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
)

import keras  # noqa: E402  after the number of devices
import numpy as np  # noqa: E402

import keras_transfer as kt  # noqa: E402
from keras_transfer.features import cache  # noqa: E402

BACKEND = keras.backend.backend()


def start():
    """Set up the engine of the backend, as its guide says, and return the context to make models in."""
    address = f"127.0.0.1:{port}"
    if BACKEND == "jax":
        if count > 1:
            keras.distribution.initialize(address, count, index)
        if devices * count > 1:
            parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
            assert parallel.num_model_replicas == devices * count
            keras.distribution.set_distribution(parallel)
        return contextlib.nullcontext()
    if BACKEND == "torch":
        assert devices == 1
        if count > 1:
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
    if devices > 1:
        return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(devices)]).scope()
    return contextlib.nullcontext()


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 64, -1.0)(inputs)
    for number, width in enumerate((4, 6), 1):
        x = keras.layers.Conv2D(width, 3, use_bias=False, name=f"block{number}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"block{number}_bn")(x)
        x = keras.layers.Activation("tanh", name=f"block{number}_tanh")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="predictions")(x))


def recipe(model):
    # Without clipping by the global norm, which Keras does on each replica on TensorFlow.
    layerwise = kt.multipliers.geometric(model, 2.0)
    restarts = kt.schedules.WarmRestarts(1e-2, cycle_steps=3, cycle_mult=1.5)
    decaying = keras.optimizers.AdamW(restarts, weight_decay=0.05)
    return [
        kt.Phase("head", 2, train="head", learning_rate=1e-2),
        kt.Phase("last block", 1, train="from:block2_conv", learning_rate=1e-2),
        kt.Phase("all", 2, "all", restarts, decaying, multipliers=layerwise, augmentation="light"),
        kt.Phase("head again", 1, train="head", learning_rate=1e-3, optimizer="sgd"),
    ]


def statistics(model):
    return [kt.Phase("all", 2, train="all", learning_rate=1e-2, optimizer="sgd", batch_norm="train")]


def found(model):
    return [kt.Phase("all", 1, train="all", learning_rate="find")]


class BreaksOff(keras.callbacks.Callback):
    """Ends the run when an epoch begins."""

    def __init__(self, at=None):
        super().__init__()
        self.at = at

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            raise KeyboardInterrupt


def counted(write, written):
    """Note the file of each call of `write_shard`."""

    def write_and_count(*arguments):
        written.append(write(*arguments).name)
        return arguments[0] / written[-1]

    return write_and_count


def main():
    files = []
    cache._SHARD_BYTES, cache.write_shard = 4096, counted(cache.write_shard, files)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 96, (34, 8, 8, 3), "uint8"), np.arange(34) % 3
    x[np.arange(34), :, :, y] += 150  # something to learn
    train = kt.Loader((x[:32], y[:32]), 8, seed=3)
    shared = {
        # Of sizes that nothing divides: with two devices neither a batch nor what is left of it is even.
        "validation": kt.Loader((x[3:16], y[3:16]), 3, shuffle=False),
        "batch_size": 8,
        "class_weight": {0: 2.0, 1: 1.0, 2: 0.5},
        "verbose": 0,
    }
    written = {}
    scope = start()
    with scope:
        models = {name: network() for name in ("recipe", "statistics", "found", "resumed")}

    def note(name, result):
        for number, variable in enumerate(models[name].weights):
            value = keras.ops.convert_to_numpy(variable)
            written[f"{name} {number} {variable.path}"] = value
        written.update({f"{name} {key}": value for key, value in result.history.items()})

    for make in (recipe, statistics, found):
        model = models[make.__name__]
        kept = kt.CacheOptions(folder / f"features-{devices}-{count}") if make is recipe else False
        note(make.__name__, kt.fine_tune(model, train, phases=make(model), cache=kept, **shared))

    run = {"phases": recipe(models["resumed"]), "directory": f"{folder}/run-{devices}-{count}", **shared}
    with contextlib.suppress(KeyboardInterrupt):
        kt.fine_tune(models["resumed"], train, callbacks=[BreaksOff(at=3)], **run)
    note("resumed", kt.fine_tune(models["resumed"], train, callbacks=[BreaksOff()], resume=True, **run))
    written["files"] = np.array(files)
    np.savez(folder / f"{devices}-{count}-{index}.npz", **written)


main()
