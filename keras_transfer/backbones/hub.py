"""Pretrained backbones of KerasHub, which the extra `hub` brings: ResNet-18 is one of them."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import rich.box
import rich.table
import rich.text

from keras_transfer._lib import network
from keras_transfer._lib.attributes import warnings_ignored
from keras_transfer._lib.checks import did_you_mean
from keras_transfer._lib.extras import optional
from keras_transfer._lib.tables import PrintsAsTable
from keras_transfer.backbones.applications import (
    Preprocessing,
    backbone_names,
    load_weights,
    plain_name,
    weights_path,
)
from keras_transfer.backbones.transformers.known import list_checkpoints
from keras_transfer.layers.copying import add_copies

# KerasHub has no classifier of these; CLIP's and SigLIP's part for images is taken.
_WITHOUT_CLASSIFIER = ("CLIPBackbone", "DINOV2Backbone", "DINOV3Backbone", "SigLIPBackbone")


@dataclass(frozen=True)
class PresetRow:
    """One preset of a `PresetTable`, as KerasHub describes it.

    Attributes:
        name: the preset's name, such as "resnet_18_imagenet".
        family: the architecture it belongs to, such as "resnet".
        parameters: how many numbers its weights hold; KerasHub counts the classifier of some presets.
        description: what it is and what it was trained on.
    """

    name: str
    family: str
    parameters: int
    description: str


class PresetTable(PrintsAsTable, tuple[PresetRow, ...]):
    """The networks for images of KerasHub: a tuple of `PresetRow`s that prints as a table."""

    def __rich__(self) -> rich.table.Table:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        table.add_column("preset", no_wrap=True)
        table.add_column("parameters", justify="right", no_wrap=True)
        table.add_column("description")
        for row in self:
            # A description is no markup, whatever brackets it has.
            table.add_row(row.name, f"{row.parameters:,}", rich.text.Text(row.description))
        return table


def list_presets() -> PresetTable:
    """Return the presets of KerasHub of networks for images, without any download."""
    rows = ((name, preset["metadata"]) for name, preset in _builtin_presets().items())
    return PresetTable(
        PresetRow(name, about["path"], about["params"], about["description"]) for name, about in rows
    )


@dataclass(frozen=True)
class Preset:
    """A preset of KerasHub.

    Attributes:
        name: its name, or that of its folder.
        source: what KerasHub loads it by: a name or the path of a folder.
        handle: where Kaggle keeps it, or None for a folder.
    """

    name: str
    source: str
    handle: str | None


def find_preset(name: str | os.PathLike[str]) -> Preset:
    """Return the preset of KerasHub that `name` means; nothing is loaded yet.

    Args:
        name: a name in any spelling that KerasHub knows ("resnet_18_imagenet"), or the path of a folder
            that a backbone's `save_to_preset` wrote.

    Raises:
        ValueError: there is no such preset; the message names the nearest backbones, those of
            `keras.applications` among them.
        ImportError: `name` is a folder, and KerasHub is not installed.
    """
    if Path(name, "config.json").is_file():
        _keras_hub()
        return Preset(Path(name).resolve().name, os.fspath(name), None)
    plain, where = plain_name(os.fspath(name)), "in keras.applications"
    presets: Mapping[str, Any] = {}
    try:
        presets = _builtin_presets()
        where += " or KerasHub, and no preset's folder"
    except ImportError as error:
        where += f" ({error})"
    found = {plain_name(preset): preset for preset in presets}.get(plain)
    if found is not None:
        return Preset(found, found, presets[found]["kaggle_handle"].removeprefix("kaggle://"))
    names = [*backbone_names(), *(row.name for row in list_checkpoints()), *presets]
    longer = [full for full in names if plain and plain_name(full).startswith(plain)][:3]
    near = f"; did you mean {', '.join(longer)}?" if longer else did_you_mean(plain, names)
    raise ValueError(f"no backbone called {str(name)!r} {where}{near} Received: backbone={name!r}")


def load_backbone(preset: Preset, weights: str | os.PathLike[str] | None) -> keras.Model:
    """Return the backbone of a preset, with weights as `classifier` takes them.

    Nothing of a preset is executed: KerasHub reads its architecture from JSON, in Keras' safe mode.

    Raises:
        ValueError: the preset or the file of weights is damaged or no backbone.
        ConnectionError: the preset is not in Kaggle's cache and could not be fetched.
    """
    path = weights_path(weights)
    pretrained = weights is not None and path is None
    with warnings_ignored(".* was passed an input with a mask", UserWarning):  # of its own, in Swin
        backbone = _from_preset(_keras_hub().models.Backbone, preset, load_weights=pretrained)
    if path is not None:
        load_weights(backbone, path)
    return backbone


def load_preprocessing(preset: Preset) -> tuple[Preprocessing | None, int | None]:
    """Return the preprocessing of a preset and the size of its images, as far as it tells them."""
    try:
        converter = _from_preset(_keras_hub().layers.ImageConverter, preset)
    except ValueError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None, None
        raise
    scale, offset = (
        tuple(np.broadcast_to(plain if value is None else value, 3).astype(float).tolist())
        for value, plain in ((converter.scale, 1), (converter.offset, 0))
    )
    size = converter.image_size
    return Preprocessing(False, scale, offset), size and size[0]


def add_backbone(
    backbone: keras.Model, inputs: keras.KerasTensor, images: keras.KerasTensor
) -> keras.KerasTensor:
    """Add a backbone to a graph: layer by layer where these are stock Keras ones, else as one layer.

    The layers are copied with their names and weights. A model that is made of them alone, as that of a
    ResNet, VGG or DenseNet, is saved without KerasHub's class, so that stock Keras opens it.

    Args:
        backbone: a KerasHub backbone with one input, and one output or a dict of feature maps, of which
            the smallest counts, as of HGNetV2.
        inputs: the symbolic input of the graph.
        images: what the backbone is to see, made from `inputs`.
    """
    layers = keras.Model(backbone.inputs, backbone.outputs).layers
    if any(type(layer).__module__.partition(".")[0] != "keras" for layer in layers):
        return last_map(backbone(keras.tree.pack_sequence_as(backbone.input, [images])))
    return add_copies(keras.Model(backbone.inputs, last_map(backbone.output)), inputs, images)


def last_map(given: Any) -> keras.KerasTensor:
    """Return what a backbone ends in: of a dict of maps, as HGNetV2 gives it, the smallest map."""
    if not isinstance(given, dict):
        return given
    return min(given.values(), key=lambda each: math.prod(size or 1 for size in each.shape[1:-1]))


def _keras_hub() -> Any:
    return optional("keras_hub", "the backbones of KerasHub need keras-hub", "hub")


def _builtin_presets() -> Mapping[str, Any]:
    """Return what KerasHub says of each preset of a network for images, but those of names of ours."""
    models = _keras_hub().models
    found = dict(models.ImageClassifier.presets)
    for name in _WITHOUT_CLASSIFIER:
        found |= getattr(models, name).presets
    ours = {plain_name(row.name) for row in list_checkpoints()}
    # Sorted, as KerasHub keeps its classes in a set.
    return {name: found[name] for name in sorted(found) if plain_name(name) not in ours}


def _from_preset(kind: Any, preset: Preset, **arguments: Any) -> Any:
    """Load an object of class `kind`; where the preset has none, a `FileNotFoundError` is the cause."""
    import requests  # what Kaggle's client downloads with

    try:
        if preset.handle is not None:
            import kagglehub

            # The smallest file, so that no network is noticed soon; Kaggle's client caches it.
            network.within_deadline(lambda: kagglehub.model_download(preset.handle, "config.json"))
        return kind.from_preset(preset.source, **arguments)
    except (requests.RequestException, TimeoutError) as error:
        raise ConnectionError(
            f"could not fetch the preset {preset.name} from Kaggle, whose first answer must come within "
            f"{network.TIMEOUT_SECONDS:g} s. Check the network, or pass the path of a folder that the "
            "save_to_preset of the backbone and of its image converter wrote elsewhere. "
            f"Received: {error}"
        ) from error
    # What Keras makes of a damaged config.json, h5py of damaged weights.
    except (AttributeError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"the preset {preset.source!r} can't be loaded as {kind.__name__}: {error}. "
            f"Received: backbone={preset.source!r}"
        ) from error
