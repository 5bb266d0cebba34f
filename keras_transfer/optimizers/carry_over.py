"""Taking what an optimizer knows along when other variables train."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_transfer._lib.keras_private.optimizer import (
    ACCUMULATORS,
    AVERAGES,
    iteration_variable,
    optimized_variables,
    shared_slots,
)
from keras_transfer.optimizers.layerwise_lr import (
    STARTS,
    LayerwiseLR,
    plain_class,
    plain_config,
    with_births,
)
from keras_transfer.optimizers.state import slots_by_owner, unowned

# Settings that don't change what the slots mean, but for those that begin anew with other settings.
_AVERAGING = ("use_ema", "ema_momentum", "ema_overwrite_frequency")
_FREE_SETTINGS = ("name", "learning_rate", "weight_decay", *_AVERAGING)


def carry_over(
    optimizer: keras.optimizers.Optimizer,
    variables: Sequence[keras.Variable],
    *,
    settings: keras.optimizers.Optimizer | None = None,
) -> keras.optimizers.Optimizer:
    """Return a new optimizer for `variables` that knows what `optimizer` knows of them.

    Variables that `optimizer` was built for keep their slots and their count of steps. Others begin as
    in a fresh optimizer: slots at their initial values, bias correction from their first step, the
    moving average (EMA) at the variable's value. Learning rate, schedule position, loss scale,
    exclusions from weight decay and partly accumulated gradients are carried over as well.

    Args:
        optimizer: a built optimizer of Keras' or a subclass that keeps its slots as Keras teaches, in
            lists with an entry for each variable. It is not changed.
        variables: the variables that train from now on.
        settings: an optimizer of the same class whose settings replace those of `optimizer`; its count
            of steps, which a schedule goes by, then begins at 0, and accumulation and moving averages
            (EMA) anew.

    Returns:
        The optimizer, built for `variables`.

    Raises:
        ValueError: the optimizer keeps state that this function can't tell the owner of.

    References:
        Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, section 3 (the bias
        correction).
    """
    inner = inner_optimizer(optimizer)
    made = made_inner = _unbuilt(inner, variables, settings)
    if inner is not optimizer:
        made = keras.optimizers.LossScaleOptimizer(
            made_inner, optimizer.initial_scale, optimizer.dynamic_growth_steps, name=optimizer.name
        )
    made.build(list(variables))
    if inner is not optimizer:
        made.step_counter.assign(_value(optimizer.step_counter))
        made.dynamic_scale.assign(_value(optimizer.dynamic_scale))
    _copy_state(inner, made_inner, restart=settings is not None)
    return made


def same_kind(first: keras.optimizers.Optimizer, second: keras.optimizers.Optimizer) -> bool:
    """Whether the slots of the first optimizer can be carried over and mean the same in the second."""

    def meaning(optimizer: keras.optimizers.Optimizer) -> dict[str, object]:
        config = plain_config(optimizer)
        return {key: value for key, value in config.items() if key not in _FREE_SETTINGS}

    first, second = inner_optimizer(first), inner_optimizer(second)
    alike = plain_class(first) is plain_class(second) and meaning(first) == meaning(second)
    return alike and not unowned(first)


def inner_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return the optimizer inside a LossScaleOptimizer, or the optimizer itself."""
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return optimizer.inner_optimizer if scaled else optimizer


def _unbuilt(
    optimizer: keras.optimizers.Optimizer,
    variables: Sequence[keras.Variable],
    settings: keras.optimizers.Optimizer | None,
) -> keras.optimizers.Optimizer:
    unknown = unowned(optimizer)
    if unknown:
        raise ValueError(
            "optimizer must keep its slots in lists with an entry for each variable, as in the example "
            "of keras.optimizers.Optimizer, to be carried over; else pass a new one: "
            f"kt.recompile(model, optimizer=...). Received: {type(optimizer).__name__} with "
            f"{', '.join(variable.path for variable in unknown[:3])}"
        )
    now = int(keras.ops.convert_to_numpy(optimizer.iterations))
    births = dict(zip(_ids(optimizer), _births(optimizer), strict=True))
    joined = [births.get(id(variable), now) for variable in variables]
    if settings is not None:  # its count begins at 0, so that what has lived is older than the count
        joined = [birth - now for birth in joined]
    return with_births(settings or optimizer, joined)


def _copy_state(
    old: keras.optimizers.Optimizer, new: keras.optimizers.Optimizer, *, restart: bool
) -> None:
    if not restart:
        iteration_variable(new).assign(_value(iteration_variable(old)))
    before = slots_by_owner(old, _ids(old))
    variables = {id(variable): variable for variable in optimized_variables(new)}
    survivors = variables.keys() & set(_ids(old))
    for (name, owner), slot in slots_by_owner(new, _ids(new)).items():
        if name == STARTS or (restart and name in (ACCUMULATORS, AVERAGES)):
            continue
        if owner in survivors:
            slot.assign(_value(before[name, owner]))
        elif name == AVERAGES:
            slot.assign(_value(variables[owner]))
    # The shared slots of a birth are known by the variables of both that they are for.
    for owner in survivors:
        for name, slot in _shared(new, variables[owner]).items():
            slot.assign(_value(_shared(old, variables[owner])[name]))


def _value(variable: keras.Variable) -> np.ndarray:
    # A copy, by Keras: on JAX two variables would share one buffer, which a step can't give away twice.
    value: np.ndarray = keras.ops.convert_to_numpy(variable)
    return value


def _ids(optimizer: keras.optimizers.Optimizer) -> list[int]:
    return [id(variable) for variable in optimized_variables(optimizer)]


def _births(optimizer: keras.optimizers.Optimizer) -> list[int]:
    is_layerwise = isinstance(optimizer, LayerwiseLR)
    return optimizer.births if is_layerwise else [0] * len(optimized_variables(optimizer))


def _shared(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> dict[str, keras.Variable]:
    """Return the slots that a variable has in common with others of its birth."""
    is_layerwise = isinstance(optimizer, LayerwiseLR)
    return optimizer.shared_of(variable) if is_layerwise else shared_slots(optimizer)
