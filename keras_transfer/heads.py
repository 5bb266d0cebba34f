"""Classifiers on pretrained backbones, and the class names that travel with them."""

import json
import numbers
import operator
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_transfer._messages import one_of
from keras_transfer.backbones import build_features, find_backbone

_POOLING = {
    "avg": lambda: keras.layers.GlobalAveragePooling2D(name="avg_pool"),
    "max": lambda: keras.layers.GlobalMaxPooling2D(name="max_pool"),
    "flatten": lambda: keras.layers.Flatten(name="flatten"),
}
_DEFAULT_SHAPE = (224, 224, 3)
_CLASS_NAMES_FILE = "class_names.json"
_CLASS_NAMES_LIMIT = 16 * 2**20


def classifier(
    backbone: str | keras.Model,
    num_classes: int,
    *,
    input_shape: tuple[int, int, int] | None = None,
    weights: str | os.PathLike[str] | None = "imagenet",
    pooling: str = "avg",
    hidden_units: Sequence[int] = (),
    dropout: float = 0.0,
    preprocessing: bool | keras.layers.Layer = True,
    class_names: Sequence[str] | None = None,
    seed: int | None = None,
) -> keras.Model:
    """Build a classifier: raw images in, class probabilities out.

    The layers are stock Keras ones, so that the saved model opens anywhere. A named backbone's layers
    stand in the model one by one, under their own names; a model given as backbone stays one layer.
    The head is pooling, then for each of `hidden_units` a `Dense` layer with ReLU (fc1, fc2, ...) and
    dropout, then the `Dense` layer "predictions" that gives the logits, then the layer "softmax".
    `keras_transfer.fine_tune` trains on the logits.

    Args:
        backbone: the name of a model in `keras.applications` in any spelling ("vgg16", "ResNet50",
            "mobilenet_v2"), or a `keras.Model` without classifier, whose layers are then shared, not
            copied.
        num_classes: how many classes, at least 2.
        input_shape: (height, width, 3) of the images in pixels; by default 224 x 224, or the input of
            the given model.
        weights: "imagenet", None for random weights, or the path of a file of weights of the backbone
            without its classifier. A model given as backbone has its own.
        pooling: how the last feature map becomes a vector: "avg", "max" or "flatten".
        hidden_units: the widths of the hidden layers of the head.
        dropout: the fraction dropped after each hidden layer, or before the logits without one; in
            [0, 1).
        preprocessing: True: the model takes raw 0-255 RGB images and normalises them inside, as the
            backbone was trained. False: it takes what the backbone takes. A Keras layer: this layer
            stands between images and backbone. A model given as backbone is taken to bring its own,
            so there True adds nothing.
        class_names: the classes' names in the order of the labels, for `class_names`.
        seed: seeds the head's initial weights and its dropout.

    Returns:
        A functional model: images of shape (batch, height, width, 3) to probabilities of shape (batch,
        num_classes). Not compiled; everything in it trains until `freeze_backbone` and the like say
        otherwise.

    Raises:
        ValueError: an argument has no sensible meaning; the message says which, and what would do.
        ConnectionError: the ImageNet weights are not in Keras' cache and could not be fetched.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 10, input_shape=(48, 48, 3), weights=None,
        ...                       pooling="flatten", hidden_units=(1000,), dropout=0.3)
        >>> [layer.name for layer in model.layers][-5:]
        ['flatten', 'fc1', 'dropout', 'predictions', 'softmax']
    """
    num_classes = _checked_integer("num_classes", num_classes, minimum=2)
    if isinstance(hidden_units, str) or not isinstance(hidden_units, Iterable):
        raise TypeError(
            "hidden_units must be a sequence of integers, such as (512,). "
            f"Received: hidden_units={hidden_units!r}"
        )
    hidden_units = [_checked_integer("hidden_units", units, minimum=1) for units in hidden_units]
    if not isinstance(pooling, str) or pooling not in _POOLING:
        raise ValueError(f"pooling must be {one_of(_POOLING)}. Received: pooling={pooling!r}")
    if not isinstance(dropout, numbers.Real) or not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be a number in [0, 1). Received: dropout={dropout!r}")
    dropout = float(dropout)
    if seed is not None:
        seed = _checked_integer("seed", seed, minimum=0)
    if not isinstance(preprocessing, (bool, keras.layers.Layer)):
        raise TypeError(
            f"preprocessing must be a bool or a Keras layer. Received: preprocessing={preprocessing!r}"
        )
    names = None if class_names is None else _checked_class_names(class_names, num_classes)

    if isinstance(backbone, keras.Model):
        inputs, features = _given_features(backbone, input_shape, weights, preprocessing)
        name = backbone.name
    elif isinstance(backbone, str):
        inputs, features = _named_features(backbone, input_shape, weights, preprocessing)
        name = find_backbone(backbone).name.lower()
    else:
        raise TypeError(
            "backbone must be the name of a model in keras.applications or a keras.Model. "
            f"Received: backbone={backbone!r}"
        )
    logits = _head(features, num_classes, pooling, hidden_units, dropout, seed)
    outputs = keras.layers.Softmax(name="softmax", dtype="float32")(logits)
    model = keras.Model(inputs, outputs, name=f"{name}_classifier")
    if names is not None:
        attach_class_names(model, names)
    return model


