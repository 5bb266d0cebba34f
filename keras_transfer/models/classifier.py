"""Classifiers on pretrained backbones."""

import os
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Any

import keras

from keras_transfer._lib.checks import checked_choice, checked_integer, checked_number
from keras_transfer.layers import about
from keras_transfer.layers.graph import leaf_layers, leaves_of
from keras_transfer.layers.guard import guard
from keras_transfer.layers.head import free_name, head_layers, sigmoid, softmax
from keras_transfer.models.beginning import Name, Sized, begin, given_models
from keras_transfer.models.depths import LAST, POOLINGS, given_to_head, pooled_map
from keras_transfer.models.tokens import NO_TOKENS, Tokens, vector_of_tokens
from keras_transfer.tasks.multi_label import MULTI_LABEL
from keras_transfer.tasks.named import TaskName, checked_task


def classifier(
    backbone: Name | Sequence[Name | Sized],
    num_classes: int,
    *,
    task: TaskName = "single-label",
    image_size: int | tuple[int, int] | None = None,
    weights: str | os.PathLike[str] | None = "imagenet",
    features: str | Sequence[str] = LAST,
    pooling: str | None = None,
    hidden_units: Sequence[int] = (),
    dropout: float = 0.0,
    preprocessing: bool | keras.layers.Layer = True,
    class_names: Sequence[str] | None = None,
    seed: int | None = None,
) -> keras.Model:
    """Build a classifier: raw images in, class probabilities out.

    The layers are stock Keras ones, so that the saved model opens anywhere. A named backbone's layers
    stand in the model one by one, under their own names; a model given as backbone stays one layer.
    Of several backbones, each sees the same images, with its own preprocessing, and the head is given
    what all of them end in, side by side; a layer's name begins with that of its backbone, as
    "mobilenetv2_Conv1".
    The head is pooling, then for each of `hidden_units` a `Dense` layer with ReLU (fc1, fc2, ...) and
    dropout, then the `Dense` layer "predictions" that gives the logits, then the layer "softmax", or
    "sigmoid" where an image has several labels.
    `keras_transfer.fine_tune` trains on the logits.

    Args:
        backbone: the name of a model in `keras.applications` in any spelling ("vgg16", "ResNet50",
            "mobilenet_v2"); or, with the extra `hub`, of a preset of KerasHub ("resnet_18_imagenet"), or
            the path of a preset's folder; or a `keras.Model` without classifier, whose layers are then
            shared, not copied (a transformer of KerasHub becomes stock layers with copies of its
            weights). `list_backbones` lists the names. Or a sequence of several such, each
            alone or as a pair (backbone, image_size): it then sees the images resized to that, and
            has the weights that were trained for it.
        num_classes: how many classes, at least 2.
        task: "single-label": an image has one of the classes, and probabilities add up to 1.
            "multi-label": it has any number of them, or none, and each has a probability of its own. The
            model is known by what it ends in, in any file.
        image_size: height and width of the images in pixels, one number for both; by default 224, or
            the input of the given model or preset, or the largest of several backbones. Images are RGB,
            or have as many channels as the given model takes.
        weights: "imagenet" (for a preset: its own), None for random weights, or, for one backbone, the
            path of a file of its weights without the classifier. A model given as backbone has its own.
        features: what the head is given. "last": the backbone's last feature map. "several": pooled
            maps of up to eight depths side by side, where the map is as wide as any before it; of these
            `fit_linear_head` and `automatic.train` choose how many of the last tell the classes best.
            Or the names of several layers of a backbone given by name, with "last" for that map. On
            many classes with few images each, a linear head gains by maps that are less specialised
            than the last. Of several backbones, "last" are the last maps of all, and the last so many
            depths are those of each.
        pooling: how features become a vector. A feature map: "avg", "max", or "flatten" for the last
            one alone. The tokens of a transformer: "token", that of the class (with DeiT's second one
            side by side); "avg" or "max" over the patches alone; "token+avg", side by side; or
            "flatten". None: "token" where there is one of the class, as in ViT, DeiT, DINOv2, DINOv3
            and CLIP, else "avg", as in Swin. Of a given model that ends in tokens, those that are more
            than patches of one size are taken to be of the class, the first, and registers. Where a
            model pools by itself, as SigLIP, this changes nothing.
        hidden_units: the widths of the hidden layers of the head.
        dropout: the fraction dropped after each hidden layer, or before the logits without one; in
            [0, 1).
        preprocessing: True: the model takes raw 0-255 RGB images and normalises them inside, as the
            backbone was trained. False: it takes what the backbone takes. A Keras layer: this layer
            stands between images and backbone, of which there is one then. A model given as backbone is
            taken to bring its own, so there True adds nothing.
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
        >>> both = kt.classifier(("mobilenet_v2", ("vgg16", 48)), 10, image_size=64, weights=None)
        >>> both.get_layer("vgg16_block1_conv1").output.shape, both.get_layer("features").output.shape
        ((None, 48, 48, 64), (None, 1792))
    """
    num_classes = checked_integer("num_classes", num_classes, minimum=2)
    output = sigmoid if checked_task(task) is MULTI_LABEL else softmax
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

    begun = begin(backbone, image_size, weights, preprocessing)
    given = given_to_head(begun.inputs, begun.ends, features, pooling, begun.tokens)
    logits = add_head(given, num_classes, pooling, hidden_units, dropout, seed)
    model = keras.Model(begun.inputs, output(logits), name=f"{begun.name}_classifier")
    theirs = given_models(backbone)
    random = weights is None and not isinstance(backbone, keras.Model)
    about.mark_new(model, _new(model, theirs) if random else head_layers(model))
    for each in (model, *theirs):  # which share layers
        guard(each)
    about.attach_class_names(model, names)
    about.attach_origin(model, begun.origin)
    return model


def _new(model: keras.Model, given: Sequence[keras.Model]) -> list[keras.Layer]:
    """Return the layers of a classifier that begin with random weights; `given` ones bring theirs."""
    known = {id(leaf) for each in given for leaf in leaves_of(each)}
    return [leaf for leaf in leaf_layers(model) if id(leaf) not in known]


def add_head(
    features: keras.KerasTensor,
    num_classes: int,
    pooling: str | None,
    hidden_units: Sequence[int],
    dropout: float,
    seed: int | None,
    taken: Collection[str] = (),
    tokens: Tokens = NO_TOKENS,
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
        x = pooled_map(features, pooling, taken=taken)
    elif len(features.shape) == 3:
        x = vector_of_tokens(features, tokens, pooling, taken=taken)
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
    if pooling is not None:
        checked_choice("pooling", pooling, POOLINGS)
    dropout = checked_number("dropout", dropout, high=1, closed="left")
    if seed is not None:
        seed = checked_integer("seed", seed, minimum=0)
    return units, dropout, seed
