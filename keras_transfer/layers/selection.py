"""What is meant by "these layers": one way to say it, for all functions that take layers."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras

from keras_transfer._lib.checks import did_you_mean, is_whole
from keras_transfer.layers.about import new_layers
from keras_transfer.layers.graph import (
    check_built,
    check_graph,
    has_graph,
    leaf_layers,
    matching,
    nested_models,
)
from keras_transfer.layers.groups import Split, layer_groups
from keras_transfer.layers.head import last_weighted, required_head

Entry: TypeAlias = int | str | Callable[[keras.Layer], bool]
Selection: TypeAlias = Entry | Sequence[Entry]

_FROM = "from:"
_WORDS: dict[str, Callable[[keras.Model], list[keras.Layer]]] = {
    "output": lambda model: [last_weighted(model)],
    "head": required_head,
    "new": new_layers,
    "all": leaf_layers,
}


def select(
    model: keras.Model, selection: Selection, *, argument: str = "layers", split: Split | None = None
) -> list[keras.Layer]:
    """Return the leaf layers of a model that are meant, in depth order, at least one.

    Args:
        model: any model; one that is subclassed has no head, and no groups without `split`.
        selection: what is meant, as `keras_transfer.unfreeze` describes it.
        argument: what the selection is called in messages.
        split: groups of the user's own, as in `keras_transfer.layer_groups`.

    Raises:
        ValueError: the selection has no sensible meaning, or an entry means no layer of the model or is
            the name of several (the message names near misses); the model is not built, or subclassed
            where an order is needed.

    Example:
        >>> import keras_transfer as kt
        >>> from keras_transfer.layers.selection import select
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> [layer.name for layer in select(model, ["block2", "output"])]
        ['block2_conv1', 'block2_conv2', 'block2_pool', 'predictions']
    """
    check_built(model)
    selection = checked_selection(selection, argument)
    entries: Any = selection if isinstance(selection, list) else [selection]
    received = f"Received: {argument}={selection!r}"
    meant = {id(layer) for entry in entries for layer in _meant(model, entry, argument, received, split)}
    return [layer for layer in leaf_layers(model) if id(layer) in meant]


def select_from(
    model: keras.Model, selection: Selection, *, argument: str = "layers", split: Split | None = None
) -> list[keras.Layer]:
    """Return the leaf layers of a model from the first that is meant to the output, in depth order.

    Arguments and errors are those of `select`. For an index these are the groups from there on, wherever
    their layers stand.
    """
    if split is None:
        check_graph(model)
    found = select(model, selection, argument=argument, split=split)
    return found if is_whole(selection) else _onwards(model, found)


def checked_selection(selection: Any, argument: str) -> Any:
    """Return a selection as plain integers, texts, functions and a list, or raise a `ValueError`."""
    several = isinstance(selection, (list, tuple))
    entries = [_checked_entry(entry) for entry in (selection if several else [selection])]
    if not entries or None in entries:
        raise ValueError(
            f"{argument} must be {', '.join(map(repr, _WORDS))}, the index of a group, the name of a "
            "layer, nested model or group, a regular expression for such names, 'from:<name>', a "
            "function from a layer to True or False, or a list of these. "
            f"Received: {argument}={selection!r}"
        )
    return entries if several else entries[0]


def described(selection: Selection) -> Any:
    """Return a selection as plain data: functions by their qualified names."""
    if isinstance(selection, (list, tuple)):
        return [described(entry) for entry in selection]
    if callable(selection):
        named = selection if hasattr(selection, "__qualname__") else type(selection)
        return f"{named.__module__}.{named.__qualname__}"
    return selection


def _checked_entry(entry: Any) -> Entry | None:
    """Return an entry of a selection, or None if it can't be one."""
    if isinstance(entry, str):
        return entry if entry.removeprefix(_FROM) else None
    # Layers and classes can be called, but say nothing of a layer.
    if callable(entry):
        return None if isinstance(entry, (type, keras.Layer)) else entry
    return int(entry) if is_whole(entry) else None


def _meant(
    model: keras.Model, entry: Entry, argument: str, received: str, split: Split | None
) -> list[keras.Layer]:
    if callable(entry):
        found = [layer for layer in leaf_layers(model) if entry(layer)]
        if not found:
            raise ValueError(
                f"{argument} must mean a layer; the function is true for none of model {model.name!r}. "
                f"{received}"
            )
        return found
    if not isinstance(entry, str):
        groups = layer_groups(model, split=split)
        if not -len(groups) <= entry < len(groups):
            names = ", ".join(f"{index} {group.name}" for index, group in enumerate(groups))
            raise ValueError(
                f"{argument} must be the index of a group of model {model.name!r}, from {-len(groups)} "
                f"to {len(groups) - 1} ({names}). {received}"
            )
        return [layer for group in groups[entry:] for layer in group.layers]
    if entry in _WORDS:
        return _WORDS[entry](model)
    if entry.startswith(_FROM):
        check_graph(model)
        return _onwards(model, _meant(model, entry.removeprefix(_FROM), argument, received, split))
    return _named(model, entry, received, split)


def _onwards(model: keras.Model, layers: list[keras.Layer]) -> list[keras.Layer]:
    """Return the leaf layers from the first of some on."""
    leaves = leaf_layers(model)
    return leaves[min(map(leaves.index, layers)) :]


def _named(model: keras.Model, name: str, received: str, split: Split | None) -> list[keras.Layer]:
    """Return the layers that a name or a regular expression means."""
    grouped = has_graph(model) or split is not None
    kinds = [
        [(layer.name, [layer]) for layer in leaf_layers(model)],
        [(inner.name, leaf_layers(inner)) for inner in nested_models(model)[1:]],
        [(group.name, group.layers) for group in (layer_groups(model, split=split) if grouped else [])],
    ]
    for kind in kinds:
        found = matching(name, [each for each, _ in kind])
        if len(found) > 1 and kind[found[0]][0] == name:
            raise ValueError(
                f"{len(found)} layers of model {model.name!r} are called {name!r}; rename them. "
                f"{received}"
            )
        if found:
            return [layer for index in found for layer in kind[index][1]]
    known = [*_WORDS, *(each for kind in kinds for each, _ in kind)]
    raise ValueError(f"no layer {name!r} in model {model.name!r}{did_you_mean(name, known)} {received}")
