"""What survives a change of the variables, against optimizers that never stopped and fresh ones."""

import keras
import numpy as np
import pytest
from cases import CASES, assert_same, built, gradients, kinds, slots, train, values, weights
from keras import optimizers

from keras_transfer.optimizers.carry_over import _value, carry_over, same_kind

STEPS_BEFORE, STEPS_AFTER = 5, 7
ON_JAX = keras.backend.backend() == "jax"


@pytest.fixture(params=kinds())
def make(request):
    return CASES[request.param]


BEFORE = range(STEPS_BEFORE)
AFTER = range(STEPS_BEFORE, STEPS_BEFORE + STEPS_AFTER)


def test_survivors_equal_a_run_that_never_stopped(make):
    unbroken, ours, joining = weights(0, "a"), weights(0, "a"), weights(1, "b")
    reference = built(make, unbroken)
    train(reference, unbroken, [*BEFORE, *AFTER])

    first = built(make, ours)
    train(first, ours, BEFORE)
    second = carry_over(first, [*joining, *ours])
    train(second, [*joining, *ours], AFTER)
    assert_same(values(ours), values(unbroken))
    assert_same(slots(second, ours), slots(reference, unbroken))


def test_what_joins_equals_a_fresh_optimizer(make):
    fresh, ours, joining = weights(1, "b"), weights(0, "a"), weights(1, "b")
    reference = built(make, fresh)
    train(reference, fresh, AFTER)

    first = built(make, ours)
    train(first, ours, BEFORE)
    second = carry_over(first, [*ours, *joining])
    train(second, [*ours, *joining], AFTER)
    assert_same(values(joining), values(fresh))
    assert_same(slots(second, joining), slots(reference, fresh))


def test_three_cohorts_and_one_that_left_and_came_back(make):
    a, b, c = weights(0, "a"), weights(1, "b"), weights(2, "c")
    optimizer = built(make, a)
    train(optimizer, a, range(5))
    optimizer = carry_over(optimizer, [*a, *b])
    train(optimizer, [*a, *b], range(5, 10))
    optimizer = carry_over(optimizer, [*b, *c])
    train(optimizer, [*b, *c], range(10, 15))
    between = values(a)
    optimizer = carry_over(optimizer, [*a, *b, *c])
    train(optimizer, [*a, *b, *c], range(15, 20))

    for variables, seed, name, start in ((b, 1, "b", 5), (c, 2, "c", 10)):
        twin = weights(seed, name)
        train(built(make, twin), twin, range(start, 20))
        assert_same(values(variables), values(twin))
    twin = weights(0, "a")  # came back: as in a fresh optimizer, from where it was left
    for variable, value in zip(twin, between, strict=True):
        variable.assign(value)
    train(built(make, twin), twin, range(15, 20))
    assert_same(values(a), values(twin))


def test_without_a_change_the_class_is_the_plain_one(make):
    a, b = weights(0, "a"), weights(1, "b")
    first = built(make, [*a, *b])
    train(first, [*a, *b], BEFORE)
    for kept in ([*a, *b], a):
        second = carry_over(first, kept)
        assert type(second) is type(first)
        assert_same(slots(second, kept), slots(first, kept))


def test_the_given_optimizer_is_not_changed(make):
    a, b = weights(0, "a"), weights(1, "b")
    first = built(make, a)
    train(first, a, BEFORE)
    before, config = values(first.variables), first.get_config()
    second = carry_over(first, [*a, *b])
    train(second, [*a, *b], AFTER)
    assert_same(values(first.variables), before)
    assert first.get_config() == config


def test_a_copy_shares_no_memory():
    variable = keras.Variable(np.zeros(3, "float32"))
    copied = _value(variable)
    copied += 1
    assert not np.any(keras.ops.convert_to_numpy(variable))


