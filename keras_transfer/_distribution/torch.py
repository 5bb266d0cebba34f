"""PyTorch: processes that `torchrun` starts, with gradients through `DistributedDataParallel`."""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from keras_transfer._distribution.placement import FitData, Placement
from keras_transfer._lib.attributes import attributes
from keras_transfer._lib.keras_private import trainer
from keras_transfer._lib.keras_private.convolutions import quick_convolutions
from keras_transfer._lib.keras_private.graph import statistics
from keras_transfer.data.loader import Loader

scope = contextlib.nullcontext
COMPILES_NETWORKS = False


def placement(model: keras.Model) -> Placement:
    """Return the rank of this process among those of the default group, if there is one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        # Else each process would train for itself, and all write the same files.
        if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
            raise ValueError(
                "processes that torchrun has started must be joined before training: "
                "torch.distributed.init_process_group('nccl'), or 'gloo' without GPUs. "
                f"Received: WORLD_SIZE={os.environ['WORLD_SIZE']} and no process group"
            )
        return Placement()
    rank, count = distributed.get_rank(), distributed.get_world_size()
    return Placement(rank, count, count, stream=rank)


def start_equal(model: keras.Model) -> None:
    """Give the variables the values that they have in the first process."""
    if placement(model).processes > 1:
        with torch.no_grad():
            for variable in model.variables:
                distributed.broadcast(variable.value, 0)


def joined(model: keras.Model) -> keras.Model:
    """Return a `Replica` of a model, if there are several processes."""
    if placement(model).processes == 1:
        return model
    return Replica(model.inputs, model.outputs[0], name=model.name)


def training_data(model: keras.Model, loader: Any, class_weight: dict[int, float] | None) -> FitData:
    """Return the part of this process, equal to the others, for a `Replica`."""
    if isinstance(model, Replica) and isinstance(loader, Loader):
        place = placement(model)
        loader = loader.shard(place.index, place.processes)
    return FitData(loader, loader, class_weight)


def validation_data(model: keras.Model, loader: Any) -> Any:
    """Return the part of this process, which may have a sample more or less than others."""
    if not (isinstance(model, Replica) and isinstance(loader, Loader)):
        return loader
    place = placement(model)
    size = -(-loader.batch_size // place.processes) * place.processes
    return loader.replace(batch_size=size).shard(place.index, place.processes, remainder="uneven")


def fitting(model: keras.Model, data: FitData | None) -> contextlib.AbstractContextManager[Any]:
    """Let a `Replica` have the metrics and statistics of all processes at the end of each epoch."""
    if not isinstance(model, Replica):
        return contextlib.nullcontext()
    count, averaged = _count(), statistics(model)

    def gather() -> None:
        with torch.no_grad():
            for variable in [*model.metrics_variables, *averaged]:
                distributed.all_reduce(variable.value)
            for variable in averaged:
                variable.value.div_(count)

    return trainer.epoch_ended(model, gather)


def refusal(
    model: keras.Model, accumulates: bool, pulls: bool, reduction: str | None, weighted: bool
) -> str | None:
    """Return why the mean of the parts' gradients is not that of the whole batch, or None."""
    mean = reduction in ("sum_over_batch_size", "mean")
    if mean or (reduction == "mean_with_sample_weight" and not weighted):
        return None
    return f"a loss that is the mean over the samples of a batch, not reduction={reduction!r}"


def gathered(model: keras.Model, number: int) -> list[int]:
    """Wait for the other processes, and return the numbers with which each has come."""
    numbers = [torch.zeros((), dtype=torch.int64, device=_device()) for _ in range(_count())]
    distributed.all_gather(numbers, torch.tensor(number, device=_device()))
    return [int(found) for found in numbers]


def accelerated(model: keras.Model) -> bool:
    """Whether the model is on a GPU or another accelerator."""
    return any(variable.value.device.type != "cpu" for variable in model.variables)


def forward(model: keras.Model) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Return the model's own prediction: it asks no other process."""

    def compute(batch: np.ndarray) -> np.ndarray:
        with trainer.unwrapped(model), quick_convolutions():
            return model.predict_on_batch(batch)

    return compute, 1


class Replica(keras.Model):
    """A model of which each process trains its own on its part of the data; all stay equal.

    Keras' training step runs as it is, but calls the model through `DistributedDataParallel`, so that
    the gradients which reach the optimizer are the means over all processes. The loss of a step is the
    mean, too.
    """

    def make_train_function(self, force: bool = False) -> None:
        # With each compile what trains may be another part.
        if self.train_function is None or force:
            trains = bool(self.trainable_variables)
            self.__dict__["_parallel"] = DistributedDataParallel(self) if trains else None
        super().make_train_function(force)

    def _initialize_ddp(self) -> None:
        """Do nothing: Keras 3.16 would wrap the model itself, which leaves losses and metrics apart."""

    def get_metrics_result(self) -> dict[str, Any]:
        # Parts of validation may differ in their number of batches: `fitting` gathers once, at the end.
        return trainer.own_metrics_result(self)

    def train_step(self, data: Any) -> dict[str, Any]:
        tracker = _MeanOfAll(vars(self)[trainer.LOSS_TRACKER])
        with attributes(self, **{trainer.LOSS_TRACKER: tracker, "_outermost": True}):
            return super().train_step(data)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.__dict__.get("_outermost"):
            with attributes(self, _outermost=False):
                return self.__dict__["_parallel"](*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().fit(*args, **kwargs)
        finally:
            self.__dict__.pop("_parallel", None)


class _MeanOfAll:
    """A running loss that takes in the mean over all processes, whose parts are equal."""

    def __init__(self, metric: keras.metrics.Metric) -> None:
        self._metric = metric

    def __getattr__(self, name: str) -> Any:
        return getattr(self._metric, name)

    def update_state(self, loss: Any, sample_weight: Any = None) -> None:
        mean = loss.detach().clone()
        distributed.all_reduce(mean)
        self._metric.update_state(mean / _count(), sample_weight=sample_weight)


def _count() -> int:
    return distributed.get_world_size()


def _device() -> torch.device:
    """Return where tensors must be that the process group sends."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
