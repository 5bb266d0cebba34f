"""Classifiers on pretrained backbones."""

import contextlib
import os
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import keras

from keras_transfer._lib.checks import (
    checked_choice,
    checked_image_size,
    checked_integer,
    checked_number,
)
from keras_transfer._lib.keras_private.variables import loaded_at_once
from keras_transfer.backbones.applications import (
    Preprocessing,
    affine_preprocessing,
    build_features,
    find_backbone,
    is_application,
)
from keras_transfer.backbones.hub import add_backbone, find_preset, load_backbone, load_preprocessing
from keras_transfer.layers import about
from keras_transfer.layers.graph import leaf_layers
from keras_transfer.layers.guard import guard
from keras_transfer.layers.head import free_name, head_layers
from keras_transfer.models.depths import LAST, POOLING, given_to_head

_DEFAULT_SIZE = 224

Size: TypeAlias = int | tuple[int, int] | None
Weights: TypeAlias = str | os.PathLike[str] | None


def classifier(
    backbone: str | os.PathLike[str] | keras.Model,
    num_classes: int,
    *,
    image_size: int | tuple[int, int] | None = None,
    weights: str | os.PathLike[str] | None = "imagenet",
    features: str | Sequence[str] = LAST,
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
            "mobilenet_v2"); or, with the extra `hub`, of a preset of KerasHub ("resnet_18_imagenet"), or
            the path of a preset's folder; or a `keras.Model` without classifier, whose layers are then
            shared, not copied. `list_backbones` lists the names.
        num_classes: how many classes, at least 2.
        image_size: height and width of the images in pixels, one number for both; by default 224, or
            the input of the given model or preset. Images are RGB, or have as many channels as the
            given model takes.
        weights: "imagenet" (for a preset: its own), None for random weights, or the path of a file of
            weights of the backbone without its classifier. A model given as backbone has its own.
        features: what the head is given. "last": the backbone's last feature map. "several": pooled
            maps of up to eight depths side by side, where the map is as wide as any before it; of these
            `fit_linear_head` and `automatic.train` choose how many of the last tell the classes best.
            Or the names of several layers of a backbone given by name, with "last" for that map. On
            many classes with few images each, a linear head gains by maps that are less specialised
            than the last.
        pooling: how a feature map becomes a vector: "avg", "max", or "flatten" for the last one alone.
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
        >>> model = kt.classifier("vgg16", 10, image_size=48, weights=None,
        ...                       pooling="flatten", hidden_units=(1000,), dropout=0.3)
        >>> [layer.name for layer in model.layers][-5:]
        ['flatten', 'fc1', 'dropout', 'predictions', 'softmax']
        >>> model = kt.classifier("vgg16", 10, weights=None, features=("block4_pool", "last"))
        >>> model.get_layer("features").output.shape
        (None, 1024)
    """
    num_classes = checked_integer("num_classes", num_classes, minimum=2)
    if not isinstance(features, (str, list, tuple)) or not all(
        isinstance(each, str) for each in features
    ):
        raise TypeError(
            "features must be 'last', 'several' or a sequence of names of layers. "
            f"Received: features={features!r}"
        )
    _checked_head(pooling, hidden_units, dropout, seed)  # before a backbone is built or fetched
    if not isinstance(preprocessing, (bool, keras.layers.Layer)):
        raise TypeError(
            f"preprocessing must be a bool or a Keras layer. Received: preprocessing={preprocessing!r}"
        )
    names = None if class_names is None else about.checked_class_names(class_names, num_classes)

    if isinstance(backbone, keras.Model):
        begun = _given(backbone, image_size, weights, preprocessing)
    elif isinstance(backbone, str) and is_application(backbone):
        begun = _application(backbone, image_size, weights, preprocessing)
    elif isinstance(backbone, (str, os.PathLike)):
        begun = _preset(backbone, image_size, weights, preprocessing)
    else:
        raise TypeError(
            "backbone must be the name of a model in keras.applications or KerasHub or a keras.Model. "
            f"Received: backbone={backbone!r}"
        )
    given = given_to_head(begun.inputs, begun.features, features, pooling)
    logits = add_head(given, num_classes, pooling, hidden_units, dropout, seed)
    outputs = keras.layers.Softmax(name="softmax", dtype="float32")(logits)
    model = keras.Model(begun.inputs, outputs, name=f"{begun.name}_classifier")
    random = isinstance(backbone, str) and weights is None
    about.mark_new(model, leaf_layers(model) if random else head_layers(model))
    guard(model)
    if isinstance(backbone, keras.Model):
        guard(backbone)  # which shares the layers
    about.attach_class_names(model, names)
    about.attach_origin(model, begun.origin)
    return model


class _Beginning(NamedTuple):
    """The first part of a classifier: from images to the features of a backbone."""

    name: str
    inputs: keras.KerasTensor
    features: keras.KerasTensor
    origin: about.Origin | None


def _application(name: str, image_size: Size, weights: Weights, preprocessing: Any) -> _Beginning:
    backbone = find_backbone(name)
    size = checked_image_size(_DEFAULT_SIZE if image_size is None else image_size)
    inputs = keras.Input((*size, 3), name="image")
    images = _preprocessed(inputs, preprocessing, affine_preprocessing(backbone))
    with _loading(weights):
        features = build_features(backbone, images, weights)
    origin = about.named_origin(backbone.name, weights, preset=False)
    return _Beginning(backbone.name.lower(), inputs, features, origin)


def _given(backbone: keras.Model, image_size: Size, weights: Weights, preprocessing: Any) -> _Beginning:
    if weights is not None and not (isinstance(weights, str) and weights == "imagenet"):
        raise ValueError(
            "weights are for backbones given by name; a keras.Model has its own. "
            f"Received: weights={weights!r}"
        )
    inputs = keras.Input(_shape_for(backbone, image_size), name="image")
    return _Beginning(backbone.name, inputs, backbone(_preprocessed(inputs, preprocessing)), None)


def _preset(
    name: str | os.PathLike[str], image_size: Size, weights: Weights, preprocessing: Any
) -> _Beginning:
    preset = find_preset(name)
    known, size = load_preprocessing(preset)
    if preprocessing is True and known is None:
        raise ValueError(
            f"the preset {preset.name!r} doesn't tell its preprocessing, as it has no "
            "image_converter.json; pass preprocessing=False or a Keras layer. "
            "Received: preprocessing=True"
        )
    with _loading(weights):
        backbone = load_backbone(preset, weights)
    inputs = keras.Input(_shape_for(backbone, image_size, size or _DEFAULT_SIZE), name="image")
    features = add_backbone(backbone, inputs, _preprocessed(inputs, preprocessing, known))
    origin = about.named_origin(preset.name, weights, preset=True)
    return _Beginning(preset.name, inputs, features, origin)


def _loading(weights: Weights) -> contextlib.AbstractContextManager[None]:
    """Return what a backbone is built in: no weights are drawn that a file overwrites."""
    return contextlib.nullcontext() if weights is None else loaded_at_once()


def _preprocessed(
    images: keras.KerasTensor, preprocessing: Any, own: Preprocessing | None = None
) -> keras.KerasTensor:
    """Return what a backbone is to see: `own` is the preprocessing that it was trained with."""
    if isinstance(preprocessing, keras.layers.Layer):
        return preprocessing(images)
    return own(images) if own and preprocessing else images


def _shape_for(backbone: keras.Model, image_size: Size, usual: int | None = None) -> tuple[Any, ...]:
    """Return the shape of the images that a given model is to take, if it can be a backbone at all."""
    # A subclassed model has neither inputs nor outputs, and an unbuilt Sequential refuses to tell.
    ends = [getattr(backbone, name, None) or () for name in ("inputs", "outputs")]
    if not all(len(tensors) == 1 for tensors in ends):
        raise ValueError(
            "backbone must be functional or sequential, built, with one input and one output. "
            f"Received: backbone={backbone!r}"
        )
    own = tuple(backbone.inputs[0].shape[1:])
    if len(own) != 3:
        raise ValueError(
            "backbone must take images (batch, height, width, channels). "
            f"Received: a backbone whose input has shape {backbone.inputs[0].shape}"
        )
    size = own[:2] if image_size is None else checked_image_size(image_size)
    if any(o not in (None, s) for o, s in zip(own, size, strict=False)):
        raise ValueError(
            f"image_size must fit the backbone, which takes images of shape {own}. "
            f"Received: image_size={image_size!r}"
        )
    if len(backbone.outputs[0].shape) not in (2, 4):
        raise ValueError(
            "backbone must give feature maps (batch, rows, columns, channels) or vectors (batch, "
            f"channels). Received: a backbone whose output has shape {backbone.outputs[0].shape}"
        )
    return (*(usual if s is None else s for s in size), own[2] or 3)  # what is left open is as usual


def add_head(
    features: keras.KerasTensor,
    num_classes: int,
    pooling: str,
    hidden_units: Sequence[int],
    dropout: float,
    seed: int | None,
    taken: Collection[str] = (),
) -> keras.KerasTensor:
    """Add a head as `classifier` describes it to a graph, and return the logits.

    A layer that would have one of the names that are `taken` gets a number.

    Raises:
        ValueError: pooling="flatten" for images of no fixed size, or an argument makes no sense.
    """
    hidden_units, dropout, seed = _checked_head(pooling, hidden_units, dropout, seed)

    free = partial(free_name, taken=taken)

    def seed_of(index: int) -> int | None:
        return None if seed is None else seed + index

    def dense(units: int, index: int, name: str, activation: str | None = None) -> keras.layers.Layer:
        initializer = keras.initializers.GlorotUniform(seed_of(index))
        return keras.layers.Dense(
            units, activation=activation, kernel_initializer=initializer, name=free(name)
        )

    x = features
    if len(features.shape) == 4:
        if pooling == "flatten" and None in features.shape[1:]:
            raise ValueError(
                "pooling='flatten' needs images of one size; pass image_size=(height, width). "
                f"Received: a backbone whose output has shape {features.shape}"
            )
        kind, name = POOLING[pooling]
        x = kind(name=free(name))(features)
    for index, units in enumerate(hidden_units, start=1):
        x = dense(units, index, f"fc{index}", "relu")(x)
        if dropout:
            name = "dropout" if len(hidden_units) == 1 else f"dropout{index}"
            x = keras.layers.Dropout(dropout, seed=seed_of(index), name=free(name))(x)
    if dropout and not hidden_units:
        x = keras.layers.Dropout(dropout, seed=seed_of(0), name=free("dropout"))(x)
    return dense(num_classes, 0, "predictions")(x)


def _checked_head(
    pooling: Any, hidden_units: Any, dropout: Any, seed: Any
) -> tuple[list[int], float, int | None]:
    if isinstance(hidden_units, str) or not isinstance(hidden_units, Iterable):
        raise TypeError(
            "hidden_units must be a sequence of integers, such as (512,). "
            f"Received: hidden_units={hidden_units!r}"
        )
    units = [checked_integer("hidden_units", each, minimum=1) for each in hidden_units]
    checked_choice("pooling", pooling, POOLING)
    dropout = checked_number("dropout", dropout, high=1, closed="left")
    if seed is not None:
        seed = checked_integer("seed", seed, minimum=0)
    return units, dropout, seed
