"""Private names of Keras that optimizers need."""

from contextlib import AbstractContextManager
from typing import Any

import keras

from keras_transfer._lib.attributes import attributes


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


# Where optimizers keep the sums of accumulated gradients, and the moving averages of the variables.
ACCUMULATORS = "_accumulated_gradients"
AVERAGES = "_model_variables_moving_average"


def moving_averages(
    optimizer: keras.optimizers.Optimizer,
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Return the variables of which a built `optimizer` keeps moving averages (EMA), each with that."""
    pairs = zip(optimizer._trainable_variables, vars(optimizer)[AVERAGES], strict=True)
    return [(variable, average) for variable, average in pairs if average is not None]


# What `keras_transfer.optimizers.LayerwiseLR` overrides or calls.
OPTIMIZER_HOOKS = (
    "_apply_weight_decay",
    "_backend_apply_gradients",
    "_backend_update_step",
    "_get_current_learning_rate",
    "_overwrite_model_variables_with_average_value",
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
