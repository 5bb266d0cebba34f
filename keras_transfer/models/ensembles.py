"""Several sets of weights of one model: the mean of their predictions, or the mean of the weights."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_transfer._lib.keras_private.graph import sublayers
from keras_transfer._lib.keras_private.variables import loaded_at_once
from keras_transfer.layers import carried
from keras_transfer.layers.freezing import restore_trainable_state, trainable_state

Weights: TypeAlias = list[np.ndarray]


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


def mean_of_weights(
    model: keras.Model, sets: Sequence[Weights], data: Any = None, *, batch_size: int = 32
) -> keras.Model:
    """Return a copy of `model` whose weights are the mean of several sets.

    The statistics of batch norm belong to the weights before it. Where they differ between the sets they
    are measured anew, as the mean over the batches of `data`, in training mode.

    Args:
        model: a functional or sequential model; it is not changed.
        sets: for each member what `get_weights` of `model` would return.
        data: training images without augmentation: an array, (x, y) arrays, a `Loader` or another
            `PyDataset`, or an iterable of batches.
        batch_size: images a batch, for arrays.

    Returns:
        The copy, not compiled.

    Raises:
        ValueError: statistics of batch norm differ, and there are no `data`; or the sets differ in what
            LoRA or quantization have made of weights, of which a mean is none of the weights.

    References:
        Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018,
        section 3.
    """
    copy = keras.models.clone_model(model)
    moved = {
        id(variable)
        for variable, *values in zip(copy.weights, *sets, strict=True)
        if any(not np.array_equal(values[0], other) for other in values[1:])
    }
    for layer in sublayers(copy):
        changed = getattr(layer, "lora_enabled", False) or layer.quantization_mode is not None
        if changed and not isinstance(layer, keras.Model) and moved & set(map(id, layer.variables)):
            raise ValueError(
                "the weights must be plain where they differ: with LoRA or quantization the mean of the "
                "numbers is not that of the weights; take kt.callbacks.SnapshotEnsemble's ensemble, the "
                f"mean of predictions. Received: layer {layer.name!r} with "
                f"{', '.join(weight.name for weight in layer.weights)}"
            )
    norms = [
        layer
        for layer in sublayers(copy)
        if isinstance(layer, keras.layers.BatchNormalization)
        and moved & {id(layer.moving_mean), id(layer.moving_variance)}
    ]
    if norms and data is None:
        raise ValueError(
            "data must be given where batch norm has trained, whose statistics don't fit the mean of "
            f"the weights. Received: data=None and {len(norms)} such layers, {norms[0].name!r} the first"
        )
    for variable, *values in zip(copy.weights, *sets, strict=True):
        is_float = keras.backend.is_float_dtype(variable.dtype)
        variable.assign(np.mean(values, axis=0, dtype="float64") if is_float else values[-1])
    if norms:
        _measure(copy, norms, _images(data, batch_size))
    return carried.hand_on(model, copy)


def _measure(
    model: keras.Model, norms: Sequence[keras.layers.BatchNormalization], batches: Iterator[Any]
) -> None:
    """Let `norms`, and no other layers, take the mean of the statistics of all batches."""
    flags = trainable_state(model)
    momenta = [layer.momentum for layer in norms]
    for layer in sublayers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = layer in norms
    for count, images in enumerate(batches):
        for layer in norms:
            layer.momentum = count / (count + 1)
        model(images, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    restore_trainable_state(flags)


def _images(data: Any, batch_size: int) -> Iterator[Any]:
    """Yield the images of `data` batch by batch, in its order."""
    images = data[0] if isinstance(data, tuple) else data
    if hasattr(images, "shape"):
        yield from (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return
    dataset = isinstance(data, keras.utils.PyDataset)
    for batch in (data[index] for index in range(len(data))) if dataset else data:
        yield batch[0] if isinstance(batch, (tuple, list)) else batch
