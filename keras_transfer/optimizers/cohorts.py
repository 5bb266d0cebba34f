"""An optimizer whose variables joined at different steps, each with its own bias correction.

Adam and its kin divide by 1 - beta^t, as moments that began at zero are too small in the first steps. A
variable that joins at step 1,000 has moments of zero, too, but t counts the optimizer's steps: it would
move several times too far. Here t counts the variable's own steps.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import keras

from keras_transfer._keras_private import attributes, learning_rate_source, shared_slots

_REGISTERED = {"package": "keras_transfer", "name": "Cohorts"}


def with_births(
    optimizer: keras.optimizers.Optimizer, births: Sequence[int]
) -> keras.optimizers.Optimizer:
    """Return a new optimizer like `optimizer`, for variables that join at different steps.

    Its class derives from that of `optimizer`, so that all else is inherited: schedules, clipping over
    all variables, accumulation, torch's fused updates.

    Args:
        optimizer: an optimizer; only its settings are taken.
        births: for each variable that it will be built for, the step (of `iterations`) before its first.
            A negative one is that of a variable which is older than the count.

    Returns:
        The optimizer, not built; or one of the plain class if all births are 0.
    """
    plain = plain_class(optimizer)
    cls = _derived(plain) if any(births) else plain
    made = plain.from_config.__func__(cls, plain_config(optimizer))
    if any(births):
        vars(made).update(births=list(births), _born=0)
    return made


def plain_class(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the class of `optimizer`, without the cohorts of this module."""
    kind = type(optimizer)
    return kind.__mro__[2] if issubclass(kind, Cohorts) else kind


def plain_config(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Return the settings of `optimizer` for its plain class, schedules as the objects they are."""
    is_derived = isinstance(optimizer, Cohorts)
    config = super(Cohorts, optimizer).get_config() if is_derived else optimizer.get_config()
    source = learning_rate_source(optimizer)
    if not isinstance(source, keras.Variable):
        config["learning_rate"] = source
    return config


# A mixin: what it inherits is the optimizer's whose class it stands before.
_Mixin: Any = object


@keras.saving.register_keras_serializable(**_REGISTERED)
class Cohorts(_Mixin):
    """What `with_births` puts before the class of an optimizer; not for use by itself."""

    births: list[int]
    _born: int  # of the cohort whose turn it is

    @property
    def iterations(self) -> Any:
        """How many updates were made; inside an update, how many to the variables it is about."""
        count = super().iterations
        return count - self._born if self._born else count

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the slots, and for each cohort its own of those that belong to no single variable."""
        if self.built:
            return
        if len(variables) != len(self.births):
            raise ValueError(
                f"the optimizer must be built for the {len(self.births)} variables that it is about. "
                f"Received: {len(variables)} variables"
            )
        super().build(variables)
        shared = shared_slots(self)
        first, *others = dict.fromkeys(self.births)
        self.__dict__["cohorts"] = {first: shared}
        for birth in others:
            copies = {name: self._copy(variable) for name, variable in shared.items()}
            self.__dict__["cohorts"][birth] = copies

    def get_config(self) -> dict[str, Any]:
        plain = plain_class(self)
        # torch's variants of Keras' optimizers don't exist on other backends: the public one is meant.
        public = next((c for c in plain.__mro__ if c in vars(keras.optimizers).values()), plain)
        inner = {
            "module": "keras.optimizers"
            if public.__module__.startswith("keras.")
            else public.__module__,
            "class_name": public.__name__,
            "config": super().get_config(),
            "registered_name": None
            if public.__module__.startswith("keras.")
            else keras.saving.get_registered_name(public),
        }
        return {"optimizer": inner, "births": self.births}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        inner = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects)
        return with_births(inner, config["births"])

    def _copy(self, variable: keras.Variable) -> keras.Variable:
        value = keras.ops.convert_to_numpy(variable)
        return self.add_variable(
            value.shape, initializer=keras.initializers.Constant(value), dtype=variable.dtype
        )

    def _of(self, birth: int) -> AbstractContextManager[None]:
        """Make `iterations` and the shared slots those of a cohort, inside the block."""
        return attributes(self, _born=birth, **self.__dict__["cohorts"][birth])

    def _cohorts_among(self, variables: Sequence[Any]) -> Iterator[tuple[int, list[int]]]:
        births = [self.births[self._get_variable_index(v)] for v in variables]
        for birth in dict.fromkeys(births):
            yield birth, [index for index, other in enumerate(births) if other == birth]

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        for birth, indices in self._cohorts_among(trainable_variables):
            with self._of(birth):
                super()._backend_update_step(
                    [grads[i] for i in indices],
                    [trainable_variables[i] for i in indices],
                    learning_rate,
                )

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[Any]) -> None:
        if not self.use_ema:
            return
        averages = self._model_variables_moving_average
        for birth, indices in self._cohorts_among(trainable_variables):
            own = [averages[i] for i in indices]
            with self._of(birth), attributes(self, _model_variables_moving_average=own):
                super()._update_model_variables_moving_average([trainable_variables[i] for i in indices])


@cache
def _derived(plain: Any) -> type[keras.optimizers.Optimizer]:
    derived = type(plain.__name__, (Cohorts, plain), {"__module__": __name__, "__doc__": plain.__doc__})
    # All under one name: whichever class a file is loaded by, `from_config` makes the right one.
    return keras.saving.register_keras_serializable(**_REGISTERED)(derived)
