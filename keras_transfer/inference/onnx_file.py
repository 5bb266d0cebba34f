"""Steps as a file of ONNX, in memory."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from keras_transfer._lib.arrays import array_digest
from keras_transfer.inference.steps import Steps

_OPSET = 20  # the first with Gelu
_IR_VERSION = 10  # what runtimes of 2024 read, too
_LARGEST = 2**31 - 2**20  # bytes; the format has no more


def as_onnx(steps: Steps) -> bytes:
    """Return steps as a file of ONNX: from batches of float32 to float32.

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
    graph = helper.make_graph(
        [
            helper.make_node(s.op, [same.get(i, i) for i in s.inputs], [s.output], **s.attributes)
            for s in steps.steps
        ],
        "network",
        [helper.make_tensor_value_info(steps.input, TensorProto.FLOAT, ["batch", *steps.shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in steps.outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
    return model.SerializeToString()


def _stored(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, "int64" if array.dtype.kind == "i" else "float32")


def _first_of_equals(arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """Return for the name of each array that of the first one that is equal to it.

    A network that is called for several views of an image has weights once for each of them.
    """
    first: dict[str, str] = {}
    return {name: first.setdefault(array_digest(array), name) for name, array in arrays.items()}
