"""A quick start: Keras is imported without the optional packages that no command needs of it.

`import keras` imports pandas, matplotlib, scikit-learn and OpenCV where they are installed, and beside
TensorFlow and PyTorch also JAX: for data frames, galleries, wrappers, boxes and checkpoints, none of
which a command uses. It takes as long as the rest of Keras and its backend. Beside PyTorch and JAX it
imports TensorFlow later, to seed it. Keras goes on without any of them where it isn't installed, and so
it does here; once Keras is there, they are imported where they are used. Only commands begin so, as a
program that imports `keras_transfer` may want them in Keras.
"""

import contextlib
import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

_UNUSED = ("cv2", "matplotlib", "pandas", "sklearn")
_OTHER_BACKENDS = {"jax": ("tensorflow",), "tensorflow": ("jax",), "torch": ("jax", "tensorflow")}

P = ParamSpec("P")
T = TypeVar("T")


def with_keras(command: Callable[P, T]) -> Callable[P, T]:
    """Return a command that imports Keras before all else."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if "keras" not in sys.modules:
            import_keras(os.environ["KERAS_BACKEND"])
        return command(*args, **kwargs)

    return run


def import_keras(backend: str) -> None:
    """Import Keras, whose backend this is, and nothing that it can do without.

    Python looks for garbage again and again while modules come in, and once more at the end of the
    process, in a million objects that stay to the end. It is told that they do.
    """
    gc.disable()
    try:
        with missing(*_UNUSED, *_OTHER_BACKENDS.get(backend, ())):
            from keras_transfer._lib.keras_private.process import settle_on_tensorflow

            settle_on_tensorflow()
    finally:
        gc.enable()
    gc.freeze()


@contextlib.contextmanager
def missing(*packages: str) -> Iterator[None]:
    """Let packages that nobody has imported so far be as if they weren't installed, inside the block."""
    hidden = [name for name in packages if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # Python then says that there is no such
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
