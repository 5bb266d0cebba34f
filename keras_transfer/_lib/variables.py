"""The values of variables, copied and put back."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


def copy_variables(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Return the values of variables, copied to the host."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def hold_variables(variables: Sequence[keras.Variable]) -> list[Any]:
    """Return the values of variables, copied where they are: on their devices."""
    return [keras.ops.stop_gradient(keras.ops.copy(variable)) for variable in variables]


def assign_variables(variables: Sequence[keras.Variable], values: Sequence[Any]) -> None:
    """Put copied values back, also where JAX has given the old ones away."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def forget_gradients(variables: Sequence[keras.Variable]) -> None:
    """Free the gradients that torch keeps beside each variable until the next step."""
    if keras.backend.backend() == "torch":
        for variable in variables:
            variable.value.grad = None
