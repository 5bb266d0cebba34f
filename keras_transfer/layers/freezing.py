"""What trains: freezing and unfreezing layers and batch norm."""

from collections.abc import Sequence
from typing import Literal, get_args

import keras

from keras_transfer._lib.checks import checked_choice
from keras_transfer._lib.keras_private.graph import lora_base, own_variables, sublayers
from keras_transfer._lib.keras_private.lora import base_kernel
from keras_transfer.layers.graph import check_built, has_graph, leaf_layers, nested_models
from keras_transfer.layers.groups import Split
from keras_transfer.layers.guard import guard
from keras_transfer.layers.head import backbone_layers, required_head
from keras_transfer.layers.selection import Selection, select, select_from
from keras_transfer.layers.table import TrainableTable, rows_of

BatchNorm = Literal["freeze", "train"]


def freeze_backbone(
    model: keras.Model, *, batch_norm: BatchNorm = "freeze", strict: bool = False
) -> "TrainableTable":
    """Freeze everything but the classification head.

    A change of what trains takes effect when the model is compiled next; `keras_transfer.recompile`
    does that without losing what the optimizer knows. `fit` of a model that was changed and not
    compiled raises an error (see `keras_transfer.layers.guard`). Where all is as asked already, nothing
    changes, and the model needs no compiling.

    Args:
        model: any model with a classification head (see `keras_transfer.layers.head.head_layers`).
        batch_norm: "freeze" keeps the backbone's batch norm in inference mode: scale, offset and
            running statistics stay as they are. "train" lets all of these train, also between frozen
            layers (as fastai's `train_bn`).
        strict: whether it is an error that nothing changes.

    Returns:
        The table of what changed; empty if all was as asked already.

    Raises:
        ValueError: the model has no classification head, is subclassed or not built, `batch_norm` is
            neither "freeze" nor "train", or `strict` is given and nothing changed. The model is as it
            was.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("mobilenet_v2", 3, image_size=32, weights=None)
        >>> table = kt.freeze_backbone(model)
        >>> [row.layer for row in kt.trainable_table(model) if row.trainable]
        ['predictions']
        >>> len(kt.freeze_backbone(model))
        0
    """
    return _changed(model, required_head(model), batch_norm, strict)


def freeze_to(
    model: keras.Model,
    first: Selection,
    *,
    batch_norm: BatchNorm = "freeze",
    split: Split | None = None,
    strict: bool = False,
) -> "TrainableTable":
    """Freeze what stands before `first`, and let the rest train.

    It is `unfreeze_from` under the name that fastai gave it for groups.

    Args:
        model: as in `unfreeze_from`.
        first: as in `unfreeze_from`, such as the index of a group.
        batch_norm: as in `freeze_backbone`.
        split: as in `unfreeze_from`.
        strict: as in `freeze_backbone`.

    Returns:
        The table of what changed; empty if all was as asked already.

    Raises:
        ValueError: as `unfreeze_from`.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> table = kt.freeze_to(model, -2)
        >>> [row.layer for row in kt.trainable_table(model) if row.trainable]
        ['block5_conv1', 'block5_conv2', 'block5_conv3', 'predictions']
    """
    return unfreeze_from(model, first, batch_norm=batch_norm, split=split, strict=strict)


def unfreeze(
    model: keras.Model,
    layers: Selection = "all",
    *,
    batch_norm: BatchNorm = "freeze",
    strict: bool = False,
) -> "TrainableTable":
    """Let every layer train, or the given ones besides those that already do.

    The backbone's batch norm trains only with `batch_norm="train"`.

    Args:
        model: any model.
        layers: one of these, or a list of them:

            - "all"; "head", the whole classifier (see `keras_transfer.layers.head.head_layers`);
              "output", its last layer with weights; "new", what began with random weights;
            - an index n: the groups of `keras_transfer.layer_groups` from n on; negative ones count
              from the end, as in a list: -1 is the head, -2 the last stage and the head;
            - the name of a layer, in whichever nested model it is, else of a nested model, else of a
              group; or a regular expression that matches whole names of these;
            - "from:<name>": the first layer that the name means, and all after it;
            - a function from a layer to whether it is meant.

            The four words go before layers that are called so; a function finds these.
        batch_norm: as in `freeze_backbone`. A network trained from scratch needs "train".
        strict: as in `freeze_backbone`.

    Returns:
        The table of what changed; empty if all was as asked already.

    Raises:
        ValueError: an entry of `layers` means no layer, the model is not built, `batch_norm` is neither
            "freeze" nor "train", or `strict` is given and nothing changed. The model is as it was.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> table = kt.freeze_backbone(model)
        >>> [row.layer for row in kt.unfreeze(model, ["block1_conv1", "block5"])]
        ['block1_conv1', 'block5_conv1', 'block5_conv2', 'block5_conv3']
    """
    found = select(model, layers)
    already = [layer for layer in leaf_layers(model) if layer.trainable]
    return _changed(model, [*already, *found], batch_norm, strict)


