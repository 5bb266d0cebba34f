"""The pretrained backbones there are, and what one has to know of each."""

import json
import os
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, overload

import keras
import rich.box
import rich.table
import rich.text

from keras_transfer._lib.checks import checked_choice
from keras_transfer._lib.keras_private.variables import undrawn
from keras_transfer._lib.tables import PrintsAsTable
from keras_transfer.backbones.applications import (
    Backbone,
    Preprocessing,
    affine_preprocessing,
    backbone_names,
    cached_sizes,
    find_backbone,
    is_application,
)
from keras_transfer.backbones.hub import (
    Preset,
    PresetTable,
    find_preset,
    list_presets,
    load_preprocessing,
)
from keras_transfer.backbones.transformers.huggingface import HUB, find_checkpoint
from keras_transfer.backbones.transformers.huggingface import (
    load_preprocessing as checkpoint_preprocessing,
)
from keras_transfer.backbones.transformers.known import (
    CheckpointTable,
    known_checkpoint,
    list_checkpoints,
)
from keras_transfer.layers.graph import along, has_graph, leaf_layers, leaves_of
from keras_transfer.layers.groups import layer_groups
from keras_transfer.models.classifier import classifier

_SOURCES = ("applications", "cached", "hub", "transformers")
_FACTS = Path(__file__).with_name("backbones.json")
_IMAGENET = (
    "The weights were trained on ImageNet, whose terms of access allow the images for non-commercial "
    "research and educational purposes only (https://image-net.org/download.php). Whether that binds "
    "the weights is not settled: ask a lawyer before any commercial use."
)
# By module of keras.applications, as docs/templates/applications.md of Keras 2 states it. Neither that
# page nor Keras 3 says anything of the later families.
_STATED_LICENCES = {
    "densenet": "BSD 3-clause",
    "inception_resnet_v2": "Apache",
    "inception_v3": "Apache",
    "mobilenet": "Apache",
    "mobilenet_v2": "Apache",
    "nasnet": "Apache",
    "resnet": "MIT (Kaiming He)",
    "resnet_v2": "BSD (Facebook)",
    "vgg16": "Creative Commons Attribution (VGG, Oxford)",
    "vgg19": "Creative Commons Attribution (VGG, Oxford)",
    "xception": "MIT",
}


@dataclass(frozen=True)
class BackboneRow:
    """One backbone of a `BackboneTable`.

    Attributes:
        name: its name, such as "ResNet50".
        parameters: how many numbers its weights hold, batch-norm statistics and the classifier for
            ImageNet's 1,000 classes included; None for a backbone of KerasHub, which comes without.
        backbone_parameters: the same without the classifier.
        megabytes: the size of all weights as float32, in units of 10**6 bytes.
        depth: how many layers with a kernel (convolutions, a separable one counted once, and dense
            layers) stand on the longest path from the image to the classes: the number in names such as
            VGG16, ResNet50 and DenseNet121. Keras' own documentation counts every layer instead. For a
            backbone of KerasHub, a classifier of one dense layer is counted.
        input_size: height and width of the images that it is made for, in pixels.
        smallest_input_size: the least height and width it can be built for; None where it has no limit
            of its own.
        head: the layers of its classifier for ImageNet, in order; empty for a backbone of KerasHub.
        preprocessing: what it wants done to RGB images of 0 to 255, None if that isn't known.
    """

    name: str
    parameters: int | None
    backbone_parameters: int
    megabytes: float
    depth: int
    input_size: int
    smallest_input_size: int | None
    head: tuple[str, ...]
    preprocessing: Preprocessing | None


