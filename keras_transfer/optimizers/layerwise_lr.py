"""Every layer its own learning rate, in one optimizer with one `learning_rate`.

And its own count of steps: Adam and its kin divide by 1 - beta^t, as moments that begin at zero are too
small in the first steps. A variable that joins at step 1,000 has moments of zero, too, but t counts the
optimizer's steps: it would move 2.5 times too far at first. Here t counts the variable's own steps.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_transfer._keras_private import (
    AVERAGES,
    attributes,
    learning_rate_source,
    optimized_variables,
    shared_slots,
    variable_key,
    weight_decay_exclusions,
)
from keras_transfer._messages import did_you_mean

Multipliers = Mapping[str, float] | Callable[[keras.Variable], float]

_REGISTERED = {"package": "keras_transfer", "name": "LayerwiseLR"}
# A mixin: what it inherits is the optimizer's whose class it stands before.
_Mixin: Any = object


class Cohort(NamedTuple):
    """What the variables have in common that are updated together.

    Attributes:
        birth: the step (of `iterations`) before their first. A negative one is that of variables which
            are older than the count.
        multiplier: the factor of their learning rate.
    """

    birth: int
    multiplier: float


@keras.saving.register_keras_serializable(**_REGISTERED)
class LayerwiseLR(_Mixin):
    """An optimizer that gives each variable `learning_rate` times a multiplier of its own.

    A multiplier m does to a variable what the same optimizer with `learning_rate * m` would do,
    weight decay included. The learning rate itself is scaled, not the gradient, which Adam, Lion or
    Muon would not notice, nor the update, which is wrong for Ftrl and ScheduleFreeAdamW. There is
    one `learning_rate`, so schedules and callbacks drive all rates at once, and the ratios stay.

    The class derives from that of the given optimizer, so that all else is inherited: clipping by
    the norm of all gradients, accumulation, moving averages, torch's fused updates.

    Multiplier 0 keeps a variable where it is, but its gradient is computed all the same on torch.
    Freezing saves it on every backend, and `keras_transfer.recompile` lets variables come and go.

    Args:
        optimizer: a Keras optimizer or one of your own, or its name. Its settings are taken; it is not
            changed.
        multipliers: {pattern: multiplier}, where a pattern is the path of a variable, such as
            "block1_conv1/kernel", or a regular expression that matches the whole of it, and the
            first match counts; or a function from a variable to its multiplier; or a policy of
            `keras_transfer.multipliers`. A variable that no pattern matches has 1.

    Raises:
        ValueError: a multiplier is negative or not a finite number; the optimizer was used already, is a
            LayerwiseLR, or a wrapper such as LossScaleOptimizer. When it is built: a pattern
            matches no variable (the message names near misses), or the function returns no number.

    Example:
        >>> import keras, keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, input_shape=(32, 32, 3), weights=None)
        >>> multipliers = {"predictions/.*": 10.0, "block[12]_.*": 0.1}
        >>> optimizer = kt.optimizers.LayerwiseLR(keras.optimizers.SGD(1e-3), multipliers)
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")
        >>> row = kt.trainable_table(model)[-1]
        >>> row.layer, round(row.learning_rate, 6)
        ('predictions', 0.01)

    References:
        Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018, section
        3.2 (discriminative fine-tuning); Kingma and Ba, "Adam", 2015, section 3 (the bias correction,
        which goes by the steps of each variable here).
    """

    births: list[int] | None
    cohorts: dict[Cohort, dict[str, keras.Variable]]
    _members: dict[Any, Cohort]  # by what the optimizer knows a variable of the model by
    _born: int  # of the cohort whose turn it is
    _scale: float

    def __new__(
        cls,
        optimizer: str | keras.optimizers.Optimizer,
        multipliers: Multipliers,
    ) -> Any:
        optimizer = keras.optimizers.get(optimizer)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                "optimizer must not be a LossScaleOptimizer; put it outside: LossScaleOptimizer("
                "LayerwiseLR(inner_optimizer, multipliers)). Received: a LossScaleOptimizer"
            )
        if isinstance(optimizer, keras.optimizers.MultiOptimizer | LayerwiseLR):
            raise ValueError(
                "optimizer must have one learning rate for all variables. "
                f"Received: a {type(optimizer).__name__} of several"
            )
        if optimizer.built:
            raise ValueError(
                "optimizer must be a new one: what it knows of other steps would be lost. "
                f"Received: a {type(optimizer).__name__} after {int(optimizer.iterations)} steps"
            )
        multipliers = checked_multipliers(multipliers)
        return layerwise(optimizer, multipliers, None, strict=type(multipliers) is dict)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `__new__` returns what the plain class has made."""

    @property
    def multipliers(self) -> Multipliers:
        """The multipliers as they were given; make a new optimizer for others."""
        given = self.__dict__["_multipliers"]
        return MappingProxyType(given) if isinstance(given, dict) else given

    @property
    def iterations(self) -> Any:
        """How many updates were made; inside an update, how many to the variables it is about."""
        count = super().iterations
        return count - self._born if self._born else count

    def _get_current_learning_rate(self) -> Any:
        rate = super()._get_current_learning_rate()
        return rate if self._scale == 1.0 else keras.ops.multiply(rate, self._scale)

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the slots, and for each cohort its own of those that belong to no single variable."""
        if self.built:
            return
        births = [0] * len(variables) if self.births is None else self.births
        if len(variables) != len(births):
            raise ValueError(
                f"the optimizer must be built for the {len(births)} variables that it is about. "
                f"Received: {len(variables)} variables"
            )
        multipliers = resolve(self.__dict__["_multipliers"], variables, strict=self._strict)
        super().build(variables)
        members = [Cohort(*pair) for pair in zip(births, multipliers, strict=True)]
        shared = shared_slots(self)
        first, *others = dict.fromkeys(members) or [Cohort(0, 1.0)]
        cohorts = {first: shared} | {cohort: self._copies(shared) for cohort in others}
        keys = [variable_key(self, variable) for variable in variables]
        self.__dict__.update(cohorts=cohorts, _members=dict(zip(keys, members, strict=True)))

    def get_config(self) -> dict[str, Any]:
        plain = plain_class(self)
        # torch's variants of Keras' optimizers don't exist on other backends: the public one is meant.
        stock = plain.__module__.startswith("keras.")
        public = plain
        if stock:
            public = next(c for c in plain.__mro__ if c in vars(keras.optimizers).values())
        inner = {
            "module": "keras.optimizers" if stock else public.__module__,
            "class_name": public.__name__,
            "config": super().get_config(),
            "registered_name": None if stock else keras.saving.get_registered_name(public),
        }
        given = self.__dict__["_multipliers"]
        if isinstance(given, dict):
            given = dict(given)
        elif self.built:  # what the function said of the variables
            given = {v.path: self.cohort_of(v).multiplier for v in optimized_variables(self)}
        else:
            given = keras.saving.serialize_keras_object(given)
        return {"optimizer": inner, "multipliers": given, "births": self.births}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        inner = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects)
        multipliers = config["multipliers"]
        if "class_name" in multipliers:  # a function
            multipliers = keras.saving.deserialize_keras_object(multipliers, custom_objects)
        return layerwise(inner, multipliers, config["births"], strict=False)

    def cohort_of(self, variable: Any) -> Cohort:
        """Return the cohort of a variable that the optimizer was built for."""
        return self._members[variable_key(self, variable)]

    def multiplier_of(self, variable: keras.Variable) -> float:
        """Return the multiplier of a variable, whether the optimizer was built for it or not."""
        return resolve(self.__dict__["_multipliers"], [variable], strict=False)[0]

    def _copies(self, shared: dict[str, keras.Variable]) -> dict[str, keras.Variable]:
        copies = {}
        for name, variable in shared.items():
            value = keras.ops.convert_to_numpy(variable)
            copies[name] = self.add_variable(
                value.shape, initializer=keras.initializers.Constant(value), dtype=variable.dtype
            )
        return copies

    def _update_of(self, cohort: Cohort) -> AbstractContextManager[None]:
        """Make `iterations` and the shared slots those of a cohort, inside the block."""
        return attributes(self, _born=cohort.birth, **self.cohorts[cohort])

    def _cohorts_among(self, variables: Sequence[Any]) -> Iterator[tuple[Cohort, list[int]]]:
        indices: dict[Cohort, list[int]] = {}
        for index, variable in enumerate(variables):
            indices.setdefault(self.cohort_of(variable), []).append(index)
        return iter(indices.items())

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        for cohort, indices in self._cohorts_among(trainable_variables):
            factor = cohort.multiplier
            rate = learning_rate if factor == 1.0 else keras.ops.multiply(learning_rate, factor)
            with self._update_of(cohort):
                super()._backend_update_step(
                    [grads[i] for i in indices], [trainable_variables[i] for i in indices], rate
                )

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        for cohort, indices in self._cohorts_among(variables):
            # torch's fused decay fails on an empty list.
            decayed = [variables[i] for i in indices if self._use_weight_decay(variables[i])]
            if decayed:
                with attributes(self, _scale=cohort.multiplier):
                    super()._apply_weight_decay(decayed)

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[Any]) -> None:
        if not self.use_ema:
            return
        averages = vars(self)[AVERAGES]
        for cohort, indices in self._cohorts_among(trainable_variables):
            own = [averages[i] for i in indices]
            with self._update_of(cohort), attributes(self, **{AVERAGES: own}):
                super()._update_model_variables_moving_average([trainable_variables[i] for i in indices])


def layerwise(
    optimizer: keras.optimizers.Optimizer,
    multipliers: Any,
    births: Sequence[int] | None,
    *,
    strict: bool,
) -> keras.optimizers.Optimizer:
    """Return a new optimizer with the settings of `optimizer`, for variables that differ.

    Args:
        optimizer: an optimizer; only its settings are taken.
        multipliers: as in `LayerwiseLR`.
        births: for each variable that it will be built for, the birth of its cohort; None: all 0.
        strict: whether a pattern that matches no variable is an error.

    Returns:
        The optimizer, not built; one of the plain class if all variables are to fare alike.
    """
    plain = plain_class(optimizer)
    made = plain.from_config(plain_config(optimizer))
    vars(made).update(weight_decay_exclusions(optimizer))  # which no config has
    births = list(births) if births and any(births) else None
    if births or not isinstance(multipliers, dict) or multipliers:
        made.__class__ = _derived(plain)
        vars(made).update(births=births, _multipliers=multipliers, _strict=strict, _born=0, _scale=1.0)
    return made


def with_births(
    optimizer: keras.optimizers.Optimizer, births: Sequence[int]
) -> keras.optimizers.Optimizer:
    """Return a new optimizer like `optimizer`, not built, for variables of these births."""
    return layerwise(optimizer, vars(optimizer).get("_multipliers", {}), births, strict=False)


def with_learning_rate(
    optimizer: keras.optimizers.Optimizer, rate: keras.optimizers.schedules.LearningRateSchedule
) -> keras.optimizers.Optimizer:
    """Return a new optimizer like `optimizer`, not built, whose learning rate is `rate`.

    Raises:
        ValueError: `optimizer` has no learning rate among its settings.
    """
    several = isinstance(optimizer, keras.optimizers.MultiOptimizer)
    config = {} if several else plain_config(optimizer)
    if "learning_rate" not in config:
        raise ValueError(
            "optimizer must have one learning rate among its settings. "
            f"Received: a {type(optimizer).__name__}"
        )
    made = plain_class(optimizer).from_config({**config, "learning_rate": rate})
    vars(made).update(weight_decay_exclusions(optimizer))
    return layerwise(made, vars(optimizer).get("_multipliers", {}), None, strict=False)


def plain_class(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the class of `optimizer`, without the cohorts of this module."""
    kind = type(optimizer)
    return kind.__mro__[2] if issubclass(kind, LayerwiseLR) else kind


