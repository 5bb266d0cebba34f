"""Private names of Keras that compiled models and their `fit` need."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import keras

from keras_transfer._lib.attributes import attributes
from keras_transfer._lib.variables import hold_variables


def compiled_flags(model: keras.Model) -> dict[keras.Layer, bool]:
    """Return what was trainable when `model` was compiled, by layer."""
    return vars(model)[COMPILED_FLAGS]


def stored_compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Return the arguments that `model` was compiled with, as it keeps them for files."""
    return model._compile_config.config


def initial_epoch(model: keras.Model) -> int:
    """Return the epoch with which `fit` shall begin by what a callback has told the model, or 0."""
    return model._initial_epoch or 0


def fit_state(model: keras.Model) -> dict[str, Any]:
    """Return the attributes that a running `fit` of `model` needs and `compile` would set anew.

    On JAX the state that the last step left is forgotten: it doesn't fit another optimizer.
    """
    names = ("_compile_loss", COMPILED_METRICS, LOSS_TRACKER, "stop_training")
    state = {name: getattr(model, name) for name in names}
    return state | {"_jax_state": None} if hasattr(model, "_jax_state") else state


def take_jax_state(model: keras.Model, state: Sequence[Any]) -> None:
    """Give the variables of `model` the values that `fit` on JAX has given its step, in the same order.

    `fit` takes them out of the model meanwhile, and doesn't put them back where the step raises.
    """
    names = ("trainable", "non_trainable", "optimizer", "metrics")
    values = zip(names, state, strict=True)
    model._jax_state = {f"{name}_variables": each for name, each in values}
    model._jax_state_synced = False
    model.jax_state_sync()


def changed_in_place(model: keras.Model) -> list[keras.Variable]:
    """Return the variables that a training step changes where they are, but for those of metrics.

    On JAX there are none: its step is a function of values.
    """
    return [] if keras.backend.backend() == "jax" else model.variables


def storage(variables: Sequence[keras.Variable]) -> list[Any]:
    """Return what variables keep their values in: tensors of torch, or variables of TensorFlow."""
    if keras.backend.backend() == "torch":
        return [variable._value.data for variable in variables]
    return [variable._value for variable in variables]


def copied_storage(variables: Sequence[keras.Variable]) -> list[Any]:
    """Return what is like `storage`, but new, with the same values in it."""
    values = hold_variables(variables)
    if keras.backend.backend() == "torch":
        return values
    names = ("dtype", "trainable", "aggregation", "synchronization", "name")
    settings = [{name: getattr(variable, name) for name in names} for variable in variables]
    return storage([keras.Variable(v, **each) for v, each in zip(values, settings, strict=True)])


def store_in(variables: Sequence[keras.Variable], places: Sequence[Any]) -> None:
    """Have variables keep their values elsewhere: in what `storage` or `copied_storage` returned.

    Nothing is copied. What TensorFlow has traced goes on with those that there were at that time.
    """
    torch = keras.backend.backend() == "torch"
    for variable, place in zip(variables, places, strict=True):
        if torch:
            variable._value.data = place  # the parameter stays: modules of torch know it
        else:
            variable._value = place


def own_metrics_result(model: keras.Model) -> dict[str, Any]:
    """Return the metrics of this process; Keras 3.16 on torch asks all for theirs, at each step."""
    name = "get_metrics_result"
    first = [each for each in type(model).__mro__ if name in vars(each)][-1]
    return getattr(first, name)(model)


def unwrapped(model: keras.Model) -> AbstractContextManager[None]:
    """Keep Keras 3.16 on torch, inside the block, from joining `model` with those of other processes.

    It does so wherever there is a process group, and fails where nothing trains.
    """
    return attributes(model, _initialize_ddp=lambda: None)


def epoch_ended(model: keras.Model, act: Callable[[], None]) -> AbstractContextManager[None]:
    """Have `act` called, inside the block, when an epoch of a `fit` is over and metrics aren't yet read.

    That is before validation. It is called after the epoch of validation, too.
    """
    read = model._get_metrics_result_or_logs

    def act_and_read(logs: Any) -> Any:
        act()
        return read(logs)

    return attributes(model, _get_metrics_result_or_logs=act_and_read)


