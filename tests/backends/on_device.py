"""Train on the device that the process sees and write the variables: on_device.py FILE cpu|gpu RATE."""

import contextlib
import sys

with contextlib.suppress(ImportError):
    import torch  # before TensorFlow

import keras
import numpy as np
from devices import gpus

import keras_transfer as kt

SIZE, CLASSES = 24, 4


def full_float32():
    """Let GPUs multiply in float32: TF32, which some take by default, keeps 10 bits of 23."""
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            tf.config.experimental.enable_tensor_float_32_execution(False)
        case "torch":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        case "jax":
            import jax

            jax.config.update("jax_default_matmul_precision", "highest")


def network():
    """Return a classifier with smooth activations, so that rounding decides no tie."""
    rng = np.random.default_rng(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(inputs)
    for block, filters in enumerate((8, 16, 16), start=1):
        # A bias before batch norm has a gradient of rounding errors only.
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"block{block}_conv1")(
            x
        )
        x = keras.layers.BatchNormalization(name=f"block{block}_norm")(x)
        x = keras.layers.Activation("swish", name=f"block{block}_swish")(x)
        x = keras.layers.AveragePooling2D(2, name=f"block{block}_pool")(x)
    model = kt.classifier(keras.Model(inputs, x, name="small"), CLASSES, hidden_units=(16,))
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            scale = np.sqrt(2 / np.prod(variable.shape[:-1]))
            variable.assign(scale * rng.standard_normal(variable.shape))
    return model


def main(path, device, rate):
    full_float32()
    model = network()
    rng = np.random.default_rng(1)
    y = np.arange(64) % CLASSES
    x = (rng.integers(0, 90, (64, SIZE, SIZE, 3)) + 40 * y[:, None, None, None]).astype("uint8")
    phases = [
        kt.Phase("head", 2, learning_rate=1e-2),
        kt.Phase(
            "last block",
            2,
            train="from:block3_conv1",
            learning_rate=rate,
            multipliers=kt.multipliers.geometric(model),
            schedule=lambda rate, steps: kt.schedules.WarmRestarts(rate, steps),
        ),
        kt.Phase("all", 1, train="all", learning_rate=rate, batch_norm="train"),
    ]
    result = kt.fine_tune(model, (x, y), (x[::2], y[::2]), phases, batch_size=16, verbose=0)
    assert bool(gpus()) == (device == "gpu"), f"this was to run on {device}, but there are {gpus()}"
    found = {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.weights}
    np.savez(path, loss=np.array(result.history["loss"]), **found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
