"""What trains: freezing and unfreezing layers, batch norm, and the table that shows it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

import keras
import rich.box
import rich.table
import rich.text

from keras_transfer._keras_private import lora_base, own_variables, sublayers
from keras_transfer._messages import one_of
from keras_transfer._tables import PrintsAsTable
from keras_transfer.groups import (
    LayerGroup,
    Split,
    backbone_layers,
    check_built,
    find_layers,
    groups_from,
    has_graph,
    head_layers,
    layer_groups,
    layers_from,
    leaf_layers,
    nested_models,
)
from keras_transfer.guard import guard

BatchNorm = Literal["freeze", "train"]
_BATCH_NORM_CHOICES = ("freeze", "train")


def freeze_backbone(model: keras.Model, *, batch_norm: BatchNorm = "freeze") -> "TrainableTable":
    """Freeze everything but the classification head.

    A change of what trains takes effect when the model is compiled next; `keras_transfer.recompile`
    does that without losing what the optimizer knows. `fit` of a model that was changed and not
    compiled raises an error (see `keras_transfer.guard`).

    Args:
        model: any model with a classification head (see `keras_transfer.groups.head_layers`).
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


def trainable_table(
    model: keras.Model,
    learning_rate: float | None = None,
    multiplier_of: Callable[[keras.Variable], float] | None = None,
) -> "TrainableTable":
    """Return what trains in `model`, a row for each layer that has parameters.

    Args:
        model: any model.
        learning_rate: shown for the layers that train; by default that of the compiled optimizer, with
            the multipliers of a `keras_transfer.optimizers.LayerwiseLR`.
        multiplier_of: tells the multiplier of a weight; by default 1 if a learning rate is given.

    Returns:
        A table to print, or to go through row by row.

    Raises:
        ValueError: the model is not built.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, input_shape=(32, 32, 3), weights=None)
        >>> row = kt.trainable_table(model)[-1]
        >>> row.layer, row.group, row.parameters, row.trainable
        ('predictions', 'head', 1539, True)
    """
    check_built(model)
    optimizer = getattr(model, "optimizer", None)
    if learning_rate is None:
        # MultiOptimizer has no rate of its own: asking for it is an AttributeError.
        rate = getattr(optimizer, "learning_rate", None)
        learning_rate = None if rate is None else float(keras.ops.convert_to_numpy(rate))
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # behind a loss scale
        multiplier_of = multiplier_of or getattr(optimizer, "multiplier_of", None)
    return TrainableTable(row for _, row in _rows(model, learning_rate, multiplier_of))


@dataclass(frozen=True)
class TrainableRow:
    """One layer of a `TrainableTable`.

    Attributes:
        layer: the layer's name.
        kind: the name of its class.
        group: the group it belongs to (see `keras_transfer.layer_groups`); "" in a subclassed model.
        parameters: how many numbers its weights hold, batch-norm statistics included.
        trainable: whether it trains.
        learning_rates: the rates that its weights train at, each once; empty if it is frozen or no rate
            is known.
        learning_rate: the first of them, or None.
    """

    layer: str
    kind: str
    group: str
    parameters: int
    trainable: bool
    learning_rates: tuple[float, ...]

    @property
    def learning_rate(self) -> float | None:
        return self.learning_rates[0] if self.learning_rates else None


