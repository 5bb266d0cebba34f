"""The first part of a classifier: from images to the features of a backbone, or of several."""

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import keras

from keras_transfer._lib.checks import checked_image_size
from keras_transfer._lib.keras_private.variables import loaded_at_once
from keras_transfer.backbones.applications import (
    Preprocessing,
    affine_preprocessing,
    build_features,
    find_backbone,
    is_application,
    load_weights,
    weights_path,
)
from keras_transfer.backbones.hub import (
    add_backbone,
    find_preset,
    last_map,
    load_backbone,
    load_preprocessing,
)
from keras_transfer.backbones.transformers import huggingface, kerashub
from keras_transfer.layers import about
from keras_transfer.layers.copying import add_copies
from keras_transfer.models.tokens import Tokens, tokens_in

_DEFAULT_SIZE = 224

Name: TypeAlias = str | os.PathLike[str] | keras.Model
Sized: TypeAlias = tuple[Name, int | tuple[int, int]]
Size: TypeAlias = int | tuple[int, int] | None
Weights: TypeAlias = str | os.PathLike[str] | None


class Beginning(NamedTuple):
    """The first part of a classifier.

    Attributes:
        name: of the backbone, or of all.
        inputs: the images.
        ends: what each backbone ends in, by what the names of its layers begin with.
        origin: what the backbones are and where their weights come from, if that is known.
        tokens: what stands in front of the patches of each that makes tokens of the images.
    """

    name: str
    inputs: keras.KerasTensor
    ends: dict[str, keras.KerasTensor]
    origin: about.Origin | None
    tokens: dict[str, Tokens]


def begin(backbone: Any, image_size: Size, weights: Weights, preprocessing: Any) -> Beginning:
    """Return the first part of a classifier; the arguments are those of `keras_transfer.classifier`."""
    if isinstance(backbone, keras.Model):
        return _given(backbone, image_size, weights, preprocessing)
    if isinstance(backbone, str) and is_application(backbone):
        return _application(backbone, image_size, weights, preprocessing)
    if isinstance(backbone, (str, os.PathLike)):
        checkpoint = huggingface.find_checkpoint(backbone)
        if checkpoint is not None:
            return _checkpoint(checkpoint, image_size, weights, preprocessing)
        return _preset(backbone, image_size, weights, preprocessing)
    if isinstance(backbone, (list, tuple)) and backbone:
        sized = [_with_size(each, image_size, backbone) for each in backbone]
        if len(sized) > 1 or image_size not in (None, sized[0][1]):
            return _several(sized, image_size, weights, preprocessing)
        return begin(*sized[0], weights, preprocessing)
    raise _no_backbone(backbone)


def given_models(backbone: Any) -> list[keras.Model]:
    """Return the models among the backbones of a classifier, which bring their weights."""
    several = backbone if isinstance(backbone, (list, tuple)) else [backbone]
    every = [each[0] if isinstance(each, (list, tuple)) else each for each in several]
    return [each for each in every if isinstance(each, keras.Model)]


def with_size(backbone: Any) -> tuple[Any, Size]:
    """Return a backbone and the size of its images, of a backbone or of such a pair; None: any size."""
    if isinstance(backbone, (list, tuple)) and len(backbone) == 2:
        return backbone[0], checked_image_size(backbone[1])
    return backbone, None


def _no_backbone(backbone: Any) -> TypeError:
    return TypeError(
        "backbone must be the name of a model in keras.applications or KerasHub, 'hf://owner/name' or a "
        "keras.Model, or a sequence of such, each alone or as (name, image_size). "
        f"Received: backbone={backbone!r}"
    )


def _with_size(one: Any, image_size: Size, backbone: Any) -> tuple[Name, Size]:
    """Return one of several backbones and the size of the images that it is to see."""
    name, size = with_size(one)
    if not isinstance(name, (str, os.PathLike, keras.Model)):
        raise _no_backbone(backbone)
    return name, image_size if size is None else size


