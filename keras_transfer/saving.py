"""Models from files."""

import os

import keras

from keras_transfer import schedules  # noqa: F401  registers its classes with Keras
from keras_transfer.guard import guard
from keras_transfer.heads import attach_class_names, class_names
from keras_transfer.optimizers import layerwise_lr  # noqa: F401  registers its class with Keras


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Load a `.keras` file as `keras.models.load_model` does, and keep what it knows of this package.

    That is its class names, and the optimizer of a model that `keras_transfer.recompile` compiled. Stock
    Keras loads such a model, too, with `compile=False`.

    Args:
        path: the path of a `.keras` file.

    Returns:
        The model; `class_names(model)` knows the names again.

    Raises:
        ValueError: the path is no `.keras` file, or its class names are damaged.
    """
    names = class_names(path)
    model = keras.models.load_model(path)  # safe mode is Keras' default
    guard(model)
    if names is not None:
        if len(names) != model.output_shape[-1]:
            raise ValueError(
                f"the file must have {model.output_shape[-1]} class names, one an output. "
                f"Received: {names} in {str(path)!r}"
            )
        attach_class_names(model, names)
    return model
