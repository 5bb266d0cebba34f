"""Callbacks that see one run and the whole model, while `fit` trains phase by phase on a part of it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.keras_private.trainer import build_metrics, initial_epoch
from keras_transfer._lib.variables import copy_variables
from keras_transfer.callbacks import GradualUnfreezing, LRFinder, SnapshotEnsemble
from keras_transfer.callbacks.scheduled_lr import ScheduledLR
from keras_transfer.layers import carried
from keras_transfer.layers.about import attach_class_names
from keras_transfer.layers.adapters import Adapters
from keras_transfer.results.training import Logs
from keras_transfer.training.job import Job
from keras_transfer.training.state import RunState

# They change the step, or what trains, or put averages of an optimizer into the model: of each fit anew.
_OF_A_FIT = (
    GradualUnfreezing,
    LRFinder,
    ScheduledLR,
    SnapshotEnsemble,
    keras.callbacks.SwapEMAWeights,
)
# Older names, which Keras' own callback calls when it is told of a batch by the newer one.
_OLDER = {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}
_HOOKS = [
    name
    for name in dir(keras.callbacks.Callback)
    if name.startswith("on_") and name not in ("on_train_begin", "on_train_end", *_OLDER.values())
]


class Audience:
    """The callbacks of a run or of a phase, and the model that they see.

    That is a model of the user's layers from its input to its output, compiled with the optimizer that
    trains and with Keras' own loss and metrics. What it saves is the whole, not compiled, which opens
    everywhere. `stop_training` of it ends the run or the phase, whose callbacks these are.

    Callbacks that change the step itself belong to the fit, and see what `fit` trains.

    Args:
        job: what is trained.
        callbacks: the callbacks.
        epochs: the number of epochs that they are told there are.
        one_fit: whether training begins and ends for them with each fit; otherwise it begins with the
            first one, and ends with `end`.
    """

    def __init__(
        self, job: Job, callbacks: Sequence[keras.callbacks.Callback], epochs: int, *, one_fit: bool
    ) -> None:
        self.epochs, self.one_fit = epochs, one_fit
        self._job, self._callbacks = job, callbacks
        told = [callback for callback in callbacks if not isinstance(callback, _OF_A_FIT)]
        self._told = [*told, keras.callbacks.History()] if told else []
        self.model = _whole(job, self._plain) if told else None
        if self.model is not None:
            self.model.history, self.model.stop_training = self._told[-1], False
        self._fitted: keras.Model | None = None
        self._adapters = Adapters(job.model)
        self._optimizer: keras.optimizers.Optimizer | None = None  # that `model` is compiled with
        self._begun = False
        self._rows: bool | None = None  # whether labels are rows, once that is known

    @property
    def stopped(self) -> bool:
        """Whether one of the callbacks has stopped the training."""
        return self.model is not None and bool(self.model.stop_training)

    def in_fit(self, view: keras.Model, adapters: Adapters) -> list[keras.callbacks.Callback]:
        """Return the callbacks for the fit of a compiled view, in their order.

        Args:
            view: what `fit` trains.
            adapters: those in it, which callbacks don't see: when an epoch, a validation or the training
                begins or ends, they see plain layers with what adapters add, and files have such ones.
        """
        if self.model is None:
            return list(self._callbacks)
        self._fitted, self._adapters = view, adapters
        if not view.optimizer.built:
            view.optimizer.build(view.trainable_variables)  # in the order of what trains
        self._compile(self._job.rows)
        if hasattr(view, "jax_state_sync"):
            # Inside `fit` only the view knows the values of the variables.
            def synchronise(model: keras.Model = self.model) -> None:
                view.jax_state_sync()
                type(model).jax_state_sync(model)

            self.model.jax_state_sync = synchronise
        begins, self._begun = self.one_fit or not self._begun, True
        told = {id(callback): Told(callback, self, begins) for callback in self._told}
        listed = [*self._callbacks, self._told[-1]]
        return [told.get(id(callback), callback) for callback in listed]

    def end(self, logs: Logs) -> None:
        """Tell those that have seen the run begin that it is over.

        Args:
            logs: the metrics of the last epoch.
        """
        for callback in self._told:
            if self._begun or isinstance(callback, keras.callbacks.BackupAndRestore):
                callback.on_train_end(logs)

    def tell(self, callback: keras.callbacks.Callback, hook: str, *args: Any, **kwargs: Any) -> None:
        """Call a hook of a callback, and let `fit` know what that has done to the model."""
        assert self.model is not None
        assert self._fitted is not None
        if self._rows is None and hook == "on_epoch_end":
            self._compile(self._job.objective.met_rows)
        elif self._optimizer is not self._fitted.optimizer:  # other layers train now
            self._compile(self._rows)
        # Not around each batch, as it copies kernels.
        plain = contextlib.nullcontext() if "batch" in hook else self._plain()
        with self._job.objective.whole(), plain:
            getattr(callback, hook)(*args, **kwargs)
        if self.model.stop_training:
            self._fitted.stop_training = True
        if self.model.optimizer is not self._optimizer:
            raise ValueError(
                "a callback must not compile the model of a run: what trains has another step and "
                "another optimizer. Use phases, or a callback of kt.callbacks such as "
                f"kt.callbacks.GradualUnfreezing. Received: a {type(callback).__name__} that has "
                f"compiled it in {hook}"
            )

    @contextlib.contextmanager
    def _plain(self) -> Iterator[None]:
        """Let the layers be plain inside the block, with what adapters add to them."""
        view: Any = self._fitted
        if self._adapters.own and hasattr(view, "jax_state_sync"):
            view.jax_state_sync()  # while its variables are those that it has trained
        with self._adapters.hidden():
            yield

    def _compile(self, rows: bool | None) -> None:
        """Compile the model that they see with the optimizer that trains.

        Its metrics are built, where it is known whether labels are rows: callbacks ask them in which
        direction a metric is better.
        """
        model, stopped = self.model, self.stopped
        assert model is not None
        assert self._fitted is not None
        self._rows, self._optimizer = rows, self._fitted.optimizer
        self._job.objective.compile_model(model, self._optimizer, rows)
        model.stop_training = stopped
        if rows is not None:
            classes = model.output_shape[-1]
            build_metrics(model, np.zeros((1, classes) if rows else 1, "float32" if rows else "int32"))


class Told(keras.callbacks.Callback):
    """Stands for a callback of an audience in a fit.

    It has the hooks only that the callback has: Keras waits for each batch if any has one for batches.

    Args:
        callback: the callback.
        audience: that to which it belongs.
        begins: whether training begins for it with the fit.
    """

    def __init__(self, callback: keras.callbacks.Callback, audience: Audience, begins: bool) -> None:
        super().__init__()
        self._callback, self._audience, self._begins = callback, audience, begins
        for hook in _HOOKS:
            if _has(callback, hook) or _has(callback, _OLDER.get(hook)):
                setattr(self, hook, partial(audience.tell, callback, hook))

    def set_params(self, params: dict[str, Any]) -> None:
        """Let the callback know how long an epoch is, and how many there are."""
        self._callback.set_params({**params, "epochs": self._audience.epochs})

    def set_model(self, model: keras.Model) -> None:
        """Give the callback the whole model, when training begins for it."""
        super().set_model(model)
        if self._begins:
            self._callback.set_model(self._audience.model)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Tell it that training begins, if it does."""
        # What that brings back `bring_back` has brought, before the run went to its phase.
        if self._begins and not isinstance(self._callback, keras.callbacks.BackupAndRestore):
            self._audience.tell(self._callback, "on_train_begin", logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Tell it that training ends, if it ends with the fit."""
        if self._audience.one_fit:
            self._audience.tell(self._callback, "on_train_end", logs)


def bring_back(job: Job, state: RunState) -> None:
    """Go on after the epoch that a `BackupAndRestore` of the run has backed up, if there is one.

    Weights and epoch come back. Metrics of epochs before are not known, and slots of optimizers begin
    anew: which they were hangs on phases before.
    """
    for callback in job.callbacks:
        if not isinstance(callback, keras.callbacks.BackupAndRestore):
            continue
        model = bare(job.model)
        model.optimizer = None
        callback.set_model(model)
        callback.on_train_begin()
        state.weights = copy_variables(job.model.variables)
        over = min(initial_epoch(model), sum(phase.epochs for phase in job.phases))
        for phase in job.phases[:-1]:
            if over < state.first_epoch + phase.epochs:
                break
            state.logs += [{} for _ in range(phase.epochs)]
            state.settings = phase.describe()
            state.finish_phase(phase.name, 0.0)
        state.logs += [{} for _ in range(over - state.epoch)]


def bare(model: keras.Model) -> keras.Model:
    """Return a model on the layers of a functional or sequential one, which carries what that does.

    It is not compiled: a file without optimizer opens on every backend (torch's are saved under a name
    of their own), and without this package.
    """
    made = keras.Model(model.inputs, model.outputs[0], name=model.name)
    carried.hand_on(model, made)
    return made


def _whole(job: Job, plain: Callable[[], AbstractContextManager[None]]) -> keras.Model:
    """Return the model that callbacks see, which is saved with layers as they are inside of `plain`."""
    model = bare(job.model)
    if job.names is not None:
        attach_class_names(model, job.names)

    def save(*args: Any, **kwargs: Any) -> None:
        with plain():
            bare(model).save(*args, **kwargs)

    model.save = save
    return model


def _has(callback: keras.callbacks.Callback, hook: str | None) -> bool:
    """Whether a callback has a hook of its own, of its class or, as a LambdaCallback, of itself."""
    if hook is None:
        return False
    own = getattr(callback, hook)
    return getattr(own, "__func__", None) is not getattr(keras.callbacks.Callback, hook)
