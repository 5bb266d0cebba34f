"""LayerwiseLR inside `fit`, with everything that Keras lets one combine.

A network of two parts that share nothing but the input trains as two networks would. So one optimizer
with multipliers must do to both parts what two plain `fit`s do at two learning rates.
"""

import keras
import numpy as np
import pytest
from keras import optimizers

import keras_transfer as kt

BACKEND = keras.backend.backend()
RATES = {"a": 0.25, "b": 2.0}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((16, 4)).astype("float32")
Y = {"a": RNG.standard_normal((16, 3)).astype("float32"), "b": X[:, :2] ** 2}


def branch(name, inputs):
    initial = keras.initializers.RandomNormal(seed=ord(name))
    return keras.layers.Dense(Y[name].shape[1], kernel_initializer=initial, name=name)(inputs)


def network(*names):
    inputs = keras.Input((4,))
    return keras.Model(inputs, {name: branch(name, inputs) for name in names})


class Plateau(keras.callbacks.ReduceLROnPlateau):
    """Finds no loss good enough, so that it is the same for both parts."""

    def __init__(self):
        super().__init__(monitor="loss", factor=0.5, patience=1, min_delta=1e9)


def halve(epoch, rate):
    return rate * 0.5


def rate():
    return 0.01


def rate_of_a():
    return 0.0025


def rate_of_b():
    return 0.02


RATE_FUNCTIONS = {1.0: rate, RATES["a"]: rate_of_a, RATES["b"]: rate_of_b}


def excluding(optimizer):
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def fitted(model, optimizer, y, callbacks=(), **options):
    model.compile(optimizer, loss=dict.fromkeys(y, "mse"), **options)
    model.fit(
        X, y, batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=[make() for make in callbacks]
    )


def by_hand(model, optimizer, y, **options):
    """With `train_on_batch` instead of `fit`."""
    model.compile(optimizer, loss=dict.fromkeys(y, "mse"), **options)
    for start in (0, 4, 8, 12):
        model.train_on_batch(X[start : start + 4], {k: v[start : start + 4] for k, v in y.items()})


# What trains, how, and with which options of `compile`; the rate is a multiple of 0.01.
CASES = {
    "plain": (fitted, lambda m: optimizers.AdamW(0.01 * m, weight_decay=0.1), {}),
    "scheduler": (
        fitted,
        lambda m: optimizers.SGD(0.01 * m, momentum=0.9),
        {"callbacks": [lambda: keras.callbacks.LearningRateScheduler(halve)]},
    ),
    "plateau": (fitted, lambda m: optimizers.Adam(0.01 * m), {"callbacks": [Plateau]}),
    "schedule": (
        fitted,
        lambda m: optimizers.Nadam(optimizers.schedules.CosineDecay(0.01 * m, 12)),
        {},
    ),
    "callable": (fitted, lambda m: optimizers.RMSprop(RATE_FUNCTIONS[m]), {}),
    "accumulation": (fitted, lambda m: optimizers.Adam(0.01 * m, gradient_accumulation_steps=3), {}),
    "clipnorm": (fitted, lambda m: optimizers.SGD(0.01 * m, clipnorm=0.1), {}),
    "clipvalue": (fitted, lambda m: optimizers.SGD(0.01 * m, clipvalue=0.01), {}),
    "ema": (
        fitted,
        lambda m: optimizers.Adam(0.01 * m, use_ema=True, ema_overwrite_frequency=2),
        {},
    ),
    "exclusions": (
        fitted,
        lambda m: excluding(optimizers.AdamW(0.01 * m, weight_decay=1.0)),
        {},
    ),
    "no jit": (fitted, lambda m: optimizers.Adam(0.01 * m), {"jit_compile": False}),
    "jit": (fitted, lambda m: optimizers.Nadam(0.01 * m), {"jit_compile": True}),
    "eager": (fitted, lambda m: optimizers.Adam(0.01 * m), {"run_eagerly": True}),
    "several steps": (fitted, lambda m: optimizers.Adam(0.01 * m), {"steps_per_execution": 2}),
    "train_on_batch": (by_hand, lambda m: optimizers.Adam(0.01 * m), {}),
}


def assert_close(model, references, bound):
    for name, reference in references.items():
        for mine, theirs in zip(
            model.get_layer(name).get_weights(), reference.get_layer(name).get_weights(), strict=True
        ):
            assert np.linalg.norm(mine - theirs) <= bound * np.linalg.norm(theirs)


