"""Scaling the loss where gradients in float16 would vanish."""

import keras

from keras_transfer._keras_private import sublayers


def loss_scaled(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return `optimizer`, with a `LossScaleOptimizer` around it where `model` needs one.

    Keras goes by the policy that is set when a model is put together, which a view of a model doesn't
    share with its layers: one from a file, say, computes in float16 whatever the policy is now.

    Args:
        model: what is to be trained.
        optimizer: with what, built or not. One that scales the loss already is returned as it is.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    narrow = any(
        layer.compute_dtype == "float16" and layer.weights and layer.variable_dtype != "float16"
        for layer in sublayers(model)
        if not isinstance(layer, keras.Model)
    )
    return keras.optimizers.LossScaleOptimizer(optimizer) if narrow else optimizer
