"""Steps as a file of ONNX, in memory."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from keras_transfer.inference.steps import Steps

_OPSET = 20  # the first with Gelu
_IR_VERSION = 10  # what runtimes of 2024 read, too
_COMPARED = 64  # numbers at either end; of arrays that are equal there, all are compared
_LARGEST = 2**31 - 2**20  # bytes; the format has no more


def as_onnx(
    steps: Steps, names: Mapping[str, str] | None = None, sample: tuple[int, ...] | None = None
) -> bytes:
    """Return steps as a file of ONNX: from batches of float32 to float32.

    Args:
        steps: the steps.
        names: what the tensors at the ends are called instead, by their names among the steps.
        sample: the shape of each output without the batch; None leaves it out, which runtimes need not.

    Raises:
        ValueError: it would be too large for the format.
    """
    used = {name for step in steps.steps for name in step.inputs}
    constants = {name: _stored(value) for name, value in steps.constants.items() if name in used}
    same = _first_of_equals(constants)
    constants = {name: array for name, array in constants.items() if same[name] == name}
    nbytes = sum(array.nbytes for array in constants.values())
    if nbytes > _LARGEST:
        raise ValueError(f"{nbytes / 1e9:.1f} GB of weights are more than a file of ONNX can have")
    same |= names or {}
    model = ModelProto(ir_version=_IR_VERSION, opset_import=[helper.make_opsetid("", _OPSET)])
    graph = model.graph
    graph.name = "network"
    for s in steps.steps:
        inputs = [same.get(name, name) for name in s.inputs]
        graph.node.append(helper.make_node(s.op, inputs, [same.get(s.output, s.output)], **s.attributes))
    shape = ["batch", *steps.shape]
    given = same.get(steps.input, steps.input)
    graph.input.append(helper.make_tensor_value_info(given, TensorProto.FLOAT, shape))
    made = None if sample is None else ["batch", *sample]
    for name in steps.outputs:
        called = same.get(name, name)
        graph.output.append(helper.make_tensor_value_info(called, TensorProto.FLOAT, made))
    for name, array in constants.items():  # in their place, as make_graph and make_model copy them all
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.initializer.add(name=name, data_type=kind, dims=array.shape, raw_data=array.tobytes())
    return model.SerializeToString()


def _stored(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, "int64" if array.dtype.kind == "i" else "float32")


def _first_of_equals(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """Return for the name of each array that of the first one that is equal to it.

    A network that is called for several views of an image has weights once for each of them.
    """
    alike: dict[tuple[Any, ...], list[str]] = {}
    same = {}
    for name, array in arrays.items():
        ends = array.ravel()[:_COMPARED].tobytes(), array.ravel()[-_COMPARED:].tobytes()
        others = alike.setdefault((array.dtype.str, array.shape, *ends), [])
        equal = (other for other in others if _equal(arrays[other], array))
        same[name] = next(equal, name)
        others += [name] if same[name] == name else []
    return same


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the bytes are the same: 0.0 isn't -0.0, and NaN is itself."""
    return one is other or bool((one.view("uint8") == other.view("uint8")).all())
