"""Train on virtual devices or on one and write the weights: distributed.py DEVICES FILE NAMES."""

import os
import sys

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={sys.argv[1]}"
    )

import contextlib

import keras
import numpy as np

import keras_transfer as kt

# Without clipping, which Keras does on each replica before the gradients are added up.
OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1, use_ema=True),
    "nadam": lambda: keras.optimizers.Nadam(1e-2),
    "sgd": lambda: keras.optimizers.SGD(1e-2, momentum=0.9, nesterov=True, weight_decay=0.1),
}


def strategy(count):
    """A MirroredStrategy over the devices on TensorFlow; on JAX DataParallel, for all that follows."""
    if count == 1:
        return contextlib.nullcontext()
    if keras.backend.backend() == "jax":
        devices = keras.distribution.list_devices()
        assert len(devices) == count
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
        return contextlib.nullcontext()
    import tensorflow as tf

    logical = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], logical)
    found = tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(count)])
    assert found.num_replicas_in_sync == count
    return found.scope()


def multiplier_of(variable):
    return {"first/kernel": 0.3, "first/bias": 2.0, "second/bias": 0.5}.get(variable.path, 1.0)


def train(count, names):
    """Return the weights that each of some optimizers ends with on so many devices.

    A range test, whose losses are told, too, leaves them as they are.
    """
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((32, 4)).astype("float32"), rng.standard_normal((32, 2)).astype("float32")
    weights = {}
    with strategy(count):
        for name in names:
            inputs = keras.Input((4,))
            hidden = keras.layers.Dense(3, activation="tanh", name="first")(inputs)
            model = keras.Model(inputs, keras.layers.Dense(2, name="second")(hidden))
            for variable in model.weights:
                variable.assign(np.random.default_rng(3).standard_normal(variable.shape))
            # What joins has steps of its own, so that both counts and multipliers differ.
            model.get_layer("first").trainable = False
            model.compile(kt.optimizers.LayerwiseLR(OPTIMIZERS[name](), multiplier_of), "mse")
            model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
            model.get_layer("first").trainable = True
            kt.recompile(model)
            model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
            finder = kt.callbacks.LRFinder(1e-3, 0.1, 8)
            model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[finder])
            weights[f"{name} losses of a range test"] = finder.result.losses
            for variable in model.weights:
                weights[f"{name} {variable.path}"] = keras.ops.convert_to_numpy(variable)
    return weights


if __name__ == "__main__":
    np.savez(sys.argv[2], **train(int(sys.argv[1]), sys.argv[3:]))
