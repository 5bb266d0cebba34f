"""What a command that trains tells while it does: callbacks of Keras for each training."""

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def callbacks(
    training: str, csv_log: Path | None, tensorboard: Path | None, resume: bool
) -> "list[keras.callbacks.Callback]":
    """Return what writes logs of a training.

    Args:
        training: what it is called, by which files are.
        csv_log: the folder for a CSV file of its epochs, or None.
        tensorboard: the folder for what TensorBoard shows, or None.
        resume: whether the file goes on.
    """
    import keras

    name = re.sub(r"\W+", "-", training)
    found: list[keras.callbacks.Callback] = []
    if csv_log is not None:
        found.append(keras.callbacks.CSVLogger(str(csv_log / f"{name}.csv"), append=resume))
    if tensorboard is not None:
        found.append(keras.callbacks.TensorBoard(str(tensorboard / name)))
    return found


def check(csv_log: Path | None, tensorboard: Path | None) -> None:
    """Make the folders for logs, or raise before anything is computed.

    Raises:
        ValueError: a folder can't be written.
        ImportError: TensorFlow is not installed, with which Keras writes logs for TensorBoard.
    """
    from keras_transfer._lib.files import writable_directory

    if tensorboard is not None and importlib.util.find_spec("tensorflow") is None:
        raise ImportError(
            "logs for TensorBoard need TensorFlow: pip install 'keras-transfer[tensorflow]'"
        )
    for folder, option in ((csv_log, "csv_log"), (tensorboard, "tensorboard")):
        if folder is not None:
            writable_directory(folder, option)
