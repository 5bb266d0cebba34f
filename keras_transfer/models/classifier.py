"""Classifiers on pretrained backbones."""

import os
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import keras

from keras_transfer._lib.checks import (
    checked_choice,
    checked_image_size,
    checked_integer,
    checked_number,
)
from keras_transfer.backbones.applications import build_features, find_backbone, is_application
from keras_transfer.backbones.hub import add_backbone, find_preset, load_backbone, load_preprocessing
from keras_transfer.layers.about import (
    attach_class_names,
    attach_origin,
    checked_class_names,
    mark_new,
    named_origin,
)
from keras_transfer.layers.graph import leaf_layers
from keras_transfer.layers.guard import guard
from keras_transfer.layers.head import free_name, head_layers

_POOLING = {
    "avg": (keras.layers.GlobalAveragePooling2D, "avg_pool"),
    "max": (keras.layers.GlobalMaxPooling2D, "max_pool"),
    "flatten": (keras.layers.Flatten, "flatten"),
}
_DEFAULT_SIZE = 224


def classifier(
    backbone: str | os.PathLike[str] | keras.Model,
    num_classes: int,
    *,
    image_size: int | tuple[int, int] | None = None,
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
            "mobilenet_v2"); or, with the extra `hub`, of a preset of KerasHub ("resnet_18_imagenet"), or
            the path of a preset's folder; or a `keras.Model` without classifier, whose layers are then
            shared, not copied. `list_backbones` lists the names.
        num_classes: how many classes, at least 2.
        image_size: height and width of the images in pixels, one number for both; by default 224, or
            the input of the given model or preset. Images are RGB, or have as many channels as the
            given model takes.
        weights: "imagenet" (for a preset: its own), None for random weights, or the path of a file of
            weights of the backbone without its classifier. A model given as backbone has its own.
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
        >>> model = kt.classifier("vgg16", 10, image_size=48, weights=None,
        ...                       pooling="flatten", hidden_units=(1000,), dropout=0.3)
        >>> [layer.name for layer in model.layers][-5:]
        ['flatten', 'fc1', 'dropout', 'predictions', 'softmax']
    """
    num_classes = checked_integer("num_classes", num_classes, minimum=2)
    _checked_head(pooling, hidden_units, dropout, seed)  # before a backbone is built or fetched
    if not isinstance(preprocessing, (bool, keras.layers.Layer)):
        raise TypeError(
            f"preprocessing must be a bool or a Keras layer. Received: preprocessing={preprocessing!r}"
        )
    names = None if class_names is None else checked_class_names(class_names, num_classes)

    if isinstance(backbone, keras.Model):
        inputs, features = _given_features(backbone, image_size, weights, preprocessing)
        name = backbone.name
    elif isinstance(backbone, str) and is_application(backbone):
        inputs, features = _named_features(backbone, image_size, weights, preprocessing)
        name = find_backbone(backbone).name.lower()
    elif isinstance(backbone, (str, os.PathLike)):
        inputs, features = _preset_features(backbone, image_size, weights, preprocessing)
        name = find_preset(backbone).name
    else:
        raise TypeError(
            "backbone must be the name of a model in keras.applications or KerasHub or a keras.Model. "
            f"Received: backbone={backbone!r}"
        )
    logits = add_head(features, num_classes, pooling, hidden_units, dropout, seed)
    outputs = keras.layers.Softmax(name="softmax", dtype="float32")(logits)
    model = keras.Model(inputs, outputs, name=f"{name}_classifier")
    random = isinstance(backbone, str) and weights is None
    mark_new(model, leaf_layers(model) if random else head_layers(model))
    guard(model)
    if isinstance(backbone, keras.Model):
        guard(backbone)  # which shares the layers
    if names is not None:
        attach_class_names(model, names)
    if isinstance(backbone, str) and is_application(backbone):
        attach_origin(model, named_origin(find_backbone(backbone).name, weights, preset=False))
    elif not isinstance(backbone, keras.Model):
        attach_origin(model, named_origin(find_preset(backbone).name, weights, preset=True))
    return model


def _named_features(
    name: str,
    image_size: int | tuple[int, int] | None,
    weights: str | os.PathLike[str] | None,
    preprocessing: bool | keras.layers.Layer,
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    backbone = find_backbone(name)
    size = checked_image_size(_DEFAULT_SIZE if image_size is None else image_size)
    inputs = keras.Input((*size, 3), name="image")
    if isinstance(preprocessing, keras.layers.Layer):
        images = preprocessing(inputs)
        return inputs, build_features(backbone, images, weights, preprocessing=False)
    return inputs, build_features(backbone, inputs, weights, preprocessing)


def _given_features(
    backbone: keras.Model,
    image_size: int | tuple[int, int] | None,
    weights: str | os.PathLike[str] | None,
    preprocessing: bool | keras.layers.Layer,
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    if weights is not None and not (isinstance(weights, str) and weights == "imagenet"):
        raise ValueError(
            "weights are for backbones given by name; a keras.Model has its own. "
            f"Received: weights={weights!r}"
        )
    inputs = keras.Input(_shape_for(backbone, image_size), name="image")
    images = preprocessing(inputs) if isinstance(preprocessing, keras.layers.Layer) else inputs
    return inputs, backbone(images)


def _preset_features(
    name: str | os.PathLike[str],
    image_size: int | tuple[int, int] | None,
    weights: str | os.PathLike[str] | None,
    preprocessing: bool | keras.layers.Layer,
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    preset = find_preset(name)
    known, size = load_preprocessing(preset)
    if preprocessing is True and known is None:
        raise ValueError(
            f"the preset {preset.name!r} doesn't tell its preprocessing, as it has no "
            "image_converter.json; pass preprocessing=False or a Keras layer. "
            "Received: preprocessing=True"
        )
    backbone = load_backbone(preset, weights)
    inputs = keras.Input(_shape_for(backbone, image_size, size or _DEFAULT_SIZE), name="image")
    if isinstance(preprocessing, keras.layers.Layer):
        return inputs, add_backbone(backbone, inputs, preprocessing(inputs))
    return inputs, add_backbone(backbone, inputs, known(inputs) if known and preprocessing else inputs)


def _shape_for(
    backbone: keras.Model,
    image_size: int | tuple[int, int] | None,
    usual: int | None = None,
) -> tuple[Any, ...]:
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
    """Add a head as `classifier` describes it to a graph, up to the logits.

    Args:
        features: the feature map or vector of the backbone.
        num_classes: how many logits.
        pooling: "avg", "max" or "flatten", for a feature map.
        hidden_units: the widths of the hidden layers.
        dropout: the fraction dropped, in [0, 1).
        seed: seeds initial weights and dropout.
        taken: names that the graph has already; a layer that would have one of them gets a number.

    Returns:
        The logits, of shape (batch, num_classes).

    Raises:
        ValueError: pooling="flatten" for images of no fixed size, or an argument makes no sense.
    """
    hidden_units, dropout, seed = _checked_head(pooling, hidden_units, dropout, seed)

    def free(name: str) -> str:
        return free_name(name, taken)

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
        kind, name = _POOLING[pooling]
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
    checked_choice("pooling", pooling, _POOLING)
    dropout = checked_number("dropout", dropout, high=1, closed="left")
    if seed is not None:
        seed = checked_integer("seed", seed, minimum=0)
    return units, dropout, seed
