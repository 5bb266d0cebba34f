"""The values of variables, taken to the host and put back."""

from collections.abc import Sequence

import keras
import numpy as np


def copy_variables(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Return the values of variables, copied to the host."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def assign_variables(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    """Put values back that `copy_variables` returned, also where JAX has given the old ones away."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def forget_gradients(variables: Sequence[keras.Variable]) -> None:
    """Free the gradients that torch keeps beside each variable until the next step."""
    for variable in variables:
        if getattr(variable.value, "grad", None) is not None:
            variable.value.grad = None
