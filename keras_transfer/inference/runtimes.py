"""What computes a network where nothing trains.

By rule, never by a timing, so that numbers hang on no noise: ONNX Runtime where it is installed, the
backend has no GPU, and every layer has a translation that gives what the backend gives; otherwise Keras.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar, get_args

import keras
import numpy as np

from keras_transfer import _distribution
from keras_transfer._lib.checks import checked_choice
from keras_transfer._lib.messages import say
from keras_transfer.inference.steps import UnknownLayerError

RuntimeName = Literal["auto", "keras", "onnxruntime"]
Compute = Callable[[np.ndarray], list[np.ndarray]]

_Result = TypeVar("_Result")
_TOLERANCE = 1e-5  # of the norm
_SAMPLE = 2  # images


class Runtime(NamedTuple):
    """What can compute a network.

    Attributes:
        name: "keras" or "onnxruntime".
        identity: what tells its numbers from those of others; of Keras, where it runs on which backend.
    """

    name: str
    identity: str


class UnfitError(RuntimeError):
    """ONNX Runtime can't compute a network, or not as the backend does; the message says why."""


def runtimes(model: keras.Model, wanted: RuntimeName = "auto") -> tuple[list[Runtime], str | None]:
    """Return what may compute a model, by rule, the first choice first.

    Args:
        model: a functional model with one input.
        wanted: "auto", or the one that it must be.

    Returns:
        What is to be tried, in this order, and why ONNX Runtime isn't among them, or None.

    Raises:
        ValueError: `wanted` is none, or can't be had.
    """
    checked_choice("runtime", wanted, get_args(RuntimeName))
    keras_itself = Runtime("keras", f"keras {keras.__version__}, {keras.backend.backend()}")
    if wanted == "keras":
        return [keras_itself], None
    obstacle = _obstacle(model)
    if obstacle is None:
        from keras_transfer.inference import onnx_runtime

        fast = Runtime("onnxruntime", onnx_runtime.identity())
        return ([fast] if wanted == "onnxruntime" else [fast, keras_itself]), None
    if wanted == "onnxruntime":
        raise ValueError(
            f"runtime must be 'keras' or 'auto' here, as {obstacle}. Received: runtime='onnxruntime'"
        )
    return [keras_itself], obstacle


def by_the_first(
    model: keras.Model, wanted: RuntimeName, act: Callable[[Runtime], _Result], verbose: int
) -> _Result:
    """Do something by the first of `runtimes` that proves fit, and say why it isn't ONNX Runtime.

    Args:
        model: as in `runtimes`.
        wanted: as in `runtimes`.
        act: is given the runtime; what raises `UnfitError` leaves nothing behind.
        verbose: as `verbosity` returns it.
    """
    found, obstacle = runtimes(model, wanted)
    for runtime in found[:-1]:
        try:
            return act(runtime)
        except UnfitError as error:
            obstacle = str(error)
    if obstacle is not None:
        say(verbose, f"Keras computes {model.name!r}, as {obstacle}")
    return act(found[-1])


def check_fit(model: keras.Model, runtime: Runtime) -> None:
    """Raise an `UnfitError` if ONNX Runtime is to compute what has no translation."""
    if runtime.name == "onnxruntime":
        from keras_transfer.inference.translation import translated

        try:
            translated(model)
        except UnknownLayerError as error:
            raise UnfitError(str(error)) from error


def started(model: keras.Model, runtime: Runtime, images: np.ndarray, batch_size: int) -> Compute:
    """Return what computes the outputs of a model for batches of up to `batch_size`.

    Args:
        model: the model.
        runtime: one of `runtimes`.
        images: some, of which ONNX Runtime must make what Keras makes of them.
        batch_size: Keras is always given batches of this size, as it compiles each size anew.

    Raises:
        UnfitError: ONNX Runtime can't compute the model, or gives something else.
    """
    if runtime.name == "keras":
        return _by_keras(model, batch_size)
    try:
        from keras_transfer.inference import onnx_runtime

        compute = _guarded(onnx_runtime.computing(model))
    except UnknownLayerError as error:
        raise UnfitError(str(error)) from error
    except Exception as error:  # whatever a runtime raises: Keras can do it
        raise UnfitError(f"ONNX Runtime failed ({error})") from error
    sample = images[:_SAMPLE]
    for one, other in zip(compute(sample), _by_keras(model, len(sample))(sample), strict=True):
        with np.errstate(invalid="ignore"):  # infinity less infinity: that isn't equal either
            norm, apart = float(np.linalg.norm(other)), float(np.linalg.norm(one - other))
        if not apart <= _TOLERANCE * norm:
            raise UnfitError(
                f"what ONNX Runtime makes of {len(sample)} images differs from what Keras makes of them "
                f"by {apart / norm if norm else np.inf:.1e} of the norm"
            )
    return compute


def _by_keras(model: keras.Model, batch_size: int) -> Compute:
    forward, multiple = _distribution.forward(model)
    size = -(-batch_size // multiple) * multiple
    structure = getattr(model, "input", None)  # a list, if the model was made with one

    def compute(images: np.ndarray) -> list[np.ndarray]:
        missing = size - len(images)
        whole = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
        outputs = forward(keras.tree.pack_sequence_as(structure, [whole]))
        several = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        return [keras.ops.convert_to_numpy(each)[: len(images)] for each in several]

    return compute


def _guarded(compute: Compute) -> Compute:
    def guarded(batch: np.ndarray) -> list[np.ndarray]:
        try:
            return compute(batch)
        except Exception as error:
            raise UnfitError(f"ONNX Runtime failed ({error})") from error

    return guarded


def _obstacle(model: keras.Model) -> str | None:
    """Return why the rule rules ONNX Runtime out, or None."""
    if _distribution.placement(model).devices > 1:
        return "the model is on several devices"
    if _distribution.accelerated(model):
        return "the backend has a GPU"
    try:
        from keras_transfer.inference import onnx_runtime  # noqa: F401
    except ImportError as error:
        return str(error)
    return None