@contextmanager
def placed_data_kept() -> Iterator[None]:
    """Let Keras on JAX leave batches where they are, inside the block, that are on devices already."""
    import jax
    from keras.src.backend.jax import distribution_lib

    place = distribution_lib.distribute_data_input

    def place_others(batch: Any, *args: Any, **kwargs: Any) -> Any:
        return batch if isinstance(batch, jax.Array) else place(batch, *args, **kwargs)

    with attributes(distribution_lib, distribute_data_input=place_others):
        yield


@contextmanager
def several_replicas(model: keras.Model, first: Any = None) -> Iterator[None]:
    """Let the `fit` of a model in a TensorFlow strategy of several replicas work, inside the block.

    To build the model by it, Keras takes the mean over the replicas of a whole batch, which must be of
    one size then and of one worker; and with several workers it takes means of scalars along their first
    axis (https://github.com/tensorflow/tensorflow/issues/72388). Here it builds by `first`, a part of a
    batch, or by what a replica gets of the first one.
    """
    from keras.src.backend.tensorflow import trainer

    strategy = model.distribute_strategy
    reduce = trainer.reduce_per_replica

    def build(iterator: Any = None, data_batch: Any = None) -> None:
        if first is not None:
            data_batch = first
        elif iterator is not None:
            _, _, batches = next(iter(iterator))
            data_batch = keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], next(batches)
            )
        with strategy.scope():
            model._symbolic_build(data_batch=data_batch)

    def mean_or_else(values: Any, strategy: Any, reduction: str) -> Any:
        if reduction not in ("auto", "mean"):
            return reduce(values, strategy, reduction)
        return keras.tree.map_structure(lambda v: strategy.reduce("MEAN", v, axis=None), values)

    built = attributes(model, _maybe_symbolic_build=build)
    with built, attributes(trainer, reduce_per_replica=mean_or_else):
        yield


def build_metrics(model: keras.Model, labels: Any) -> None:
    """Make the variables of a compiled model's metrics, as its first step would.

    The values of `labels` don't matter, only that they have the form that its steps get.
    """
    from keras.src.backend import compute_output_spec

    if model._compile_metrics is not None and not model._compile_metrics.built:
        expected = keras.KerasTensor(labels.shape, str(labels.dtype))
        (output,) = model.outputs
        output = keras.KerasTensor((len(labels), *output.shape[1:]), output.dtype)
        compute_output_spec(model.compute_metrics, None, expected, output)


def untuned(dataset: Any) -> Any:
    """Return a dataset of tf.data that TensorFlow reads without tuning how."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


@contextmanager
def untuned_reading() -> Iterator[None]:
    """Keep TensorFlow, inside the block, from tuning how it reads the batches of Keras' `fit`.

    At the end of each epoch it waits for the thread that tunes (TensorFlow 2.21). What the user has made
    with tf.data is left as it is.
    """
    import tensorflow as tf
    from keras.src.backend.tensorflow import trainer
    from keras.src.trainers.data_adapters.tf_dataset_adapter import TFDatasetAdapter
    from tensorflow.python.data.ops import multi_device_iterator_ops as devices

    make, make_for_device = trainer.TFEpochIterator, devices._create_device_dataset

    def epochs(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        data = made._distributed_dataset
        if isinstance(data, tf.data.Dataset) and not isinstance(made.data_adapter, TFDatasetAdapter):
            made._distributed_dataset = untuned(data)
        return made

    def for_device(*args: Any) -> Any:
        return untuned(make_for_device(*args))

    read = attributes(trainer, TFEpochIterator=epochs)
    with read, attributes(devices, _create_device_dataset=for_device):
        yield


# What a compiled model keeps its running loss in, and the metrics that `compile` was given.
LOSS_TRACKER = "_loss_tracker"
COMPILED_METRICS = "_compile_metrics"
COMPILED_FLAGS = "_compiled_trainable_state"
