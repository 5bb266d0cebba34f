"""Pretrained backbones of `keras.applications`: finding, building and preprocessing for them."""

import os
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_transfer._messages import did_you_mean
from keras_transfer._network import fetching


@dataclass(frozen=True)
class Backbone:
    """A backbone of `keras.applications`.

    Attributes:
        name: its name there, such as "ResNet50".
        build: the function that builds it.
        preprocess_input: the function that maps raw 0-255 RGB images to what it was trained on.
    """

    name: str
    build: Callable[..., keras.Model]
    preprocess_input: Callable[[np.ndarray], np.ndarray]


def find_backbone(name: str) -> Backbone:
    """Return the backbone of `keras.applications` called `name`.

    Args:
        name: a name in any case, with or without underscores: "ResNet50", "resnet50", "mobilenet_v2".

    Returns:
        The backbone; nothing is built yet.

    Raises:
        ValueError: there is no such backbone; the message names the nearest ones.

    Example:
        >>> from keras_transfer.backbones import find_backbone
        >>> find_backbone("mobilenet_v2").name
        'MobileNetV2'
    """

    def plain(text: str) -> str:
        return text.lower().replace("_", "").replace("-", "")

    builders = {
        key: value
        for key, value in vars(keras.applications).items()
        if key[0].isupper() and callable(value)
    }
    names = {plain(key): key for key in builders}
    found = names.get(plain(name))
    if found is None:
        raise ValueError(
            f"no backbone called {name!r} in keras.applications"
            f"{did_you_mean(plain(name), builders)} Received: backbone={name!r}"
        )
    build = builders[found]
    # The builder's module has the same name in the public package: "resnet", "mobilenet_v3".
    module = getattr(keras.applications, build.__module__.rpartition(".")[2])
    return Backbone(found, build, module.preprocess_input)


def preprocess(backbone: Backbone, images: keras.KerasTensor) -> keras.KerasTensor:
    """Add the preprocessing of `backbone` to a graph, with stock Keras operations only.

    Every `preprocess_input` of `keras.applications` is the identity or a scale and an offset for each
    channel, some after a swap of RGB to BGR. Which ones is read off its effect on black and on pure
    red, green and blue, so that there is no table of ours to go wrong.

    Args:
        backbone: the backbone whose preprocessing is meant.
        images: raw RGB images, 0 to 255, of shape (batch, height, width, 3).

    Returns:
        The images as the backbone was trained on them, of the same shape.
    """
    probes = 255.0 * np.eye(4, 3, k=-1, dtype="float32").reshape(4, 1, 1, 3)
    # A copy, as preprocess_input changes float arrays in place.
    mapped = np.asarray(backbone.preprocess_input(probes.copy()), "float64").reshape(4, 3)
    offset, matrix = mapped[0], (mapped[1:] - mapped[0]) / 255.0
    if np.count_nonzero(np.diag(matrix)) < 3:
        # keras.ops.flip, not [..., ::-1], which fails on torch.
        images = keras.ops.flip(images, axis=-1)
        matrix = matrix[::-1]
    scale = np.diag(matrix)
    if not offset.any() and (scale == 1).all():
        return images
    return keras.layers.Rescaling(_plain(scale), _plain(offset), name="preprocessing")(images)


def build_features(
    backbone: Backbone,
    inputs: keras.KerasTensor,
    weights: str | os.PathLike[str] | None,
    preprocessing: bool,
) -> keras.KerasTensor:
    """Add `backbone` without its classifier to a graph, layer by layer.

    Args:
        backbone: the backbone to build.
        inputs: the symbolic images, of shape (batch, height, width, 3).
        weights: "imagenet", None for random weights, or the path of a file of weights.
        preprocessing: whether the images are raw 0-255 RGB and normalised here.

    Returns:
        The last feature map, of shape (batch, rows, columns, channels).

    Raises:
        ValueError: the images are too small for this backbone, or the file of weights is not there, is
            damaged or belongs to another network.
        ConnectionError: the ImageNet weights are neither in Keras' cache nor could be fetched.
    """
    shape = tuple(inputs.shape[1:])
    path = _weights_path(weights)
    images = preprocess(backbone, inputs) if preprocessing else inputs
    advice = (
        "Check the network, or put that file into the folder models/ of Keras' home (~/.keras, or "
        "$KERAS_HOME), or pass weights=<path of a file of weights>, or weights=None for random ones."
    )
    try:
        with (
            fetching(f"the ImageNet weights of {backbone.name}", advice),
            warnings.catch_warnings(),
        ):
            # MobileNet: "weights for input shape (224, 224) will be loaded" is what we want.
            warnings.filterwarnings("ignore", message="`input_shape` is undefined or non-square")
            model = backbone.build(
                include_top=False,
                weights=weights if path is None else None,
                input_tensor=images,
                input_shape=shape,
            )
    except ValueError as error:
        raise ValueError(
            f"{backbone.name} can't be built with weights={weights!r} for images of shape "
            f"{shape}: {error}"
        ) from error
    except ConnectionError:
        raise
    except (OSError, KeyError) as error:  # from h5py: most of Keras' weights have no checksum
        raise ValueError(
            f"the ImageNet weights of {backbone.name} in the folder models/ of Keras' home can't be "
            f"read ({error}); remove the damaged file. Received: weights={weights!r}"
        ) from error
    if path is not None:
        _load_weights(model, path)
    return model.output


def _plain(values: np.ndarray) -> float | list[float]:
    return float(values[0]) if (values == values[0]).all() else values.tolist()


def _weights_path(weights: str | os.PathLike[str] | None) -> Path | None:
    if weights is None:
        return None
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(
            "weights must be 'imagenet', None or the path of a file of weights. "
            f"Received: weights={weights!r}"
        )
    if weights == "imagenet":
        return None
    path = Path(weights)
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ValueError(
            "weights must be 'imagenet', None or the path of a file of weights; there is no file "
            f"{str(path)!r}{did_you_mean(path.name, siblings)} Received: weights={weights!r}"
        )
    return path


def _load_weights(model: keras.Model, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # What Keras warns of, a file of another network, is an error here.
            warnings.filterwarnings("ignore", message="Skipping nested container")
            model.load_weights(path)
    # RuntimeError is from h5py.
    except (ValueError, OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"the file of weights {str(path)!r} is damaged or doesn't fit {model.name} without its "
            f"classifier ({error}). Received: weights={str(path)!r}"
        ) from error
