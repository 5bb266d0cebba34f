"""A network that ONNX Runtime computes, on the processor."""

import os
import platform
from collections.abc import Callable
from functools import cache

import keras
import numpy as np

from keras_transfer.inference.folding import fold
from keras_transfer.inference.steps import TOLERANCE, UnknownLayerError
from keras_transfer.inference.translation import translated

try:
    import onnxruntime

    from keras_transfer.inference.onnx_file import as_onnx
except ImportError as error:  # pragma: no cover - the solo test runs this
    raise ImportError(
        "ONNX Runtime and onnx aren't installed: pip install 'keras-transfer[fast]'"
    ) from error

_SEVERE = 4  # errors of the runtime are raised; it would print them, too


@cache
def identity() -> str:
    """Return what the last bits of its numbers hang on: its version and the processor's instructions."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    return f"onnxruntime {onnxruntime.__version__}, {platform.machine()} {' '.join(found)}".rstrip()


def computing(model: keras.Model) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Return a function of a batch that gives the outputs of a model in inference mode.

    Raises:
        UnknownLayerError: a layer has no translation.
        Exception: whatever the runtime raises where it can't be started.
    """
    steps = translated(model)
    fold(steps)
    return _session(as_onnx(steps))


def checked_file(model: keras.Model, images: np.ndarray, expected: np.ndarray) -> bytes:
    """Return a model in inference mode as a file of ONNX, which computes what Keras does.

    Its input and output are called as those of the model; a batch may have any size.

    Args:
        model: with one input and one output.
        images: some, of shape (batch, ...).
        expected: what Keras makes of them.

    Raises:
        UnknownLayerError: a layer has no translation, or what the file gives differs by more than 1e-5
            of the norm.
    """
    steps = translated(model)
    fold(steps)
    (output,), (name,) = steps.outputs, model.output_names
    names = {steps.input: model.inputs[0].name, output: name}
    file = as_onnx(steps, names, expected.shape[1:])
    (found,) = _session(file)(images)
    apart, norm = np.linalg.norm(found - expected), np.linalg.norm(expected)
    if not apart <= TOLERANCE * norm:
        raise UnknownLayerError(f"what it gives differs by {apart / norm:.1e} of the norm")
    return file


def _session(file: bytes) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Return a function of a batch that gives the outputs of a file of ONNX with one input."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SEVERE
    options.intra_op_num_threads = _threads()
    # Threads that wait in a loop would take the processor from those that read images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: np.asarray(batch, "float32")})


def _threads() -> int:
    """Return how many threads compute: as many as the process may use processors, or as it is told."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(told) if told.isdigit() and int(told) else allowed
