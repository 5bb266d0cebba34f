"""Train functions in which the learning rate, or all that trains, is another than elsewhere."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_transfer import _distribution
from keras_transfer._lib.attributes import attributes
from keras_transfer._lib.keras_private.optimizer import (
    iteration_variable,
    learning_rate_from,
    learning_rate_source,
)
from keras_transfer._lib.keras_private.trainer import (
    changed_in_place,
    copied_storage,
    storage,
    store_in,
    take_jax_state,
)
from keras_transfer._lib.variables import (
    assign_variables,
    copy_variables,
    forget_gradients,
    hold_variables,
)
from keras_transfer.layers.guard import guard
from keras_transfer.optimizers.carry_over import inner_optimizer

Begun = tuple[dict[str, Any], Callable[..., Any]]


def scheduled_optimizer(model: keras.Model) -> keras.optimizers.Optimizer:
    """Return the optimizer of `model` whose learning rate a schedule can take the place of.

    Raises:
        ValueError: the model is not compiled with an optimizer that has one rate, a number.
    """
    optimizer = model.optimizer
    if optimizer is None or isinstance(optimizer, keras.optimizers.MultiOptimizer):
        raise ValueError(
            f"model {model.name!r} must be compiled with an optimizer that has one learning rate; for "
            "one a layer take kt.optimizers.LayerwiseLR. "
            f"Received: optimizer of type {type(optimizer).__name__}"
        )
    optimizer = inner_optimizer(optimizer)
    source = learning_rate_source(optimizer)
    if not isinstance(source, keras.Variable):
        raise ValueError(
            f"model {model.name!r} must be compiled with a number as learning rate, or else with one of "
            "kt.schedules and without this callback. "
            f"Received: learning_rate of type {type(source).__name__}"
        )
    return optimizer


def micro_steps(optimizer: keras.optimizers.Optimizer) -> int:
    """Return how many batches `optimizer` has seen, those that it only accumulated included."""
    return int(ops.convert_to_numpy(iteration_variable(optimizer)))


def batches_per_update(optimizer: keras.optimizers.Optimizer) -> int:
    """Return how many batches the gradients of an update are accumulated in."""
    return inner_optimizer(optimizer).gradient_accumulation_steps or 1


class FromStep(LearningRateSchedule):
    """A schedule of the number of updates that begins at a later step, of an optimizer that accumulates.

    `first` is the count of batches at which it begins, `accumulation` how many batches an update takes.
    """

    def __init__(self, schedule: LearningRateSchedule, first: int, accumulation: int) -> None:
        self.schedule, self.first, self.accumulation = schedule, first, accumulation

    def __call__(self, step: Any) -> Any:
        return self.schedule((ops.cast(step, "int32") - self.first) // self.accumulation)


class ScheduledStep:
    """A train function of `model` like its own, but with the learning rate of a schedule.

    The schedule is part of the compiled step. The `scheduled_optimizer` has it only while the step runs:
    before and after, and after any exception, it has its own rate, to be read, set and saved.
    """

    def __init__(
        self, model: keras.Model, optimizer: keras.optimizers.Optimizer, schedule: LearningRateSchedule
    ) -> None:
        self.optimizer, self.schedule = optimizer, schedule
        self._train_function = another_train_function(model)

    def __call__(self, *arguments: Any) -> Any:
        with learning_rate_from(self.optimizer, self.schedule):
            return self._train_function(*arguments)


class SweptStep:
    """A train function of `model` that goes on with a sweep, and leaves the model as it was, each time.

    While a step runs the model has the weights, the other variables and the optimizer of the sweep. In
    between it has its own, to be read, validated and saved; so wherever `fit` is left, by whatever
    exception, there is nothing to be put back. Only metrics go on, as in any `fit`.

    Args:
        model: a built and compiled model.
        begin: begins a sweep: returns what it gives the model, attributes with a built optimizer, and a
            train function, to be called where the model has these.
    """

    def __init__(self, model: keras.Model, begin: Callable[[keras.Model], Begun]) -> None:
        self._model = model
        self._state: tuple[list[Any], ...] = ()  # of the sweep, on JAX
        self._metrics: tuple[list[keras.Variable], ...] = ()  # the model's own, and the sweep's
        self._variables = changed_in_place(model)
        with _distribution.scope(model):
            self._own, self._swept = storage(self._variables), copied_storage(self._variables)
        # An optimizer on TensorFlow knows variables by where they are kept.
        with self._swept_variables():
            self._given, self._train_function = begin(model)
        self._stack = contextlib.ExitStack()
        metrics = model.metrics_variables
        self._stack.callback(assign_variables, metrics, copy_variables(metrics))
        if getattr(inner_optimizer(model.optimizer), "use_ema", False):
            # When `fit` is over, on JAX also by an exception, it lets the optimizer put its averages in
            # the place of the weights.
            stay = {"finalize_variable_values": lambda weights: None}
            self._stack.enter_context(attributes(model.optimizer, **stay))

    def close(self) -> None:
        """Put the metrics back, and forget the sweep."""
        self._stack.close()
        self._variables, self._own, self._swept, self._state = [], [], [], ()

    def __call__(self, *arguments: Any) -> Any:
        step = self._on_state if len(arguments) == 2 else self._in_place
        try:
            return step(*arguments)
        except BaseException:
            guard(self._model).take_back()  # training is over
            raise

    def _in_place(self, iterator: Any) -> Any:
        with self._swept_variables(), attributes(self._model, **self._given):
            return self._train_function(iterator)

    @contextlib.contextmanager
    def _swept_variables(self) -> Iterator[None]:
        try:
            store_in(self._variables, self._swept)
            yield
        finally:
            try:
                self._put_back()
            except BaseException:  # Ctrl-C has come just now
                self._put_back()
                raise

    def _put_back(self) -> None:
        store_in(self._variables, self._own)
        forget_gradients(self._variables)

    def _on_state(self, state: tuple[list[Any], ...], iterator: Any) -> Any:
        """Make a step on JAX: a function of all values, which uses them up. `fit` gets its own back."""
        model = self._model
        if not self._metrics:  # to list them takes as long as a small step
            own = model.metrics_variables
            with attributes(model, **self._given):
                self._metrics = own, model.metrics_variables
        own, swept = self._metrics
        try:
            with attributes(model, **self._given):
                values = dict(zip(map(id, own), state[3], strict=True))
                # Of the loss of a batch it doesn't matter what it was.
                metrics = [keras.ops.copy(values.get(id(each), 0.0)) for each in swept]
                before = self._state or (
                    *([keras.ops.copy(value) for value in part] for part in state[:2]),
                    hold_variables(model.optimizer.variables),
                )
                logs, (*after, metrics) = self._train_function((*before, metrics), iterator)
        except BaseException:
            take_jax_state(model, state)
            raise
        self._state = tuple(after)
        values.update(zip(map(id, swept), metrics, strict=True))
        return logs, (*state[:3], [values[id(each)] for each in own])


def another_train_function(model: keras.Model) -> Any:
    """Return a train function of `model` that shares nothing compiled with its own."""
    own = vars(model)
    before = {name: own[name] for name in ("train_function", "train_step") if name in own}
    train_step = model.train_step

    # JAX takes a method of the same object for the function that it has compiled already.
    def another_step(*arguments: Any) -> Any:
        return train_step(*arguments)

    own["train_step"] = another_step
    try:
        model.make_train_function(force=True)
        return model.train_function
    finally:
        del own["train_step"]
        own.update(before)
