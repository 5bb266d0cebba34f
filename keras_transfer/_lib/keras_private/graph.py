"""Private names of Keras that layers and graphs need."""

from typing import Any

import keras


def graph_nodes(model: keras.Model) -> list[Any] | None:
    """Return the calls that `model` consists of, inputs first, or None if Keras knows no graph of it.

    Each node has an `operation`, `parent_nodes`, `input_tensors` and `outputs`.
    """
    by_depth = getattr(getattr(model, "_functional", model), "_nodes_by_depth", None)
    if by_depth is None:
        return None
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def call_arguments(node: Any) -> tuple[Any, Any]:
    """Return the positional and the named arguments of a call, symbolic tensors among them."""
    return node.arguments.args, node.arguments.kwargs


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """Return `layer` and all layers inside it."""
    return layer._flatten_layers(include_self=True, recursive=True)


def seed_generators(layer: keras.Layer) -> list[keras.random.SeedGenerator]:
    """Return what a layer, without those inside it, draws random numbers from."""
    return list(layer._seed_generators)


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """Return the variables that train with `layer` and belong to no layer inside it."""
    return list(layer._trainable_variables)


def lora_base(layer: keras.Layer) -> list[keras.Variable]:
    """Return the variables of `layer` that low-rank adaptation (LoRA) keeps as they are."""
    if not getattr(layer, "lora_enabled", False):
        return []
    found = [getattr(layer, name, None) for name in ("_kernel", "_embeddings")]
    return [variable for variable in found if variable is not None]


def kept_inside(layer: keras.Layer) -> list[keras.Variable]:
    """Return the variables of `layer` that stay as they are while it trains.

    Those are what LoRA adapts, what was quantized, and what somebody has frozen one by one; not the
    statistics of batch norm.
    """
    kept = []
    for part in sublayers(layer):
        kept += [variable for variable in own_variables(part) if not variable.trainable]
        if part.quantization_mode is not None:
            kept += part._non_trainable_variables
    return kept


def statistics(model: keras.Model) -> list[keras.Variable]:
    """Return what training changes without gradients, such as the moving means of a batch norm."""
    return [
        variable
        for layer in sublayers(model)
        if layer.trainable
        for variable in layer._non_trainable_variables
        if "float" in keras.backend.standardize_dtype(variable.dtype)
    ]