def class_names(model: keras.Model | str | os.PathLike[str]) -> list[str] | None:
    """Return the names of the classes of a model or of a `.keras` file.

    Names given to `classifier` are written into every `.keras` file that the model's own `save` makes,
    as a member of the archive that stock Keras passes over. A model that stock Keras loaded knows them
    no more; `load_model` keeps them.

    Args:
        model: a model from `classifier` or `load_model`, or the path of a `.keras` file.

    Returns:
        The names in the order of the labels, or None where there are none.

    Raises:
        ValueError: the path is no `.keras` file, or what it holds as class names is no list of names.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("mobilenet", 2, input_shape=(32, 32, 3), weights=None,
        ...                       class_names=["ant", "bee"])
        >>> kt.class_names(model)
        ['ant', 'bee']
    """
    if not isinstance(model, (str, os.PathLike)):
        hook = getattr(model, "save_assets", None)
        return list(hook.names) if isinstance(hook, _ClassNamesAsset) else None
    try:
        with zipfile.ZipFile(model) as archive:
            member = f"assets/{_CLASS_NAMES_FILE}"
            if member not in archive.namelist():
                return None
            if archive.getinfo(member).file_size > _CLASS_NAMES_LIMIT:
                raise ValueError(f"the class names take more than {_CLASS_NAMES_LIMIT} bytes")
            names = json.loads(archive.read(member))
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("the class names are no list of strings")
    # RuntimeError: an encrypted member, an unknown compression, JSON nested too deep.
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"can't read class names: {error}. Received: model={str(model)!r}") from error
    return names


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Load a `.keras` file as `keras.models.load_model` does, and keep its class names.

    Args:
        path: the path of a `.keras` file.

    Returns:
        The model; `class_names(model)` knows the names again.

    Raises:
        ValueError: the path is no `.keras` file, or its class names are damaged.
    """
    names = class_names(path)
    model = keras.models.load_model(path)  # safe mode is Keras' default
    if names is not None:
        if len(names) != model.output_shape[-1]:
            raise ValueError(
                f"the file must have {model.output_shape[-1]} class names, one an output. "
                f"Received: {names} in {str(path)!r}"
            )
        attach_class_names(model, names)
    return model


class _ClassNamesAsset:
    """Writes class names into the assets of the model it is attached to.

    Keras calls `save_assets` on every object of a model that has it, and on loading `load_assets`,
    which the stock model hasn't: so the file carries the names, and stock Keras ignores them.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __call__(self, directory: str) -> None:
        Path(directory, _CLASS_NAMES_FILE).write_text(json.dumps(self.names), encoding="utf-8")


def attach_class_names(model: keras.Model, names: list[str]) -> None:
    """Make `model` carry `names` into every `.keras` file that it is saved to."""
    model.save_assets = _ClassNamesAsset(names)


def _checked_class_names(names: Sequence[str], num_classes: int) -> list[str]:
    found = None if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    if found is None or not all(isinstance(name, str) for name in found):
        raise TypeError(f"class_names must be a sequence of strings. Received: class_names={names!r}")
    if len(found) != num_classes or len(set(found)) != num_classes:
        raise ValueError(
            f"class_names must be {num_classes} different names, one a class. "
            f"Received: class_names={found}"
        )
    return found


