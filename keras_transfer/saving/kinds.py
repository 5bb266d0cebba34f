"""What a file is that people take for a `.keras` file, told by its content; nothing in it is loaded."""

import os
import zipfile
from pathlib import Path

_HDF5 = b"\x89HDF\r\n\x1a\n"
_KERAS = "config.json"  # in each `.keras` file
_TAKE = "take the .keras file that `keras-transfer train` or `model.save('model.keras')` has written."


def other_kind(path: str | os.PathLike[str]) -> str | None:
    """Return what a file or folder is and what to do, or None if it isn't known as something else.

    Args:
        path: what was given as a `.keras` file; it may be damaged or missing.

    Example:
        >>> import tempfile, pathlib
        >>> from keras_transfer.saving.kinds import other_kind
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "model.tflite")
        ...     written = file.write_bytes(b"    TFL3")
        ...     other_kind(file).split(";")[0]
        'a LiteRT (TensorFlow Lite) model'
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return None
    if start == _HDF5:
        return _hdf5(path)
    if start[4:] == b"TFL3":
        return f"a LiteRT (TensorFlow Lite) model; {_TAKE}"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return f"a pickle, which may run any code and is never opened; {_TAKE}"
    if path.suffix.lower() == ".onnx":
        return f"an ONNX model; {_TAKE}"
    return _archive(path) if start[:2] == b"PK" else None


def _folder(path: Path) -> str:
    if (path / "model.keras").is_file():
        return f"a folder; did you mean {str(path / 'model.keras')!r}?"
    if (path / "saved_model.pb").is_file():
        return f"a TensorFlow SavedModel, which is for use without Keras; {_TAKE}"
    return f"a folder without a model; {_TAKE}"


def _hdf5(path: Path) -> str:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            whole = "model_config" in file.attrs
    except OSError:
        return f"a damaged HDF5 file; {_TAKE}"
    if whole:
        return (
            "a model in Keras' former HDF5 format; if you trust where it comes from, "
            "keras.models.load_model(path, compile=False).save('model.keras') makes a .keras file of it."
        )
    return (
        "a file of weights without a model; make the model that they are of, as with kt.classifier, "
        "then model.load_weights(path) and model.save('model.keras')."
    )


def _archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return None  # a damaged one may have been a .keras file
    if _KERAS in names:
        return None
    if any(name.endswith("data.pkl") for name in names):
        return f"a PyTorch file, a pickle, which may run any code and is never opened; {_TAKE}"
    return f"a zip archive of another kind; {_TAKE}"
