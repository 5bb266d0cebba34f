"""Taking what an optimizer knows along when other variables train."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_transfer._keras_private import (
    ACCUMULATORS,
    AVERAGES,
    iteration_variable,
    learning_rate_source,
    optimized_variables,
    shared_slots,
    slot_lists,
)
from keras_transfer.optimizers.layerwise_lr import (
    LayerwiseLR,
    plain_class,
    plain_config,
    with_births,
)

# Settings that don't change what the slots mean.
_FREE_SETTINGS = ("name", "learning_rate", "weight_decay")


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
            of steps, which a schedule goes by, then begins at 0, and accumulation anew.

    Returns:
        The optimizer, built for `variables`.

    Raises:
        ValueError: the optimizer keeps state that this function can't tell the owner of.

    References:
        Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, section 3 (the bias
        correction).
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner = _unbuilt(optimizer.inner_optimizer, variables, settings)
        scaled = keras.optimizers.LossScaleOptimizer(
            inner, optimizer.initial_scale, optimizer.dynamic_growth_steps, name=optimizer.name
        )
        scaled.build(list(variables))
        scaled.step_counter.assign(_value(optimizer.step_counter))
        scaled.dynamic_scale.assign(_value(optimizer.dynamic_scale))
        _copy_state(optimizer.inner_optimizer, inner, restart=settings is not None)
        return scaled
    made = _unbuilt(optimizer, variables, settings)
    made.build(list(variables))
    _copy_state(optimizer, made, restart=settings is not None)
    return made


def same_kind(first: keras.optimizers.Optimizer, second: keras.optimizers.Optimizer) -> bool:
    """Whether the slots of the first optimizer can be carried over and mean the same in the second."""

    def meaning(optimizer: keras.optimizers.Optimizer) -> dict[str, object]:
        config = plain_config(optimizer)
        return {key: value for key, value in config.items() if key not in _FREE_SETTINGS}

    first, second = inner_optimizer(first), inner_optimizer(second)
    alike = plain_class(first) is plain_class(second) and meaning(first) == meaning(second)
    return alike and not _unknown_state(first)


def inner_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return the optimizer inside a LossScaleOptimizer, or the optimizer itself."""
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return optimizer.inner_optimizer if scaled else optimizer


def _unbuilt(
    optimizer: keras.optimizers.Optimizer,
    variables: Sequence[keras.Variable],
    settings: keras.optimizers.Optimizer | None,
) -> keras.optimizers.Optimizer:
    unknown = _unknown_state(optimizer)
    if unknown:
        raise ValueError(
            "optimizer must keep its slots in lists with an entry for each variable, as in the example "
            "of keras.optimizers.Optimizer, to be carried over; else pass a new one: "
            f"kt.recompile(model, optimizer=...). Received: {type(optimizer).__name__} with "
            f"{', '.join(unknown[:3])}"
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
    position = {key: index for index, key in enumerate(_ids(old))}
    slots = slot_lists(old)
    for name, entries in slot_lists(new).items():
        if restart and name == ACCUMULATORS:
            continue
        for variable, entry in zip(optimized_variables(new), entries, strict=True):
            if entry is None:
                continue
            if id(variable) in position:
                entry.assign(_value(slots[name][position[id(variable)]]))
            elif name == AVERAGES:
                entry.assign(_value(variable))
    # Cohorts are known by the members they have in common.
    for variable in optimized_variables(new):
        if id(variable) in position:
            for name, slot in _shared(new, variable).items():
                slot.assign(_value(_shared(old, variable)[name]))


def _value(variable: keras.Variable) -> np.ndarray:
    # A copy: on JAX two variables would share one buffer, which a step can't give away twice.
    return np.array(keras.ops.convert_to_numpy(variable))


def _ids(optimizer: keras.optimizers.Optimizer) -> list[int]:
    return [id(variable) for variable in optimized_variables(optimizer)]


def _births(optimizer: keras.optimizers.Optimizer) -> list[int]:
    births = optimizer.births if isinstance(optimizer, LayerwiseLR) else None
    return births or [0] * len(optimized_variables(optimizer))


def _shared(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> dict[str, keras.Variable]:
    """Return the slots of the cohort of a variable."""
    if isinstance(optimizer, LayerwiseLR):
        return optimizer.cohorts[optimizer.cohort_of(variable)]
    return shared_slots(optimizer)


def _unknown_state(optimizer: keras.optimizers.Optimizer) -> list[str]:
    """Return the variables of `optimizer` of which nothing says whose they are."""
    known = [iteration_variable(optimizer), learning_rate_source(optimizer)]
    known += [entry for entries in slot_lists(optimizer).values() for entry in entries]
    for variable in optimized_variables(optimizer):
        known += _shared(optimizer, variable).values()
    known_ids = {id(variable) for variable in known}
    return [variable.path for variable in optimizer.variables if id(variable) not in known_ids]