def _checked_integer(argument: str, value: Any, minimum: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{argument} must be an integer. Received: {argument}={value!r}")
    if value < minimum:
        raise ValueError(f"{argument} must be at least {minimum}. Received: {argument}={value!r}")
    return operator.index(value)


def _checked_shape(input_shape: Any, default: tuple[Any, ...]) -> tuple[Any, ...]:
    if input_shape is None:
        return default
    if not isinstance(input_shape, Iterable):
        raise ValueError(
            "input_shape must be (height, width, channels), or None for the usual one. "
            f"Received: input_shape={input_shape!r}"
        )
    return tuple(operator.index(n) if hasattr(n, "__index__") else n for n in input_shape)


def _named_features(
    name: str,
    input_shape: tuple[int, int, int] | None,
    weights: str | os.PathLike[str] | None,
    preprocessing: bool | keras.layers.Layer,
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    backbone = find_backbone(name)
    shape = _checked_shape(input_shape, _DEFAULT_SHAPE)
    if len(shape) != 3 or shape[2] != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(
            f"input_shape must be (height, width, 3) for {backbone.name}, which takes RGB images. "
            f"Received: input_shape={input_shape}"
        )
    inputs = keras.Input(shape, name="image")
    if isinstance(preprocessing, keras.layers.Layer):
        images = preprocessing(inputs)
        return inputs, build_features(backbone, images, weights, preprocessing=False)
    return inputs, build_features(backbone, inputs, weights, preprocessing)


def _given_features(
    backbone: keras.Model,
    input_shape: tuple[int, int, int] | None,
    weights: str | os.PathLike[str] | None,
    preprocessing: bool | keras.layers.Layer,
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    if weights is not None and not (isinstance(weights, str) and weights == "imagenet"):
        raise ValueError(
            "weights are for backbones given by name; a keras.Model has its own. "
            f"Received: weights={weights!r}"
        )
    # A subclassed model has neither inputs nor outputs, and an unbuilt Sequential refuses to tell.
    ends = [getattr(backbone, name, None) or () for name in ("inputs", "outputs")]
    if not all(len(tensors) == 1 for tensors in ends):
        raise ValueError(
            "backbone must be functional or sequential, built, with one input and one output. "
            f"Received: backbone={backbone!r}"
        )
    own = tuple(backbone.inputs[0].shape[1:])
    shape = _checked_shape(input_shape, own)
    if (
        len(own) != 3
        or len(shape) != 3
        or any(o not in (None, s) for o, s in zip(own, shape, strict=True))
    ):
        raise ValueError(
            f"input_shape must fit the backbone, which takes images of shape {own}. "
            f"Received: input_shape={input_shape}"
        )
    if len(backbone.outputs[0].shape) not in (2, 4):
        raise ValueError(
            "backbone must give feature maps (batch, rows, columns, channels) or vectors (batch, "
            f"channels). Received: a backbone whose output has shape {backbone.outputs[0].shape}"
        )
    inputs = keras.Input(shape, name="image")
    images = preprocessing(inputs) if isinstance(preprocessing, keras.layers.Layer) else inputs
    return inputs, backbone(images)


def _head(
    features: keras.KerasTensor,
    num_classes: int,
    pooling: str,
    hidden_units: Sequence[int],
    dropout: float,
    seed: int | None,
) -> keras.KerasTensor:
    def seed_of(index: int) -> int | None:
        return None if seed is None else seed + index

    def dense(units: int, index: int, **arguments: Any) -> keras.layers.Layer:
        initializer = keras.initializers.GlorotUniform(seed_of(index))
        return keras.layers.Dense(units, kernel_initializer=initializer, **arguments)

    x = features
    if len(features.shape) == 4:
        if pooling == "flatten" and None in features.shape[1:]:
            raise ValueError(
                "pooling='flatten' needs images of one size; pass input_shape=(height, width, "
                f"channels). Received: a backbone whose output has shape {features.shape}"
            )
        x = _POOLING[pooling]()(features)
    for index, units in enumerate(hidden_units, start=1):
        x = dense(units, index, activation="relu", name=f"fc{index}")(x)
        if dropout:
            name = "dropout" if len(hidden_units) == 1 else f"dropout{index}"
            x = keras.layers.Dropout(dropout, seed=seed_of(index), name=name)(x)
    if dropout and not hidden_units:
        x = keras.layers.Dropout(dropout, seed=seed_of(0), name="dropout")(x)
    return dense(num_classes, 0, name="predictions")(x)
