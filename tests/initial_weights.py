"""Initial weights that are quick to draw."""

import contextlib
import math

import keras
import numpy as np
import pytest


@contextlib.contextmanager
def numpy_initial_weights():
    """Draw initial weights with NumPy: JAX would compile a program for every shape, for a minute."""
    rng = np.random.default_rng(0)

    def draw(self, shape, dtype=None):
        values = rng.standard_normal(shape, "float32") * math.sqrt(2 / math.prod(shape[:-1]))
        return keras.ops.convert_to_tensor(values, dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.initializers.VarianceScaling, "__call__", draw)
        yield