def _several(
    sized: Sequence[tuple[Name, Size]], image_size: Size, weights: Weights, preprocessing: Any
) -> Beginning:
    """Return several backbones on the same images, each with copies of its layers behind its name."""
    if not isinstance(preprocessing, bool):
        raise ValueError(
            "preprocessing must be True or False for several backbones, as each has its own. "
            f"Received: preprocessing={preprocessing!r}"
        )
    if weights is not None and weights != "imagenet":
        raise ValueError(
            "weights must be 'imagenet' or None for several backbones; one with weights from a file can "
            f"be given as a model. Received: weights={weights!r}"
        )
    parts = []
    for backbone, size in sized:
        if isinstance(backbone, keras.Model):
            parts.append(_given(backbone, _own_size(backbone, size), "imagenet", preprocessing))
        else:
            parts.append(begin(backbone, size, weights, preprocessing))
    prefixes = _prefixes(parts)
    sizes = [part.inputs.shape[1:3] for part in parts]
    height, width = map(max, zip(*sizes, strict=True))
    if image_size is not None:
        height, width = checked_image_size(image_size)
    channels = {part.inputs.shape[3] for part in parts}
    if len(channels) > 1:
        raise ValueError(
            "backbones must take images of the same channels. "
            f"Received: backbones for {' and '.join(map(str, sorted(channels)))} channels"
        )
    inputs = keras.Input((height, width, *channels), name="image")
    ends: dict[str, keras.KerasTensor] = {}
    tokens: dict[str, Tokens] = {}
    for prefix, size, part in zip(prefixes, sizes, parts, strict=True):
        network = keras.Model(part.inputs, *part.ends.values())
        ends[prefix] = add_copies(network, inputs, _resized(inputs, size), prefix)
        if part.tokens:
            tokens[prefix] = part.tokens[""]
    return Beginning("_".join(part.name for part in parts), inputs, ends, _origin(parts), tokens)


def _own_size(backbone: keras.Model, size: Size) -> Size:
    """Return the size of the images that a given model is to see: its own, if it has one."""
    own = tuple(backbone.inputs[0].shape[1:3]) if getattr(backbone, "inputs", None) else ()
    fixed = len(own) == 2 and None not in own
    return None if fixed else _DEFAULT_SIZE if size is None else size


def _prefixes(parts: Sequence[Beginning]) -> list[str]:
    """Return what names of each backbone's layers begin with: its name; with the size, if need be."""
    if len(parts) == 1:
        return [""]
    times = Counter(part.name for part in parts)
    found = [
        part.name if times[part.name] == 1 else f"{part.name}_{'x'.join(map(str, _square(part)))}"
        for part in parts
    ]
    again = [name for name, number in Counter(found).items() if number > 1]
    if again:
        raise ValueError(
            "backbones must be different ones, or the same for images of different sizes, such as "
            "('mobilenet_v2', 160) and ('mobilenet_v2', 224); models must have different names. "
            f"Received: {again[0]!r} {Counter(found)[again[0]]} times"
        )
    return [f"{name}_" for name in found]


def _square(part: Beginning) -> list[int]:
    return list(dict.fromkeys(part.inputs.shape[1:3]))


def _resized(images: keras.KerasTensor, size: tuple[int, int]) -> keras.KerasTensor:
    """Return images in the size that a backbone is to see."""
    if tuple(images.shape[1:3]) == size:
        return images
    # Not the layer Resizing, which is called with training=True by default: where nobody says otherwise,
    # as in model(images), that holds for all layers after it, and batch norm would go by the batch.
    # Without antialias, which has no operation in ONNX.
    return keras.ops.image.resize(images, size)


def _origin(parts: Sequence[Beginning]) -> about.Origin | None:
    """Return the origin of several backbones, if all are known."""
    known = [part.origin for part in parts if part.origin is not None]
    if len(known) < len(parts):
        return None
    weights = about.SEVERAL.join(dict.fromkeys(origin.weights for origin in known))
    return about.Origin(about.SEVERAL.join(origin.backbone for origin in known), weights)


def _application(name: str, image_size: Size, weights: Weights, preprocessing: Any) -> Beginning:
    backbone = find_backbone(name)
    size = checked_image_size(_DEFAULT_SIZE if image_size is None else image_size)
    inputs = keras.Input((*size, 3), name="image")
    images = _preprocessed(inputs, preprocessing, affine_preprocessing(backbone))
    with _loading(weights):
        features = build_features(backbone, images, weights)
    origin = about.named_origin(backbone.name, weights, preset=False)
    return Beginning(backbone.name.lower(), inputs, {"": features}, origin, {})


