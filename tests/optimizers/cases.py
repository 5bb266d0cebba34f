"""Keras' optimizers in many settings, and steps with gradients that are known beforehand."""

import keras
import numpy as np
import pytest
from keras import optimizers

CASES = {
    "sgd": lambda: optimizers.SGD(1e-2),
    "momentum": lambda: optimizers.SGD(1e-2, momentum=0.9),
    "nesterov": lambda: optimizers.SGD(1e-2, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda: optimizers.Adam(1e-2),
    "amsgrad": lambda: optimizers.Adam(1e-2, amsgrad=True),
    "adamw": lambda: optimizers.AdamW(1e-2, weight_decay=0.1),
    "nadam": lambda: optimizers.Nadam(1e-2),
    "lion": lambda: optimizers.Lion(1e-3, weight_decay=0.1),
    "rmsprop": lambda: optimizers.RMSprop(1e-2, momentum=0.5, centered=True),
    "adagrad": lambda: optimizers.Adagrad(1e-2),
    "adadelta": lambda: optimizers.Adadelta(1.0),
    "adamax": lambda: optimizers.Adamax(1e-2),
    "ftrl": lambda: optimizers.Ftrl(1e-2),
    "lamb": lambda: optimizers.Lamb(1e-2),
    "adafactor": lambda: optimizers.Adafactor(1e-2),
    "muon": lambda: optimizers.Muon(1e-2),
    "schedule-free": lambda: optimizers.ScheduleFreeAdamW(1e-2, warmup_steps=9),
    "clipnorm": lambda: optimizers.Adam(1e-2, clipnorm=0.3),
    "accumulation": lambda: optimizers.Nadam(1e-2, gradient_accumulation_steps=5),
    "sgd-ema": lambda: optimizers.SGD(1e-2, use_ema=True, ema_momentum=0.8),
    "adam-ema": lambda: optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.8),
    "nadam-ema": lambda: optimizers.Nadam(1e-2, use_ema=True, ema_momentum=0.8),
}

# One of each kind of state. The others take the same way through a backend, and run on torch.
KINDS = (
    *("momentum", "adam", "adamw", "adafactor", "muon", "schedule-free", "clipnorm", "accumulation"),
    *("sgd-ema", "nadam-ema"),
)


def kinds():
    """Return all cases as parameters of a test; on TensorFlow and JAX most are for the night."""
    on_torch = keras.backend.backend() == "torch"
    return [
        pytest.param(case, marks=() if on_torch or case in KINDS else pytest.mark.nightly)
        for case in CASES
    ]


def weights(seed, *names):
    """Two variables, a matrix and a vector, for each name."""
    rng = np.random.default_rng(seed)
    return [
        keras.Variable(rng.standard_normal(shape, "float32"), name=f"{name}{len(shape)}")
        for name in names
        for shape in ((4, 3), (3,))
    ]


def gradients(step, variables):
    """The same for a variable of this name, whatever others there are."""
    found = []
    for variable in variables:
        rng = np.random.default_rng([step, *variable.name.encode()])
        found.append(keras.ops.convert_to_tensor(rng.standard_normal(variable.shape, "float32")))
    return found


def train(optimizer, variables, steps):
    for step in steps:
        optimizer.apply(gradients(step, variables), variables)


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def slots(optimizer, variables):
    """The values of all slots of some variables, by the name of the slot."""
    wanted = [variable.path.replace("/", "_") for variable in variables]
    return {
        variable.name: np.array(keras.ops.convert_to_numpy(variable))
        for variable in optimizer.variables
        if any(variable.name.startswith(f"{path}_") for path in wanted)
    }


def assert_same(first, second):
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        first, second = first.values(), second.values()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def built(make, variables):
    optimizer = make()
    optimizer.build(variables)
    return optimizer
