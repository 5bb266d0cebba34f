"""What computes a network where nothing trains.

By rule, never by a timing, so that numbers hang on no noise: ONNX Runtime where it is installed, the
backend has no GPU, and every layer has a translation that gives what the backend gives. Otherwise Keras,
on a copy with batch norm folded and with quick convolutions, if that gives the same; else on the network
itself.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import keras
import numpy as np

from keras_transfer import _distribution
from keras_transfer._lib.checks import checked_choice
from keras_transfer._lib.keras_private.convolutions import quick_convolutions
from keras_transfer._lib.messages import say
from keras_transfer.inference.folded import folded
from keras_transfer.inference.steps import TOLERANCE, UnknownLayerError

RuntimeName = Literal["auto", "onnxruntime", "folded", "keras"]
Compute = Callable[[np.ndarray], list[np.ndarray]]

_Result = TypeVar("_Result")
_SAMPLE = 2  # images


class Runtime(NamedTuple):
    """What can compute a network.

    Attributes:
        name: "onnxruntime", "folded" or "keras".
        identity: what tells its numbers from those of others; it begins with the name.
    """

    name: RuntimeName
    identity: str


class UnfitError(RuntimeError):
    """A runtime can't compute a network, or not as Keras does; the message says why."""


def runtimes(model: keras.Model, wanted: RuntimeName = "auto") -> tuple[list[Runtime], str | None]:
    """Return what may compute a model, by rule, the first choice first.

    Args:
        model: any model.
        wanted: "auto", or the one that it must be.

    Returns:
        What is to be tried, in this order, and why ONNX Runtime isn't among them, or None.

    Raises:
        ValueError: `wanted` is none, or can't be had.
    """
    checked_choice("runtime", wanted, get_args(RuntimeName))
    backend = keras.backend.backend()
    found = [Runtime("keras", f"keras {keras.__version__}, {backend}")]
    several = _distribution.placement(model).devices > 1
    # A compiler folds by itself; what is left to gain are convolutions, on a processor.
    worth = not several and not (_distribution.compiles_networks() and _distribution.accelerated(model))
    if wanted == "folded" or (wanted == "auto" and worth):
        found.insert(0, Runtime("folded", f"folded keras {keras.__version__}, {backend}"))
    obstacle = None
    if wanted in ("auto", "onnxruntime"):
        obstacle = _obstacle(model)
        if obstacle is None:
            from keras_transfer.inference import onnx_runtime

            found.insert(0, Runtime("onnxruntime", onnx_runtime.identity()))
        elif wanted == "onnxruntime":
            raise ValueError(
                f"runtime must be 'keras', 'folded' or 'auto' here, as {obstacle}. "
                "Received: runtime='onnxruntime'"
            )
    return [each for each in found if wanted in ("auto", each.name)], obstacle


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
        _tell(model, obstacle, verbose)
        try:
            return act(runtime)
        except UnfitError as error:
            obstacle = str(error)
    _tell(model, obstacle, verbose)
    return act(found[-1])


def _tell(model: keras.Model, obstacle: str | None, verbose: int) -> None:
    if obstacle is not None:
        say(verbose, f"Keras computes {model.name!r}, as {obstacle}")


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
        images: some, of which another runtime than Keras must make what Keras makes of them.
        batch_size: Keras is always given batches of this size, as it compiles each size anew.

    Raises:
        UnfitError: the runtime can't compute the model, or gives something else.
    """
    if runtime.name == "keras":
        return _by_keras(model, batch_size)
    sample = images[:_SAMPLE]
    if runtime.name == "folded":
        copy = folded(model)
        if copy is None:  # there is nothing to fold
            return _by_keras(model, batch_size)
        compute = _quickly(_by_keras(copy, batch_size))
        found = compute(sample) if _distribution.compiles_networks() else _once(copy, sample)
    else:
        compute = _by_onnx_runtime(model)
        found = compute(sample)
    for one, other in zip(found, _once(model, sample), strict=True):
        with np.errstate(invalid="ignore"):  # infinity less infinity: that isn't equal either
            norm, apart = float(np.linalg.norm(other)), float(np.linalg.norm(one - other))
        if not apart <= TOLERANCE * norm:
            raise UnfitError(
                f"what {_TITLES[runtime.name]} makes of {len(sample)} images differs from what Keras "
                f"makes of them by {apart / norm if norm else np.inf:.1e} of the norm"
            )
    return compute


_TITLES = {"folded": "folding", "onnxruntime": "ONNX Runtime"}


def _by_onnx_runtime(model: keras.Model) -> Compute:
    try:
        from keras_transfer.inference import onnx_runtime

        compute = onnx_runtime.computing(model)
    except UnknownLayerError as error:
        raise UnfitError(str(error)) from error
    except Exception as error:  # whatever a runtime raises: Keras can do it
        raise UnfitError(f"ONNX Runtime failed ({error})") from error

    def guarded(batch: np.ndarray) -> list[np.ndarray]:
        try:
            return compute(batch)
        except Exception as error:
            raise UnfitError(f"ONNX Runtime failed ({error})") from error

    return guarded


def _by_keras(model: keras.Model, batch_size: int) -> Compute:
    forward, multiple = _distribution.forward(model)
    size = -(-batch_size // multiple) * multiple

    def compute(images: np.ndarray) -> list[np.ndarray]:
        missing = size - len(images)
        whole = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
        return [each[: len(images)] for each in _arrays(forward(_structured(model, whole)))]

    return compute


def _quickly(compute: Compute) -> Compute:
    """Return what computes with quick convolutions, of which some differ by rounding."""

    def quick(images: np.ndarray) -> list[np.ndarray]:
        with quick_convolutions():
            return compute(images)

    return quick


def _once(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    """Return what a model makes of some images."""
    if _distribution.compiles_networks():
        return _by_keras(model, len(images))(images)
    with quick_convolutions():
        return _arrays(model(_structured(model, images), training=False))


def _structured(model: keras.Model, images: np.ndarray) -> Any:
    """Return images as a model takes them: in a list, if it was made with one."""
    return keras.tree.pack_sequence_as(getattr(model, "input", None), [images])


def _arrays(outputs: object) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(each) for each in keras.tree.flatten(outputs)]


def _obstacle(model: keras.Model) -> str | None:
    """Return why the rule rules ONNX Runtime out, or None."""
    if _distribution.accelerated(model):
        return "the backend has a GPU"
    try:
        from keras_transfer.inference import onnx_runtime  # noqa: F401
    except ImportError as error:
        return str(error)
    return None
