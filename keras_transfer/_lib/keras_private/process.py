"""Private names of Keras for what a whole process shares."""

from pathlib import Path

import keras
from keras.src.backend import config
from keras.src.backend.common import global_state
from keras.src.utils import io_utils, module_utils


def home() -> Path:
    """Return the absolute path of the folder that Keras keeps data in: $KERAS_HOME or ~/.keras."""
    return Path(config.keras_home()).expanduser().absolute()


def print_message(what: object) -> None:
    """Print something where Keras' progress bars go."""
    io_utils.print_msg(what)


def settle_on_tensorflow() -> bool:
    """Let Keras find out now, once and for all, whether TensorFlow can be imported; return its answer.

    On the other backends it imports TensorFlow to seed it, and to see whether what it saves is of it.
    """
    return module_utils.tensorflow.available


_GLOBAL_SEED = "global_seed_generator"


def global_seed_generator() -> keras.random.SeedGenerator | None:
    """Return what gives seeds where none is given; None if Keras has not needed it so far."""
    return global_state.get_global_attribute(_GLOBAL_SEED)


def set_global_seed_generator(generator: keras.random.SeedGenerator | None) -> None:
    """Let Keras use this generator; None lets it make one, with a seed of Python's generator."""
    global_state.set_global_attribute(_GLOBAL_SEED, generator)