def test_without_its_own_bias_correction_adam_moves_what_joins_too_far():
    """The trap that this module is about, so that the tests above could not pass by themselves."""
    ours, fresh = weights(1, "b"), weights(1, "b")
    late = built(CASES["adam"], ours)
    late.iterations.assign(1000)
    train(late, ours, [0])
    train(built(CASES["adam"], fresh), fresh, [0])
    start = values(weights(1, "b"))
    moved = [np.abs(a - b).mean() for a, b in zip(values(ours), start, strict=True)]
    right = [np.abs(a - b).mean() for a, b in zip(values(fresh), start, strict=True)]
    assert min(m / r for m, r in zip(moved, right, strict=True)) > 2.5


def test_a_schedule_goes_on_and_is_the_same_object():
    schedule = optimizers.schedules.PiecewiseConstantDecay([6], [1e-2, 1e-4])
    a, b = weights(0, "a"), weights(1, "b")
    first = built(lambda: optimizers.SGD(schedule), a)
    train(first, a, BEFORE)
    second = carry_over(first, [*a, *b])
    assert second._learning_rate is schedule
    train(second, [*a, *b], range(5, 8))
    start, grads = values(b), values(gradients(8, b))
    train(second, [*a, *b], [8])
    for now, before, gradient in zip(values(b), start, grads, strict=True):
        np.testing.assert_allclose(before - now, 1e-4 * gradient, rtol=1e-2, atol=1e-6)


def test_a_learning_rate_that_was_assigned_stays():
    a, b = weights(0, "a"), weights(1, "b")
    first = built(CASES["adam"], a)
    first.learning_rate = 0.125
    assert float(carry_over(first, [*a, *b]).learning_rate) == 0.125


def test_a_callable_learning_rate_stays():
    a, b = weights(0, "a"), weights(1, "b")

    def half():
        return 0.5

    first = built(lambda: optimizers.SGD(half), a)
    train(first, a, BEFORE)
    assert float(carry_over(first, [*a, *b]).learning_rate) == 0.5


def test_a_moving_average_that_begins_is_the_variable_itself():
    """So that weights swapped for their averages before the next step are still these weights."""
    a, b = weights(0, "a"), weights(1, "b")
    first = built(CASES["adam-ema"], a)
    train(first, a, BEFORE)
    second = carry_over(first, [*a, *b])
    second.finalize_variable_values([*a, *b])
    assert_same(values(b), values(weights(1, "b")))
    assert_same(values(a), values(first._model_variables_moving_average))


def test_exclusions_from_weight_decay_stay():
    a, b = weights(0, "a"), weights(1, "b")
    first = optimizers.AdamW(1e-2, weight_decay=0.5)
    first.exclude_from_weight_decay(var_list=[a[0], b[0]])
    first.build(a)
    train(first, a, BEFORE)
    second = carry_over(first, [*a, *b])
    decays = [second._use_weight_decay(variable) for variable in [*a, *b]]
    assert decays == [False, True, False, True]


def test_partly_accumulated_gradients_stay():
    unbroken, ours, joining = weights(0, "a"), weights(0, "a"), weights(1, "b")

    def make():
        return optimizers.SGD(1e-2, gradient_accumulation_steps=4)

    train(built(make, unbroken), unbroken, range(8))
    first = built(make, ours)
    train(first, ours, range(6))
    train(carry_over(first, [*ours, *joining]), [*ours, *joining], range(6, 8))
    assert_same(values(ours), values(unbroken))


def test_loss_scaling_stays():
    a, b = weights(0, "a"), weights(1, "b")
    scaled = optimizers.LossScaleOptimizer(
        optimizers.Adam(1e-2), initial_scale=8.0, dynamic_growth_steps=3
    )
    scaled.build(a)
    twin = weights(0, "a")
    reference = built(CASES["adam"], twin)

    def step(optimizer, variables, index):
        scale = float(scaled.dynamic_scale)
        scaled_up = [g * scale for g in gradients(index, variables)]
        if not ON_JAX:
            optimizer.apply(scaled_up, variables)
            return
        # On JAX Keras' LossScaleOptimizer has no other way.
        state = [v.value for v in optimizer.variables]
        new, state = optimizer.stateless_apply(state, scaled_up, [v.value for v in variables])
        for variable, value in zip([*variables, *optimizer.variables], [*new, *state], strict=True):
            variable.assign(value)

    for index in range(4):
        step(scaled, a, index)
    assert float(scaled.dynamic_scale) == 16.0
    counter = int(scaled.step_counter)
    scaled = carry_over(scaled, [*a, *b])
    assert (float(scaled.dynamic_scale), int(scaled.step_counter)) == (16.0, counter)
    for index in range(4, 9):
        step(scaled, [*a, *b], index)
    train(reference, twin, range(9))
    fresh = weights(1, "b")
    train(built(CASES["adam"], fresh), fresh, range(4, 9))
    # Scales are powers of two, so that nothing is lost; JAX compiles only the scaled step, though.
    for mine, theirs in zip(values([*a, *b]), values([*twin, *fresh]), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-8)


