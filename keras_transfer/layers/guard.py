"""What happens where training begins: an error if what trains was changed after `compile`.

And what a `fit` that was stopped has left behind is put away there, as nothing else runs after an
exception; and what no longer holds for the model when its weights change.
"""

from collections.abc import Callable
from typing import Any

import keras

from keras_transfer._lib.keras_private.optimizer import optimized_variables
from keras_transfer._lib.keras_private.trainer import compiled_flags
from keras_transfer.layers import carried

_SHOWN = 3


def guard(model: keras.Model) -> "Guard":
    """Let `fit` and `train_on_batch` of `model` raise if it must be compiled again.

    After a change of `trainable` TensorFlow goes on with the old step, torch fails or not, and JAX loses
    the weights. A guarded model raises one clear `ValueError` on every backend, before anything moves.
    All functions of this package that change or make a model guard it. Files know nothing of it.

    Args:
        model: any model, compiled or not. To guard it again does nothing.

    Returns:
        The guard of the model.

    Example:
        >>> import keras, numpy as np
        >>> from keras_transfer.layers.guard import guard
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> guarded = guard(model)
        >>> model.compile("sgd", "mse")
        >>> model.layers[0].trainable = False
        >>> try:
        ...     history = model.fit(np.ones((2, 2)), np.ones((2, 1)))
        ... except ValueError as error:
        ...     print(str(error).split(";")[0])
        what trains in model 'sequential' has changed since it was compiled
    """
    if not isinstance(model.make_train_function, Guard):
        model.make_train_function = Guard(model)
    return model.make_train_function


class Guard:
    """Stands in for a model's `make_train_function`, with which all training begins."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._make_train_function = model.make_train_function
        self._own: Any = None
        self._lent: Any = None
        self._back: Callable[[], None] | None = None

    def lend(self, train_function: Callable[..., Any], back: Callable[[], None] | None = None) -> None:
        """Let the running `fit` go on with another train function.

        It counts until `take_back`, and at the latest until other training of the model begins; then
        `back` is called.

        Raises:
            ValueError: another is lent already.
        """
        if self._lent is not None and self._model.train_function is self._lent:
            raise ValueError(
                f"the training step of model {self._model.name!r} is driven by another callback "
                "already; leave one of them out. Received: two callbacks that drive the learning rate"
            )
        self._own, self._lent, self._back = self._model.train_function, train_function, back
        self._model.train_function = train_function

    def take_back(self) -> None:
        """Give the model its own train function again, if another was lent to it."""
        if self._lent is not None and self._model.train_function is self._lent:
            self._model.train_function = self._own
        back, self._own, self._lent, self._back = self._back, None, None, None
        if back is not None:
            back()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (args or kwargs):  # as `fit` and `train_on_batch` ask
            self.take_back()
        changed = _changed_since_compile(self._model) if self._model.compiled else []
        if changed:
            more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
            raise ValueError(
                f"what trains in model {self._model.name!r} has changed since it was compiled; call "
                "kt.recompile(model), which keeps what the optimizer knows, or model.compile(...) with "
                f"a new optimizer. Received: changes in {', '.join(changed[:_SHOWN])}{more}"
            )
        for name in carried.OF_WEIGHTS:  # of the weights until now
            carried.detach(self._model, name)
        return self._make_train_function(*args, **kwargs)


def _changed_since_compile(model: keras.Model) -> list[str]:
    """Return the names of layers, or else of variables, that train now and didn't, or the reverse."""
    layers = [
        layer.name
        for layer, trainable in compiled_flags(model).items()
        if layer.trainable != trainable and layer.weights and not isinstance(layer, keras.Model)
    ]
    optimizer = model.optimizer
    # A training step of the model's own may leave variables to other optimizers.
    own_step = type(model).train_step is not keras.Model.train_step
    if layers or optimizer is None or not optimizer.built or own_step:
        return layers
    # The optimizer may be older than the last compile.
    known = {id(variable): variable for variable in optimized_variables(optimizer)}
    now = {id(variable): variable for variable in model.trainable_variables}
    return [variable.path for key, variable in (known | now).items() if (key in known) != (key in now)]