class TrainableTable(PrintsAsTable, tuple[TrainableRow, ...]):
    """What trains in a model: a tuple of `TrainableRow`s that prints as a table."""

    def summary(self) -> "TrainableTable":
        """Return a shorter table: one row for each stretch of layers that fare alike.

        Batch-norm layers stand in rows of their own at the end, as they would cut the stretches up.
        """
        others: list[TrainableRow] = []
        norms: dict[tuple[str, bool, tuple[float, ...]], list[TrainableRow]] = {}

        def fate(row: TrainableRow) -> tuple[str, bool, tuple[float, ...]]:
            return row.group, row.trainable, row.learning_rates

        for row in self:
            if row.kind == "BatchNormalization":
                norms.setdefault(fate(row), []).append(row)
            else:
                others.append(row)
        stretches = [list(rows) for _, rows in groupby(others, fate)]
        return TrainableTable(_joined(rows) for rows in [*stretches, *norms.values()])

    def by_group(self) -> list[dict[str, Any]]:
        """Return for each group, in plain data, how much of it trains and at which rates."""
        found = []
        for name, rows in groupby(self, lambda row: row.group):
            layers = list(rows)
            rates = [rate for row in layers for rate in row.learning_rates]
            found.append(
                {
                    "name": name,
                    "parameters": sum(row.parameters for row in layers),
                    "training": sum(row.parameters for row in layers if row.trainable),
                    "lowest_rate": min(rates, default=None),
                    "highest_rate": max(rates, default=None),
                }
            )
        return found

    def __rich__(self) -> rich.table.Table:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        for column in ("layer", "group"):
            table.add_column(column)
        for column in ("parameters", "trains", "learning rate"):
            table.add_column(column, justify="right")
        for row in self:
            rates = ", ".join(f"{rate:.3g}" for rate in row.learning_rates)
            table.add_row(
                rich.text.Text(row.layer),  # a name is no markup, whatever brackets it has
                row.group,
                f"{row.parameters:,}",
                "yes" if row.trainable else "-",
                rates,
                style=None if row.trainable else "dim",
            )
        return table


def _joined(rows: list[TrainableRow]) -> TrainableRow:
    first, last = rows[0], rows[-1]
    kind = first.kind if len({row.kind for row in rows}) == 1 else "various"
    name = first.layer if len(rows) == 1 else f"{first.layer} ... {last.layer}"
    if kind == "BatchNormalization":
        name = f"batch norm: {len(rows)} layer{'s' * (len(rows) > 1)}"
    parameters = sum(row.parameters for row in rows)
    return replace(first, layer=name, kind=kind, parameters=parameters)


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


def required_head(model: keras.Model) -> list[keras.Layer]:
    """Return the layers of the head of `model`, or raise a `ValueError` if it has none."""
    head = head_layers(model)
    if not head:
        shapes = ", ".join(str(output.shape) for output in model.outputs)
        raise ValueError(
            f"model {model.name!r} has no classification head that can be told from its backbone: add "
            "one with kt.classifier(model, num_classes), or say what trains with kt.unfreeze_from, "
            f"kt.freeze_to or kt.unfreeze(model, layers=[...]). Received: a model with output {shapes}"
        )
    return head


def last_weighted(model: keras.Model) -> keras.Layer:
    """Return the last layer of the head of a classifier that has weights."""
    return [layer for layer in required_head(model) if layer.weights][-1]


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
    rows = _rows(model)
    return TrainableTable(row for layer, row in rows if _flags(model, layer) != before[id(layer)])


def _rows(
    model: keras.Model,
    learning_rate: float | None = None,
    multiplier_of: Callable[[keras.Variable], float] | None = None,
) -> Iterator[tuple[keras.Layer, TrainableRow]]:
    groups = layer_groups(model) if has_graph(model) else [LayerGroup("", leaf_layers(model))]
    for group in groups:
        for layer in group.layers:
            if layer.weights:
                trainable = bool(model.trainable and layer.trainable)
                rates: list[float] = []
                if trainable and learning_rate is not None:
                    factors = map(multiplier_of or (lambda _: 1.0), layer.trainable_weights)
                    rates = [learning_rate * factor for factor in factors]
                yield (
                    layer,
                    TrainableRow(
                        layer=layer.name,
                        kind=type(layer).__name__,
                        group=group.name,
                        parameters=layer.count_params(),
                        trainable=trainable,
                        learning_rates=tuple(dict.fromkeys(rates)),
                    ),
                )


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
