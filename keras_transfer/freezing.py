"""What trains: freezing and unfreezing layers, batch norm, and the table that shows it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import keras
import rich.box
import rich.console
import rich.table
import rich.text

from keras_transfer._messages import one_of
from keras_transfer.layer_groups import (
    backbone_layers,
    head_layers,
    layers_from,
    leaf_layers,
    nested_models,
)

BatchNorm = Literal["freeze", "train"]
_BATCH_NORM_CHOICES = ("freeze", "train")


def freeze_backbone(model: keras.Model, *, batch_norm: BatchNorm = "freeze") -> "TrainableTable":
    """Freeze everything but the classification head.

    A change of what trains takes effect at the next `compile`.

    Args:
        model: any model; for what counts as its head see `keras_transfer.layer_groups.head_layers`.
        batch_norm: "freeze" keeps the backbone's batch norm in inference mode: scale, offset and
            running statistics stay as they are. "train" lets all of these train, also between frozen
            layers (as fastai's `train_bn`).

    Returns:
        The table of what trains now.

    Raises:
        ValueError: `batch_norm` is neither "freeze" nor "train". The model is as it was.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("mobilenet_v2", 3, input_shape=(32, 32, 3), weights=None)
        >>> table = kt.freeze_backbone(model)
        >>> [row.layer for row in table if row.trainable]
        ['predictions']
    """
    return _set_trainable(model, head_layers(model), batch_norm)


def unfreeze(model: keras.Model, *, batch_norm: BatchNorm = "freeze") -> "TrainableTable":
    """Let every layer train, the backbone's batch norm only with `batch_norm="train"`.

    Args:
        model: any model.
        batch_norm: as in `freeze_backbone`. A network trained from scratch needs "train".

    Returns:
        The table of what trains now.

    Raises:
        ValueError: `batch_norm` is neither "freeze" nor "train". The model is as it was.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("mobilenet_v2", 3, input_shape=(32, 32, 3), weights=None)
        >>> table = kt.unfreeze(model)
        >>> {row.layer: row.trainable for row in table}["bn_Conv1"]
        False
    """
    return _set_trainable(model, leaf_layers(model), batch_norm)


def unfreeze_from(
    model: keras.Model, layer: str, *, batch_norm: BatchNorm = "freeze"
) -> "TrainableTable":
    """Train the layer called `layer` and everything after it; freeze what stands before.

    Args:
        model: any model; layers of nested models are found by their own names.
        layer: the name of the first layer that trains, such as "block5_conv1".
        batch_norm: as in `freeze_backbone`.

    Returns:
        The table of what trains now.

    Raises:
        ValueError: no layer or several layers have this name, or `batch_norm` is neither "freeze" nor
            "train". The model is as it was.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, input_shape=(32, 32, 3), weights=None)
        >>> table = kt.unfreeze_from(model, "block5_conv3")
        >>> [row.layer for row in table if row.trainable]
        ['block5_conv3', 'predictions']
    """
    return _set_trainable(model, layers_from(model, layer), batch_norm)


def trainable_table(model: keras.Model, learning_rate: float | None = None) -> "TrainableTable":
    """Return what trains in `model`, a row for each layer that has parameters.

    Args:
        model: any model.
        learning_rate: shown for the layers that train; by default that of the compiled optimizer.

    Returns:
        A table to print, or to go through row by row.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, input_shape=(32, 32, 3), weights=None)
        >>> row = kt.trainable_table(model)[-1]
        >>> row.layer, row.group, row.parameters, row.trainable
        ('predictions', 'head', 1539, True)
    """
    if learning_rate is None:
        # MultiOptimizer has no rate of its own: asking for it is an AttributeError.
        rate = getattr(getattr(model, "optimizer", None), "learning_rate", None)
        learning_rate = None if rate is None else float(keras.ops.convert_to_numpy(rate))
    head = {id(layer) for layer in head_layers(model)}
    return TrainableTable(
        TrainableRow(
            layer=layer.name,
            kind=type(layer).__name__,
            group="head" if id(layer) in head else "backbone",
            parameters=layer.count_params(),
            trainable=bool(layer.trainable),
            learning_rate=learning_rate if layer.trainable else None,
        )
        for layer in leaf_layers(model)
        if layer.weights
    )


@dataclass(frozen=True)
class TrainableRow:
    """One layer of a `TrainableTable`.

    Attributes:
        layer: the layer's name.
        kind: the name of its class.
        group: the group it belongs to: "backbone" or "head".
        parameters: how many numbers its weights hold, batch-norm statistics included.
        trainable: whether it trains.
        learning_rate: the rate it trains at, or None if it is frozen or the rate is not known.
    """

    layer: str
    kind: str
    group: str
    parameters: int
    trainable: bool
    learning_rate: float | None


class TrainableTable(tuple[TrainableRow, ...]):
    """What trains in a model: a tuple of `TrainableRow`s that prints as a table."""

    def summary(self) -> "TrainableTable":
        """Return a shorter table: one row for each stretch of layers that fare alike.

        Batch-norm layers stand in rows of their own at the end, as they would cut the stretches up.
        """
        others: list[TrainableRow] = []
        norms: list[TrainableRow] = []
        for row in self:
            (norms if row.kind == "BatchNormalization" else others).append(row)

        def fate(row: TrainableRow) -> tuple[str, bool]:
            return row.group, row.trainable

        stretches = [list(rows) for _, rows in groupby(others, fate)]
        stretches += [list(rows) for _, rows in groupby(sorted(norms, key=fate), fate)]
        return TrainableTable(_joined(rows) for rows in stretches)

    def __rich__(self) -> rich.table.Table:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        for column in ("layer", "group"):
            table.add_column(column)
        for column in ("parameters", "trains", "learning rate"):
            table.add_column(column, justify="right")
        for row in self:
            rate = "" if row.learning_rate is None else f"{row.learning_rate:.3g}"
            table.add_row(
                rich.text.Text(row.layer),  # a name is no markup, whatever brackets it has
                row.group,
                f"{row.parameters:,}",
                "yes" if row.trainable else "-",
                rate,
                style=None if row.trainable else "dim",
            )
        return table

    def __str__(self) -> str:
        console = rich.console.Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    __repr__ = __str__


def _joined(rows: list[TrainableRow]) -> TrainableRow:
    first, last = rows[0], rows[-1]
    kind = first.kind if len({row.kind for row in rows}) == 1 else "various"
    name = first.layer if len(rows) == 1 else f"{first.layer} ... {last.layer}"
    if kind == "BatchNormalization":
        name = f"batch norm: {len(rows)} layer{'s' * (len(rows) > 1)}"
    parameters = sum(row.parameters for row in rows)
    return replace(first, layer=name, kind=kind, parameters=parameters)


def trainable_state(model: keras.Model) -> list[tuple[keras.Layer, bool]]:
    """Return the `trainable` flags of `model`, for `restore_trainable_state`."""
    return [(layer, layer.trainable) for layer in [*nested_models(model), *leaf_layers(model)]]


def restore_trainable_state(state: list[tuple[keras.Layer, bool]]) -> None:
    """Put the flags back that `trainable_state` returned."""
    for layer, trainable in state:  # models first: their setter overwrites the flags inside
        layer.trainable = trainable


def _set_trainable(
    model: keras.Model, layers: list[keras.Layer], batch_norm: BatchNorm
) -> TrainableTable:
    if batch_norm not in _BATCH_NORM_CHOICES:
        raise ValueError(
            f"batch_norm must be {one_of(_BATCH_NORM_CHOICES)}. Received: batch_norm={batch_norm!r}"
        )
    trains = {id(layer) for layer in layers}
    for layer in _batch_norm_layers(backbone_layers(model)):
        if batch_norm == "train":
            trains.add(id(layer))
        else:
            trains.discard(id(layer))
    # A nested model's own flag says nothing about its layers, but False would hide their weights.
    for nested in nested_models(model):
        nested.trainable = True
    for layer in leaf_layers(model):
        layer.trainable = id(layer) in trains
    return trainable_table(model)


def _batch_norm_layers(layers: list[keras.Layer]) -> Iterator[keras.Layer]:
    return (layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization))
