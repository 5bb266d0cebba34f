"""Feature maps of several depths of a backbone, side by side, for one head."""

from collections.abc import Iterable, Iterator, Sequence

import keras

from keras_transfer._lib.checks import did_you_mean
from keras_transfer._lib.keras_private.graph import graph_nodes
from keras_transfer.layers.graph import leaf_layers

POOLING = {
    "avg": (keras.layers.GlobalAveragePooling2D, "avg_pool"),
    "max": (keras.layers.GlobalMaxPooling2D, "max_pool"),
    "flatten": (keras.layers.Flatten, "flatten"),
}
LAST, SEVERAL = "last", "several"  # among features: what the backbone ends in; depths by a rule
CHOSEN, CHOOSABLE = "features", "several_features"  # what the layer is called that puts them together
_MOST = 8  # depths
# What gives the map before it, in another size.
_NO_DEPTH = (
    *(keras.layers.ZeroPadding2D, keras.layers.Cropping2D),
    *(keras.layers.MaxPooling2D, keras.layers.AveragePooling2D),
)


def given_to_head(
    inputs: keras.KerasTensor,
    last: keras.KerasTensor,
    features: str | Sequence[str],
    pooling: str,
) -> keras.KerasTensor:
    """Return the last feature map of a backbone, or several, pooled and side by side.

    Args:
        inputs: of the backbone, preprocessing included.
        last: what the backbone ends in.
        features: as in `keras_transfer.classifier`.
        pooling: as there.

    Raises:
        ValueError: there are no such layers, or these can't be pooled so.
    """
    names = [features] if isinstance(features, str) else list(features)
    if names == [LAST]:
        return last
    maps = list(_maps(inputs, last))
    found = {**{layer.name: each for layer, each in maps}, LAST: last}
    if names == [SEVERAL]:
        names = [*_deepest(inputs, maps, last), LAST]
    for name in names:
        if name not in found:
            near = did_you_mean(name, list(found))
            raise ValueError(
                "features must be 'last', 'several', or names of layers of a backbone that is given by "
                f"name{near} Received: features={features!r}"
            )
    chosen = list({id(found[name]): found[name] for name in names}.values())
    if len(chosen) < max(len(names), 1):
        raise ValueError(
            f"features must be at least one layer, and each once. Received: features={features!r}"
        )
    if len(names) == 1 and names == [LAST]:  # nothing else is as wide
        return last
    if pooling == "flatten":
        raise ValueError(
            "pooling must be 'avg' or 'max' for other features than the last. "
            f"Received: pooling={pooling!r}, features={features!r}"
        )
    kind, name = POOLING[pooling]
    vectors = [
        each if len(each.shape) == 2 else kind(name=name if layer == LAST else f"{layer}_{name}")(each)
        for layer, each in zip(names, chosen, strict=True)
    ]
    joined = CHOOSABLE if features in (SEVERAL, [SEVERAL], (SEVERAL,)) else CHOSEN
    return keras.layers.Concatenate(name=joined)(vectors) if len(vectors) > 1 else vectors[0]


def _maps(
    inputs: keras.KerasTensor, last: keras.KerasTensor
) -> Iterator[tuple[keras.Operation, keras.KerasTensor]]:
    """Yield the layers of a backbone in their order, each with the map or the vector that it gives.

    That is what it gives in this graph: its `output` is what it gave the first time, anywhere.
    """
    for call in graph_nodes(keras.Model(inputs, last)) or []:
        kinds = (keras.Model, keras.layers.InputLayer)
        if not isinstance(call.operation, kinds) and len(call.outputs[0].shape) in (2, 4):
            yield call.operation, call.outputs[0]


def _deepest(
    inputs: keras.KerasTensor,
    maps: Iterable[tuple[keras.Operation, keras.KerasTensor]],
    last: keras.KerasTensor,
) -> list[str]:
    """Return the names of the deepest maps that are as wide as any before them, without `last`.

    A block widens its map, looks at it and narrows it again. Of each such run of layers the last one
    counts, whose map is after the activation.
    """
    channels = -1 if keras.config.image_data_format() == "channels_last" else 1
    widest = inputs.shape[channels] + 1  # what only changes pixels is no depth
    run: tuple[int | None, ...] = ()
    kept: list[str] = []
    for layer, each in maps:
        shape = tuple(each.shape)
        is_map = len(shape) == 4 and 1 not in shape[1:]  # not what squeezes and excites
        if not is_map or isinstance(layer, _NO_DEPTH):
            continue
        if shape[channels] < widest:
            run = ()
            continue
        if shape == run:
            kept.pop()
        if each is not last:
            kept.append(layer.name)
        widest, run = shape[channels], shape
    return kept[1 - _MOST :]


def depth_widths(model: keras.Model, width: int) -> list[int]:
    """Return how many features a head is given of each depth that is to choose from, the last one last.

    Args:
        model: a classifier.
        width: how many features its head is given.
    """
    for layer in leaf_layers(model):
        if layer.name == CHOOSABLE and isinstance(layer, keras.layers.Concatenate):
            return [each.shape[-1] for each in layer.input]
    return [width]
