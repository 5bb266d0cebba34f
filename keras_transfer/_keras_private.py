"""The private names of Keras that this package leans on, all in one place.

Each function hides one idea that Keras has no public name for. `tests/test_keras_private.py` runs every
one of them, so that a new release of Keras which moves a name fails there, by that name.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import keras
from keras.src.backend import config
from keras.src.backend.common import global_state


def home() -> Path:
    """Return the absolute path of the folder that Keras keeps data in: $KERAS_HOME or ~/.keras."""
    return Path(config.keras_home()).expanduser().absolute()


def graph_nodes(model: keras.Model) -> list[Any] | None:
    """Return the calls that `model` consists of, inputs first, or None if Keras knows no graph of it.

    Each node has an `operation`, `parent_nodes`, `input_tensors` and `outputs`.
    """
    by_depth = getattr(getattr(model, "_functional", model), "_nodes_by_depth", None)
    if by_depth is None:
        return None
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def node_of(tensor: keras.KerasTensor) -> Any:
    """Return the call that made a symbolic tensor."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def call_arguments(node: Any) -> tuple[Any, Any]:
    """Return the positional and the named arguments of a call, symbolic tensors among them."""
    return node.arguments.args, node.arguments.kwargs


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """Return `layer` and all layers inside it."""
    return layer._flatten_layers(include_self=True, recursive=True)


def seed_generators(layer: keras.Layer) -> list[keras.random.SeedGenerator]:
    """Return what a layer, without those inside it, draws random numbers from."""
    return list(layer._seed_generators)


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """Return the variables that train with `layer` and belong to no layer inside it."""
    return list(layer._trainable_variables)


def lora_base(layer: keras.Layer) -> list[keras.Variable]:
    """Return the variables of `layer` that low-rank adaptation (LoRA) keeps as they are."""
    if not getattr(layer, "lora_enabled", False):
        return []
    found = [getattr(layer, name, None) for name in ("_kernel", "_embeddings")]
    return [variable for variable in found if variable is not None]


def compiled_flags(model: keras.Model) -> dict[keras.Layer, bool]:
    """Return what was trainable when `model` was compiled, by layer."""
    return vars(model)[COMPILED_FLAGS]


def stored_compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Return the arguments that `model` was compiled with, as it keeps them for files."""
    return model._compile_config.config


def fit_state(model: keras.Model) -> dict[str, Any]:
    """Return the attributes that a running `fit` of `model` needs and `compile` would set anew.

    On JAX the state that the last step left is forgotten: it doesn't fit another optimizer.
    """
    names = ("_compile_loss", COMPILED_METRICS, LOSS_TRACKER, "stop_training")
    state = {name: getattr(model, name) for name in names}
    return state | {"_jax_state": None} if hasattr(model, "_jax_state") else state


def iteration_variable(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Return the variable that counts the steps of `optimizer`, those of accumulation included."""
    return optimizer._iterations


def learning_rate_source(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return where `optimizer` has its learning rate from: a variable, a schedule or a callable."""
    return optimizer._learning_rate


def optimized_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the model's variables that `optimizer` was built for, in its order."""
    return list(optimizer._trainable_variables)


def variable_key(optimizer: keras.optimizers.Optimizer, variable: Any) -> Any:
    """Return what `optimizer` knows a variable of the model by, on TensorFlow also a raw one."""
    return optimizer._var_key(variable)


def learning_rate_from(
    optimizer: keras.optimizers.Optimizer, source: Any
) -> AbstractContextManager[None]:
    """Let `optimizer` have its learning rate from `source` inside the block; its variables stay."""
    return attributes(optimizer, _learning_rate=source)


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


def statistics(model: keras.Model) -> list[keras.Variable]:
    """Return what training changes without gradients, such as the moving means of a batch norm."""
    return [
        variable
        for layer in sublayers(model)
        if layer.trainable
        for variable in layer._non_trainable_variables
        if "float" in keras.backend.standardize_dtype(variable.dtype)
    ]


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
    axis (https://github.com/tensorflow/tensorflow/issues/72388).

    Args:
        model: the model.
        first: a part of a batch to build by; None: what a replica gets of the first one.
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

    Args:
        model: a compiled model with one output.
        labels: labels in the form that its steps get, of shape (samples,) or (samples, classes); the
            values don't matter.
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
_GLOBAL_SEED = "global_seed_generator"


def global_seed_generator() -> keras.random.SeedGenerator | None:
    """Return what gives seeds where none is given; None if Keras has not needed it so far."""
    return global_state.get_global_attribute(_GLOBAL_SEED)


def set_global_seed_generator(generator: keras.random.SeedGenerator | None) -> None:
    """Let Keras use this generator; None lets it make one, with a seed of Python's generator."""
    global_state.set_global_attribute(_GLOBAL_SEED, generator)


# Where optimizers keep the sums of accumulated gradients, and the moving averages of the variables.
ACCUMULATORS = "_accumulated_gradients"
AVERAGES = "_model_variables_moving_average"
# What `keras_transfer.optimizers.LayerwiseLR` overrides or calls.
OPTIMIZER_HOOKS = (
    "_apply_weight_decay",
    "_backend_update_step",
    "_get_current_learning_rate",
    "_update_model_variables_moving_average",
    "_use_weight_decay",
)
_NO_SLOTS = ("_variables", "_trainable_variables")


def slot_lists(optimizer: keras.optimizers.Optimizer) -> dict[str, list[keras.Variable | None]]:
    """Return the slots of a built `optimizer`: by attribute, a list with an entry for each variable.

    All of Keras' optimizers keep their slots this way, and its guide teaches it to authors of others.
    """
    own = {id(variable) for variable in optimizer.variables}
    count = len(optimizer._trainable_variables)
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in _NO_SLOTS
        and isinstance(value, list)
        and len(value) == count
        and all(entry is None or id(entry) in own for entry in value)
        and any(entry is not None for entry in value)
    }


def shared_slots(optimizer: keras.optimizers.Optimizer) -> dict[str, keras.Variable]:
    """Return the state of a built `optimizer` that belongs to all variables, such as Nadam's product.

    Its step counter and its learning rate are not among it.
    """
    known = (optimizer._iterations, optimizer._learning_rate)
    return {
        name: value
        for name, value in vars(optimizer).items()
        if isinstance(value, keras.Variable) and not any(value is other for other in known)
    }


# Where optimizers keep what `exclude_from_weight_decay` was told: keys of variables, and a pattern.
EXCLUDED = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")


def weight_decay_exclusions(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Return the attributes in which `optimizer` keeps what `exclude_from_weight_decay` was told."""
    return {name: getattr(optimizer, name) for name in EXCLUDED if hasattr(optimizer, name)}


def track(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> None:
    """Let `variable` be among the variables of `optimizer`, where Keras has missed it.

    Inside a LossScaleOptimizer it does: Nadam's product would neither be saved nor change on JAX.
    """
    if not any(variable is known for known in optimizer._variables):
        optimizer._variables.append(variable)


def updates_lists(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether `optimizer` is one of torch's that update all variables at once."""
    return any(
        "_parallel_update_step" in vars(c)
        for c in type(optimizer).__mro__
        if c.__module__.startswith("keras.")
    )


@contextmanager
def attributes(thing: Any, **values: Any) -> Iterator[None]:
    """Give `thing` other attributes inside the block, past the tracking that assignment brings."""
    own = vars(thing)
    before = {name: own[name] for name in values if name in own}
    own.update(values)
    try:
        yield
    finally:
        for name in values.keys() - before.keys():
            own.pop(name, None)
        own.update(before)