# torch.compile warns of itself and of what Keras caches.
JIT = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning"),
] * (BACKEND == "torch")


@pytest.mark.usefixtures("quick_torch_compile")
@pytest.mark.parametrize("case", [pytest.param(case, marks=JIT * (case == "jit")) for case in CASES])
def test_equals_a_fit_for_each_part(case):
    if BACKEND == "torch" and case == "several steps":
        pytest.skip("Keras refuses it on torch")
    train, make, options = CASES[case]
    model = network("a", "b")
    multipliers = {f"{name}/.*": rate for name, rate in RATES.items()}
    train(model, kt.optimizers.LayerwiseLR(make(1.0), multipliers), Y, **options)
    references = {}
    if BACKEND == "torch":
        options = options | {"jit_compile": False}  # torch.compile takes long, and Keras' is not tested
    for name, rate in RATES.items():
        references[name], optimizer = network(name), make(rate)
        optimizer.build(references[name].trainable_variables)  # fit does it slowly on TensorFlow
        train(references[name], optimizer, {name: Y[name]}, **options)
    assert_close(model, references, 5e-7)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_in_mixed_precision(policy):
    def scaled(optimizer):
        # A scale at which nothing overflows: one overflow would skip the step of both parts.
        return optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = network("a", "b")
        multipliers = {f"{name}/.*": rate for name, rate in RATES.items()}
        model.compile(kt.optimizers.LayerwiseLR("sgd", multipliers), "mse")
        wrapped = isinstance(model.optimizer, optimizers.LossScaleOptimizer)
        assert wrapped == (policy == "mixed_float16")
        fitted(model, scaled(kt.optimizers.LayerwiseLR(optimizers.Adam(0.01), multipliers)), Y)
        references = {}
        for name, rate in RATES.items():
            references[name] = network(name)
            fitted(references[name], scaled(optimizers.Adam(0.01 * rate)), {name: Y[name]})
    finally:
        keras.config.set_dtype_policy(before)
    assert_close(model, references, 5e-7)


def test_a_loss_scale_keeps_nadam_s_product():
    """Which Keras alone loses on JAX: then the steps are those of another optimizer."""
    scaled, plain = network("a"), network("a")
    fitted(
        scaled,
        optimizers.LossScaleOptimizer(kt.optimizers.LayerwiseLR("nadam", {"a/.*": 0.5})),
        {"a": Y["a"]},
    )
    fitted(plain, optimizers.Nadam(0.0005), {"a": Y["a"]})
    assert_close(scaled, {"a": plain}, 5e-7)


def test_moving_averages_in_a_second_fit():
    """On JAX plain Keras gives one buffer away twice."""
    model, reference = network("a"), network("a")
    fitted(
        model, kt.optimizers.LayerwiseLR(optimizers.SGD(0.02, use_ema=True), {".*": 0.5}), {"a": Y["a"]}
    )
    model.fit(X, {"a": Y["a"]}, batch_size=4, shuffle=False, verbose=0)
    optimizer = optimizers.SGD(0.01, use_ema=True)
    fitted(reference, optimizer, {"a": Y["a"]})
    if BACKEND == "jax":  # what Keras leaves in one buffer
        for average in optimizer._model_variables_moving_average:
            average.assign(keras.ops.copy(average))
    reference.fit(X, {"a": Y["a"]}, batch_size=4, shuffle=False, verbose=0)
    assert_close(model, {"a": reference}, 5e-7)


def test_tensorboard_sees_the_base_rate(tmp_path):
    pytest.importorskip("tensorboard")
    pytest.importorskip("tensorflow")  # with which Keras' callback writes
    model = network("a")
    schedule = optimizers.schedules.CosineDecay(0.01, 12)
    callback = keras.callbacks.TensorBoard(tmp_path)
    seen = []
    write = callback._log_epoch_metrics
    callback._log_epoch_metrics = lambda epoch, logs: (
        seen.append(callback._collect_learning_rate(dict(logs))["learning_rate"]),
        write(epoch, logs),
    )
    fitted(
        model,
        kt.optimizers.LayerwiseLR(optimizers.SGD(schedule), {"a/.*": 0.5}),
        {"a": Y["a"]},
        callbacks=[lambda: callback],
    )
    expected = [0.01 * (1 + np.cos(np.pi * step / 12)) / 2 for step in (4, 8, 12)]
    np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-9)
    assert any(tmp_path.rglob("events*"))
