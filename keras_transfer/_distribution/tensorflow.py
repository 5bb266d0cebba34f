"""TensorFlow: the strategy of `tf.distribute` in whose scope the model was made."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_transfer._distribution.placement import FitData, Placement
from keras_transfer._keras_private import epoch_ended, several_workers, statistics
from keras_transfer.data.loader import Loader


def placement(model: keras.Model) -> Placement:
    """Return the number of replicas of the strategy, and which of its workers this is."""
    strategy = model.distribute_strategy
    devices = strategy.num_replicas_in_sync
    workers = _workers(strategy)
    if len(workers) == 1:
        return Placement(devices=devices)
    resolver = strategy.cluster_resolver
    index = workers.index((resolver.task_type, resolver.task_id))
    return Placement(index, len(workers), devices, stream=index)


def scope(model: keras.Model) -> contextlib.AbstractContextManager[Any]:
    """Return the scope of the model's strategy, if it has one."""
    strategy = model.distribute_strategy
    alone = strategy.num_replicas_in_sync == 1 and len(_workers(strategy)) == 1
    return contextlib.nullcontext() if alone else strategy.scope()


def start_equal(model: keras.Model) -> None:
    """Nothing: the strategy made the variables equal."""


def joined(model: keras.Model) -> keras.Model:
    """Return the model: the strategy serves any that was made in its scope."""
    return model


def training_data(model: keras.Model, loader: Any, class_weight: dict[int, float] | None) -> FitData:
    """Return batches that the replicas divide evenly, those of this worker if there are several."""
    place = placement(model)
    if place.devices == 1 or not isinstance(loader, Loader):
        return FitData(loader, loader, class_weight)
    loader = loader.shard(place.index, place.processes, multiple=place.devices)
    if place.processes == 1:
        return FitData(loader, loader, class_weight)
    # Of other data each worker would read all, and throw the parts of the others away.
    here = place.devices // place.processes
    batches = _dataset(loader, here, class_weight)
    data = model.distribute_strategy.distribute_datasets_from_function(lambda context: batches)
    return FitData(data, loader, None)


def validation_data(model: keras.Model, loader: Any) -> Any:
    """Return the loader: the strategy divides its batches, and knows of uneven parts."""
    return loader


@contextlib.contextmanager
def fitting(model: keras.Model) -> Iterator[None]:
    """Let `fit` work in several workers, and replicas have the same statistics after each epoch.

    Keras leaves each replica those of its own part.
    """
    place, averaged = placement(model), statistics(model)
    with contextlib.ExitStack() as stack:
        if place.processes > 1:
            stack.enter_context(several_workers(model))
        if place.devices > 1 and averaged:
            values = [variable.value for variable in averaged]
            stack.enter_context(epoch_ended(model, _averaging(model.distribute_strategy, values)))
        yield


def _averaging(strategy: Any, values: list[Any]) -> Callable[[], None]:
    """Return what gives each replica the means of variables over all of them."""

    def average() -> None:
        context = tf.distribute.get_replica_context()
        means = context.all_reduce(tf.distribute.ReduceOp.MEAN, [tf.identity(v) for v in values])
        for value, mean in zip(values, means, strict=True):
            value.assign(mean)

    return tf.function(lambda: strategy.run(average))


def agreed(model: keras.Model, number: int) -> bool:
    """Wait for the other workers, and return whether each has come with the same number."""
    if placement(model).processes == 1:
        return True
    strategy = model.distribute_strategy

    @tf.function
    def gathered() -> Any:
        return strategy.gather(strategy.run(lambda: tf.constant([number])), axis=0)

    return bool((gathered().numpy() == number).all())


def forward(model: keras.Model) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Return the model's prediction on the devices of this worker."""
    strategy = model.distribute_strategy
    place = placement(model)
    here = place.devices // place.processes
    if place.devices == 1:
        return model.predict_on_batch, 1

    @tf.function(reduce_retracing=True)
    def step(parts: Any) -> Any:
        return strategy.run(lambda part: model(part, training=False), args=(parts,))

    def compute(batch: np.ndarray) -> np.ndarray:
        parts = iter(np.split(batch, here))
        # Called for each device of this worker in turn.
        values = strategy.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(next(parts))
        )
        outputs = strategy.experimental_local_results(step(values))
        return np.concatenate([output.numpy() for output in outputs])

    return compute, here


def _workers(strategy: Any) -> list[tuple[str, int]]:
    """Return the type and the number of each worker of a strategy; of one, what doesn't matter."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return [("worker", 0)]
    cluster = resolver.cluster_spec()
    return [
        (kind, number)
        for kind in ("chief", "worker")
        if kind in cluster.jobs
        for number in range(cluster.num_tasks(kind))
    ] or [("worker", 0)]


def _dataset(loader: Loader, parts: int, class_weight: dict[int, float] | None) -> Any:
    """Return the batches of a loader, each in so many parts, one for each device of this worker."""

    def batches() -> Iterator[tuple[np.ndarray, ...]]:
        for images, labels in loader:
            arrays = [images, labels]
            if class_weight is not None:
                classes = labels.argmax(axis=1) if labels.ndim == 2 else labels.astype(int)
                arrays.append(np.array([class_weight.get(int(c), 1.0) for c in classes], "float32"))
            yield from zip(*(np.split(array, parts) for array in arrays), strict=True)

    first = loader.batch(0, 0)
    shapes = [(array.shape[1:], array.dtype) for array in first]
    if class_weight is not None:
        shapes.append(((), np.dtype("float32")))
    signature = tuple(tf.TensorSpec((None, *shape), dtype) for shape, dtype in shapes)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    count = loader.num_batches * parts
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)
