"""Pretrained backbones of `keras.applications`: finding, building and preprocessing for them."""

import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_transfer._lib.attributes import warnings_ignored
from keras_transfer._lib.checks import did_you_mean
from keras_transfer._lib.keras_private.downloads import Asked, fetched_folder, first_asked
from keras_transfer._lib.keras_private.variables import undrawn
from keras_transfer._lib.network import fetching

# What MobileNet says of other sizes than those that it has weights for.
_OTHER_SIZE = "`input_shape` is undefined or non-square"


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone wants done to RGB images of 0 to 255; `str` tells it as a formula.

    "none" is that of networks which normalise inside themselves: they take such images as they are.

    Attributes:
        bgr: whether the channels are put into the order blue, green, red, before all else.
        scale: the factor of each channel.
        offset: what is added to each channel then.
    """

    bgr: bool = False
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)

    def __call__(self, images: keras.KerasTensor) -> keras.KerasTensor:
        """Add it to a graph, with stock Keras operations only."""
        if self.bgr:
            # keras.ops.flip, not [..., ::-1], which fails on torch.
            images = keras.ops.flip(images, axis=-1)
        if (self.scale, self.offset) == (Preprocessing.scale, Preprocessing.offset):
            return images
        # In 16 bits there is no room beside a pixel of 255 for what is subtracted from it.
        dtype = keras.config.dtype_policy().variable_dtype
        scale, offset = _plain(self.scale), _plain(self.offset)
        return keras.layers.Rescaling(scale, offset, dtype=dtype, name="preprocessing")(images)

    def __str__(self) -> str:
        scale, offset = np.array(self.scale), np.array(self.offset)
        text = f"pixel - {_rounded(-offset / scale)}" if offset.any() else "pixel"
        if (scale != 1).any():
            text = f"({text})" if offset.any() else text
            text = f"{text} / {_rounded(1 / scale)}"
        return f"BGR: {text}" if self.bgr else "none" if text == "pixel" else text


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


def backbone_names() -> list[str]:
    """Return the names of all backbones of `keras.applications`, as it spells them."""
    return [
        name for name, value in vars(keras.applications).items() if name[0].isupper() and callable(value)
    ]


def find_backbone(name: str) -> Backbone:
    """Return the backbone of `keras.applications` called `name`, in any spelling; nothing is built yet.

    Raises:
        ValueError: there is no such backbone; the message names the nearest ones.

    Example:
        >>> from keras_transfer.backbones.applications import find_backbone
        >>> find_backbone("mobilenet_v2").name
        'MobileNetV2'
    """
    names = {plain_name(key): key for key in backbone_names()}
    found = names.get(plain_name(name))
    if found is None:
        raise ValueError(
            f"no backbone called {name!r} in keras.applications"
            f"{did_you_mean(plain_name(name), names.values())} Received: backbone={name!r}"
        )
    build = getattr(keras.applications, found)
    # The builder's module has the same name in the public package: "resnet", "mobilenet_v3".
    module = getattr(keras.applications, build.__module__.rpartition(".")[2])
    return Backbone(found, build, module.preprocess_input)


def is_application(name: str) -> bool:
    """Whether `keras.applications` has a backbone called `name`, in whatever spelling."""
    return plain_name(name) in map(plain_name, backbone_names())


def plain_name(name: str) -> str:
    """Return what all spellings of a name have in common."""
    return name.lower().replace("_", "").replace("-", "")


def affine_preprocessing(backbone: Backbone) -> Preprocessing:
    """Return the preprocessing of `backbone` in numbers.

    Every `preprocess_input` of `keras.applications` is the identity or a scale and an offset for each
    channel, some after a swap of RGB to BGR. Which ones is read off its effect on black and on pure
    red, green and blue, so that there is no table of ours to go wrong.

    Example:
        >>> from keras_transfer.backbones.applications import affine_preprocessing, find_backbone
        >>> print(affine_preprocessing(find_backbone("vgg16")))
        BGR: pixel - (103.939, 116.779, 123.68)
    """
    probes = 255.0 * np.eye(4, 3, k=-1).reshape(4, 1, 1, 3)
    # A copy, as preprocess_input changes float arrays in place.
    mapped = np.asarray(backbone.preprocess_input(probes.copy())).reshape(4, 3)
    # A scale of 1 is to be 1 exactly, whatever the subtraction leaves behind.
    offset, matrix = mapped[0], ((mapped[1:] - mapped[0]) / 255.0).round(14)
    bgr = bool(np.count_nonzero(np.diag(matrix)) < 3)
    scale = np.diag(matrix[::-1] if bgr else matrix)
    return Preprocessing(bgr, tuple(scale.tolist()), tuple(offset.tolist()))


def build_features(
    backbone: Backbone, images: keras.KerasTensor, weights: str | os.PathLike[str] | None
) -> keras.KerasTensor:
    """Add `backbone` without its classifier to a graph, layer by layer, and return its last feature map.

    Args:
        backbone: the backbone to build.
        images: the symbolic images as the backbone takes them, of shape (batch, height, width, 3).
        weights: "imagenet", None for random weights, or the path of a file of weights.

    Raises:
        ValueError: the images are too small for this backbone, or the file of weights is not there, is
            damaged or belongs to another network.
        ConnectionError: the ImageNet weights are neither in Keras' cache nor could be fetched.
    """
    shape = tuple(images.shape[1:])
    path = weights_path(weights)
    published = weights if path is None else None
    advice = (
        "Check the network, or put that file into the folder models/ of Keras' home (~/.keras, or "
        "$KERAS_HOME), or pass weights=<path of a file of weights>, or weights=None for random ones."
    )
    try:
        with (
            fetching(f"the ImageNet weights of {backbone.name}", advice),
            warnings_ignored(_OTHER_SIZE),  # "weights for (224, 224) will be loaded" is what we want
        ):
            model = backbone.build(
                include_top=False, weights=published, input_tensor=images, input_shape=shape
            )
    except ValueError as error:
        reason = str(error).partition("; Received")[0]  # of an argument that the user didn't give
        raise ValueError(
            f"{backbone.name} can't be built with weights={weights!r} for images of shape {shape}: "
            f"{reason.rstrip('.')}. Received: image_size={shape[:2]}"
        ) from error
    except ConnectionError:
        raise
    except (OSError, KeyError) as error:  # from h5py: most of Keras' weights have no checksum
        raise ValueError(
            f"the ImageNet weights of {backbone.name} in the folder models/ of Keras' home can't be "
            f"read ({error}); remove the damaged file. Received: weights={weights!r}"
        ) from error
    if path is not None:
        load_weights(model, path)
    return model.output


def cached_sizes(backbone: Backbone, usual: int, smallest: int) -> list[int]:
    """Return the sizes of images for which ImageNet weights of `backbone` are in Keras' cache.

    Keras itself is asked which file it would load, and nothing is fetched. Most backbones have one file
    for images of any size, which counts for the usual one; some have others for other sizes, of which
    the names of the files that are there tell.

    Args:
        backbone: the backbone.
        usual: height and width of the images that it is made for.
        smallest: the least that it can be built for.
    """
    own = plain_name(backbone.name)
    names = [
        path.name for path in (fetched_folder() / "models").glob("*") if own in plain_name(path.name)
    ]
    if not names:
        return []
    told = {int(number) for name in names for number in re.findall(r"\d+", name)}
    asked = {size: _file_for(backbone, size) for size in {usual, *told} if size >= smallest}
    return sorted(
        size
        for size, file in asked.items()
        if file is not None and (size == usual or file != asked[usual]) and file.is_there()
    )


def _file_for(backbone: Backbone, size: int) -> Asked | None:
    """Return the file of ImageNet weights that Keras takes for images of a size, there or not."""

    def build() -> None:
        backbone.build(include_top=False, weights="imagenet", input_shape=(size, size, 3))

    with undrawn(), warnings_ignored(_OTHER_SIZE):
        try:
            return first_asked(build)
        except ValueError:  # Keras can't build it, here or for this size
            return None


def _plain(values: tuple[float, ...]) -> float | list[float]:
    return values[0] if len(set(values)) == 1 else list(values)


def _rounded(values: np.ndarray) -> str:
    texts = [f"{value:.6g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"({', '.join(texts)})"


def weights_path(weights: str | os.PathLike[str] | None) -> Path | None:
    """Return the path that the argument `weights` is, or None for "imagenet" and None."""
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


def load_weights(model: keras.Model, path: Path) -> None:
    """Load a file of weights into a backbone; a `ValueError` tells what is wrong with the file."""
    try:
        # What Keras warns of, a file of another network, is an error here.
        with warnings_ignored("Skipping nested container"):
            model.load_weights(path)
    # RuntimeError is from h5py.
    except (ValueError, OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"the file of weights {str(path)!r} is damaged or doesn't fit {model.name} without its "
            f"classifier ({error}). Received: weights={str(path)!r}"
        ) from error
