"""TensorFlow: the strategy of `tf.distribute` in whose scope the model was made."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_transfer._distribution.placement import FitData, Placement
from keras_transfer._lib.keras_private import trainer
from keras_transfer._lib.keras_private.graph import statistics, sublayers
from keras_transfer.data.loader import Loader

COMPILES_NETWORKS = False  # predict traces one, and XLA has no part in it


def placement(model: keras.Model) -> Placement:
    """Return the number of replicas of the strategy, and which of its workers this is."""
    strategy = model.distribute_strategy
    devices = strategy.num_replicas_in_sync
    within = strategy.extended.variable_created_in_scope
    if devices > 1 and not all(within(variable.value) for variable in model.variables[:1]):
        raise ValueError(
            f"model {model.name!r} must be made in the scope of the strategy that it shall train with. "
            f"Received: a model made outside of {type(strategy).__name__}.scope()"
        )
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
    first = _weighted(loader.batch(0, 0), class_weight)
    return FitData(_distributed(model, loader, class_weight), loader, None, first)


def validation_data(model: keras.Model, loader: Any) -> Any:
    """Return batches that the replicas divide, unevenly if need be; none is left without a sample."""
    place = placement(model)
    if place.devices == 1 or not isinstance(loader, Loader):
        return loader
    size = -(-loader.batch_size // place.devices) * place.devices
    while 0 < loader.num_samples % size < place.devices:
        size += place.devices
    loader = loader.replace(batch_size=size)
    part = loader.shard(place.index, place.processes, multiple=place.devices, remainder="uneven")
    return _distributed(model, part, None)


@contextlib.contextmanager
def fitting(model: keras.Model, data: FitData | None) -> Iterator[None]:
    """Let `fit` begin epochs quickly, work with several replicas, and these have the same statistics.

    Keras leaves each replica those of its own part; they are averaged after each epoch.
    """
    place, averaged = placement(model), statistics(model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(trainer.untuned_reading())
        if place.devices > 1:
            stack.enter_context(trainer.several_replicas(model, None if data is None else data.first))
        else:
            _make_variables(model, None if data is None else data.loader)
        if place.devices > 1 and averaged:
            average = _averaging(model.distribute_strategy, [variable.value for variable in averaged])
            stack.enter_context(trainer.epoch_ended(model, average))
        yield


def _make_variables(model: keras.Model, loader: Any) -> None:
    """Make the variables of optimizer and metrics, as far as it is known what labels look like.

    `fit` would make them within its first step, and a function that has made some is traced again.
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    labels = loader.some_labels() if isinstance(loader, Loader) else None
    if labels is not None:
        trainer.build_metrics(model, labels)


def _averaging(strategy: Any, values: list[Any]) -> Callable[[], None]:
    """Return what gives each replica the means of variables over all of them."""

    def average() -> None:
        context = tf.distribute.get_replica_context()
        means = context.all_reduce(tf.distribute.ReduceOp.MEAN, [tf.identity(v) for v in values])
        for value, mean in zip(values, means, strict=True):
            value.assign(mean)

    return tf.function(lambda: strategy.run(average))


def refusal(
    model: keras.Model, accumulates: bool, pulls: bool, reduction: str | None, weighted: bool
) -> str | None:
    """Return what Keras does wrong with several replicas, or None."""
    if accumulates:
        return "an optimizer without gradient_accumulation_steps, with which Keras fails here"
    if pulls:
        return "phases without l2_sp, which each replica would add to its part of the gradient"
    if any(layer.compute_dtype == "float16" for layer in sublayers(model)):
        return (
            "layers that compute in bfloat16 or float32: in float16 Keras looks for an overflow in the "
            "gradients of the first replica only"
        )
    if reduction == "mean_with_sample_weight" and weighted:
        return f"a loss with another reduction than {reduction!r} for class weights"
    return None


def gathered(model: keras.Model, number: int) -> list[int]:
    """Wait for the other workers, and return the numbers with which each has come."""
    return _gather(model.distribute_strategy)(tf.constant([number], "int64")).numpy().tolist()


def accelerated(model: keras.Model) -> bool:
    """Whether TensorFlow computes on a GPU or another accelerator."""
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


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


@functools.lru_cache(maxsize=1)
def _gather(strategy: Any) -> Callable[[Any], Any]:
    """Return what gathers a number of each worker, kept as each function made anew is traced anew."""
    return tf.function(lambda number: strategy.gather(strategy.run(tf.identity, (number,)), axis=0))


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


def _distributed(model: keras.Model, loader: Loader, class_weight: dict[int, float] | None) -> Any:
    """Return the batches of a loader for the strategy, in parts for the replicas of this worker.

    Of other data each worker would read all, and throw the parts of the others away.
    """
    place, strategy = placement(model), model.distribute_strategy
    parts = place.devices // place.processes

    def batches() -> Iterator[tuple[np.ndarray, ...]]:
        # Of a loader of its own: another pass may begin before this one is closed.
        own, epoch = copy.deepcopy(loader), loader.epoch
        for batch in own:
            arrays = _weighted(batch, class_weight)
            yield from zip(*(np.array_split(array, parts) for array in arrays), strict=True)
        loader.epoch = epoch + 1

    first = _weighted(loader.batch(0, 0), class_weight)
    signature = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in first)
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    count = loader.num_batches * parts
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(2 * parts)
    dataset = trainer.untuned(dataset)
    data = strategy.distribute_datasets_from_function(lambda context: dataset)
    # Of each element TensorFlow makes a batch; Keras, which takes one for each replica in a step, would
    # begin steps without any, in which the optimizer moves the weights.
    data._cardinality = loader.num_batches
    return data


def _weighted(
    batch: tuple[np.ndarray, ...], class_weight: dict[int, float] | None
) -> tuple[np.ndarray, ...]:
    """Return a batch with the weights of its samples, if classes have any."""
    if class_weight is None:
        return batch
    images, labels = batch
    classes = labels.argmax(axis=1) if labels.ndim == 2 else labels.astype(int)
    weights = np.array([class_weight.get(int(each), 1.0) for each in classes], "float32")
    return images, labels, weights