def plain_config(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Return the settings of `optimizer` for its plain class, schedules as the objects they are."""
    is_derived = isinstance(optimizer, LayerwiseLR)
    config = super(LayerwiseLR, optimizer).get_config() if is_derived else optimizer.get_config()
    source = learning_rate_source(optimizer)
    if not isinstance(source, keras.Variable):
        config["learning_rate"] = source
    return config


def resolve(
    multipliers: Multipliers, variables: Sequence[keras.Variable], *, strict: bool = True
) -> list[float]:
    """Return the multiplier of each variable.

    Args:
        multipliers: as in `LayerwiseLR`.
        variables: variables of a model.
        strict: whether a pattern that matches no variable is an error.

    Returns:
        The multipliers, in the order of the variables.

    Raises:
        ValueError: a pattern matches no variable, or a function returns no finite number of at least 0.
    """
    if not isinstance(multipliers, Mapping):
        return [_number(multipliers(variable), f"for {variable.path!r}") for variable in variables]
    used, found = set(), []
    for variable in variables:
        pattern = variable.path
        if pattern not in multipliers:
            matches = (p for p in multipliers if re.fullmatch(p, variable.path))
            pattern = next(matches, None)
        used.add(pattern)
        found.append(1.0 if pattern is None else float(multipliers[pattern]))
    unmatched = [pattern for pattern in multipliers if pattern not in used]
    if strict and unmatched:
        # A pattern behind another that took all its matches is as useless as one without any.
        paths = [variable.path for variable in variables]
        raise ValueError(
            "multipliers must match variables that train; no variable is left for the pattern "
            f"{unmatched[0]!r}{did_you_mean(unmatched[0], paths)} "
            f"Received: multipliers={dict(multipliers)!r}"
        )
    return found


def checked_multipliers(multipliers: Any) -> Any:
    """Return a copy of multipliers, or raise if they make no sense."""
    if callable(multipliers):
        return multipliers
    if not isinstance(multipliers, Mapping):
        raise TypeError(
            "multipliers must be a dict {pattern: multiplier} or a function from a variable to its "
            f"multiplier. Received: multipliers={multipliers!r}"
        )
    for pattern, multiplier in multipliers.items():
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            raise ValueError(
                "multipliers must have paths of variables or regular expressions as keys "
                f"({error}). Received: {pattern!r}"
            ) from error
        _number(multiplier, f"for {pattern!r}")
    return type(multipliers)(multipliers) if isinstance(multipliers, dict) else dict(multipliers)


def _number(multiplier: Any, where: str) -> float:
    number = isinstance(multiplier, (int, float, np.number)) and not isinstance(multiplier, bool)
    if not number or not 0.0 <= multiplier < math.inf:
        raise ValueError(
            f"a multiplier must be a finite number of at least 0. Received: {multiplier!r} {where}"
        )
    return float(multiplier)


@cache
def _derived(plain: Any) -> Any:
    derived = type(
        plain.__name__, (LayerwiseLR, plain), {"__module__": __name__, "__doc__": plain.__doc__}
    )
    # All under one name: whichever class a file is loaded by, `from_config` makes the right one.
    return keras.saving.register_keras_serializable(**_REGISTERED)(derived)
