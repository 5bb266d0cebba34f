"""What happens around each epoch of a run: seeds, what the run keeps, and what comes after."""

import inspect
import logging
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.random_state import seed_generators
from keras_transfer.layers.adapters import Adapters
from keras_transfer.results.training import Logs
from keras_transfer.training.state import Clock, RunState

_log = logging.getLogger(__name__)

# What is called at the end of each epoch, with the callbacks of run and phase, after all of them.
AfterEpoch = Callable[[RunState, Sequence[keras.callbacks.Callback]], None]


def seed_everything(
    model: keras.Model, seed: int, epoch: int, stream: int = 0, fitting: bool = False
) -> None:
    """Seed everything random in an epoch from (seed, epoch), whatever ran before.

    That is the process's generators (Python, NumPy, backend: torch's dropout uses its own unless the
    layer has a seed) and the state of the model's own seed generators.

    Args:
        model: the model that trains.
        seed: the seed of the run.
        epoch: the number of the epoch.
        stream: which of the streams of random numbers this process has, of several that train together.
        fitting: whether a `fit` is going on, as in `seed_generators`.
    """
    states = [v for v in model.variables if v.name == "seed_generator_state"]
    sequence = np.random.SeedSequence([seed, epoch], spawn_key=(stream,) if stream else ())
    seeds = sequence.generate_state(len(states) + 1)
    seed_generators(int(seeds[0]), fitting)
    for variable, value in zip(states, seeds[1:], strict=True):
        variable.assign(np.array([value, 0], "uint32"))


class EpochKeeper(keras.callbacks.Callback):
    """Tells data and random generators which epoch it is, and the run what each left behind.

    Args:
        state: the state of the run.
        phase: the name of the phase.
        adapters: those of the phase, and the model, whose variables are kept.
        data: what is told its `epoch`, or None.
        seed: the seed of the run.
        stream: the stream of random numbers of this process.
        keep_slots: whether a later phase may go on with the optimizer.

    Raises:
        FloatingPointError: the loss of an epoch is not a finite number; the state stays at the epoch
            before.
    """

    def __init__(
        self,
        state: RunState,
        phase: str,
        adapters: Adapters,
        data: object | None,
        seed: int,
        stream: int,
        keep_slots: bool,
    ) -> None:
        super().__init__()
        self._state, self._phase, self._kept, self._data = state, phase, adapters, data
        self._seed, self._stream, self._keep_slots = seed, stream, keep_slots

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Set the epoch of the data and the seeds."""
        seed_everything(self._kept.model, self._seed, epoch, self._stream, fitting=True)
        if self._data is not None:
            self._data.epoch = epoch  # type: ignore[attr-defined]

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Keep weights and metrics."""
        # The mean of a metric that has a value for each class.
        metrics = {name: float(np.mean(value)) for name, value in (logs or {}).items()}
        if not np.isfinite(metrics["loss"]):
            raise FloatingPointError(
                f"the loss became {metrics['loss']} in epoch {epoch + 1} (phase {self._phase!r}): the "
                "learning rate is too high, or images or labels hold values that are not numbers. "
                f"The model has the weights of the last finished epoch. Received: loss {metrics['loss']}"
            )
        view = self.model  # on JAX this brings the variables up to date
        optimizer = view.optimizer if self._keep_slots else None
        self._state.finish_epoch(self._phase, self._kept.weights(), optimizer, metrics)


class EpochEnd(keras.callbacks.Callback):
    """Completes the state at the end of each epoch, after all other callbacks, and hands it on.

    Args:
        state: the state of the run.
        clock: that of the phase.
        callbacks: the other callbacks of the run and of the phase, whose numbers it puts back where it
            is resumed.
        ended: tells whether a callback has ended the run.
        act: what to call with the state, such as what writes a checkpoint, or None.
    """

    def __init__(
        self,
        state: RunState,
        clock: Clock,
        callbacks: Sequence[keras.callbacks.Callback],
        ended: Callable[[], bool],
        act: AfterEpoch | None,
    ) -> None:
        super().__init__()
        self._state, self._clock, self._others = state, clock, callbacks
        self._ended, self._act = ended, act

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Give the other callbacks what they knew."""
        for callback, known in zip(self._others, self._state.callbacks, strict=False):
            give_numbers(callback, known)
            if getattr(callback, "restore_best_weights", False) and known.get("best") is not None:
                _log.warning(
                    "%s has lost the weights of epoch %s, its best before the run was resumed: it "
                    "restores those of a later one",
                    type(callback).__name__,
                    known.get("best_epoch", -1) + 1,
                )
        self._state.callbacks = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Note how far the phase is."""
        view = self.model
        self._state.stopped, self._state.ended = bool(view.stop_training), self._ended()
        self._state.seconds = self._clock.seconds
        self._state.optimizer = view.optimizer
        if self._act is not None:
            self._act(self._state, self._others)


def numbers_of(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Return the attributes of a callback that are numbers or nothing, but for its arguments.

    Some change with use: the first look at a metric turns the sign of EarlyStopping's `min_delta`. Texts
    stay what they are: some tell where a callback writes, which a file must not decide.
    """
    arguments = inspect.signature(type(callback).__init__).parameters
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in vars(callback).items()
        if name not in arguments and _is_number(value)
    }


def give_numbers(callback: keras.callbacks.Callback, known: dict[str, Any]) -> None:
    """Give a callback the numbers back that `numbers_of` has returned."""
    for name, value in known.items():
        now = getattr(callback, name, value)
        if _is_number(value) and (name in numbers_of(callback) or now is None):
            setattr(callback, name, value)


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, numbers.Real)