def _given(backbone: keras.Model, image_size: Size, weights: Weights, preprocessing: Any) -> Beginning:
    if weights is not None and not (isinstance(weights, str) and weights == "imagenet"):
        raise ValueError(
            "weights are for backbones given by name; a keras.Model has its own. "
            f"Received: weights={weights!r}"
        )
    backbone = kerashub.for_images(backbone)
    transformer = kerashub.converted(backbone)
    if transformer is not None:
        return _converted(backbone.name, transformer, image_size, preprocessing)
    inputs = keras.Input(_shape_for(backbone, image_size), name="image")
    images = _preprocessed(inputs, preprocessing)
    taken: Any = getattr(backbone, "input", None)  # a dict with KerasHub; not known before it is built
    named = isinstance(taken, dict) and len(taken) == 1
    features = last_map(backbone(dict.fromkeys(taken, images) if named else images))
    return Beginning(backbone.name, inputs, {"": features}, None, _tokens(features, inputs))


def _preset(
    name: str | os.PathLike[str], image_size: Size, weights: Weights, preprocessing: Any
) -> Beginning:
    preset = find_preset(name)
    known, size = load_preprocessing(preset)
    if preprocessing is True and known is None:
        raise ValueError(
            f"the preset {preset.name!r} doesn't tell its preprocessing, as it has no "
            "image_converter.json; pass preprocessing=False or a Keras layer. "
            "Received: preprocessing=True"
        )
    with _loading(weights):
        backbone = kerashub.for_images(load_backbone(preset, weights))
    origin = about.named_origin(preset.name, weights, preset=True)
    transformer = kerashub.converted(backbone)
    if transformer is not None:
        return _converted(preset.name, transformer, image_size, preprocessing, known)._replace(
            origin=origin
        )
    inputs = keras.Input(_shape_for(backbone, image_size, size or _DEFAULT_SIZE), name="image")
    features = add_backbone(backbone, inputs, _preprocessed(inputs, preprocessing, known))
    return Beginning(preset.name, inputs, {"": features}, origin, _tokens(features, inputs))


def _converted(
    name: str,
    transformer: kerashub.Converted,
    image_size: Size,
    preprocessing: Any,
    known: Preprocessing | None = None,
) -> Beginning:
    """Return a transformer of KerasHub, of stock layers; its positions suit any size of images."""
    own = tuple(transformer.settings["image_size"])
    inputs = keras.Input(
        (*(own if image_size is None else checked_image_size(image_size)), 3), name="image"
    )
    images = _preprocessed(inputs, preprocessing, known)
    found = huggingface.add_converted(*transformer, images)
    return Beginning(
        name, inputs, {"": found.features}, None, {"": Tokens(found.prefix, found.of_class)}
    )


def _tokens(features: keras.KerasTensor, images: keras.KerasTensor) -> dict[str, Tokens]:
    """Return what stands in front of the patches, if a backbone that doesn't say it ends in tokens."""
    return {"": tokens_in(features, images)} if len(features.shape) == 3 else {}


def _checkpoint(
    checkpoint: huggingface.Checkpoint, image_size: Size, weights: Weights, preprocessing: Any
) -> Beginning:
    path = weights_path(weights)
    own, usual = huggingface.load_preprocessing(checkpoint)
    size = usual if image_size is None else checked_image_size(image_size)
    inputs = keras.Input((*size, 3), name="image")
    images = _preprocessed(inputs, preprocessing, own)
    with _loading(weights):
        found = huggingface.add_checkpoint(
            checkpoint, images, pretrained=weights is not None and path is None
        )
        if path is not None:
            load_weights(keras.Model(inputs, found.features, name=checkpoint.name), path)
    on_the_hub = checkpoint.source.startswith(huggingface.HUB)
    known_by = checkpoint.source if on_the_hub else checkpoint.name
    origin = about.named_origin(known_by, weights, preset=True)
    tokens = {"": Tokens(found.prefix, found.of_class)}
    return Beginning(checkpoint.name, inputs, {"": found.features}, origin, tokens)


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
    of_maps = isinstance(getattr(backbone, "output", None), dict)
    if not (len(ends[0]) == 1 and (len(ends[1]) == 1 or of_maps)):
        raise ValueError(
            "backbone must be functional or sequential, built, with one input and one output, or a dict "
            f"of feature maps. Received: backbone={backbone!r}"
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
    if any(len(output.shape) not in (2, 3, 4) for output in backbone.outputs):
        raise ValueError(
            "backbone must give feature maps (batch, rows, columns, channels), tokens (batch, tokens, "
            "channels) or vectors (batch, channels). Received: a backbone whose output has shape "
            f"{', '.join(str(output.shape) for output in backbone.outputs)}"
        )
    return (*(usual if s is None else s for s in size), own[2] or 3)  # what is left open is as usual
