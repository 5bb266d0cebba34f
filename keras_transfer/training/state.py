"""The state of a run: copies of the weights, and what each finished epoch leaves behind."""

from dataclasses import dataclass, field

import keras
import numpy as np

from keras_transfer._random_state import seed_generators
from keras_transfer._variables import assign_variables, copy_variables
from keras_transfer.training.result import Best, Logs


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


@dataclass
class RunState:
    """All that a run knows between two epochs; with the phases, all that is needed to go on from there.

    Attributes:
        weights: the model's variables after the last finished epoch.
        logs: the metrics of every finished epoch.
        best: the best epoch so far, by validation.
        best_weights: the model's variables after it.
        optimizer: the optimizer of the weights to go on from, the best, else the last; None where no
            later phase can go on with it.
        slots: its variables then; None if they are those that it has.
    """

    weights: list[np.ndarray]
    logs: list[Logs] = field(default_factory=list)
    best: Best | None = None
    best_weights: list[np.ndarray] | None = None
    optimizer: keras.optimizers.Optimizer | None = None
    slots: list[np.ndarray] | None = None

    @property
    def epoch(self) -> int:
        """The number of the next epoch."""
        return len(self.logs)

    @property
    def history(self) -> dict[str, list[float]]:
        """For each metric its value after every epoch, NaN where an epoch hasn't got it."""
        names = dict.fromkeys(name for logs in self.logs for name in logs)
        return {name: [logs.get(name, float("nan")) for logs in self.logs] for name in names}

    def finish_epoch(
        self,
        phase: str,
        weights: list[np.ndarray],
        optimizer: keras.optimizers.Optimizer | None,
        logs: Logs,
    ) -> None:
        """Take in a finished epoch."""
        self.weights = weights
        if "val_loss" in logs and (self.best is None or _merit(logs) > _merit(self.best.metrics)):
            self.best = Best(phase, self.epoch, logs)
            self.best_weights = weights
            self.optimizer = optimizer
            self.slots = None if optimizer is None else copy_variables(optimizer.variables)
        elif self.best is None:
            self.optimizer, self.slots = optimizer, None
        self.logs.append(logs)

    def go_back_to_best(self, model: keras.Model) -> None:
        """Give `model` and the optimizer the values to go on from: the best, else those they have."""
        if self.best_weights is not None:
            assign_variables(model.variables, self.best_weights)
        self.weights = copy_variables(model.variables)
        if self.optimizer is not None and self.slots is not None:
            assign_variables(self.optimizer.variables, self.slots)


class EpochKeeper(keras.callbacks.Callback):
    """Tells data and random generators which epoch it is, and the run what each left behind.

    Args:
        state: the state of the run.
        phase: the name of the phase.
        model: the model whose variables are kept.
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
        model: keras.Model,
        data: object | None,
        seed: int,
        stream: int,
        keep_slots: bool,
    ) -> None:
        super().__init__()
        self._state, self._phase, self._kept, self._data = state, phase, model, data
        self._seed, self._stream, self._keep_slots = seed, stream, keep_slots

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Set the epoch of the data and the seeds."""
        seed_everything(self._kept, self._seed, epoch, self._stream, fitting=True)
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
        self._state.finish_epoch(self._phase, copy_variables(self._kept.variables), optimizer, metrics)


def _merit(logs: Logs) -> tuple[float, float]:
    """Order epochs: a higher validation accuracy first, then a lower validation loss."""
    accuracies = [logs[name] for name in ("val_accuracy", "val_acc") if name in logs]
    accuracies += [value for name, value in logs.items() if name.startswith("val_") and "acc" in name]
    loss = logs["val_loss"]
    return accuracies[0] if accuracies else 0.0, -loss if np.isfinite(loss) else -np.inf
