"""What trains: freezing and unfreezing layers and batch norm."""

from collections.abc import Iterable, Sequence
from typing import Literal

import keras

from keras_transfer._lib.checks import one_of
from keras_transfer._lib.keras_private.graph import lora_base, own_variables, sublayers
from keras_transfer.layers.graph import (
    check_built,
    find_layers,
    has_graph,
    layers_from,
    leaf_layers,
    nested_models,
)
from keras_transfer.layers.groups import Split, groups_from
from keras_transfer.layers.guard import guard
from keras_transfer.layers.head import backbone_layers, required_head
from keras_transfer.layers.table import TrainableTable, rows_of

BatchNorm = Literal["freeze", "train"]
_BATCH_NORM_CHOICES = ("freeze", "train")


def freeze_backbone(model: keras.Model, *, batch_norm: BatchNorm = "freeze") -> "TrainableTable":
    """Freeze everything but the classification head.

    A change of what trains takes effect when the model is compiled next; `keras_transfer.recompile`
    does that without losing what the optimizer knows. `fit` of a model that was changed and not
    compiled raises an error (see `keras_transfer.layers.guard`).

    Args:
        model: any model with a classification head (see `keras_transfer.layers.head.head_layers`).
        batch_norm: "freeze" keeps the backbone's batch norm in inference mode: scale, offset and
            running statistics stay as they are. "train" lets all of these train, also between frozen
            layers (as fastai's `train_bn`).

    Returns:
        The table of what changed.

    Raises:
        ValueError: nothing changed, the model has no classification head, is subclassed or not built,
            or `batch_norm` is neither "freeze" nor "train". The model is as it was.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("mobilenet_v2", 3, input_shape=(32, 32, 3), weights=None)
        >>> table = kt.freeze_backbone(model)
        >>> [row.layer for row in kt.trainable_table(model) if row.trainable]
        ['predictions']
    """
    return _changed(model, required_head(model), batch_norm)


def freeze_to(
    model: keras.Model, n: int, *, batch_norm: BatchNorm = "freeze", split: Split | None = None
) -> "TrainableTable":
    """Freeze the layer groups before index `n`, and let the others train.

    Args:
        model: any model.
        n: the index of the first group that trains, in `keras_transfer.layer_groups`; negative ones
            count from the end, as in a list: -1 trains the head, -2 the last stage, too.
        batch_norm: as in `freeze_backbone`.
        split: groups of your own, as in `keras_transfer.layer_groups`.

    Returns:
        The table of what changed.

    Raises:
        ValueError: there is no such group, nothing changed, the model is subclassed or not built, or
            `batch_norm` is neither "freeze" nor "train". The model is as it was.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, input_shape=(32, 32, 3), weights=None)
        >>> table = kt.freeze_to(model, -2)
        >>> [row.layer for row in kt.trainable_table(model) if row.trainable]
        ['block5_conv1', 'block5_conv2', 'block5_conv3', 'predictions']
    """
    return _changed(model, groups_from(model, n, split=split), batch_norm)


def unfreeze(
    model: keras.Model,
    layers: str | Sequence[str] | None = None,
    *,
    batch_norm: BatchNorm = "freeze",
) -> "TrainableTable":
    """Let every layer train, or the given ones besides those that already do.

    The backbone's batch norm trains only with `batch_norm="train"`.

    Args:
        model: any model.
        layers: names of layers, in whichever nested model they are, or of nested models, or regular
            expressions that match whole names of layers; by default all layers.
        batch_norm: as in `freeze_backbone`. A network trained from scratch needs "train".

    Returns:
        The table of what changed.

    Raises:
        ValueError: nothing changed, no layer matches an entry of `layers`, the model is not built, or
            `batch_norm` is neither "freeze" nor "train". The model is as it was.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, input_shape=(32, 32, 3), weights=None)
        >>> table = kt.freeze_backbone(model)
        >>> [row.layer for row in kt.unfreeze(model, ["block1_conv1", "block5_.*"])]
        ['block1_conv1', 'block5_conv1', 'block5_conv2', 'block5_conv3']
    """
    check_built(model)
    if layers is None:
        return _changed(model, leaf_layers(model), batch_norm)
    named = [layers] if isinstance(layers, str) else layers
    if not isinstance(named, Iterable):
        raise TypeError(
            "layers must be names or patterns of layers, such as ['block5_.*']. "
            f"Received: layers={layers!r}"
        )
    found = find_layers(model, named)
    already = [layer for layer in leaf_layers(model) if layer.trainable]
    return _changed(model, [*already, *found], batch_norm)