class TestSettings:
    """With `settings` a new phase begins: the count starts anew, the slots go on."""

    def test_slots_go_on_and_the_schedule_begins(self):
        unbroken, ours, joining = weights(0, "a"), weights(0, "a"), weights(1, "b")
        reference = built(CASES["nadam"], unbroken)
        train(reference, unbroken, BEFORE)
        reference.learning_rate = 1e-3
        train(reference, unbroken, AFTER)

        first = built(CASES["nadam"], ours)
        train(first, ours, BEFORE)
        schedule = optimizers.schedules.PiecewiseConstantDecay([100], [1e-3, 1.0])
        second = carry_over(first, [*ours, *joining], settings=optimizers.Nadam(schedule))
        assert int(second.iterations) == 0
        train(second, [*ours, *joining], AFTER)
        assert int(second.iterations) == STEPS_AFTER
        assert_same(values(ours), values(unbroken))
        fresh = weights(1, "b")
        train(built(lambda: optimizers.Nadam(1e-3), fresh), fresh, AFTER)
        assert_same(values(joining), values(fresh))

    def test_accumulation_begins_anew(self):
        ours = weights(0, "a")

        def make():
            return optimizers.SGD(1e-2, gradient_accumulation_steps=4)

        first = built(make, ours)
        train(first, ours, range(6))
        second = carry_over(first, ours, settings=make())
        twin = weights(0, "a")
        for mine, other in zip(ours, twin, strict=True):
            other.assign(mine)
        train(second, ours, range(6, 10))
        train(built(make, twin), twin, range(6, 10))
        assert_same(values(ours), values(twin))

    def test_same_kind(self):
        adam = optimizers.Adam(1e-2)
        assert same_kind(adam, optimizers.Adam(1e-4, weight_decay=0.1, name="other"))
        assert same_kind(optimizers.LossScaleOptimizer(optimizers.Adam()), adam)
        assert not same_kind(adam, optimizers.Adam(1e-2, beta_1=0.8))
        assert not same_kind(adam, optimizers.AdamW(1e-2))


class ByPath(optimizers.Optimizer):
    """Keeps its slots in a way that no list tells."""

    def build(self, variables):
        super().build(variables)
        self.momenta = {v.path: self.add_variable_from_reference(v, "momentum") for v in variables}

    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, gradient * learning_rate)


class InLists(optimizers.Optimizer):
    """As Keras' documentation teaches; corrects by the count of steps."""

    def build(self, variables):
        super().build(variables)
        self.sums = [self.add_variable_from_reference(v, "sum") for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        total = self.sums[self._get_variable_index(variable)]
        self.assign_add(total, gradient)
        steps = keras.ops.cast(self.iterations + 1, "float32")
        rate = keras.ops.cast(learning_rate, "float32")
        self.assign_sub(variable, rate * keras.ops.convert_to_tensor(total) / steps)


def test_an_optimizer_of_one_s_own():
    def make():
        return InLists(1e-2)

    test_survivors_equal_a_run_that_never_stopped(make)
    test_what_joins_equals_a_fresh_optimizer(make)


def test_state_of_unknown_owners_is_an_error():
    a = weights(0, "a")
    optimizer = built(lambda: ByPath(1e-2), a)
    with pytest.raises(
        ValueError, match=r"lists with an entry for each variable.*Received: ByPath with"
    ):
        carry_over(optimizer, a)
    assert not same_kind(optimizer, ByPath(1e-2))
