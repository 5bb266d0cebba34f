"""Operations of Keras on tensors of any number of axes, as in transformers, as steps of ONNX."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_transfer.inference.steps import Steps, Value

# From the operation and what it is called with, tensors and others, to a tensor; None: no translation.
_Translate = Callable[[Steps, Any, list[Any]], Value | None]


def _known(value: Any) -> bool:
    return isinstance(value, Value)


def _part(steps: Steps, operation: Any, given: list[Any]) -> Value | None:
    """Add what `x[...]` does, of slices forwards one by one, and of single places."""
    if len(given) != 2 or not _known(given[0]):
        return None
    value, key = given
    keys = list(key) if isinstance(key, tuple) else [key]
    rank = len(value.shape)
    if keys.count(Ellipsis) == 1:
        place = keys.index(Ellipsis)
        keys[place : place + 1] = [slice(None)] * (rank - len(keys) + 1)
    parts: list[tuple[int, int, int]] = []  # where they begin and end, and of which axis
    single = []
    for axis, (each, size) in enumerate(zip(keys, value.shape, strict=False)):
        if isinstance(each, slice) and each.step in (None, 1):
            if each.start is None and each.stop is None:
                continue
            start, end = _limits(each, size)
        elif isinstance(each, int) and size is not None:
            start, end = each % size, each % size + 1
            single.append(axis)
        else:
            return None
        parts.append((start, end, axis))
    if len(keys) > rank or any(min(part) < 0 for part in parts):
        return None
    x = steps.channels_last(value)
    if parts:
        x = steps.add("Slice", x, *np.array(parts).T)
    if single:
        x = steps.add("Squeeze", x, np.array(single))
    return Value(x, value.shape)


def _limits(part: slice, size: int | None) -> tuple[int, int]:
    """Return where a slice begins and ends; of the batch, whose size isn't known, from its begin."""
    if size is not None:
        start, end, _ = part.indices(size)
        return start, max(start, end)
    return part.start or 0, np.iinfo("int64").max if part.stop is None else part.stop


def _ones(steps: Steps, operation: Any, given: list[Any]) -> Value | None:
    """Add ones of the shape of a tensor: of the first sample alone, they are constant."""
    if len(given) != 1 or None in given[0].shape[1:] or operation.dtype is not None:
        return None
    (value,) = given
    made = next((step for step in steps.steps if step.output == value.name), None)
    ones = np.ones((1, *value.shape[1:]), "float32")
    if made is not None and made.op == "Slice" and _first_alone(steps, made.inputs):
        return Value(steps.constant(ones), value.shape)
    return Value(steps.add("Expand", ones, steps.add("Shape", steps.channels_last(value))), value.shape)


def _first_alone(steps: Steps, inputs: list[str]) -> bool:
    starts, ends, axes = (steps.constants[name].tolist() for name in inputs[1:4])
    return bool(axes and (axes[0], starts[0], ends[0]) == (0, 0, 1))


def _rolled(steps: Steps, operation: Any, given: list[Any]) -> Value | None:
    if len(given) != 1 or not isinstance(operation.axis, int) or not isinstance(operation.shift, int):
        return None
    (value,) = given
    axis = operation.axis % len(value.shape)
    if axis == 0:
        return None
    size, x = value.shape[axis], steps.channels_last(value)
    cut = -operation.shift % size
    if not cut:
        return value
    limits = ((cut, size), (0, cut))
    parts = [
        steps.add("Slice", x, np.array([start]), np.array([end]), np.array([axis]))
        for start, end in limits
    ]
    return Value(steps.add("Concat", *parts, axis=axis), value.shape)


def _taken(steps: Steps, operation: Any, given: list[Any]) -> Value | None:
    if len(given) != 2 or not _known(given[0]) or not isinstance(given[1], np.ndarray):
        return None
    value, places = given
    axis = None if operation.axis is None else operation.axis % len(value.shape)
    if not axis or places.dtype.kind != "i" or places.min() < 0:
        return None
    return Value(steps.add("Gather", steps.channels_last(value), places, axis=axis), value.shape)


def _product(steps: Steps, operation: Any, given: list[Any]) -> Value | None:
    if len(given) != 2 or not all(map(_known, given)) or len(given[0].shape) != len(given[1].shape):
        return None
    return Value(steps.add("MatMul", *map(steps.channels_last, given)), given[0].shape)


def _attention(steps: Steps, operation: Any, given: list[Any]) -> Value | None:
    """Add attention of all tokens to all, of tensors (batch, tokens, heads, size)."""
    others = operation.is_causal or operation.attn_logits_soft_cap is not None
    if others or len(given) < 3 or not all(map(_known, given[:3])) or any(given[3:]):
        return None
    if len({each.shape[2] for each in given[:3]}) > 1:
        return None
    query, key, value = map(steps.channels_last, given[:3])
    query = steps.add("Mul", query, np.float32(given[0].shape[-1] ** -0.5))
    query, value = (steps.add("Transpose", each, perm=(0, 2, 1, 3)) for each in (query, value))
    scores = steps.add("MatMul", query, steps.add("Transpose", key, perm=(0, 2, 3, 1)))
    found = steps.add("MatMul", steps.add("Softmax", scores, axis=-1), value)
    return Value(steps.add("Transpose", found, perm=(0, 2, 1, 3)), given[0].shape)


def _gelu(steps: Steps, operation: Any, given: list[Any]) -> Value | None:
    if len(given) != 1:
        return None
    kind = "tanh" if operation.approximate else "none"
    return given[0]._replace(name=steps.add("Gelu", given[0].name, approximate=kind))


def _absolute(steps: Steps, operation: Any, given: list[Any]) -> Value | None:
    return given[0]._replace(name=steps.add("Abs", given[0].name)) if len(given) == 1 else None


OPERATIONS: dict[str, _Translate] = {
    "Abs": _absolute,
    "Absolute": _absolute,
    "DotProductAttention": _attention,
    "Gelu": _gelu,
    "GetItem": _part,
    "Matmul": _product,
    "OnesLike": _ones,
    "Roll": _rolled,
    "Take": _taken,
}
