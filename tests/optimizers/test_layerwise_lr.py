"""One optimizer with multipliers, against separate optimizers with other learning rates."""

import contextlib
from itertools import pairwise

import keras
import numpy as np
import pytest
from cases import CASES, KINDS, assert_same, built, gradients, kinds, train, values, weights
from keras import optimizers

import keras_transfer as kt
from keras_transfer._lib.keras_private.optimizer import optimized_variables
from keras_transfer.optimizers.carry_over import carry_over
from keras_transfer.optimizers.state import slots_by_owner

LayerwiseLR = kt.optimizers.LayerwiseLR
STEPS = range(6)
BACKEND = keras.backend.backend()


# TensorFlow's graph optimizer moves the multiplier, a constant, to another place of the product here.
REARRANGED = ("rmsprop-graph", "adagrad-graph")


@pytest.fixture(params=kinds())
def make(request):
    return CASES[request.param]


def patterns(multipliers):
    return {f"{name}.*": multiplier for name, multiplier in multipliers.items()}


def at_rate(make, multiplier):
    """The same optimizer with another learning rate."""
    optimizer = make()
    # In float32, as the optimizer multiplies.
    rate = np.float32(keras.ops.convert_to_numpy(optimizer.learning_rate)) * np.float32(multiplier)
    optimizer.learning_rate = rate
    return optimizer


def eager(optimizer, variables):
    """Return a function that makes a step with given gradients."""
    return lambda grads: optimizer.apply(grads, variables)


