"""The mean of several sets of weights of one model."""

import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_transfer._lib.attributes import warnings_ignored
from keras_transfer._lib.checks import checked_number
from keras_transfer._lib.keras_private.graph import sublayers
from keras_transfer._lib.keras_private.variables import loaded_at_once
from keras_transfer._lib.variables import assign_variables, copy_variables
from keras_transfer.layers import carried
from keras_transfer.layers.freezing import restore_trainable_state, trainable_state

Weights: TypeAlias = list[np.ndarray]
WeightSet: TypeAlias = Sequence[np.ndarray] | keras.Model | str | os.PathLike[str]

_FILES = (".keras", ".weights.h5")


def average_weights(
    model: keras.Model,
    sets: Sequence[WeightSet],
    shares: Sequence[float] | None = None,
    data: Any = None,
    *,
    batch_size: int = 32,
) -> keras.Model:
    """Return a copy of a model whose weights are the mean of several sets.

    Such are the weights before and after fine-tuning, whose mean keeps more of what the network could do
    before (WiSE-FT); those of several runs from the same weights (a model soup); or those of several
    epochs (SWA). Means of sets that began apart from each other are of no use.

    Floats are averaged in float64. Whole numbers, such as counters, are those of the last set. A set of
    share 0 doesn't count.

    The statistics of batch norm belong to the weights before it. Where they differ between the sets they
    are measured anew, as the mean over the batches of `data`, in training mode.

    Args:
        model: a functional or sequential model; it is not changed.
        sets: for each member what `get_weights` of `model` would return, a model of the same
            architecture, or the path of a `.keras` or `.weights.h5` file of one. Of a file only numbers
            are read; Keras finds them by the order of layers, not by their names.
        shares: for each set its part of the mean, at least 0; they are divided by their sum. None: all
            count alike.
        data: training images without augmentation: an array, (x, y) arrays, a `Loader` or another
            `PyDataset`, or an iterable of batches.
        batch_size: images a batch, for arrays.

    Returns:
        The copy, not compiled. To have its weights in `model`: `model.set_weights(copy.get_weights())`.

    Raises:
        ValueError, TypeError: a set is none of this model, or a file can't be read; shares are not one
            number for each set; statistics of batch norm differ, and there are no `data`; or the sets
            differ in what LoRA or quantization have made of weights, of which a mean is none of the
            weights.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> before = model.get_weights()
        >>> x, y = np.zeros((4, 32, 32, 3)), np.arange(4) % 2
        >>> result = kt.fine_tune(model, (x, y), phases=[kt.Phase("all", 1, "all")], verbose=0)
        >>> half = kt.average_weights(model, [before, model], shares=[0.5, 0.5])
        >>> bool(np.allclose(half.get_weights()[0], (before[0] + model.get_weights()[0]) / 2))
        True

    References:
        Wortsman et al., "Robust fine-tuning of zero-shot models", 2022 (WiSE-FT; the share of the second
        set is its alpha). Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models
        improves accuracy without increasing inference time", 2022. Izmailov et al., "Averaging Weights
        Leads to Wider Optima and Better Generalization", 2018, section 3.
    """
    with loaded_at_once():
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
    every = _checked_sets(copy, sets)
    parts = _checked_shares(shares, len(every))
    counted = [(values, part) for values, part in zip(every, parts, strict=True) if part]
    moved = _moved(copy, [values for values, _ in counted])
    _check_plain(copy, moved)
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
    mean, total = counted[0]
    for values, part in counted[1:]:
        total += part
        mean = mixed(mean, values, part / total)
    assign_variables(copy.weights, mean)
    if norms:
        Statistics(copy, norms).measure(batches_of(data, batch_size))
    return carried.hand_on(model, copy)


def mixed(before: Sequence[np.ndarray], after: Sequence[np.ndarray], share: float) -> Weights:
    """Return the mean of two sets of arrays, in which the second has a share.

    Floats come out in float64, and where both sets have the same, that stays. Whole numbers, such as
    counters and seeds, of which there is no mean, are those of the second.
    """
    if share == 1:
        return list(after)
    return [
        one + share * (np.asarray(other, "float64") - one) if _is_float(other) else other
        for one, other in zip(before, after, strict=True)
    ]


class Statistics:
    """Measures the statistics of batch norm anew, as the mean over batches in training mode.

    Args:
        model: a functional or sequential model.
        norms: the layers of it that measure; all others of their kind stay in inference mode meanwhile.
    """

    def __init__(self, model: keras.Model, norms: Sequence[keras.layers.BatchNormalization]) -> None:
        self.norms = list(norms)
        inputs = model.inputs if len(model.inputs) > 1 else model.inputs[0]
        self._model = _InTraining(inputs, model.outputs, name="in_training")

    def measure(self, batches: Iterable[Any]) -> None:
        """Let the layers, and no others, take the mean of the statistics of all batches of images."""
        flags, momenta = trainable_state(self._model), [layer.momentum for layer in self.norms]
        for layer in sublayers(self._model):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = layer in self.norms
        statistics = [each for layer in self.norms for each in layer.non_trainable_variables]
        mean: Weights = []
        try:
            for layer in self.norms:
                layer.momentum = 0.0  # what a batch leaves behind is of this batch alone
            for count, images in enumerate(batches, start=1):
                self._model.predict_on_batch(images)
                mean = mixed(mean, copy_variables(statistics), 1 / count)
        finally:
            for layer, momentum in zip(self.norms, momenta, strict=True):
                layer.momentum = momentum
            restore_trainable_state(flags)
        if not mean:
            raise ValueError("data must have batches. Received: none")
        assign_variables(statistics, mean)


