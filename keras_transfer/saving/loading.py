"""Models from files."""

import contextlib
import inspect
import os
import zipfile
from collections.abc import Iterator

import keras

from keras_transfer._lib.keras_private.trainer import stored_compile_arguments
from keras_transfer._lib.keras_private.variables import loaded_at_once
from keras_transfer.data.carried_rules import rules_of
from keras_transfer.layers import carried
from keras_transfer.layers.about import attach_class_names, attach_origin, class_names, origin_of
from keras_transfer.layers.guard import guard
from keras_transfer.optimizers import layerwise_lr  # noqa: F401  registers its class with Keras
from keras_transfer.probabilities import calibration
from keras_transfer.probabilities.thresholds import attach_thresholds
from keras_transfer.saving.kinds import other_kind


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Load a `.keras` file as `keras.models.load_model` does, and keep what it knows of this package.

    That is its class names, its calibration and how the images were read on which it trained, and the
    optimizer of a model that trained with `keras_transfer.optimizers.LayerwiseLR` or that
    `keras_transfer.recompile` compiled. Stock Keras loads such a model, too, with `compile=False`.

    Files go from one backend to another with their optimizers. Keras itself writes torch's optimizers
    under names that fail on TensorFlow and JAX, and makes torch compile what JAX compiled; here the
    public optimizer is meant, and a model is compiled (`jit_compile`) where Keras would by default.
    Layers compute in the precision that they were saved with, whatever policy is set; Keras forgets
    that of the model, so that the loss would be scaled no more, nor the optimizer's state fit.

    Args:
        path: the path of a `.keras` file.

    Returns:
        The model; `class_names(model)` knows the names again, `calibration.of(model)` the calibration.

    Raises:
        ValueError: the path is no `.keras` file (the message says what it is), or its class names, its
            calibration or the origin of its weights are damaged.
    """
    other = other_kind(path)
    if other is not None:
        raise ValueError(
            f"path must be that of a .keras file, and this is {other} Received: path={str(path)!r}"
        )
    names, calibrated, origin = class_names(path), calibration.of(path), origin_of(path)
    rules, thresholds = rules_of(path), calibration.thresholds_of(path)
    with _policy_of(path), loaded_at_once():
        model = keras.models.load_model(path, custom_objects=_public_optimizers())  # in Keras' safe mode
    if model.compiled and model.jit_compile:
        model.jit_compile = None  # to be found out again
        stored_compile_arguments(model)["jit_compile"] = "auto"
    guard(model)
    if names is not None and len(names) != model.output_shape[-1]:
        raise ValueError(
            f"the file must have {model.output_shape[-1]} class names, one an output. "
            f"Received: {names} in {str(path)!r}"
        )
    attach_class_names(model, names)
    attach_origin(model, origin)
    if calibrated is not None:
        calibration.attach_calibration(model, calibrated)
    attach_thresholds(model, thresholds)
    if rules is not None:
        carried.attach(model, carried.RULES, rules.to_dict())
    return model


@contextlib.contextmanager
def _policy_of(path: str | os.PathLike[str]) -> Iterator[None]:
    """Set the policy, inside the block, with which Keras scaled the loss of the model in a file.

    Keras has a policy for each thread, so that others don't see it.
    """
    before = keras.config.dtype_policy()
    if _scales_loss(path):
        keras.config.set_dtype_policy("mixed_float16")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _scales_loss(path: str | os.PathLike[str]) -> bool:
    """Whether the state of a LossScaleOptimizer is in a file, which the configuration may not tell."""
    import h5py

    try:
        with (
            zipfile.ZipFile(path) as archive,
            archive.open("model.weights.h5") as file,
            h5py.File(file, "r") as weights,
        ):
            return "optimizer/inner_optimizer" in weights
    except (KeyError, OSError):  # Keras will say what is wrong
        return False


def _public_optimizers() -> dict[str, type]:
    """Return Keras' optimizers by the names under which files have also torch's variants of them."""
    classes = inspect.getmembers(keras.optimizers, inspect.isclass)
    return {name: found for name, found in classes if issubclass(found, keras.optimizers.Optimizer)}
