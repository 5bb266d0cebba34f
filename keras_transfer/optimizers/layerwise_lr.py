"""Every layer its own learning rate, in one optimizer with one `learning_rate`.

And its own count of steps: Adam and its kin divide by 1 - beta^t, as moments that begin at zero are too
small in the first steps. A variable that joins at step 1,000 has moments of zero, too, but t counts the
optimizer's steps: it would move 2.5 times too far at first. Here t counts the variable's own steps.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType
from typing import Any, NoReturn, TypeAlias

import keras
import numpy as np

from keras_transfer._lib.keras_private.optimizer import (
    ACCUMULATORS,
    AVERAGES,
    EXCLUDED,
    learning_rate_source,
    optimized_variables,
    shared_slots,
    slot_lists,
    track,
    updates_lists,
    variable_key,
    weight_decay_exclusions,
)
from keras_transfer.optimizers.patterns import (
    Multipliers,
    checked_multipliers,
    known_paths,
    resolve,
)
from keras_transfer.optimizers.state import load_state, save_state

# Says of a variable how strongly an L2 penalty pulls it, and to what; None: not at all.
Pull: TypeAlias = Callable[[keras.Variable], tuple[float, np.ndarray] | None]
# Where an optimizer keeps what its variables are pulled to.
STARTS = "_starts"

_REGISTERED = {"package": "keras_transfer", "name": "LayerwiseLR"}
# A mixin: what it inherits is the optimizer's whose class it stands before.
_Mixin: Any = object


@keras.saving.register_keras_serializable(**_REGISTERED)
class LayerwiseLR(_Mixin):
    """An optimizer that gives each variable `learning_rate` times a multiplier of its own.

    A multiplier m does to a variable what the same optimizer with `learning_rate * m` would do.

    **What scales**: the learning rate, in the update and in the weight decay, which Keras multiplies by
    it. One `learning_rate` drives all: schedules, callbacks and assignments move every rate and keep
    the ratios.

    **What does not**: gradients, so that clipping, also by the norm of all, sees them as they are;
    slots such as Adam's moments; moving averages of the weights; the count of steps; regularisers, which
    are part of the loss.

    **Why not the gradient**: Adam, RMSprop, Lion, Muon and Lamb divide by its size, so a scaled one
    moves the weights as far as before. Nor the update: Ftrl and ScheduleFreeAdamW compute the weight
    anew from state that the rate has gone into.

    **Multiplier 0 or frozen**: 0 keeps a variable where it is, bit for bit, while its slots go on, so
    that a later rate finds them warm; they need the gradient, so nothing is saved. A frozen layer costs
    no gradient on any backend and no slots; `keras_transfer.recompile` lets variables come and go.

    **Rate 0**: a step in which a schedule touches 0 adds nothing of its gradient; what has momentum of
    steps before, or averages them, moves on by that, and slots go on. Ftrl divides by the rate: by
    itself it makes NaN of weights and slots at 0; here both stay for this step.

    **Beside others**: `keras.optimizers.MultiOptimizer` is an optimizer for each group: Keras' callbacks
    act on each part, but it has no `learning_rate` to be set; it clips by the norm of each group, and
    can't be built for other variables. Parameter groups of `torch.optim` each have an `lr`, which
    schedulers scale; the same numbers come out (within 1e-12 in float64).

    The class derives from that of the given optimizer: what is not named above is inherited.

    Args:
        optimizer: a Keras optimizer or one of your own, or its name. Its settings are taken; it is not
            changed.
        multipliers: {pattern: multiplier}, where a pattern is the path of a variable, such as
            "block1_conv1/kernel", or a regular expression that matches the whole of it, and the
            first match counts; or a function from a variable to its multiplier; or a policy of
            `keras_transfer.multipliers`. A variable that no pattern matches has 1. Files keep what a
            function said of the variables that trained.

    Raises:
        ValueError: a multiplier is negative or not a finite number; the optimizer was used already, is a
            LayerwiseLR, or a wrapper such as LossScaleOptimizer. When it is built: a pattern
            matches no variable (the message names near misses), or the function returns no number.

    Example:
        >>> import keras, keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
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

    births: list[int]
    """For each variable the step (of `iterations`) before its first; negative if it is older."""
    _multiplier_by_key: dict[Any, float]
    _birth_by_key: dict[Any, int]
    _pull_by_key: dict[Any, tuple[float, keras.Variable]]
    _shared_by_birth: dict[int, dict[str, keras.Variable]]
    _slots_by_key: dict[Any, list[keras.Variable]]  # where they don't bear a rate of 0
    _trained: dict[str, Any]  # from a file: by path, the multiplier of a variable and whether it decays
    _home: dict[str, Any]  # the attributes that an update changes for a while, as they are outside
    _born: int
    _scale: Any

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
        return layerwise(optimizer, multipliers, strict=type(multipliers) is dict)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `__new__` returns what the plain class has made."""

    @property
    def multipliers(self) -> Multipliers:
        """The multipliers as they were given."""
        given = self.__dict__["_multipliers"]
        return MappingProxyType(given) if isinstance(given, dict) else given

    @multipliers.setter
    def multipliers(self, value: Any) -> NoReturn:
        raise AttributeError(
            "multipliers are part of the compiled step and can't be changed; make a new optimizer and "
            f"pass it: kt.recompile(model, optimizer=...). Received: multipliers={value!r}"
        )

    @property
    def iterations(self) -> Any:
        """How many updates were made; inside an update, how many to the variables it is about."""
        count = super().iterations
        return count - self._born if self._born else count

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the slots, and for each birth its own of those that belong to no single variable."""
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
        keys = [variable_key(self, variable) for variable in variables]
        not_decayed = set(_excluded_keys(self, variables))
        not_decayed |= vars(self).get(EXCLUDED[0]) or set()  # also those that don't train now
        known = known_paths([variable.path for variable in variables], self._trained)
        for index, variable in enumerate(variables):
            if variable.path in known:
                multiplier, decays = self._trained[known[variable.path]]
                if multiplier != multipliers[index]:
                    self.__dict__["_multipliers"][variable.path] = multipliers[index] = multiplier
                if not decays:
                    not_decayed.add(keys[index])
        shared = shared_slots(self)
        for slot in shared.values():
            track(self, slot)
        self._build_pulls(variables)
        self.__dict__.update(
            _multiplier_by_key=dict(zip(keys, multipliers, strict=True)),
            _shared_by_birth={births[0] if births else 0: shared},
            **{EXCLUDED[0]: not_decayed},
            _home={"_born": 0, "_scale": 1.0, AVERAGES: vars(self).get(AVERAGES)} | shared,
            _groups={},
            _rates={},
            _slots_by_key=_slots_by_key(self, keys) if isinstance(self, _DIVIDES_BY_RATE) else {},
        )
        self.set_births(births)

    def _build_pulls(self, variables: Sequence[keras.Variable]) -> None:
        """Keep what each variable is pulled to, among the state of the optimizer."""
        pulls = [self._pull(variable) if self._pull else None for variable in variables]
        starts: list[keras.Variable | None] = []
        by_key = {}
        for variable, pull in zip(variables, pulls, strict=True):
            start = None
            if pull is not None:
                strength, value = pull
                begun = keras.initializers.Constant(value)
                start = self.add_variable_from_reference(variable, "start", begun)
                by_key[variable_key(self, variable)] = (strength, start)
            starts.append(start)
        self.__dict__.update({STARTS: starts, "_pull_by_key": by_key})

    def set_births(self, births: Sequence[int]) -> None:
        """Give each variable, in the order of `build`, the step before its first."""
        known = list(self._shared_by_birth.values())
        distinct = list(dict.fromkeys(births))
        copies = (self._copies(known[0]) for _ in distinct[len(known) :])
        shared = dict(zip(distinct, [*known, *copies], strict=False))
        keys = self._multiplier_by_key
        self.__dict__.update(
            births=list(births),
            _shared_by_birth=shared or self._shared_by_birth,
            _birth_by_key=dict(zip(keys, births, strict=True)),
        )

    def save_own_variables(self, store: Any) -> None:
        """Write the state by the paths of the variables that it belongs to."""
        save_state(self, self.births or [], store)  # none before it is built

    def load_own_variables(self, store: Any) -> None:
        """Read the state; variables that it knows nothing of begin as in a fresh optimizer."""
        load_state(self, store)

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
        variables = optimized_variables(self) if self.built else []
        if isinstance(given, dict):
            given = dict(given)
        elif self.built:  # what the function said of the variables
            given = {variable.path: self.multiplier_of(variable) for variable in variables}
        else:
            given = keras.saving.serialize_keras_object(given)
        trained = {v.path: (self.multiplier_of(v), self._use_weight_decay(v)) for v in variables}
        return {"optimizer": inner, "multipliers": given, "trained": trained}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        inner = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects)
        multipliers = config["multipliers"]
        if "class_name" in multipliers:  # a function
            multipliers = keras.saving.deserialize_keras_object(multipliers, custom_objects)
        made = _with_class(inner, multipliers, None, strict=False)
        vars(made)["_trained"] = config["trained"]
        return made

    def birth_of(self, variable: Any) -> int:
        """Return the step before the first of a variable that the optimizer was built for."""
        return self._birth_by_key[variable_key(self, variable)]

    def shared_of(self, variable: Any) -> dict[str, keras.Variable]:
        """Return the slots that a variable has in common with others of its birth."""
        return self._shared_by_birth[self.birth_of(variable)]

    def multiplier_of(self, variable: keras.Variable) -> float:
        """Return the multiplier of a variable, whether the optimizer was built for it or not."""
        if self.built:
            known = self._multiplier_by_key.get(variable_key(self, variable))
            if known is not None:
                return known
        return resolve(self.__dict__["_multipliers"], [variable], strict=False)[0]

    def _copies(self, shared: dict[str, keras.Variable]) -> dict[str, keras.Variable]:
        copies = {}
        for name, variable in shared.items():
            value = keras.ops.convert_to_numpy(variable)
            copies[name] = self.add_variable(
                value.shape, initializer=keras.initializers.Constant(value), dtype=variable.dtype
            )
        return copies

    @contextmanager
    def _with(self, **values: Any) -> Iterator[None]:
        """Give attributes other values inside the block, past the tracking that assignment brings."""
        # Back to what they are outside of any block, not to what they were: the replicas of a
        # MirroredStrategy are threads that wait for each other in here.
        self.__dict__.update(values)
        try:
            yield
        finally:
            self.__dict__.update({name: self._home[name] for name in values})

    def _by_birth(self, variables: Sequence[Any]) -> Iterable[tuple[int, Sequence[int]]]:
        return _grouped(self._birth_by_key[variable_key(self, v)] for v in variables)

    def _by_multiplier(self, variables: Sequence[Any]) -> Sequence[tuple[Any, Sequence[int]]]:
        """Return multipliers and the positions of their variables, as one where torch can."""
        keys = tuple(variable_key(self, variable) for variable in variables)
        if keys not in self._groups:
            self._groups[keys] = _grouped(self._multiplier_by_key[key] for key in keys)
        groups = self._groups[keys]
        if len(groups) == 1 or not (updates_lists(self) and isinstance(self, _RATE_MEETS_LISTS)):
            return groups
        from keras_transfer.optimizers._torch_rates import is_compiling, multipliers_of

        if is_compiling():  # torch.compile can't follow, and joins small operations by itself
            return groups
        if keys not in self._rates:
            device, dtype = variables[0].value.device, keras.config.floatx()
            self._rates[keys] = multipliers_of(dict(groups), device, dtype)
        return [(self._rates[keys], range(len(keys)))]

    def _get_current_learning_rate(self) -> Any:
        return _scaled(super()._get_current_learning_rate(), self._scale)

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        for birth, indices in self._by_birth(trainable_variables):
            with self._with(_born=birth, **self._shared_by_birth[birth]):
                super()._backend_update_step(
                    [grads[i] for i in indices],
                    [trainable_variables[i] for i in indices],
                    learning_rate,
                )

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable, at its own rate."""
        key = variable_key(self, variable)
        multiplier = self._multiplier_by_key[key]
        rate = _scaled(learning_rate, multiplier)
        # ScheduleFreeAdamW computes the weight anew, and rounds it; what was carried over has momentum.
        kept = [variable] if multiplier == 0.0 else []
        stays: Any = True
        if key in self._slots_by_key:
            rate = keras.ops.convert_to_tensor(rate)
            kept, stays = [variable, *self._slots_by_key[key]], keras.ops.equal(rate, 0.0)
            rate = keras.ops.where(stays, 1.0, rate)
        before = [keras.ops.copy(each) for each in kept]
        with self._with(_scale=multiplier):
            super().update_step(gradient, variable, rate)
        for each, value in zip(kept, before, strict=True):
            after = keras.ops.convert_to_tensor(each)
            self.assign(each, value if stays is True else keras.ops.where(stays, value, after))

    def _parallel_update_step(
        self, grads: Sequence[Any], variables: Sequence[Any], learning_rate: Any
    ) -> None:
        shared = self.shared_of(variables[0]).values()  # all are of one birth
        before = [keras.ops.copy(slot) for slot in shared]
        staying = self._staying(variables)
        for multiplier, indices in self._by_multiplier(variables):
            for slot, value in zip(shared, before, strict=True):  # each round takes it one step on
                slot.assign(value)
            with self._with(_scale=multiplier):
                super()._parallel_update_step(
                    [grads[i] for i in indices],
                    [variables[i] for i in indices],
                    _scaled(learning_rate, multiplier),
                )
        self._put_back(staying)

    def _use_weight_decay(self, variable: Any) -> bool:
        return variable_key(self, variable) not in vars(self)[EXCLUDED[0]]

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        # torch's fused decay fails on an empty list.
        decayed = [variable for variable in variables if self._use_weight_decay(variable)]
        for multiplier, indices in self._by_multiplier(decayed):
            with self._with(_scale=multiplier):
                super()._apply_weight_decay([decayed[i] for i in indices])

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[Any]) -> None:
        if not self.use_ema:
            return
        averages = vars(self)[AVERAGES]
        for birth, indices in self._by_birth(trainable_variables):
            # An average is no older than the count.
            own, variables = ([some[i] for i in indices] for some in (averages, trainable_variables))
            with self._with(_born=max(birth, 0), **{AVERAGES: own}):
                if updates_lists(self):
                    self._take_averages(own, variables)
                else:
                    super()._update_model_variables_moving_average(variables)

    def _take_averages(self, averages: Sequence[Any], variables: Sequence[Any]) -> None:
        """Do what Keras does for one variable after the other on torch, at once."""
        from keras_transfer.optimizers._torch_lists import take_averages

        moving = keras.ops.not_equal(self.iterations, 0)
        momentum = keras.ops.multiply(keras.ops.cast(moving, keras.config.floatx()), self.ema_momentum)
        kept = [(a.value, v.value) for a, v in zip(averages, variables, strict=True) if a is not None]
        take_averages(*map(list, zip(*kept, strict=True)), momentum)

    def _overwrite_model_variables_with_average_value(self, trainable_variables: Sequence[Any]) -> None:
        staying = self._staying(trainable_variables)  # whose averages are rounded
        super()._overwrite_model_variables_with_average_value(trainable_variables)
        self._put_back(staying)

    def _backend_apply_gradients(self, grads: Sequence[Any], trainable_variables: Sequence[Any]) -> None:
        grads = self._pulled(grads, trainable_variables)
        # On JAX Keras puts averages in the place of weights here, and not by the method above.
        overwrites = self.use_ema and self.ema_overwrite_frequency
        staying = self._staying(trainable_variables if overwrites else ())
        super()._backend_apply_gradients(grads, trainable_variables)
        self._put_back(staying)

    def _pulled(self, grads: Sequence[Any], variables: Sequence[Any]) -> Sequence[Any]:
        """Return gradients with those of the L2 penalties on the variables."""
        pulls = [self._pull_by_key.get(variable_key(self, variable)) for variable in variables]
        which = [index for index, pull in enumerate(pulls) if pull is not None]
        if not which:
            return grads
        strengths, starts = zip(*(pulls[i] for i in which), strict=True)
        own, begun = (
            [keras.ops.convert_to_tensor(each) for each in some]
            for some in ([variables[i] for i in which], starts)
        )
        parts = [grads[i] for i in which]
        if updates_lists(self):
            from keras_transfer.optimizers._torch_lists import pulled

            found = pulled(parts, own, begun, strengths)
        else:
            found = [g + s * (w - b) for g, s, w, b in zip(parts, strengths, own, begun, strict=True)]
        whole = list(grads)
        for index, gradient in zip(which, found, strict=True):
            whole[index] = gradient
        return whole

    # Two methods, as torch.compile can't follow a block around the whole step.
    def _staying(self, variables: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Return those of the variables that have the multiplier 0, with their values."""
        stay = (v for v in variables if self._multiplier_by_key[variable_key(self, v)] == 0.0)
        return [(variable, keras.ops.copy(variable)) for variable in stay]

    def _put_back(self, staying: list[tuple[Any, Any]]) -> None:
        for variable, value in staying:
            self.assign(variable, value)

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Replace the variables by their moving averages (EMA), where these are kept."""
        super().finalize_variable_values(var_list)
        # Keras leaves a variable and its average in one buffer, which JAX would give away twice.
        for average in vars(self).get(AVERAGES) or ():
            if average is not None:
                average.assign(keras.ops.copy(average))


# Its slots have the rate in them, and become NaN at 0.
_DIVIDES_BY_RATE = (keras.optimizers.Ftrl,)
# Optimizers in whose torch variants the rate meets lists of tensors as a tensor. In those of SGD and
# Adadelta it is a number, so they have a round for each multiplier.
_RATE_MEETS_LISTS = (
    keras.optimizers.Adam,
    keras.optimizers.Adamax,
    keras.optimizers.Adagrad,
    keras.optimizers.Lion,
    keras.optimizers.Nadam,
    keras.optimizers.RMSprop,
)


def layerwise(
    optimizer: keras.optimizers.Optimizer,
    multipliers: Any,
    births: Sequence[int] | None = None,
    *,
    strict: bool,
) -> keras.optimizers.Optimizer:
    """Return a new optimizer with the settings of `optimizer`, for variables that differ.

    Args:
        optimizer: an optimizer; only its settings are taken.
        multipliers: as in `LayerwiseLR`.
        births: for each variable that it will be built for, the step before its first; None: all 0.
        strict: whether a pattern that matches no variable is an error.

    Returns:
        The optimizer, not built; one of the plain class if all variables are to fare alike.
    """
    plain = plain_class(optimizer)
    made = plain.from_config(plain_config(optimizer))
    vars(made).update(weight_decay_exclusions(optimizer))  # which no config has
    births = list(births) if births and any(births) else None
    pull = vars(optimizer).get("_pull")
    if births or pull or not isinstance(multipliers, dict) or multipliers:
        return _with_class(made, multipliers, births, pull, strict=strict)
    return made


def as_layerwise(
    optimizer: keras.optimizers.Optimizer, pull: Pull | None = None
) -> keras.optimizers.Optimizer:
    """Return an optimizer, not built, as a `LayerwiseLR`, also where all variables are to fare alike.

    On torch that takes moving averages of the weights (EMA) at once.

    Args:
        optimizer: the optimizer.
        pull: an L2 penalty for its steps.
    """
    multipliers, births = vars(optimizer).get("_multipliers", {}), vars(optimizer).get("births")
    return _with_class(optimizer, multipliers, births, pull, strict=False)


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
    vars(made).update(weight_decay_exclusions(optimizer), _pull=vars(optimizer).get("_pull"))
    return layerwise(made, vars(optimizer).get("_multipliers", {}), strict=False)


def plain_class(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the class of `optimizer`, without what this module adds to it."""
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