def unfreeze_from(
    model: keras.Model,
    first: Selection,
    *,
    batch_norm: BatchNorm = "freeze",
    split: Split | None = None,
    strict: bool = False,
) -> "TrainableTable":
    """Train `first` and everything after it; freeze what stands before.

    Args:
        model: any model; layers of nested models are found by their own names.
        first: what trains first, as `unfreeze` takes it: the name of a layer ("block5_conv1") or of a
            group ("block5"), or the index of a group (-2 is the last stage, and the head comes after
            it).
        batch_norm: as in `freeze_backbone`.
        split: groups of your own, as in `keras_transfer.layer_groups`.
        strict: as in `freeze_backbone`.

    Returns:
        The table of what changed; empty if all was as asked already.

    Raises:
        ValueError: `first` means no layer or is the name of several, the model is not built, or
            subclassed and not split, `batch_norm` is neither "freeze" nor "train", or `strict` is given
            and nothing changed. The model is as it was.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> table = kt.unfreeze_from(model, "block5_conv3")
        >>> [row.layer for row in kt.trainable_table(model) if row.trainable]
        ['block5_conv3', 'predictions']
    """
    trains = select_from(model, first, argument="first", split=split)
    return _changed(model, trains, batch_norm, strict)


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
    model: keras.Model,
    layers: Sequence[keras.Layer],
    batch_norm: BatchNorm,
    adapted: Sequence[keras.Layer] = (),
) -> "TrainableTable":
    """Let exactly `layers`, leaf layers of `model`, train, and the backbone's batch norm as asked.

    Args:
        model: any model.
        layers: what trains.
        batch_norm: as in `freeze_backbone`.
        adapted: `Dense` and `EinsumDense` layers for adapters (LoRA): of the leaf layers that these are,
            or in which these are, nothing trains but their kernels.

    Returns:
        The table of what changed, which may be empty.

    Raises:
        ValueError: the model is not built, or `batch_norm` is neither "freeze" nor "train".
    """
    checked_choice("batch_norm", batch_norm, get_args(BatchNorm))
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
    for leaf in leaves:
        _keep_to_kernels(leaf, {id(layer) for layer in adapted})
    # Low-rank adaptation (LoRA) is there to keep what it adapts.
    for layer in sublayers(model):
        for variable in lora_base(layer):
            variable.trainable = False
    rows = rows_of(model)
    return TrainableTable(row for layer, row in rows if _flags(model, layer) != before[id(layer)])


def _keep_to_kernels(leaf: keras.Layer, adapted: set[int]) -> None:
    """Freeze what of a leaf layer is no kernel of an adapted layer, if it is or has any."""
    if not any(id(part) in adapted for part in sublayers(leaf)):
        return
    for layer in sublayers(leaf):
        if isinstance(layer, keras.layers.BatchNormalization):  # which has its own say
            continue
        if not any(id(part) in adapted for part in sublayers(layer)):
            layer.trainable = False
        for variable in own_variables(layer):
            if id(layer) not in adapted or variable is not base_kernel(layer):
                variable.trainable = False


def _flags(model: keras.Model, layer: keras.Layer) -> list[bool]:
    # Of the models around it only the outermost hides what trains in it.
    return [model.trainable and thing.trainable for thing in [*sublayers(layer), *layer.variables]]


def _changed(
    model: keras.Model, layers: Sequence[keras.Layer], batch_norm: BatchNorm, strict: bool
) -> TrainableTable:
    state = trainable_state(model)
    table: TrainableTable | None = None
    guard(model)
    try:
        table = set_trainable(model, layers, batch_norm)
        if strict and not table:
            raise ValueError(
                f"nothing changed: every layer with weights is already as asked, with batch_norm="
                f"{batch_norm!r}; kt.trainable_table(model) shows what trains. "
                f"Received: model {model.name!r}"
            )
        return table
    finally:
        if not table:  # after an error; or those of layers without weights, and of nested models
            restore_trainable_state(state)
