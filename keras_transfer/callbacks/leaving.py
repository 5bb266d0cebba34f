"""What a callback changed is put back when `fit` is left, also by an exception or Ctrl-C.

Keras tells callbacks that training ends only where it ends well. What else a callback could watch
knows nothing of an exception in the data or in another callback (torch, TensorFlow), or only when the
last traceback is forgotten. So `keras.Model.fit` is wrapped, once, by the first callback that needs it.
"""

import contextlib
import functools
from typing import Any

import keras

_running: dict[int, contextlib.ExitStack] = {}  # by the id of the model whose `fit` runs


def watch_fit() -> None:
    """Let `leaving_fit` work from the next `fit` on, of any model. To call it again does nothing."""
    fit = keras.Model.fit
    if getattr(fit, "watched", False):
        return

    @functools.wraps(fit)
    def watched_fit(self: keras.Model, *args: Any, **kwargs: Any) -> Any:
        outer = _running.get(id(self))
        try:
            with contextlib.ExitStack() as stack:
                _running[id(self)] = stack
                return fit(self, *args, **kwargs)
        finally:
            if outer is None:
                del _running[id(self)]
            else:
                _running[id(self)] = outer

    watched_fit.watched = True  # type: ignore[attr-defined]
    keras.Model.fit = watched_fit


def leaving_fit(model: keras.Model) -> contextlib.ExitStack:
    """Return what is closed when the running `fit` of `model` is left, however that happens.

    Raises:
        RuntimeError: its `fit` was looked up before `watch_fit` was called, or isn't that of
            `keras.Model`.
    """
    if id(model) not in _running:
        raise RuntimeError(
            "the callback must be made before fit is looked up, so not among its arguments, and the "
            f"fit of model {model.name!r} must be that of keras.Model. Received: {type(model).fit!r}"
        )
    return _running[id(model)]
