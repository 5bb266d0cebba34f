"""JAX: the distribution that `keras.distribution.set_distribution` was given."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from keras_transfer._distribution.placement import FitData, Placement
from keras_transfer._lib.keras_private.trainer import placed_data_kept
from keras_transfer.data.loader import Loader

scope = contextlib.nullcontext
COMPILES_NETWORKS = True


def placement(model: keras.Model) -> Placement:
    """Return how many devices the distribution divides a batch among, of how many processes."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        if jax.process_count() > 1:  # else each would train for itself, and all write the same files
            raise ValueError(
                "several processes must train by a distribution, set before the model is made: "
                "keras.distribution.set_distribution(keras.distribution.DataParallel("
                f"auto_shard_dataset=False)). Received: {jax.process_count()} processes and none"
            )
        return Placement()
    mesh = distribution.device_mesh
    devices = mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]
    owners = sorted({device.process_index for device in _jax_mesh(distribution).devices.flat})
    if len(owners) == 1:
        return Placement(devices=devices)
    if not isinstance(distribution, keras.distribution.DataParallel):
        raise ValueError(
            "the distribution of several processes must be a keras.distribution.DataParallel. "
            f"Received: {type(distribution).__name__}"
        )
    if distribution.auto_shard_dataset:
        raise ValueError(
            "the distribution must leave the data to the Loader in several processes: "
            "keras.distribution.DataParallel(auto_shard_dataset=False). "
            "Received: auto_shard_dataset=True"
        )
    return Placement(owners.index(jax.process_index()), len(owners), devices)


def start_equal(model: keras.Model) -> None:
    """Nothing: JAX made the variables equal, or refused."""


def joined(model: keras.Model) -> keras.Model:
    """Return the model: the distribution serves any."""
    return model


def training_data(model: keras.Model, loader: Any, class_weight: dict[int, float] | None) -> FitData:
    """Return the part of this process, which its devices divide evenly."""
    place = placement(model)
    if place.devices > 1 and isinstance(loader, Loader):
        loader = loader.shard(place.index, place.processes, multiple=place.devices)
    return FitData(loader, loader, class_weight)


def validation_data(model: keras.Model, loader: Any) -> Any:
    """Return batches on the devices: divided, but for a last one that can't be."""
    place = placement(model)
    if place.devices == 1 or not isinstance(loader, Loader):
        return loader
    return _Placed(loader, place, keras.distribution.distribution())


def refusal(
    model: keras.Model, accumulates: bool, pulls: bool, reduction: str | None, weighted: bool
) -> str | None:
    """Return None: all devices compute as one."""
    return None


def fitting(model: keras.Model, data: FitData | None) -> contextlib.AbstractContextManager[Any]:
    """Let Keras leave batches where they are that are on devices already."""
    return placed_data_kept()


def gathered(model: keras.Model, number: int) -> list[int]:
    """Wait for the other processes, and return the numbers with which each has come."""
    return multihost_utils.process_allgather(np.array(number, "int32")).tolist()


def accelerated(model: keras.Model) -> bool:
    """Whether JAX computes on a GPU or another accelerator."""
    return jax.default_backend() != "cpu"


def forward(model: keras.Model) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Return the model's prediction on all devices, or on those of this process if there are others."""
    place = placement(model)
    if place.processes == 1:
        return model.predict_on_batch, place.devices
    names = [f"{device.platform}:{device.id}" for device in jax.local_devices()]
    here = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    with _distributed(here):
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())

    def compute(batch: np.ndarray) -> np.ndarray:
        with _distributed(here):
            return copy.predict_on_batch(batch)

    return compute, len(names)


class _Placed(keras.utils.PyDataset):
    """The batches of a loader on the devices; each device has the whole of one that can't be divided.

    So results are those of one device, whatever the number of samples.
    """

    def __init__(self, loader: Loader, place: Placement, distribution: Any) -> None:
        super().__init__()
        size = -(-loader.batch_size // place.devices) * place.devices
        loader = loader.replace(batch_size=size)
        self._rest = loader.num_samples % place.devices
        self._distribution = distribution
        self._loader = loader.shard(
            place.index, place.processes, multiple=place.devices, remainder="whole"
        )

    @property
    def workers(self) -> int:
        """No threads of Keras: the loader has its own."""
        return self._loader.workers

    @property
    def num_batches(self) -> int:
        """How many batches an epoch has."""
        return self._loader.num_batches

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        whole = bool(self._rest) and index == self.num_batches - 1
        return tuple(self._on_devices(array, whole) for array in self._loader[index])

    def on_epoch_begin(self) -> None:
        self._loader.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._loader.on_epoch_end()

    def _on_devices(self, array: np.ndarray, whole: bool) -> jax.Array:
        sharding = self._distribution.get_data_layout(array.shape).backend_layout
        if whole:
            sharding = NamedSharding(_jax_mesh(self._distribution), PartitionSpec())
        return jax.make_array_from_process_local_data(sharding, array)


@contextlib.contextmanager
def _distributed(distribution: Any) -> Iterator[None]:
    """Let another distribution hold inside the block."""
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def _jax_mesh(distribution: Any) -> Any:
    return distribution.device_mesh.backend_mesh
