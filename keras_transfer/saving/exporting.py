"""Models in formats for use without Keras."""

import importlib.util
import inspect
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.attributes import warnings_ignored
from keras_transfer._lib.checks import checked_choice, one_of
from keras_transfer._lib.files import replacing
from keras_transfer.inference.steps import UnknownLayerError
from keras_transfer.layers.graph import leaf_layers
from keras_transfer.layers.precision import in_full_precision


@dataclass(frozen=True)
class Format:
    """A format, and from where it can be written.

    Attributes:
        suffix: at the end of its file or folder.
        packages: for each Keras backend from which it was tested, the packages it needs beside that.
    """

    suffix: str
    packages: dict[str, tuple[str, ...]]


# What was tested: tests/test_exporting.py runs each pair, and compares predictions.
FORMATS = {
    "tf_saved_model": Format("-saved_model", {"tensorflow": (), "jax": ("tensorflow",)}),
    "onnx": Format(
        ".onnx",
        {
            "tensorflow": ("onnx", "tf2onnx"),
            "torch": ("onnx", "onnxscript"),
            "jax": ("jax2onnx",),  # where a layer isn't known
        },
    ),
    "openvino": Format(".xml", {"tensorflow": ("openvino",), "torch": ("openvino",)}),
    "litert": Format(".tflite", {"tensorflow": ()}),
    "torch": Format(".pt2", {"torch": ()}),
}
# In no extra, as it brings Flax, Orbax and some twenty more.
_APART = "jax2onnx"


def export(
    model: keras.Model, path: str | os.PathLike[str], format: str, *, overwrite: bool = True
) -> Path:
    """Write a model in a format for use without Keras, whole or not at all.

    It is Keras' `model.export`, for each of these formats where it was tested, with a batch of any size:

    | format | from TensorFlow | from PyTorch | from JAX |
    |---|---|---|---|
    | "tf_saved_model" | yes | no | yes, with TensorFlow |
    | "onnx" | yes | yes | yes |
    | "openvino" | yes | yes | no |
    | "litert" | yes | no | no |
    | "torch" (an `ExportedProgram`) | no | yes | no |

    A file of ONNX is written straight from the layers, with batch norm folded, where all of them are
    known and ONNX Runtime gives with it what Keras gives: then it is the same file from each backend.
    Otherwise Keras writes it, on JAX with jax2onnx.

    A `.keras` file opens on each backend: load it on another one for a format that yours has not.

    Args:
        model: a built model; what is written takes float32 images in any number, and predicts the same.
            What computes in 16 bits is written in 32, as most formats have no such network for all
            operations: predictions then differ by that rounding.
        path: the file to write, or the folder for "tf_saved_model".
        format: one of the above. All but "torch" on PyTorch and "tf_saved_model" and "litert" on
            TensorFlow need the extra `export`, or for "onnx" from known layers `fast`; jax2onnx is in no
            extra.
        overwrite: whether what is there is replaced, as in `model.save`; otherwise it is an error.

    Returns:
        The path.

    Raises:
        ValueError: there is no such format, it can't be written from this backend, `path` is there and
            not to be replaced, or Keras can't export this model so.
        ImportError: a package is missing that the format needs.

    Example:
        >>> import keras, tempfile, keras_transfer as kt
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> on_torch = keras.backend.backend() == "torch"
        >>> name, format = ("net.pt2", "torch") if on_torch else ("net", "tf_saved_model")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = kt.export(model, f"{folder}/{name}", format)
        ...     path.exists()
        True
    """
    checked_choice("format", format, FORMATS)
    path = Path(path)
    if path.exists() and not overwrite:
        raise ValueError(
            "path must be free, unless overwrite allows to replace what is there. "
            f"Received: {str(path)!r}"
        )
    model = _in_inference(in_full_precision(model))
    own = _own_onnx(model) if format == "onnx" else None
    if own is not None:
        with replacing(path) as unfinished:
            unfinished.write_bytes(own)
        return path
    _check_backend(format)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        try:
            with warnings_ignored():  # the converters warn of their own code
                # Keras wants a model that was called, which one from a file was not.
                model(keras.tree.map_structure(_one, model.input), training=False)
                model.export(
                    str(Path(folder, path.name)), format=format, verbose=False, **_options(format)
                )
                if format == "onnx":
                    _check_onnx(Path(folder, path.name))
        except Exception as error:  # of whatever kind the converter raises
            raise ValueError(
                f"Keras can't export this model as {format} with the backend "
                f"{keras.backend.backend()!r} ({str(error)[:300]}). A .keras file opens on each "
                "backend: try another one."
            ) from error
        for made in sorted(Path(folder).iterdir()):  # OpenVINO writes two files
            target = path.parent / made.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(made, target)
    return path


def _check_backend(format: str) -> None:
    backend, packages = keras.backend.backend(), FORMATS[format].packages
    if backend not in packages:
        raise ValueError(
            f"{format} can't be written from the backend {backend!r}, but from {one_of(packages)}. A "
            f".keras file opens on each backend: set KERAS_BACKEND={next(iter(packages))}."
        )
    missing = [name for name in packages[backend] if importlib.util.find_spec(name) is None]
    if missing:
        source = _APART if _APART in missing else "'keras-transfer[export]'"
        raise ImportError(f"{format} needs {' and '.join(missing)}: pip install {source}")


def _own_onnx(model: keras.Model) -> bytes | None:
    """Return a file of ONNX, or None if Keras must write it."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return None
    try:
        from keras_transfer.inference.onnx_runtime import checked_file

        image = model.inputs[0]
        images = np.random.default_rng(0).uniform(0, 255, (2, *image.shape[1:])).astype("float32")
        expected = model(keras.tree.pack_sequence_as(model.input, [images]), training=False)
        return checked_file(model, images, keras.ops.convert_to_numpy(expected))
    except (ImportError, UnknownLayerError, TypeError):  # of what is missing, unknown, or of any size
        return None


def _in_inference(model: keras.Model) -> keras.Model:
    """Return a model whose calls are inference, whatever its layers take for granted.

    Those of which `training` is True by default, as `Resizing`, would make a training of all that comes
    after them in a plain call, which is what exporters trace: batch norm would go by the batch.
    """

    def trains(layer: keras.Layer) -> bool:
        training = inspect.signature(layer.call).parameters.get("training")
        return training is not None and training.default is True

    if not any(map(trains, leaf_layers(model))):
        return model
    inputs = [keras.Input(batch_shape=i.shape, dtype=i.dtype, name=i.name) for i in model.inputs]
    given = inputs if len(inputs) > 1 else inputs[0]
    return keras.Model(given, model(given, training=False), name=model.name)


def _check_onnx(path: Path) -> None:
    """Raise if a file has operations that ONNX doesn't know: tf2onnx leaves what it has none for."""
    import onnx

    onnx.checker.check_model(str(path))


def _one(tensor: keras.KerasTensor) -> Any:
    """Return an input of one sample; sizes that are free are those of a usual image."""
    return keras.ops.zeros([1, *(size or 224 for size in tensor.shape[1:])], tensor.dtype)


def _options(format: str) -> dict[str, Any]:
    if format != "torch":
        return {}
    import torch

    return {"dynamic_shapes": {0: torch.export.Dim("batch")}}  # else one image at a time
