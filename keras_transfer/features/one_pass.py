"""All that is asked of a data set before anything trains, by one pass of the network over its images.

Advice needs the features at the end of each group of layers, a linear head those before the head, and
the training of the last group those at the cut before it. They are kept side by side in one cache.
"""

import contextlib
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np

from keras_transfer._lib.files import folder_or_temporary
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache.cache import FeatureCache, Told, features_of, of_features
from keras_transfer.features.probe.vectors import Vectors, check_finite
from keras_transfer.layers.graph import up_to
from keras_transfer.layers.groups import layer_groups
from keras_transfer.layers.head import last_weighted, required_head
from keras_transfer.layers.splitting import places, split_model
from keras_transfer.models.depths import depth_widths
from keras_transfer.models.views import mirror_image
from keras_transfer.tasks.single_label import SINGLE_LABEL

# Of two data sets on which MobileNetV2 was fine-tuned, that of 122 images a class lost by it and that of
# 400 a class gained.
_LARGE = 200


@dataclass(frozen=True)
class Seen:
    """What a pass over a data set has kept, in files.

    Attributes:
        groups: for each group of layers, by the name of the last of them, its features, averaged over
            the image: of shape (samples, channels).
        head: what the last layer with weights is given, of shape (samples, features).
        widths: how many features these are of each depth that is to choose from, the last one last.
        labels: the classes of shape (samples,).
        cut: the layer before the last group, or None where there is none or there are enough images to
            train more than that.
        behind_cut: the features after this layer, with the labels, or None.
        key: what the features are known by: network and images.
    """

    groups: dict[str, Vectors]
    head: Vectors
    widths: list[int]
    labels: np.ndarray
    cut: str | None
    behind_cut: Loader | None
    key: str


def is_large(samples: int, classes: int) -> bool:
    """Whether there are enough images to fine-tune a whole network."""
    return samples >= _LARGE * classes


@contextlib.contextmanager
def one_pass(
    model: keras.Model,
    loader: Loader,
    cache: str | os.PathLike[str] | None,
    batch_size: int,
    verbose: int,
    told: Told | None = None,
    flip: bool = False,
) -> Iterator[Seen]:
    """Send each image through a classifier once, as long as the block lasts.

    Args:
        model: a functional or sequential classifier.
        loader: the images, as `checked_loader` returns them.
        cache: a folder in which the features are kept for another time; None: a temporary one.
        batch_size: images that are computed at a time.
        verbose: as `verbosity` returns it.
        told: as in `features.cache.cache.Work`.
        flip: whether it is the mirror images that go through the classifier.

    Raises:
        ValueError: the model can't be cut, a feature isn't finite, or labels are no classes.
        TooLongError: it would take longer than it may, told by the first batches.
    """
    labels = SINGLE_LABEL.targets(loader.known_labels())
    large = is_large(len(labels), len(np.unique(labels)))
    network, groups, cut, shape = _network(model, not large, flip)
    width = network.output_shape[-1] - (0 if shape is None else math.prod(shape))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(folder_or_temporary(cache))
        same, kept = features_of(FeatureCache(network, folder), loader, batch_size, None, verbose, told)
        stack.callback(kept.close)
        check_finite(Vectors(kept.part(slice(0, width), (width,))), network.name)
        starts = [0, *itertools.accumulate(groups.values()), width]
        columns = [slice(a, b) for a, b in itertools.pairwise(starts)]
        *parts, head = (Vectors(kept.part(each, (each.stop - each.start,))) for each in columns)
        behind = None
        if shape is not None:
            behind = of_features(same, kept.part(slice(width, network.output_shape[-1]), shape))
        widths = depth_widths(model, head.shape[1])
        yield Seen(
            dict(zip(groups, parts, strict=True)), head, widths, labels, cut, behind, kept.fingerprint()
        )


def _network(
    model: keras.Model, with_cut: bool, flip: bool
) -> tuple[keras.Model, dict[str, int], str | None, tuple[int, ...] | None]:
    """Return a network of all that is to be kept, side by side.

    Returns:
        The network, whose output is for each group a vector, then what the head is given, then the
        features at the cut. The names of the groups' last layers, and how wide their vectors are. The
        name of the layer before the cut, and the shape of its features.
    """
    required_head(model)
    possible = set(places(model))
    names = []
    for group in layer_groups(model)[:-1]:
        names += [layer.name for layer in group.layers if layer.name in possible][-1:]
    image = keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype)
    x = mirror_image(image) if flip else image
    rest, groups, maps = model, {}, {}
    for name in names:
        part, rest = split_model(rest, name)
        x = keras.Model(part.inputs[0], part.outputs[0], name=f"up_to_{name}")(x)
        groups[name], maps[name] = _pooled(x), x
    head = up_to(rest, last_weighted(rest))(x)
    kept = [*groups.values(), _flat(head)]
    cut = names[-2] if with_cut and len(names) > 1 and None not in maps[names[-2]].shape[1:] else None
    if cut is not None:
        kept.append(_flat(maps[cut]))
    joined = keras.layers.Concatenate(dtype="float32")(kept) if len(kept) > 1 else kept[0]
    network = keras.Model(image, joined, name=f"{model.name}_features")
    widths = {name: vector.shape[-1] for name, vector in groups.items()}
    return network, widths, cut, None if cut is None else tuple(maps[cut].shape[1:])


def _pooled(x: keras.KerasTensor) -> keras.KerasTensor:
    """Return features averaged over the image."""
    if len(x.shape) == 2:
        return x
    if len(x.shape) == 3:  # tokens have their channels last, wherever images have them
        return keras.layers.GlobalAveragePooling1D("channels_last")(x)
    return getattr(keras.layers, f"GlobalAveragePooling{len(x.shape) - 2}D")()(x)


def _flat(x: keras.KerasTensor) -> keras.KerasTensor:
    return x if len(x.shape) == 2 else keras.layers.Flatten()(x)
