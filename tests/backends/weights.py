"""The same weights on every backend."""

import numpy as np


def assign_weights(model, seed=0):
    """Give a model weights that let signals pass through a deep network (He et al. 2015), from NumPy."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
        if len(shape) < 2:
            low, high = (0.8, 1.2) if name in ("gamma", "moving_variance", "variance") else (-0.1, 0.1)
            value = rng.uniform(low, high, shape)
        else:
            fan_in = 9 if "depthwise" in variable.path else int(np.prod(shape[:-1]))
            value = rng.normal(0.0, np.sqrt(2.0 / fan_in), shape)
        variable.assign(value.astype("float32"))