class _InTraining(keras.Model):
    """A model that predicts in training mode; so the backend compiles it, and keeps what it measures."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return super().call(inputs, training=True, mask=mask)


def batches_of(data: Any, batch_size: int) -> Iterator[Any]:
    """Yield the images of `data` batch by batch, in its order."""
    images = data[0] if isinstance(data, tuple) else data
    if hasattr(images, "shape"):
        yield from (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return
    dataset = isinstance(data, keras.utils.PyDataset)
    for batch in (data[index] for index in range(len(data))) if dataset else data:
        yield batch[0] if isinstance(batch, (tuple, list)) else batch


def _is_float(array: np.ndarray) -> bool:
    return keras.backend.is_float_dtype(np.asarray(array).dtype.name)


def _moved(model: keras.Model, sets: Sequence[Weights]) -> set[int]:
    """Return the ids of the weights of `model` in which the sets differ."""
    return {
        id(variable)
        for variable, *values in zip(model.weights, *sets, strict=True)
        if any(not np.array_equal(values[0], other) for other in values[1:])
    }


def _check_plain(model: keras.Model, moved: set[int]) -> None:
    """Raise a `ValueError` if a weight that differs is none by itself."""
    for layer in sublayers(model):
        changed = getattr(layer, "lora_enabled", False) or layer.quantization_mode is not None
        if changed and not isinstance(layer, keras.Model) and moved & set(map(id, layer.variables)):
            raise ValueError(
                "the weights must be plain where they differ: with LoRA or quantization the mean of the "
                "numbers is not that of the weights; take kt.callbacks.SnapshotEnsemble's ensemble, the "
                f"mean of predictions. Received: layer {layer.name!r} with "
                f"{', '.join(weight.name for weight in layer.weights)}"
            )


def _checked_shares(shares: Any, count: int) -> list[float]:
    if shares is None:
        return [1.0] * count
    given = list(shares) if isinstance(shares, (Sequence, np.ndarray)) else []
    parts = [checked_number(f"shares[{i}]", part, closed="left") for i, part in enumerate(given)]
    if len(parts) != count or not any(parts):
        raise ValueError(
            f"shares must be {count} numbers, one for each set, of which one is above 0, or None. "
            f"Received: shares={shares!r}"
        )
    return parts


def _checked_sets(copy: keras.Model, sets: Any) -> list[Weights]:
    """Return the weights of each set. Files are read into `copy`, a model like that of the sets."""
    if not isinstance(sets, (list, tuple)) or not sets:
        raise TypeError(
            "sets must be a list of one or more sets of weights, each a list of arrays, a model or a "
            f"path. Received: sets={sets!r:.200}"
        )
    shapes = [tuple(weight.shape) for weight in copy.weights]
    found = []
    for index, given in enumerate(sets):
        if isinstance(given, (str, os.PathLike)):
            values = _from_file(copy, Path(given), f"sets[{index}]")
        elif isinstance(given, keras.Model):
            values = given.get_weights()
        else:
            values = list(given) if isinstance(given, (list, tuple)) else [given]
        if [np.shape(value) for value in values] != shapes:
            raise ValueError(
                f"sets[{index}] must be weights of model {copy.name!r}: {len(shapes)} arrays of its "
                "shapes, as its get_weights gives them, a model of the same architecture, or the path "
                f"of a file of one. Received: {_told(given, values, shapes)}"
            )
        found.append(values)
    return found


def _told(given: Any, values: Weights, shapes: list[tuple[int, ...]]) -> str:
    """Return in words in what a set of weights differs from the shapes that are wanted."""
    what = f"model {given.name!r}" if isinstance(given, keras.Model) else type(given).__name__
    if len(values) != len(shapes):
        return f"{what} with {len(values)} arrays"
    pairs = enumerate(zip(values, shapes, strict=True))
    index, value, shape = next((i, v, s) for i, (v, s) in pairs if np.shape(v) != s)
    return f"{what} with an array {index} of shape {np.shape(value)} in the place of {shape}"


def _from_file(copy: keras.Model, path: Path, argument: str) -> Weights:
    if not path.name.endswith(_FILES) or not path.is_file():
        kind = "no such file" if path.name.endswith(_FILES) else "another name"
        raise ValueError(
            f"{argument} must be the path of a .keras or .weights.h5 file. "
            f"Received: {str(path)!r}, {kind}"
        )
    try:
        with warnings_ignored("Skipping nested container"):  # a file of another network is an error
            copy.load_weights(path)
    # RuntimeError is from h5py.
    except (ValueError, OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{argument} must be a file of the weights of model {copy.name!r}; it is damaged or of "
            f"another ({error}). Received: {str(path)!r}"
        ) from error
    return copy.get_weights()