def compiled(optimizer, variables, **options):
    """The same inside a compiled function, as `fit` does."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda grads: optimizer.apply(grads, variables), **options)
    import jax

    apply = jax.jit(optimizer.stateless_apply)

    def step(grads):
        new, state = apply([v.value for v in optimizer.variables], grads, [v.value for v in variables])
        for variable, value in zip([*variables, *optimizer.variables], [*new, *state], strict=True):
            variable.assign(value)

    return step


MODES = {
    "torch": {"eager": eager},
    "jax": {"eager": eager, "jit": compiled},
    "tensorflow": {
        "eager": eager,
        "graph": compiled,
        "xla": lambda *args: compiled(*args, jit_compile=True),
    },
}[BACKEND]


# XLA takes seconds for each: at each push those that differ most in what they compute.
BY_XLA = ("sgd", "adamw", "nadam-ema", "muon", "accumulation")
# In one program the others take the way of their kind, too, but for those that are rearranged.
AS_ONE = (*KINDS, "sgd", "rmsprop", "adagrad", "adam-ema")
# The cases that run in a mode at each push: all of them on torch.
AT_A_PUSH = {
    "xla": BY_XLA,
    "graph": AS_ONE,
    "jit": AS_ONE,
    "eager": CASES if BACKEND == "torch" else KINDS,
}


@pytest.fixture
def mode(request):
    return MODES[request.param]


def own_slots(optimizer, positions):
    """Copies of the slots of some of its variables, by name and order."""
    count = len(optimized_variables(optimizer))
    found = slots_by_owner(optimizer, range(count))
    return {
        (name, positions.index(owner)): values([slot])[0]
        for (name, owner), slot in found.items()
        if owner in positions
    }


class Apart:
    """One optimizer for two variables, that can start again with other values at another rate."""

    def __init__(self, make, mode):
        self.variables = weights(0, "a")
        self.optimizer = built(make, self.variables)
        self.rate = float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))
        self.fresh = values(self.optimizer.variables)
        self.step = mode(self.optimizer, self.variables)

    def run(self, starts, grads, multiplier):
        for variable, value in zip(self.optimizer.variables, self.fresh, strict=True):
            variable.assign(value)
        for variable, value in zip(self.variables, starts, strict=True):
            variable.assign(value)
        if self.starts_at_the_variable:  # ScheduleFreeAdamW
            for slot, value in zip(self.optimizer._momentums, starts, strict=True):
                slot.assign(value)
        # In float32, as the optimizer multiplies.
        self.optimizer.learning_rate = np.float32(self.rate) * np.float32(multiplier)
        for step in grads:
            self.step(step)
        return values(self.variables), own_slots(self.optimizer, [0, 1])

    @property
    def starts_at_the_variable(self):
        return isinstance(self.optimizer, optimizers.ScheduleFreeAdamW)


def off_by(mine, theirs):
    """The norm of the difference over the norm."""
    return np.linalg.norm(mine - theirs) / max(np.linalg.norm(theirs), 1e-30)


class TestEqualsSeparateOptimizers:
    @pytest.mark.parametrize(
        ("make", "mode"),
        [
            pytest.param(
                *(case, mode),
                id=f"{case}-{mode}",
                marks=() if case in AT_A_PUSH.get(mode, CASES) else pytest.mark.nightly,
            )
            for case in CASES
            for mode in MODES
        ],
        indirect=True,
    )
    def test_in_every_mode(self, make, mode, request):
        """Bit for bit where the rate times the multiplier is exact, as with powers of two."""
        multipliers = {"a": 0.25, "b": 4.0, "c": 0.3, "d": 1.0, "e": 0.0}
        ours = weights(0, *multipliers)
        layerwise = built(lambda: LayerwiseLR(make(), patterns(multipliers)), ours)
        starts, grads = values(ours), [gradients(step, ours) for step in STEPS]
        step = mode(layerwise, ours)
        for each in grads:
            step(each)
        reference = Apart(make, mode)
        for index, (name, multiplier) in enumerate(multipliers.items()):
            own = [2 * index, 2 * index + 1]
            after, their_slots = reference.run(
                [starts[i] for i in own], [[each[i] for i in own] for each in grads], multiplier
            )
            slots_ = own_slots(layerwise, own)
            assert slots_.keys() == their_slots.keys()
            if name == "e":  # stays, whatever Keras makes of a rate of 0
                assert_same([values(ours)[i] for i in own], [starts[i] for i in own])
                after = [starts[i] for i in own]
                if isinstance(layerwise, optimizers.Ftrl):
                    assert all(np.isfinite(slot).all() for slot in slots_.values())
                    continue
            pairs = [*zip(values([ours[i] for i in own]), after, strict=True)]
            pairs += [(slots_[key], their_slots[key]) for key in slots_]
            for pair in pairs:
                if name == "c" or request.node.callspec.id in REARRANGED:
                    assert off_by(*pair) < 5e-7
                else:
                    np.testing.assert_array_equal(*pair)

    def test_a_schedule_drives_all(self):
        schedule = optimizers.schedules.CosineDecay(0.5, 10)
        ours, theirs = weights(0, "a", "b"), weights(0, "a", "b")
        layerwise = built(lambda: LayerwiseLR(optimizers.Adam(schedule), {"a.*": 0.5}), ours)
        train(layerwise, ours, STEPS)
        halved = optimizers.schedules.CosineDecay(0.25, 10)
        train(built(lambda: optimizers.Adam(halved), theirs[:2]), theirs[:2], STEPS)
        train(built(lambda: optimizers.Adam(schedule), theirs[2:]), theirs[2:], STEPS)
        assert_same(values(ours), values(theirs))

    def test_assigning_the_learning_rate_drives_all(self):
        ours, theirs = weights(0, "a"), weights(0, "a")
        layerwise = built(lambda: LayerwiseLR(optimizers.Lion(1.0), {"a.*": 0.125}), ours)
        layerwise.learning_rate = 0.5
        assert float(keras.ops.convert_to_numpy(layerwise.learning_rate)) == 0.5
        train(layerwise, ours, STEPS)
        train(built(lambda: optimizers.Lion(0.0625), theirs), theirs, STEPS)
        assert_same(values(ours), values(theirs))

    def test_gradients_are_clipped_by_the_norm_of_all(self):
        ours, theirs = weights(0, "a", "b"), weights(0, "a", "b")

        def make():
            return optimizers.SGD(1.0, global_clipnorm=0.5)

        layerwise = built(lambda: LayerwiseLR(make(), {"a.*": 0.25}), ours)
        before = values(ours)
        train(layerwise, ours, [0])
        train(built(make, theirs), theirs, [0])
        factors = [0.25, 0.25, 1.0, 1.0]
        after = zip(factors, before, values(ours), values(theirs), strict=True)
        for factor, start, mine, plain in after:
            np.testing.assert_allclose(mine - start, factor * (plain - start), rtol=1e-4, atol=1e-7)

    def test_weight_decay_of_excluded_variables(self):
        """Also where all variables of one rate are excluded, which fails in Keras on torch."""
        ours, theirs = weights(0, "a", "b"), weights(0, "a", "b")

        def make():
            return optimizers.AdamW(1e-2, weight_decay=0.5)

        layerwise = LayerwiseLR(make(), {"a.*": 0.25})
        layerwise.exclude_from_weight_decay(var_list=ours[:2])
        train(built(lambda: layerwise, ours), ours, STEPS)
        bare = built(lambda: optimizers.AdamW(0.25e-2, weight_decay=0.0), theirs[:2])
        train(bare, theirs[:2], STEPS)
        train(built(make, theirs[2:]), theirs[2:], STEPS)
        assert_same(values(ours), values(theirs))

    def test_multiplier_0_keeps_a_variable_where_it_is(self, make):
        ours = weights(0, "a", "b")
        before = values(ours)
        optimizer = built(lambda: LayerwiseLR(make(), {"a.*": 0.0}), ours)
        train(optimizer, ours, STEPS)
        assert_same(values(ours)[:2], before[:2])
        assert not np.array_equal(values(ours)[2], before[2])
        optimizer.finalize_variable_values(ours)  # puts averages in the place of weights
        assert_same(values(ours)[:2], before[:2])
        assert all(np.isfinite(value).all() for value in values(optimizer.variables))

    def test_multiplier_0_stays_where_averages_round(self):
        """An average of equal numbers is another one in a tenth of the cases."""
        start = np.random.default_rng(0).standard_normal(1000).astype("float32")
        still, moving = (keras.Variable(start, name=name) for name in ("a", "b"))
        adam = optimizers.Adam(0.1, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=1)
        optimizer = LayerwiseLR(adam, {"a.*": 0.0})
        for _ in range(3):
            optimizer.apply([keras.ops.ones(1000)] * 2, [still, moving])
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(still), start)
        optimizer.finalize_variable_values([still, moving])
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(still), start)
        assert np.all(keras.ops.convert_to_numpy(moving) < start)

    def test_multiplier_0_stops_what_was_carried_over(self, make):
        """Slots that go on from a phase before may have momentum."""
        ours = weights(0, "a", "b")
        old = built(lambda: LayerwiseLR(make(), {"b.*": 0.5}), ours)
        train(old, ours, STEPS)
        before = values(ours)
        new = carry_over(old, ours, settings=LayerwiseLR(make(), {"a.*": 0.0}))
        train(new, ours, STEPS)
        assert_same(values(ours)[:2], before[:2])
        assert not np.array_equal(values(ours)[2], before[2])

    @pytest.mark.parametrize("case", kinds())
    def test_a_schedule_that_touches_0_does_no_harm(self, case):
        touches = optimizers.schedules.PiecewiseConstantDecay([1, 2], [1e-3, 0.0, 1e-3])
        # An update in each step, so that one is made at 0.
        changes = {"learning_rate": touches, "gradient_accumulation_steps": None}
        plain = CASES[case]()
        made = type(plain).from_config({**plain.get_config(), **changes})
        ours = weights(0, "a", "b")
        optimizer = built(lambda: LayerwiseLR(made, {"a.*": 0.5}), ours)
        train(optimizer, ours, [0])
        seen = [values(ours)]
        for step in (1, 2, 3):
            train(optimizer, ours, [step])
            seen.append(values(ours))
        moved = [
            max(np.abs(now - then).max() for now, then in zip(after, before, strict=True))
            for before, after in pairwise(seen)
        ]
        # What has momentum, or averages, moves on by the steps before.
        if case not in ("momentum", "nesterov", "rmsprop", "schedule-free"):
            assert moved[1] < 1e-6
        assert min(moved[0], moved[2]) > 1e-6
        assert all(np.isfinite(value).all() for value in [*seen[-1], *values(optimizer.variables)])

    def test_survives_recompile(self, make):
        """Multipliers and births at once: what joins has its own rate, too."""
        a, b = weights(0, "a"), weights(1, "b")
        twin_a, twin_b = weights(0, "a"), weights(1, "b")
        multipliers = {"a.*": 0.5, "b.*": 0.25}
        first = LayerwiseLR(make(), lambda v: multipliers[f"{v.path[0]}.*"])
        train(built(lambda: first, a), a, range(5))
        second = carry_over(first, [*b, *a])
        train(second, [*b, *a], range(5, 10))
        train(built(lambda: at_rate(make, 0.5), twin_a), twin_a, range(10))
        train(built(lambda: at_rate(make, 0.25), twin_b), twin_b, range(5, 10))
        assert_same(values([*a, *b]), values([*twin_a, *twin_b]))


# In TensorFlow the settings of an optimizer, such as 0.999, pass through float32: 1.4e-6 was reached.
TO_TORCH = 2e-6 if BACKEND == "tensorflow" else 1e-12


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "rmsprop"])
def test_equals_parameter_groups_of_torch_in_float64(kind):
    torch = pytest.importorskip("torch")
    epsilon = 1e-30
    ours_and_theirs = {
        "sgd": (
            lambda: optimizers.SGD(1e-2, momentum=0.9),
            lambda groups: torch.optim.SGD(groups, momentum=0.9),
        ),
        "adam": (
            lambda: optimizers.Adam(1e-2, epsilon=epsilon),
            lambda groups: torch.optim.Adam(groups, eps=epsilon),
        ),
        "adamw": (
            lambda: optimizers.AdamW(1e-2, epsilon=epsilon, weight_decay=0.1),
            lambda groups: torch.optim.AdamW(groups, eps=epsilon, weight_decay=0.1),
        ),
        "rmsprop": (
            lambda: optimizers.RMSprop(1e-2, epsilon=epsilon, rho=0.9),
            lambda groups: torch.optim.RMSprop(groups, eps=epsilon, alpha=0.9),
        ),
    }
    make_ours, make_theirs = ours_and_theirs[kind]
    before = keras.config.floatx()
    enable = contextlib.nullcontext()
    if BACKEND == "jax":
        import jax

        enable = jax.enable_x64(True)
    with enable:
        keras.config.set_floatx("float64")
        try:
            rng = np.random.default_rng(0)
            starts = [rng.standard_normal((4, 3)) for _ in range(3)]
            grads = rng.standard_normal((20, 3, 4, 3))
            variables = [
                keras.Variable(s, name=n, dtype="float64") for s, n in zip(starts, "abc", strict=True)
            ]
            optimizer = LayerwiseLR(make_ours(), {"a": 0.1, "b": 3.0})
            tensors = [torch.nn.Parameter(torch.tensor(s)) for s in starts]
            rates = [1e-3, 3e-2, 1e-2]
            native = make_theirs([{"params": [t], "lr": r} for t, r in zip(tensors, rates, strict=True)])
            for step in grads:
                optimizer.apply([keras.ops.convert_to_tensor(g) for g in step], variables)
                for tensor, gradient in zip(tensors, step, strict=True):
                    tensor.grad = torch.tensor(gradient)
                native.step()
            for variable, tensor in zip(variables, tensors, strict=True):
                assert off_by(values([variable])[0], tensor.detach().numpy()) <= TO_TORCH
        finally:
            keras.config.set_floatx(before)


@keras.saving.register_keras_serializable("tests")
def vectors_slower(variable):
    return 0.5 if len(variable.shape) == 1 else 2.0


@keras.saving.register_keras_serializable("tests")
class Mine(optimizers.SGD):
    """An optimizer that Keras does not have."""


class TestConfig:
    """What Keras writes into files and makes optimizers from."""

    @pytest.mark.parametrize("multipliers", [{"a.*": 0.5}, vectors_slower])
    @pytest.mark.parametrize("is_built", [False, True])
    def test_makes_the_same_again(self, multipliers, is_built):
        first = LayerwiseLR(optimizers.Adam(0.125, beta_1=0.5), multipliers)
        variables = weights(0, "a", "b")
        if is_built:
            first.build(variables)
        config = keras.saving.serialize_keras_object(first)
        second = keras.saving.deserialize_keras_object(config)
        assert isinstance(second, LayerwiseLR)
        assert isinstance(second, optimizers.Adam)
        assert second.beta_1 == 0.5
        for optimizer in (first, second):
            optimizer.build(variables)
        multipliers = [[each.multiplier_of(v) for v in variables] for each in (first, second)]
        assert multipliers[0] == multipliers[1]
        assert float(second.learning_rate) == 0.125

    def test_makes_an_optimizer_of_the_user_s_own_again(self):
        first = LayerwiseLR(Mine(0.125), {"a.*": 0.5})
        first.build(weights(0, "a"))
        second = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(first))
        assert isinstance(second, Mine)
        assert isinstance(second, LayerwiseLR)


class TestPatterns:
    def resolved(self, multipliers, names=("a", "b")):
        variables = weights(0, *names)
        optimizer = built(lambda: LayerwiseLR("sgd", multipliers), variables)
        return {v.path: optimizer.multiplier_of(v) for v in variables}

    def test_exact_paths_go_before_expressions_and_the_first_match_counts(self):
        found = self.resolved({"a.": 0.5, "a2": 3.0, "[ab]1": 0.25})
        assert found == {"a2": 3.0, "a1": 0.5, "b2": 1.0, "b1": 0.25}

    def test_a_function(self):
        found = self.resolved(lambda variable: 2.0 if len(variable.shape) == 1 else 0.5)
        assert found == {"a2": 0.5, "a1": 2.0, "b2": 0.5, "b1": 2.0}

    def test_the_whole_path_must_match(self):
        with pytest.raises(ValueError, match=r"is left for the pattern 'a'; did you mean a2"):
            self.resolved({"a": 0.5})

    def test_the_given_optimizer_and_dict_are_copied(self):
        given, multipliers = optimizers.Adam(0.5), {"a.*": 0.5}
        a = weights(0, "a")
        optimizer = built(lambda: LayerwiseLR(given, multipliers), a)
        multipliers["a.*"] = 100.0
        train(optimizer, a, STEPS)
        assert not given.built
        assert optimizer.multipliers == {"a.*": 0.5}
        assert isinstance(optimizer, LayerwiseLR)
        assert isinstance(optimizer, optimizers.Adam)


class TestErrors:
    @pytest.mark.parametrize("multiplier", [-1.0, float("nan"), float("inf"), None, "1", True])
    def test_no_multiplier(self, multiplier):
        with pytest.raises(ValueError, match="finite number of at least 0. Received: "):
            LayerwiseLR("sgd", {"a": multiplier})

    @pytest.mark.parametrize("result", [None, -1.0, float("nan"), "high"])
    def test_a_function_that_returns_none(self, result):
        optimizer = LayerwiseLR("sgd", lambda variable: result)
        with pytest.raises(
            ValueError, match=r"finite number of at least 0. Received: multipliers\('a2'\)="
        ):
            optimizer.build(weights(0, "a"))

    @pytest.mark.parametrize("multipliers", [None, 0.5, ["a"], "a"])
    def test_no_multipliers(self, multipliers):
        with pytest.raises(TypeError, match="multipliers must be a dict .* or a function"):
            LayerwiseLR("sgd", multipliers)

    @pytest.mark.parametrize("pattern", ["a(", 3])
    def test_no_pattern(self, pattern):
        with pytest.raises(ValueError, match="paths of variables or regular expressions"):
            LayerwiseLR("sgd", {pattern: 1.0})

    def test_wrapped_twice(self):
        with pytest.raises(ValueError, match="one learning rate for all variables"):
            LayerwiseLR(LayerwiseLR("sgd", {"a.*": 0.5}), {"a.*": 0.5})

    def test_a_loss_scale_goes_outside(self):
        with pytest.raises(ValueError, match=r"put it outside: LossScaleOptimizer\(LayerwiseLR"):
            LayerwiseLR(optimizers.LossScaleOptimizer(optimizers.SGD()), {"a.*": 0.5})
        a = weights(0, "a")
        optimizers.LossScaleOptimizer(LayerwiseLR("sgd", {"a.*": 0.5})).build(a)

    def test_a_used_optimizer(self):
        used = built(CASES["adam"], weights(0, "a"))
        with pytest.raises(ValueError, match="must be a new one.*Adam after 0 steps"):
            LayerwiseLR(used, {"a.*": 0.5})

    def test_other_multipliers_later(self):
        optimizer = LayerwiseLR("sgd", {"a.*": 0.5})
        with pytest.raises(TypeError):
            optimizer.multipliers["a.*"] = 2.0
        with pytest.raises(AttributeError, match=r"part of the compiled step.*kt\.recompile"):
            optimizer.multipliers = {}
        assert optimizer.multipliers == {"a.*": 0.5}

    def test_built_for_other_variables(self):
        optimizer, others = LayerwiseLR("adam", {"a.*": 0.5}), weights(0, "b")
        optimizer.build(weights(0, "a"))
        before = values([*optimizer.variables, *others])
        with pytest.raises(ValueError, match="Unknown variable"):
            train(optimizer, others, [0])
        assert_same(values([*optimizer.variables, *others]), before)