def _with_class(
    made: keras.optimizers.Optimizer,
    multipliers: Any,
    births: list[int] | None,
    pull: Pull | None = None,
    *,
    strict: bool,
) -> keras.optimizers.Optimizer:
    made.__class__ = _derived(plain_class(made))
    vars(made).update(births=births, _multipliers=multipliers, _pull=pull, _strict=strict)
    vars(made).update(_born=0, _scale=1.0, _trained={})
    return made


def _excluded_keys(optimizer: LayerwiseLR, variables: Sequence[keras.Variable]) -> Iterator[Any]:
    """Yield the keys of the variables that `exclude_from_weight_decay` was told of."""
    keys, pattern = (weight_decay_exclusions(optimizer).get(name) for name in EXCLUDED)
    for variable in variables:
        key = variable_key(optimizer, variable)
        # Keras looks into the name on two backends, and into the path on TensorFlow.
        if key in (keys or ()) or (pattern is not None and pattern.search(variable.path)):
            yield key


def _slots_by_key(optimizer: LayerwiseLR, keys: Sequence[Any]) -> dict[Any, list[keras.Variable]]:
    """Return the slots of each variable, without what Keras accumulates or averages itself."""
    found = slot_lists(optimizer)
    lists = [found[name] for name in found if name not in (ACCUMULATORS, AVERAGES)]
    return {
        key: [entry for entry in entries if entry is not None]
        for key, *entries in zip(keys, *lists, strict=True)
    }


def _grouped(values: Iterable[Any]) -> list[tuple[Any, list[int]]]:
    """Return each value with its positions."""
    positions: dict[Any, list[int]] = {}
    for index, value in enumerate(values):
        positions.setdefault(value, []).append(index)
    return list(positions.items())


def _scaled(rate: Any, multiplier: Any) -> Any:
    plain = isinstance(multiplier, float) and multiplier == 1.0
    return rate if plain else keras.ops.multiply(rate, multiplier)


@cache
def _derived(plain: Any) -> Any:
    derived = type(
        plain.__name__, (LayerwiseLR, plain), {"__module__": __name__, "__doc__": plain.__doc__}
    )
    # All under one name: whichever class a file is loaded by, `from_config` makes the right one.
    return keras.saving.register_keras_serializable(**_REGISTERED)(derived)
