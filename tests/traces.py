"""All that training a model may change, to be compared bit for bit."""

import random
import sys

import keras
import numpy as np

from keras_transfer._lib.keras_private.process import global_seed_generator


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def trace(model):
    """Return the state of a compiled model, its optimizer and the process as comparable values."""
    optimizer = model.optimizer
    generator = global_seed_generator()
    found = {
        "attributes": {name: id(value) for name, value in vars(model).items()},
        "variables": values(model.variables),
        "metrics": values(model.metrics_variables),
        "optimizer": values(optimizer.variables),
        "optimizer attributes": {name: id(value) for name, value in vars(optimizer).items()},
        "built": (optimizer.built, model.stop_training),
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False)["state"]["pos"],  # noqa: NPY002
        "numpy key": np.random.get_state(legacy=False)["state"]["key"],  # noqa: NPY002
        "keras": None if generator is None else values([generator.state]),
    }
    if "torch" in sys.modules:
        found["torch"] = sys.modules["torch"].get_rng_state().numpy()
    return found


def changes(before, after):
    """Return the names of what differs between two traces."""
    assert before.keys() == after.keys()
    return [name for name in before if not _same(before[name], after[name])]


def _same(first, second):
    if isinstance(first, list):
        return len(first) == len(second) and all(
            np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
            for a, b in zip(first, second, strict=True)
        )
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    return first == second
