"""Several sets of weights of one model: the mean of their predictions."""

from collections.abc import Sequence

import keras

from keras_transfer._lib.keras_private.variables import loaded_at_once
from keras_transfer.layers import carried
from keras_transfer.models.averages import Weights


def mean_of_predictions(
    model: keras.Model, sets: Sequence[Weights], *, from_logits: bool = False
) -> keras.Model:
    """Return one model that gives the mean of what `model` gives with each set of weights.

    Args:
        model: a functional or sequential model with one output; it is not changed.
        sets: for each member what `get_weights` of `model` would return.
        from_logits: whether `model` gives logits, of which the softmax is taken before the mean.

    Returns:
        A plain Keras model, not compiled, which holds a copy of `model` for each set.
    """
    inputs = [keras.Input(batch_shape=i.shape, dtype=i.dtype, name=i.name) for i in model.inputs]
    dtype = keras.config.dtype_policy().variable_dtype  # whatever narrower type the members compute in
    outputs = []
    for number, weights in enumerate(sets, start=1):
        with loaded_at_once():
            copy = keras.models.clone_model(model)
            copy.set_weights(weights)
        member = keras.Model(copy.inputs, copy.outputs[0], name=f"member_{number}")
        output = member(inputs)
        outputs.append(keras.layers.Softmax(dtype=dtype)(output) if from_logits else output)
    mean = keras.layers.Average(dtype=dtype)(outputs) if len(outputs) > 1 else outputs[0]
    return carried.hand_on(model, keras.Model(inputs, mean, name=f"{model.name}_ensemble"))
