"""Checkpoints of Hugging Face's transformers, from a folder or from the Hub, as networks of Keras."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_transfer._lib import network
from keras_transfer._lib.extras import optional
from keras_transfer.backbones.applications import Preprocessing
from keras_transfer.backbones.transformers.known import CheckpointRow, known_checkpoint
from keras_transfer.backbones.transformers.names import Weights, names_of, weights_of
from keras_transfer.backbones.transformers.parts import weighted_layers
from keras_transfer.backbones.transformers.positions import grid_of
from keras_transfer.backbones.transformers.safetensors import Tensors
from keras_transfer.backbones.transformers.settings import Config, network_of, vision_part
from keras_transfer.backbones.transformers.swin import Swin, swin
from keras_transfer.backbones.transformers.vit import vision_transformer

HUB = "hf://"
_LARGEST_JSON = 64 * 2**20
_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
# Means and deviations of pixels from 0 to 1, where a checkpoint doesn't tell its own.
_USUAL = {
    "vit": (_HALF, _HALF),
    "deit": _IMAGENET,
    "dinov2": _IMAGENET,
    "dinov2_with_registers": _IMAGENET,
    "dinov3_vit": _IMAGENET,
    "clip_vision_model": _CLIP,
    "siglip_vision_model": (_HALF, _HALF),
    "swin": _IMAGENET,
}


@dataclass(frozen=True)
class Checkpoint:
    """A network that was published, in the files of transformers.

    Attributes:
        name: its name, or that of its folder.
        source: what it was asked for by.
        settings: its `config.json`, or the part of it that is about the network for images.
        config: what the network is made of.
        file: from the name of a file to its path, or None if there is none.
        told: its `preprocessor_config.json`, as far as that is known without the file; or None.
    """

    name: str
    source: str
    settings: Mapping[str, Any]
    config: Config
    file: Callable[[str], Path | None]
    told: Mapping[str, Any] | None = None

    @property
    def kind(self) -> str:
        """The family, as transformers calls it."""
        return self.settings["model_type"]


class Features(NamedTuple):
    """What a network gives.

    Attributes:
        features: the symbolic tensor.
        kind: "tokens" of shape (batch, tokens, channels), "map" of shape (batch, rows, columns,
            channels) or "vector" of shape (batch, channels).
        prefix: how many tokens stand before those of the patches, at the end or inside of it.
        of_class: how many of these, from the first on, stand for the whole image: two in DeiT.
    """

    features: keras.KerasTensor
    kind: str
    prefix: int
    of_class: int


def find_checkpoint(name: str | os.PathLike[str]) -> Checkpoint | None:
    """Return the checkpoint that `name` means, or None if it means something else.

    Of one on the Hub that isn't in `known.list_checkpoints`, its `config.json` is fetched, where it
    isn't in the cache; no weights yet.

    Args:
        name: one of `known.list_checkpoints` in any spelling, "hf://owner/name", or the path of a folder
            with a `config.json` of transformers.

    Raises:
        ValueError: there is no such checkpoint on the Hub, it can't be read without a licence, or it is
            of a family that isn't known.
        ConnectionError: it is not in the cache and could not be fetched.
        ImportError: it is on the Hub, and huggingface-hub is not installed.

    Example:
        >>> from keras_transfer.backbones.transformers.huggingface import find_checkpoint
        >>> find_checkpoint("vgg16") is None
        True
    """
    source = os.fspath(name)
    folder = Path(source)
    if not (folder / "config.json").is_file():
        known = known_checkpoint(source)
        if known is not None:
            return _known(known)
        return _on_the_hub(source) if source.startswith(HUB) else None
    try:
        settings = _json(folder / "config.json")
    except ValueError as error:
        raise ValueError(
            f"the folder {source!r} can't be loaded as a backbone: {error} Received: backbone={source!r}"
        ) from error
    if "model_type" not in settings:  # a preset of KerasHub has no such thing
        return None

    def file(wanted: str) -> Path | None:
        path = folder / wanted
        return path if path.is_file() else None

    return _checkpoint(folder.resolve().name, source, settings, file)


def _known(row: CheckpointRow) -> Checkpoint:
    network, told = network_of(row.settings), {"size": row.input_size, **row.preprocessing}
    file = _Fetched(row.repository)
    return Checkpoint(row.name, HUB + row.repository, row.settings, network, file, told)


def _on_the_hub(source: str) -> Checkpoint:
    owner, _, name = source.removeprefix(HUB).partition("/")
    if not owner or not name or "/" in name:
        raise ValueError(
            "a backbone on the Hub must be 'hf://owner/name', such as 'hf://facebook/dinov2-small'. "
            f"Received: backbone={source!r}"
        )
    file = _Fetched(f"{owner}/{name}")
    path = file("config.json")
    settings = {} if path is None else _json(path)
    if "model_type" not in settings:
        raise ValueError(
            "a backbone on the Hub must have a config.json of transformers, with a model_type. "
            f"Received: backbone={source!r}"
        )
    return _checkpoint(name, source, settings, file)


def _checkpoint(
    name: str, source: str, settings: Mapping[str, Any], file: Callable[[str], Path | None]
) -> Checkpoint:
    try:
        part = vision_part(settings)
        return Checkpoint(name, source, part, network_of(part), file)
    except ValueError as error:
        raise ValueError(
            f"the config.json of {source!r} can't be used as a backbone: {error} Received: "
            f"backbone={source!r}"
        ) from error


@dataclass(frozen=True)
class _Fetched:
    """Files of a repository on the Hub, each fetched when it is asked for, unless it is in the cache."""

    repository: str

    def __call__(self, wanted: str) -> Path | None:
        hub = optional("huggingface_hub", "backbones of the Hugging Face Hub need huggingface-hub", "hf")
        errors = hub.errors

        def fetch() -> Path:
            return Path(
                hub.hf_hub_download(self.repository, wanted, etag_timeout=network.TIMEOUT_SECONDS)
            )

        page = f"https://huggingface.co/{self.repository}"
        try:
            # A short file, so that no network is noticed soon; a long one may take its time.
            return network.within_deadline(fetch) if wanted == "config.json" else fetch()
        except errors.GatedRepoError as error:
            raise ValueError(
                f"{self.repository} is behind a licence: accept it at {page}, then run "
                "`hf auth login` (or `huggingface-cli login`), or set HF_TOKEN. "
                f"Received: backbone={HUB + self.repository!r}"
            ) from error
        except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
            raise ValueError(
                f"there is no {page}, or it is private: then run `hf auth login` (or `huggingface-cli "
                f"login`). Received: backbone={HUB + self.repository!r}"
            ) from error
        except errors.RemoteEntryNotFoundError:
            return None
        except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
            raise ConnectionError(
                f"could not fetch {wanted} of {page}, whose first answer must come within "
                f"{network.TIMEOUT_SECONDS:g} s. Check the network, or pass the path of a folder with "
                f"the files of that page. Received: {error}"
            ) from error


def _json(path: Path) -> dict[str, Any]:
    """Return what a file of JSON has, if that is an object."""
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError("it is too large")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} can't be read: {error}. Received: {str(path)!r}") from error
    return content


def load_preprocessing(checkpoint: Checkpoint) -> tuple[Preprocessing, tuple[int, int]]:
    """Return what a checkpoint wants done to images, and the size in pixels that they should have.

    That is what its `preprocessor_config.json` says, else what is usual for its family.

    Raises:
        ValueError: the file makes no sense.
    """
    told = checkpoint.told
    if told is None:
        path = checkpoint.file("preprocessor_config.json")
        told = {} if path is None else _json(path)
        told = told.get("image_processor", told)
    usual_mean, usual_deviation = _USUAL[checkpoint.kind]
    factor = told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 1.0
    mean: Any = (0.0, 0.0, 0.0)
    deviation: Any = (1.0, 1.0, 1.0)
    if told.get("do_normalize", True):
        mean, deviation = told.get("image_mean", usual_mean), told.get("image_std", usual_deviation)
    mean, deviation = _channels("image_mean", mean), _channels("image_std", deviation)
    if not isinstance(factor, (int, float)) or not factor > 0 or min(deviation) <= 0:
        raise ValueError(
            "rescale_factor and image_std must be above 0. "
            f"Received: rescale_factor={factor!r}, image_std={deviation!r}"
        )
    scale = tuple(factor / each for each in deviation)
    # Not -0.0, which prints as such.
    offset = tuple(0.0 - one / other for one, other in zip(mean, deviation, strict=True))
    return Preprocessing(False, scale, offset), _size(checkpoint.config, told)


def _channels(name: str, values: Any) -> tuple[float, ...]:
    """Return three numbers, of which one counts for all."""
    several = list(values) if isinstance(values, (list, tuple)) else [values] * 3
    if len(several) != 3 or not all(
        isinstance(each, (int, float)) and not isinstance(each, bool) for each in several
    ):
        raise ValueError(f"{name} must be three numbers. Received: {name}={values!r}")
    return tuple(map(float, several))


def _size(config: Config, told: Mapping[str, Any]) -> tuple[int, int]:
    """Return the size that images are brought to, if the network takes such; else its own."""
    cut = told.get("do_center_crop") and told.get("crop_size")
    size = cut or told.get("size")
    if isinstance(size, Mapping):
        short = size.get("shortest_edge")
        size = (size.get("height", short), size.get("width", short))
    pair = size if isinstance(size, (list, tuple)) else (size, size)
    if len(pair) != 2 or not all(type(each) is int for each in pair):
        return config.image_size
    height, width = pair
    try:
        grid_of((height, width), config.patch, config.image_size)
    except ValueError:
        return config.image_size
    return height, width


def add_checkpoint(
    checkpoint: Checkpoint, images: keras.KerasTensor, *, pretrained: bool = True
) -> Features:
    """Add the network of a checkpoint to a graph, layer by layer, in stock Keras layers.

    Args:
        checkpoint: the checkpoint.
        images: the symbolic images as the network takes them, of shape (batch, height, width, 3).
            Positions that were learned are interpolated for images of another size than its own.
        pretrained: whether it gets its weights.

    Raises:
        ValueError: the images' size fits no whole number of patches; or the weights are damaged, belong
            to another network, or are there in no file of safetensors.
        ConnectionError: the weights are not in the cache and could not be fetched.
    """
    config = checkpoint.config
    features = _network(config, images)
    if pretrained:
        try:
            _load(checkpoint.kind, config, images, features, Tensors(_files(checkpoint)))
        except ValueError as error:
            raise ValueError(
                f"the weights of {checkpoint.source!r} can't be loaded: {error} "
                f"Received: backbone={checkpoint.source!r}"
            ) from error
    return _told(config, features)


def add_converted(
    settings: Mapping[str, Any], tensors: Mapping[str, np.ndarray], images: keras.KerasTensor
) -> Features:
    """Add a network to a graph as `add_checkpoint` does, with tensors that are in memory.

    Args:
        settings: as in `config.json`.
        tensors: the weights by the names that they have in files of transformers.
        images: as in `add_checkpoint`.

    Raises:
        ValueError: the images' size fits no whole number of patches, or the tensors another network.
    """
    config = network_of(settings)
    features = _network(config, images)
    _load(settings["model_type"], config, images, features, tensors)
    return _told(config, features)


def _network(config: Config, images: keras.KerasTensor) -> keras.KerasTensor:
    return swin(config, images) if isinstance(config, Swin) else vision_transformer(config, images)


def _load(
    kind: str,
    config: Config,
    images: keras.KerasTensor,
    features: keras.KerasTensor,
    tensors: Mapping[str, np.ndarray],
) -> None:
    """Give the layers between images and features their weights."""
    grid = grid_of(images.shape[1:3], config.patch, config.image_size)
    given = weights_of(names_of(kind, config), config, tensors, grid)
    _assign(weighted_layers(images, features), given)


def _told(config: Config, features: keras.KerasTensor) -> Features:
    kind = {2: "vector", 3: "tokens", 4: "map"}[len(features.shape)]
    if isinstance(config, Swin):
        return Features(features, kind, 0, 0)
    return Features(features, kind, config.prefix, config.class_tokens)


def _assign(layers: dict[str, Any], weights: Iterable[Weights]) -> None:
    """Give each layer its weights, if these have the right shape, and every layer has some."""
    for name, tensors, arrays in weights:
        layer = layers.pop(name, None)
        wanted = [] if layer is None else [tuple(variable.shape) for variable in layer.weights]
        found = [array.shape for array in arrays]
        if wanted != found:
            raise ValueError(
                f"{' and '.join(map(repr, tensors))} must fit the layer {name!r} with weights of shape "
                f"{wanted}; config.json may belong to another network. Received: {found}"
            )
        layer.set_weights(arrays)
    if layers:
        raise ValueError(f"there must be weights for the layer {next(iter(layers))!r}. Received: none")


def _files(checkpoint: Checkpoint) -> list[Path]:
    """Return the files of weights, one or several that an index lists."""
    path = checkpoint.file("model.safetensors")
    if path is not None:
        return [path]
    index = checkpoint.file("model.safetensors.index.json")
    if index is None:
        raise ValueError(
            "the weights must be in model.safetensors, or in several files with an index beside them; "
            "other formats can run code when they are read. Received: neither file"
        )
    listed = _json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise ValueError(f"{index.name} must have a weight_map. Received: {str(index)!r}")
    paths = []
    for name in sorted(set(listed.values())):
        # Nothing but a plain name, so that no file outside of the folder is read.
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{index.name} must list files of safetensors beside it. Received: {name!r}"
            )
        found = checkpoint.file(name)
        if found is None:
            raise ValueError(f"there must be a file {name}, as {index.name} says. Received: none")
        paths.append(found)
    return paths