def unfreeze_from(
    model: keras.Model, layer: str, *, batch_norm: BatchNorm = "freeze"
) -> "TrainableTable":
    """Train the layer called `layer` and everything after it; freeze what stands before.

    Args:
        model: any model; layers of nested models are found by their own names.
        layer: the name of the first layer that trains, such as "block5_conv1".
        batch_norm: as in `freeze_backbone`.

    Returns:
        The table of what changed.

    Raises:
        ValueError: no layer or several layers have this name, nothing changed, the model is subclassed
            or not built, or `batch_norm` is neither "freeze" nor "train". The model is as it was.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, input_shape=(32, 32, 3), weights=None)
        >>> table = kt.unfreeze_from(model, "block5_conv3")
        >>> [row.layer for row in kt.trainable_table(model) if row.trainable]
        ['block5_conv3', 'predictions']
    """
    return _changed(model, layers_from(model, layer), batch_norm)


def trainable_state(model: keras.Model) -> list[tuple[keras.Layer | keras.Variable, bool]]:
    """Return the `trainable` flags of `model`, for `restore_trainable_state`."""
    # What contains much comes first, as setting its flag sets those inside it.
    layers = sorted(sublayers(model), key=lambda layer: -len(sublayers(layer)))
    return [(thing, thing.trainable) for thing in [*layers, *model.variables]]


def restore_trainable_state(state: list[tuple[keras.Layer | keras.Variable, bool]]) -> None:
    """Put the flags back that `trainable_state` returned."""
    # Layers set the flags of what is in them, so the inner ones come after the outer, variables last.
    for thing, trainable in state:
        thing.trainable = trainable


def set_trainable(
    model: keras.Model, layers: Sequence[keras.Layer], batch_norm: BatchNorm
) -> "TrainableTable":
    """Let exactly `layers` of `model` train, and the backbone's batch norm as asked.

    Args:
        model: any model.
        layers: leaf layers of it.
        batch_norm: as in `freeze_backbone`.

    Returns:
        The table of what changed, which may be empty.

    Raises:
        ValueError: the model is not built, or `batch_norm` is neither "freeze" nor "train".
    """
    if batch_norm not in _BATCH_NORM_CHOICES:
        raise ValueError(
            f"batch_norm must be {one_of(_BATCH_NORM_CHOICES)}. Received: batch_norm={batch_norm!r}"
        )
    check_built(model)
    leaves = leaf_layers(model)
    trains = {id(layer) for layer in layers}
    # Of a subclassed model nothing says where the head begins: there all batch norm is the backbone's.
    backbone = {id(layer) for layer in (backbone_layers(model) if has_graph(model) else leaves)}
    before = {id(layer): _flags(model, layer) for layer in leaves}
    # A nested model's own flag says nothing about its layers, but False would hide their weights.
    for nested in nested_models(model):
        nested.trainable = True
    for leaf in leaves:
        for layer in sublayers(leaf):  # a layer made of layers may have batch norm inside
            is_norm = isinstance(layer, keras.layers.BatchNormalization) and id(leaf) in backbone
            trainable = batch_norm == "train" if is_norm else id(leaf) in trains
            # On TensorFlow a flag that is set to what it is doesn't reach the variables.
            layer.trainable = not trainable
            layer.trainable = trainable
    # Variables of the model itself, of no layer, train where all layers do.
    for variable in own_variables(model):
        variable.trainable = len(trains) == len(leaves)
    # Low-rank adaptation (LoRA) is there to keep what it adapts.
    for layer in sublayers(model):
        for variable in lora_base(layer):
            variable.trainable = False
    rows = rows_of(model)
    return TrainableTable(row for layer, row in rows if _flags(model, layer) != before[id(layer)])


def _flags(model: keras.Model, layer: keras.Layer) -> list[bool]:
    # Of the models around it only the outermost hides what trains in it.
    return [model.trainable and thing.trainable for thing in [*sublayers(layer), *layer.variables]]


def _changed(model: keras.Model, layers: Sequence[keras.Layer], batch_norm: BatchNorm) -> TrainableTable:
    state = trainable_state(model)
    guard(model)
    try:
        table = set_trainable(model, layers, batch_norm)
    except BaseException:
        restore_trainable_state(state)
        raise
    if not table:
        restore_trainable_state(state)
        raise ValueError(
            f"nothing changed: every layer with weights is already as asked, with batch_norm="
            f"{batch_norm!r}; kt.trainable_table(model) shows what trains. "
            f"Received: model {model.name!r}"
        )
    return table
