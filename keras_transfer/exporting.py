"""Models in formats for use without Keras."""

import os
import shutil
import tempfile
from pathlib import Path

import keras

from keras_transfer._messages import did_you_mean, one_of

SUFFIXES = {
    "tf_saved_model": "-saved_model",
    "onnx": ".onnx",
    "openvino": ".xml",
    "litert": ".tflite",
    "torch": ".pt2",
}


def export_model(
    model: keras.Model, path: str | os.PathLike[str], format: str, *, overwrite: bool = False
) -> Path:
    """Write a model in another format by Keras' `model.export`, whole or not at all.

    Args:
        model: a built model.
        path: the file to write, or the folder for "tf_saved_model".
        format: "tf_saved_model", "onnx", "openvino", "litert" or "torch".
        overwrite: whether what is there may be replaced.

    Returns:
        The path.

    Raises:
        ValueError: there is no such format, `path` is there already, or Keras can't export the model
            so with this backend.
        ImportError: a package is missing that the format needs.
    """
    if format not in SUFFIXES:
        raise ValueError(
            f"format must be {one_of(SUFFIXES)}{did_you_mean(str(format), SUFFIXES)} "
            f"Received: format={format!r}"
        )
    path = Path(path)
    if path.exists() and not overwrite:
        raise ValueError(
            "path must be free, unless overwrite allows to replace what is there. "
            f"Received: {str(path)!r}"
        )
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        try:
            model.export(str(Path(folder, path.name)), format=format, verbose=False)
        except ImportError:
            raise
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
