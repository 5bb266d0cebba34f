"""Private names of Keras for how variables begin."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.src.initializers.random_initializers import RandomInitializer

# What no file of weights is full of; each float type has it exactly.
_NOT_LOADED = -23 / 32
_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def loaded_at_once() -> Iterator[None]:
    """Draw no random numbers for variables that are made in the block, as it loads weights into them.

    A network of MobileNetV2's size takes JAX seconds to draw, as each shape is compiled. What is left
    over at the end, because no file has it, is drawn then, by the same initializer.

    Only what this thread makes is meant; other threads wait if they want the same meanwhile.
    """
    with undrawn() as variables:
        yield
    for variable, initializer in variables:
        if (keras.ops.convert_to_numpy(variable) == _NOT_LOADED).all():
            variable.assign(initializer(variable.shape, dtype=variable.dtype))


@contextlib.contextmanager
def undrawn() -> Iterator[list[tuple[keras.Variable, Any]]]:
    """Draw no random numbers for variables that are made in the block, where shapes alone matter.

    It gives these variables, as they are made, each with what would have drawn it.
    """
    found: list[tuple[keras.Variable, RandomInitializer]] = []
    thread = threading.get_ident()

    def initialize(variable: keras.Variable, initializer: Any) -> None:
        if threading.get_ident() == thread and isinstance(initializer, RandomInitializer):
            found.append((variable, initializer))
            initializer = _full
        usual(variable, initializer)

    with _one_at_a_time:
        usual = keras.Variable._initialize_with_initializer
        keras.Variable._initialize_with_initializer = initialize
        try:
            yield found
        finally:
            keras.Variable._initialize_with_initializer = usual


def _full(shape: Any, dtype: Any = None) -> Any:
    return keras.ops.convert_to_tensor(np.full(shape, _NOT_LOADED, "float32"), dtype)
