"""Save a model half-way through its training and go on: layerwise.py FOLDER. Shared with the test."""

import contextlib
import sys
from pathlib import Path

with contextlib.suppress(ImportError):
    import torch  # noqa: F401  before TensorFlow

import keras
import numpy as np

import keras_transfer as kt

SLOTS = {
    "adamw": lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1, use_ema=True),
    "nadam": lambda: keras.optimizers.Nadam(1e-2),
    "nesterov": lambda: keras.optimizers.SGD(1e-2, momentum=0.9, nesterov=True),
}
BEFORE, AFTER = range(4), range(4, 8)


def make_model(name):
    """Two layers of which the second joined later, so that there are two births; Nadam scales."""
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="second")(x), name=name)
    for variable in model.weights:
        rng = np.random.default_rng(len(variable.path))
        variable.assign(rng.standard_normal(variable.shape))
    model.get_layer("second").trainable = False
    optimizer = kt.optimizers.LayerwiseLR(SLOTS[name](), {"first/kernel": 0.3, "f.*": 0.25})
    model.compile(optimizer, "mse")
    return model


def step(model, steps):
    """Gradients that are the same on every backend."""
    for number in steps:
        rng = np.random.default_rng(number)
        variables = model.trainable_variables
        grads = [keras.ops.convert_to_tensor(rng.standard_normal(v.shape, "float32")) for v in variables]
        model.optimizer.apply(grads, variables)


def state(model):
    """All that training has changed, by name."""
    optimizer = model.optimizer
    found = {variable.path: variable for variable in model.variables}
    found |= {f"optimizer {v.path} {i}": v for i, v in enumerate(optimizer.variables)}
    return {name: np.array(keras.ops.convert_to_numpy(v)) for name, v in found.items()}


def main(folder):
    for name in SLOTS:
        model = make_model(name)
        step(model, BEFORE)
        model.get_layer("second").trainable = True
        kt.recompile(model)
        step(model, BEFORE)
        model.save(folder / f"{name}.keras")
        np.savez(folder / f"{name}_saved.npz", **state(model))
        step(model, AFTER)
        np.savez(folder / f"{name}_gone_on.npz", **state(model))

    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    plain.compile(keras.optimizers.Adam(1e-2), "mse")
    plain.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    plain.save(folder / "plain.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
