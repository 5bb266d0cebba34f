"""Compiling a model again without losing what its optimizer knows."""

import inspect
from typing import Any

import keras

from keras_transfer import _distribution
from keras_transfer._lib.keras_private.trainer import fit_state, stored_compile_arguments
from keras_transfer.layers.guard import guard
from keras_transfer.optimizers.carry_over import carry_over


def recompile(model: keras.Model, **arguments: Any) -> None:
    """Compile a model again, after what trains in it has changed.

    Loss, metrics and all other options stay unless they are given. The optimizer is replaced by one
    that knows the same: variables which trained before keep their slots, so that they go on as if
    nothing had happened; variables which join begin as in a fresh optimizer, with their own bias
    correction and a moving average (EMA) that starts at their value. `model.compile` would lose the
    slots, or refuse a used optimizer; kept slots and steps alone would move variables that join several
    times too far.

    Args:
        model: a compiled model. `model.optimizer` is another object afterwards.
        **arguments: arguments of `keras.Model.compile` to replace those that the model was compiled
            with; a model with a `compile` of its own keeps the further ones that this was given. An
            `optimizer` given here starts as it is.

    Raises:
        ValueError: the model is not compiled, or its optimizer keeps state in a way that Keras' own
            don't. The model is compiled as it was.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> table = kt.freeze_backbone(model)
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> history = model.fit(np.zeros((8, 32, 32, 3)), np.arange(8) % 2, verbose=0)
        >>> table = kt.freeze_to(model, -2)
        >>> kt.recompile(model)
        >>> int(model.optimizer.iterations)
        1
    """
    check_compiled(model)
    if "optimizer" not in arguments:
        optimizer = model.optimizer
        if isinstance(optimizer, keras.optimizers.MultiOptimizer):
            raise ValueError(
                "optimizer must not be a MultiOptimizer, whose parts can't be built for other "
                "variables; pass a new one: kt.recompile(model, optimizer=...). "
                "Received: a MultiOptimizer"
            )
        if optimizer.built:
            with _distribution.scope(model):
                optimizer = carry_over(optimizer, model.trainable_variables)
        arguments["optimizer"] = optimizer
        # Keras wraps an optimizer in mixed_float16 unless told not to; this one is as it shall be.
        arguments.setdefault("auto_scale_loss", False)
    if "run_eagerly" in arguments:
        arguments.setdefault("jit_compile", "auto")  # which was resolved for the other case
    known = inspect.signature(keras.Model.compile).parameters
    # A compile of the model's own would fall back to the defaults of its own arguments.
    compile_again = keras.Model.compile if arguments.keys() <= known.keys() else type(model).compile
    before = dict(vars(model))
    try:
        with _distribution.scope(model):
            compile_again(model, **{**stored_compile_arguments(model), **arguments})
    except BaseException:
        vars(model).update(before)
        raise
    guard(model)


def recompile_in_fit(model: keras.Model) -> None:
    """Compile a model again between two epochs of a `fit`, which goes on with another step.

    Its metrics stay: `fit` has just reset them, and new ones would be built in the first step, which
    would then be compiled twice.

    Raises:
        ValueError: as in `recompile`.
    """
    state = fit_state(model)
    recompile(model)
    vars(model).update(state)
    model.make_train_function()


def check_compiled(model: keras.Model) -> None:
    """Check that `model` is compiled with an optimizer.

    Raises:
        TypeError, ValueError: it is no model, or not compiled.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model. Received: model={model!r}")
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            f"model {model.name!r} is not compiled with an optimizer; call model.compile(optimizer=..., "
            "loss=...) first. Received: a model without optimizer"
        )
