"""Feature maps of several depths of a backbone, side by side, for one head."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import zip_longest

import keras

from keras_transfer._lib.checks import did_you_mean
from keras_transfer._lib.keras_private.graph import graph_nodes
from keras_transfer.layers.graph import leaf_layers, walk
from keras_transfer.layers.groups import layer_groups
from keras_transfer.layers.head import free_name
from keras_transfer.models.tokens import NO_TOKENS, OF_TOKENS, Tokens, vector_of_tokens

POOLING = {
    "avg": (keras.layers.GlobalAveragePooling2D, "avg_pool"),
    "max": (keras.layers.GlobalMaxPooling2D, "max_pool"),
    "flatten": (keras.layers.Flatten, "flatten"),
}
POOLINGS = (*dict.fromkeys([*POOLING, *OF_TOKENS]),)
LAST, SEVERAL = "last", "several"  # among features: what the backbone ends in; depths by a rule
CHOSEN, CHOOSABLE = "features", "several_features"  # what the layer is called that puts them together
_MOST = 8  # depths
_MOST_BLOCKS = 4  # of a transformer, as DINOv2 is evaluated
# What gives the map before it, in another size.
_NO_DEPTH = (
    *(keras.layers.ZeroPadding2D, keras.layers.Cropping2D),
    *(keras.layers.MaxPooling2D, keras.layers.AveragePooling2D),
)


def given_to_head(
    inputs: keras.KerasTensor,
    ends: Mapping[str, keras.KerasTensor],
    features: str | Sequence[str],
    pooling: str | None,
    tokens: Mapping[str, Tokens],
) -> keras.KerasTensor:
    """Return what backbones end in, or maps of several of their depths, pooled and side by side.

    The last feature map of a single backbone comes as it is.

    Args:
        inputs: of the backbones, preprocessing included.
        ends: what each backbone ends in, by what its layers' names begin with.
        features: as in `keras_transfer.classifier`.
        pooling: as there.
        tokens: what stands in front of the patches of each backbone that ends in tokens.

    Raises:
        ValueError: there are no such layers, or these can't be pooled so.
    """
    names = [features] if isinstance(features, str) else list(features)
    if names == [SEVERAL]:
        depths = [
            {**_deepest(inputs, last, prefix in tokens), f"{prefix}{LAST}": last}
            for prefix, last in ends.items()
        ]
    else:
        depths = [_named(inputs, ends, features, names)]
    chosen = {name: each for some in depths for name, each in some.items()}
    lasts = {f"{prefix}{LAST}" for prefix in ends}
    if chosen.keys() == {LAST} and len(chosen[LAST].shape) != 3:  # and nothing else is as wide
        return chosen[LAST]
    if pooling == "flatten" and chosen.keys() != lasts:
        raise ValueError(
            "pooling must be 'avg' or 'max' for other features than the last. "
            f"Received: pooling={pooling!r}, features={features!r}"
        )
    vectors = {
        name: _pooled(each, name, name in lasts, pooling, _of(tokens, name))
        for name, each in chosen.items()
    }
    if names != [SEVERAL] or chosen.keys() == lasts:
        return _side_by_side([*vectors.values()], CHOSEN)
    # The last so many depths are those of each backbone: each depth is one vector.
    ranks = [*zip_longest(*([vectors[name] for name in reversed(some)] for some in depths))]
    together = [
        _side_by_side([each for each in rank if each is not None], f"{CHOSEN}_{number}")
        for number, rank in enumerate(ranks, start=1)
    ]
    return _side_by_side(together[::-1], CHOOSABLE)


def _named(
    inputs: keras.KerasTensor,
    ends: Mapping[str, keras.KerasTensor],
    features: str | Sequence[str],
    names: Sequence[str],
) -> dict[str, keras.KerasTensor]:
    """Return the maps of layers by name, "last" being what each backbone ends in."""
    lasts = {f"{prefix}{LAST}": last for prefix, last in ends.items()}
    maps = {layer.name: each for last in lasts.values() for layer, each in _maps(inputs, last)}
    wanted = [each for name in names for each in (lasts if name == LAST else [name])]
    for name in wanted:
        if name not in maps and name not in lasts:
            near = did_you_mean(name, [*maps, LAST])
            raise ValueError(
                "features must be 'last', 'several', or names of layers of a backbone that is given by "
                f"name{near} Received: features={features!r}"
            )
    found = {name: (maps | lasts)[name] for name in wanted}
    if len({id(each) for each in found.values()}) < max(len(wanted), 1):
        raise ValueError(
            f"features must be at least one layer, and each once. Received: features={features!r}"
        )
    return found


def _of(tokens: Mapping[str, Tokens], name: str) -> Tokens:
    """Return what stands in front of the patches where a layer is, by the beginning of its name."""
    return next((each for prefix, each in tokens.items() if name.startswith(prefix)), NO_TOKENS)


def _pooled(
    features: keras.KerasTensor, name: str, is_last: bool, pooling: str | None, tokens: Tokens
) -> keras.KerasTensor:
    """Return a map or tokens as a vector; the name of what pools it has `name` in it."""
    prefix = name.removesuffix(LAST) if is_last else f"{name}_"
    if len(features.shape) == 3:
        return vector_of_tokens(features, tokens, pooling, prefix)
    return features if len(features.shape) == 2 else pooled_map(features, pooling, prefix)


def pooled_map(
    features: keras.KerasTensor, pooling: str | None, prefix: str = "", taken: Collection[str] = ()
) -> keras.KerasTensor:
    """Return a feature map as a vector, by a layer whose name is none of those that are taken.

    Raises:
        ValueError: pooling="flatten" for images of no fixed size, or one of tokens.
    """
    if pooling not in (None, *POOLING):
        raise ValueError(
            f"pooling must be {', '.join(map(repr, POOLING))} for feature maps, which have no tokens. "
            f"Received: pooling={pooling!r}, and features {features.shape}"
        )
    if pooling == "flatten" and None in features.shape[1:]:
        raise ValueError(
            "pooling='flatten' needs images of one size; pass image_size=(height, width). "
            f"Received: a backbone whose output has shape {features.shape}"
        )
    kind, name = POOLING[pooling or "avg"]
    return kind(name=free_name(f"{prefix}{name}", taken))(features)


def _side_by_side(vectors: Sequence[keras.KerasTensor], name: str) -> keras.KerasTensor:
    return keras.layers.Concatenate(name=name)(vectors) if len(vectors) > 1 else vectors[0]


def _maps(
    inputs: keras.KerasTensor, last: keras.KerasTensor
) -> Iterator[tuple[keras.Operation, keras.KerasTensor]]:
    """Yield the layers of a backbone in their order, each with the map, tokens or vector that it gives.

    That is what it gives in this graph: its `output` is what it gave the first time, anywhere.
    """
    for call in graph_nodes(keras.Model(inputs, last)) or []:
        kinds = (keras.Model, keras.layers.InputLayer)
        if not isinstance(call.operation, kinds) and len(call.outputs[0].shape) in (2, 3, 4):
            yield call.operation, call.outputs[0]


def _deepest(
    inputs: keras.KerasTensor, last: keras.KerasTensor, of_tokens: bool
) -> dict[str, keras.KerasTensor]:
    """Return the deepest maps, or what the last blocks give, by their layers, without `last`."""
    return _deepest_blocks(inputs, last) if of_tokens else _deepest_maps(inputs, last)


def _deepest_maps(inputs: keras.KerasTensor, last: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    """Return the deepest maps that are as wide as any before them, by their layers, without `last`.

    A block widens its map, looks at it and narrows it again. Of each such run of layers the last one
    counts, whose map is after the activation.
    """
    channels = -1 if keras.config.image_data_format() == "channels_last" else 1
    widest = inputs.shape[channels] + 1  # what only changes pixels is no depth
    run: tuple[int | None, ...] = ()
    kept: dict[str, keras.KerasTensor] = {}
    for layer, each in _maps(inputs, last):
        shape = tuple(each.shape)
        is_map = len(shape) == 4 and 1 not in shape[1:]  # not what squeezes and excites
        if not is_map or isinstance(layer, _NO_DEPTH):
            continue
        if shape[channels] < widest:
            run = ()
            continue
        if shape == run:
            kept.popitem()
        if each is not last:
            kept[layer.name] = each
        widest, run = shape[channels], shape
    return dict([*kept.items()][1 - _MOST :])


def _deepest_blocks(inputs: keras.KerasTensor, last: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    """Return what the last blocks of a transformer give, by their layers, without `last`.

    Those of a stage are equally wide. Of each group of layers the last sum counts that all paths run
    through, as blocks have ways around them. What the last block gives is `last`, but for its norm,
    unless it is pooled by attention.
    """
    network = keras.Model(inputs, last)
    stages = layer_groups(network)
    groups = {id(layer): group.name for group in stages for layer in group.layers}
    kept: dict[str, tuple[str, keras.KerasTensor]] = {}
    for call in walk(network):
        given, group = call.node.outputs[0], groups.get(id(call.operation))
        is_sum = isinstance(call.operation, keras.layers.Add) and call.on_trunk and not call.path
        if is_sum and group and len(given.shape) > 2 and 1 not in given.shape[1:-1]:
            kept[group] = call.operation.name, given
    if len(last.shape) > 2:
        kept.pop(stages[-1].name, None)
    return dict([*kept.values()][1 - _MOST_BLOCKS :])


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
