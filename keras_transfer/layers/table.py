"""The table of what trains."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import keras
import rich.text

from keras_transfer._lib.keras_private.graph import kept_inside
from keras_transfer._lib.tables import PrintsAsTable
from keras_transfer.layers.graph import check_built, has_graph, leaf_layers
from keras_transfer.layers.groups import LayerGroup, layer_groups


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
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
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
    return TrainableTable(row for _, row in rows_of(model, learning_rate, multiplier_of))


@dataclass(frozen=True)
class TrainableRow:
    """One layer of a `TrainableTable`.

    Attributes:
        layer: the layer's name.
        kind: the name of its class.
        group: the group it belongs to (see `keras_transfer.layer_groups`); "" in a subclassed model.
        parameters: how many numbers its weights hold, batch-norm statistics included.
        trainable: whether it trains.
        training: how many of the numbers training changes, statistics of batch norm included: all where
            it trains, but for what LoRA or quantization keep as it is, or what was frozen by itself.
        learning_rates: the rates that its weights train at, each once; empty if it is frozen or no rate
            is known.
        learning_rate: the first of them, or None.
    """

    layer: str
    kind: str
    group: str
    parameters: int
    trainable: bool
    training: int
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
                    "training": sum(row.training for row in layers),
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
                _amount(row),
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
    parameters, training = (sum(getattr(row, n) for row in rows) for n in ("parameters", "training"))
    return replace(first, layer=name, kind=kind, parameters=parameters, training=training)


def _amount(row: TrainableRow) -> str:
    """Return how much of a layer trains, in a word if that is all or nothing."""
    if not row.training:
        return "-"
    return "yes" if row.training == row.parameters else f"{row.training:,}"


def rows_of(
    model: keras.Model,
    learning_rate: float | None = None,
    multiplier_of: Callable[[keras.Variable], float] | None = None,
) -> Iterator[tuple[keras.Layer, TrainableRow]]:
    """Yield each layer of a model that has weights, and its row."""
    groups = layer_groups(model) if has_graph(model) else [LayerGroup("", leaf_layers(model))]
    for group in groups:
        for layer in group.layers:
            if layer.weights:
                trainable = bool(model.trainable and layer.trainable)
                kept = sum(math.prod(variable.shape) for variable in kept_inside(layer))
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
                        training=layer.count_params() - kept if trainable else 0,
                        learning_rates=tuple(dict.fromkeys(rates)),
                    ),
                )