class BackboneTable(PrintsAsTable, tuple[BackboneRow, ...]):
    """The backbones there are: a tuple of `BackboneRow`s that prints as a table."""

    def __rich__(self) -> rich.table.Table:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        table.add_column("backbone", no_wrap=True)
        for column in ("parameters", "MB", "depth", "input", "smallest"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("preprocessing")
        for row in self:
            columns = ("parameters", "megabytes", "depth", "input_size", "smallest_input_size")
            values = [getattr(row, name) for name in (*columns, "preprocessing")]
            table.add_row(row.name, *map(_shown, values))
        return table


@dataclass(frozen=True, repr=False)
class BackboneDescription(PrintsAsTable, BackboneRow):
    """All about one backbone; prints as a table.

    Attributes:
        groups: the names of its layer groups from input to output, without the head.
        licence: what is known of the terms of its weights.

    The other attributes are those of `BackboneRow`.
    """

    groups: tuple[str, ...]
    licence: str

    def __rich__(self) -> rich.table.Table:
        table = rich.table.Table(box=rich.box.SIMPLE, show_header=False)
        for field in fields(self):
            text = rich.text.Text(_shown(getattr(self, field.name)))  # no markup, whatever brackets
            table.add_row(field.name.replace("_", " "), text)
        return table


@overload
def list_backbones(source: Literal["applications", "cached"] = ...) -> BackboneTable: ...


@overload
def list_backbones(source: Literal["hub"]) -> PresetTable: ...


@overload
def list_backbones(source: Literal["transformers"]) -> CheckpointTable: ...


def list_backbones(
    source: Literal["applications", "cached", "hub", "transformers"] = "applications",
) -> Any:
    """Return the pretrained backbones that `classifier` takes by name.

    Nothing is downloaded. For "cached" those of which Keras' cache has a file are built, up to where
    Keras would load it; otherwise no model is.

    Args:
        source: "applications": those of `keras.applications`. "cached": those of them whose ImageNet
            weights are in the folder models/ of Keras' home (~/.keras, or $KERAS_HOME). Where there are
            other weights for other sizes of images, as of MobileNetV2, there is a row for each that is
            there, with this size as `input_size`. "hub": the networks for images of KerasHub
            (extra `hub`), as it describes them. "transformers": the vision transformers whose weights
            are on the Hugging Face Hub (extra `hf`), with their licences: ViT, DeiT, DINOv2, DINOv3,
            SigLIP, CLIP and Swin. `classifier` takes others of these families by "hf://owner/name".

    Returns:
        A table to print, or to go through row by row: of `BackboneRow`s, for "hub" of
        `keras_transfer.backbones.hub.PresetRow`s, or for "transformers" of
        `keras_transfer.backbones.transformers.known.CheckpointRow`s.

    Raises:
        ValueError: `source` is none of these.
        ImportError: KerasHub is not installed.

    Example:
        >>> import keras_transfer as kt
        >>> small = [row for row in kt.list_backbones() if row.parameters < 4_000_000]
        >>> [(row.name, row.depth, row.smallest_input_size) for row in small]
        [('MobileNetV2', 53, 32), ('MobileNetV3Small', 54, 32)]
        >>> [row.name for row in kt.list_backbones("transformers") if row.parameters < 7_000_000]
        ['deit-tiny-distilled-patch16-224']
    """
    checked_choice("source", source, _SOURCES)
    if source == "transformers":
        return list_checkpoints()
    if source == "hub":
        return list_presets()
    rows = [BackboneRow(**_application(name)) for name in backbone_names()]
    if source == "cached":
        rows = [replace(row, input_size=size) for row in rows for size in _cached_sizes(row)]
    return BackboneTable(rows)


def _cached_sizes(row: BackboneRow) -> list[int]:
    return cached_sizes(find_backbone(row.name), row.input_size, row.smallest_input_size or 1)


def describe_backbone(name: str | os.PathLike[str]) -> BackboneDescription:
    """Return all about one backbone.

    The network is built, with random weights, to see its layer groups; that may take some seconds.

    Args:
        name: a name that `classifier` takes: of a model in `keras.applications`, of a vision transformer
            of `list_backbones("transformers")`, of a preset of KerasHub or "hf://owner/name" (whose
            configuration is downloaded, the weights are not), or the path of a folder.

    Returns:
        The description, which prints as a table.

    Raises:
        ValueError: there is no such backbone (the message names the nearest ones), or Keras can't build
            it on this backend.
        ConnectionError: the preset's configuration could not be fetched.

    Example:
        >>> import keras_transfer as kt
        >>> vgg16 = kt.describe_backbone("vgg16")
        >>> vgg16.groups
        ('block1', 'block2', 'block3', 'block4', 'block5')
        >>> vgg16.head
        ('Flatten', 'Dense 4096', 'Dense 4096', 'Dense 1000')
        >>> str(vgg16.preprocessing)
        'BGR: pixel - (103.939, 116.779, 123.68)'
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(f"name must be the name of a backbone. Received: name={name!r}")
    if isinstance(name, str) and is_application(name):
        backbone = find_backbone(name)
        facts = _application(backbone.name)
        size = facts["smallest_input_size"]
        model = classifier(backbone.name, 2, image_size=size, weights=None)
    else:
        found = find_checkpoint(name) or find_preset(name)
        if isinstance(found, Preset):
            preprocessing, size = load_preprocessing(found)
        else:
            preprocessing = checkpoint_preprocessing(found)[0]
        with undrawn():
            model = classifier(name, 2, weights=None, preprocessing=preprocessing is not None)
        facts = _preset(found.name, model) | {"preprocessing": preprocessing}
    groups = tuple(group.name for group in layer_groups(model) if group.name != "head")
    return BackboneDescription(**facts, groups=groups, licence=weights_licence(name))


def input_size(name: str | os.PathLike[str]) -> int:
    """Return the height and width that a backbone is made for; one of KerasHub is built for it.

    Raises:
        ValueError: there is no such backbone.
    """
    if isinstance(name, str) and is_application(name):
        return _application(find_backbone(name).name)["input_size"]
    checkpoint = find_checkpoint(name)
    if checkpoint is not None:
        return checkpoint_preprocessing(checkpoint)[1][0]
    return describe_backbone(name).input_size


def weights_licence(name: str | os.PathLike[str]) -> str:
    """Return what is known of the terms of a backbone's pretrained weights; no network is built.

    Raises:
        ValueError: there is no such backbone.
    """
    if isinstance(name, str) and is_application(name):
        module = find_backbone(name).build.__module__.rpartition(".")[2]
        stated = _STATED_LICENCES.get(module)
        return f"Keras 2 stated for its weights: {stated}. {_IMAGENET}" if stated else _IMAGENET
    known = known_checkpoint(os.fspath(name))
    if known is not None:
        return f"{known.terms}."
    checkpoint = find_checkpoint(name)
    if checkpoint is not None:
        page = f"https://huggingface.co/{checkpoint.source.removeprefix(HUB)}"
        is_folder = not checkpoint.source.startswith(HUB)
        return "not known, as it came from a folder: ask who made it." if is_folder else f"see {page}."
    preset = find_preset(name)
    licence = "KerasHub states none" + (f"; see {preset.handle} on Kaggle" if preset.handle else "")
    return licence + (f". {_IMAGENET}" if "imagenet" in preset.name else ".")


def built_facts(backbone: Backbone) -> dict[str, Any]:
    """Return of a `BackboneRow` what only building `backbone` tells; `backbones.json` keeps it for each.

    Raises:
        ValueError: Keras can't build it on this backend.
    """
    full = backbone.build(weights=None)
    usual = full.input_shape[1] or 224  # MobileNetV3 leaves it open
    for smallest in range(1, usual + 1):
        try:
            body = backbone.build(include_top=False, weights=None, input_shape=(smallest, smallest, 3))
            break
        except ValueError:
            if smallest == usual:
                raise

    # Names are no guide: those of layers without one depend on what was built before.
    def kind(layer: keras.Layer) -> Any:
        return type(layer), [weight.shape for weight in layer.weights]

    pairs = zip(leaf_layers(full), leaf_layers(body), strict=False)
    shared = list(takewhile(lambda pair: kind(pair[0]) == kind(pair[1]), pairs))
    head = []
    for layer in leaf_layers(full)[len(shared) :]:
        units = f" {layer.output.shape[-1]}" if _has_kernel(layer) else ""
        head.append(f"{type(layer).__name__}{units}")
    return {
        "parameters": full.count_params(),
        "backbone_parameters": body.count_params(),
        "depth": _depth(full),
        "input_size": usual,
        "smallest_input_size": smallest,
        "head": head,
    }


@cache
def _application(name: str) -> dict[str, Any]:
    """Return the attributes of a `BackboneRow`."""
    backbone = find_backbone(name)
    # A newer Keras may have backbones that the file hasn't.
    facts = json.loads(_FACTS.read_text(encoding="utf-8")).get(name) or built_facts(backbone)
    return facts | {
        "name": name,
        "megabytes": 4e-6 * facts["parameters"],
        "head": tuple(facts["head"]),
        "preprocessing": affine_preprocessing(backbone),
    }


def _preset(name: str, model: keras.Model) -> dict[str, Any]:
    """Return the attributes of a `BackboneRow` from a classifier on a preset of KerasHub."""
    parameters = model.count_params() - model.get_layer("predictions").count_params()
    return {
        "name": name,
        "parameters": None,
        "backbone_parameters": parameters,
        "megabytes": 4e-6 * parameters,
        "depth": _depth(model),
        "input_size": model.input_shape[1],
        "smallest_input_size": None,
        "head": (),
    }


def _depth(model: keras.Model) -> int:
    """Return how many layers with a kernel are on the longest path through `model`."""

    def deeper(operation: keras.Operation, depth: float) -> float:
        walked = isinstance(operation, keras.Model) and has_graph(operation)
        return depth if walked else depth + sum(map(_has_kernel, leaves_of(operation)))

    return int(along(model, 0, deeper))


def _has_kernel(layer: keras.Operation) -> bool:
    return any(len(weight.shape) > 1 for weight in getattr(layer, "weights", ()))


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    if isinstance(value, (int, float)):
        return f"{value:,.0f}"
    return "-" if value is None else str(value)
