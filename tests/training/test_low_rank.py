"""Phases that train low-rank adapters, against the formula written out, and what they leave behind."""

import dataclasses
import functools
import json
import zipfile

import keras
import numpy as np
import pytest
from tiny import same, tiny_backbone, tiny_task, tiny_transformer, variables

import keras_transfer as kt
from keras_transfer.layers.graph import leaf_layers

HEAD = kt.Phase("head", 1, learning_rate=1e-2)
ADAPTERS = kt.Phase("adapters", 2, "lora:4", 1e-2)
ALL = kt.Phase("all", 1, "all", 1e-3)


def network(multi_head=False, blocks=2):
    keras.utils.set_random_seed(0)
    return tiny_transformer(multi_head, blocks=blocks)


def dense_network():
    """Two dense blocks: quick to compile, for what doesn't hang on the kinds of layers."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 8, strides=8, name="stem_patches")(layers.Rescaling(1 / 127.5, -1.0)(inputs))
    for block in ("block1", "block2"):
        x = layers.Dense(16, "gelu", name=f"{block}_dense1")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, "softmax", name="predictions")(x))


def tuned(phases, model=None, validate=False, **options):
    data = tiny_task()
    options = {"batch_size": 16, "verbose": 0, **options}
    return kt.fine_tune(model or dense_network(), data, data if validate else None, phases, **options)


def by_path(model):
    return {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.variables}


def is_plain(model):
    """Whether nothing of LoRA is left in a model or in the file that it is saved to."""
    told = json.dumps(model.get_config())
    return "lora_rank" not in told and not any("lora" in v.path for v in model.variables)


class Stops(keras.callbacks.Callback):
    """Ends a run as Ctrl-C does, at the end of an epoch."""

    def __init__(self, epoch=None):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


class TestLoRA:
    @pytest.mark.parametrize(
        ("text", "meant"),
        [
            ("lora:8", kt.LoRA(8)),
            ("lora:2:from:block2", kt.LoRA(2, layers="from:block2")),
            ("lora:2:block[12]_dense1", kt.LoRA(2, layers="block[12]_dense1")),
        ],
    )
    def test_as_text(self, text, meant):
        model = network()
        phases = [kt.Phase("p", 1, train) for train in (text, meant)]
        assert phases[0].lora == phases[1].lora == meant
        first, second = (phase.layers(model) for phase in phases)
        assert first == second

    @pytest.mark.parametrize("train", ["lora:", "lora:x", "lora:8:", "lora:-1", "lora:0"])
    def test_refuses_other_texts(self, train):
        with pytest.raises(ValueError, match=r"lora:8|rank must be"):
            kt.Phase("p", 1, train)

    def test_refuses_other_settings(self):
        with pytest.raises(TypeError, match="rank must be an integer"):
            kt.LoRA(1.5)
        with pytest.raises(ValueError, match="alpha must be"):
            kt.LoRA(2, alpha=0)
        with pytest.raises(ValueError, match="layers must be"):
            kt.LoRA(2, layers=[])
        with pytest.raises(ValueError, match="l2_sp must be left out"):
            kt.Phase("p", 1, "lora:2", l2_sp=kt.L2SP(0.1))

    @pytest.mark.parametrize(
        "layers", ["from:block2", -2, ["block2"], lambda layer: "block2" in layer.name]
    )
    def test_chosen_as_layers_are(self, layers):
        phase = kt.Phase("p", 1, kt.LoRA(2, layers=layers))
        names = [layer.name for layer in phase.layers(network())]
        assert names == [
            *(f"block2_attention_{part}" for part in ("query", "value", "key", "output")),
            *("block2_dense1", "block2_dense2", "pool", "predictions"),
        ]
        assert phase.describe()["train"].startswith("LoRA(rank=2, alpha=None, layers=")

    def test_of_convolutions_says_what_to_do(self):
        model = kt.classifier(tiny_backbone(), 3, seed=0)
        with pytest.raises(ValueError, match=r"train='from:block2'.* 2 Conv2D, 1 BatchNormalization"):
            tuned([ADAPTERS], model)

    def test_of_other_kinds(self):
        class Own(keras.layers.Dense):
            pass

        inputs = keras.Input((3,))
        layers = [
            Own(4, name="own"),
            keras.layers.Dense(4, kernel_constraint="non_neg", name="held"),
            keras.layers.Dense(4, name="adapted"),
            keras.layers.Dense(4, name="int8"),
            keras.layers.Dense(4, name="free"),
        ]
        x = inputs
        for layer in layers:
            x = layer(x)
        model = keras.Model(inputs, keras.layers.Dense(2, name="predictions")(x))
        layers[2].enable_lora(2)
        layers[3].quantize("int8")
        phase = kt.Phase("p", 1, "lora:2")
        assert [layer.name for layer in phase.layers(model)] == ["free", "predictions"]
        with pytest.raises(ValueError, match="which means 1 Own"):
            dataclasses.replace(phase, train="lora:2:own").check(model)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("alpha", [None, 6.0])
def test_steps_of_sgd_are_those_of_the_formula(alpha):
    """In the first step B alone moves, as it begins at zero; in the second one A, too."""
    rng = np.random.default_rng(0)
    images, y = rng.normal(size=(6, 1, 5, 1)).astype("float32"), np.arange(6) % 3
    x = images.reshape(6, 5)
    inputs = keras.Input((1, 5, 1))
    hidden = keras.layers.Dense(4, name="hidden")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, name="predictions")(hidden))
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    w, c, v, d = (value.astype("float64") for value in model.get_weights())
    phase = kt.Phase("p", 3, kt.LoRA(2, alpha), 0.2, optimizer="sgd")
    a = keras.ops.convert_to_numpy(phase.adapters(model, (7, 0, 1)).own[0]).astype("float64")
    b, scale, rows = np.zeros((2, 4)), (alpha or 2.0) / 2, np.eye(3)[y]
    assert np.abs(a).max() < np.sqrt(6 / 5)
    bias = c
    for _ in range(3):
        h = x @ (w + scale * a @ b) + c
        g = (softmax(h @ v + d) - rows) / 6
        whole = x.T @ (g @ v.T)
        moves = [scale * whole @ b.T, scale * a.T @ whole, h.T @ g, g.sum(0)]
        a, b, v, d = (each - 0.2 * move for each, move in zip((a, b, v, d), moves, strict=True))
    options = {"batch_size": 6, "seed": 7, "augmentation": None, "verbose": 0}
    kt.fine_tune(model, (images, y), phases=[phase], **options)
    for found, expected in zip(model.get_weights(), [w + scale * a @ b, bias, v, d], strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(model.get_weights()[1], bias.astype("float32"))


@pytest.mark.parametrize("multi_head", [False, True])
def test_kernels_move_by_a_low_rank_and_nothing_else_does(multi_head):
    model = network(multi_head)
    before, kept = by_path(model), model.variables
    tuned([ADAPTERS], model)
    after = by_path(model)
    assert [id(v) for v in model.variables] == [id(v) for v in kept]
    assert is_plain(model)
    moved = [path for path in before if not np.array_equal(before[path], after[path])]
    dense = [p for p in before if p.startswith("block") and p.endswith("/kernel")]
    assert moved == [*dense, "predictions/kernel", "predictions/bias"]
    assert len(dense) == 12
    for path in dense:
        way = (after[path] - before[path]).astype("float64")
        if "query" not in path or not multi_head:  # of a kernel of three axes A has two of them
            way = way.reshape(-1, way.shape[-1])
        assert np.all(np.linalg.svd(way, compute_uv=False)[..., 4:] < 1e-5), path


@pytest.mark.parametrize("multi_head", [False, True])
def test_files_open_in_stock_keras_as_plain_layers(multi_head, tmp_path):
    model = network(multi_head, blocks=1)
    saves = keras.callbacks.ModelCheckpoint(str(tmp_path / "epoch{epoch}.keras"))
    result = tuned([HEAD, ADAPTERS], model, callbacks=[saves], output=tmp_path)
    x = tiny_task()[0]
    expected = result.model.predict(x, verbose=0)
    for name in ("model.keras", "epoch3.keras"):
        loaded = keras.models.load_model(tmp_path / name)
        assert is_plain(loaded)
        assert [tuple(v.shape) for v in loaded.variables] == [tuple(v.shape) for v in model.variables]
        np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, atol=1e-6)
    with zipfile.ZipFile(tmp_path / "epoch2.keras") as archive:
        assert b"lora_rank" not in archive.read("config.json")
    first = keras.models.load_model(tmp_path / "epoch2.keras").get_weights()
    assert not same(first, model.get_weights())


def test_flags_afterwards_are_those_of_whole_layers():
    model = network()
    tuned([ADAPTERS], model)
    trains = [layer.name for layer in leaf_layers(model) if layer.trainable and layer.weights]
    assert trains == [layer.name for layer in ADAPTERS.layers(model) if layer.weights]
    for name in trains:
        assert all(v.trainable for v in model.get_layer(name).weights)
    kt.freeze_backbone(model)
    kt.recompile(model)
    assert kt.frozen_prefix(model) == "pool"
    model.fit(*tiny_task(), verbose=0)


def test_while_it_trains_the_table_shows_adapters_at_the_rate_of_their_kernel():
    model = network()
    multipliers = kt.multipliers.layer_decay(model, 0.5)
    phase = dataclasses.replace(ADAPTERS, epochs=1, multipliers=multipliers)
    settings = tuned([phase], model).phases[0].settings
    groups = {group["name"]: group for group in settings["groups"]}
    own = 4 * (4 * 32 + 2 * 48)  # rank times (rows and columns) of four square kernels and two others
    assert [groups[n]["training"] for n in ("stem", "block1", "block2")] == [0, own, own]
    rates = [(groups[n]["lowest_rate"], groups[n]["highest_rate"]) for n in ("block1", "block2", "head")]
    assert rates == [(0.0025, 0.0025), (0.005, 0.005), (0.01, 0.01)]
    assert settings["train"] == "lora:4"


def test_multipliers_may_name_the_adapters():
    phase = dataclasses.replace(ADAPTERS, multipliers={".*lora_kernel_b": 16.0})
    settings = tuned([phase]).phases[0].settings
    assert settings["groups"][1]["highest_rate"] == pytest.approx(0.16)
    wrong = dataclasses.replace(ADAPTERS, multipliers={"block1_dense1/lora_kernel_c": 16.0})
    with pytest.raises(ValueError, match="no variable is left"):
        tuned([wrong])


def test_all_that_is_frozen_is_computed_once_with_the_same_result():
    found = [tuned([HEAD, ADAPTERS, ALL], cache=cache).model.get_weights() for cache in (True, False)]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    model = network()
    ADAPTERS.set_trainable(model)
    assert kt.frozen_prefix(model) == "stem_add"


def test_the_best_epoch_comes_back_with_what_adapters_had_added():
    far = dataclasses.replace(ADAPTERS, epochs=2, learning_rate=0.3)
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(look.model.get_weights())
    )
    result = tuned([HEAD, ADAPTERS, far], validate=True, callbacks=[look])
    assert same(result.model.get_weights(), seen[result.best.epoch])
    assert len({len(weights) for weights in seen}) == 1


@pytest.mark.parametrize("of_phase", [False, True])
def test_early_stopping_puts_plain_weights_back(of_phase):
    stop = keras.callbacks.EarlyStopping("loss", restore_best_weights=True, patience=5, mode="max")
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((logs["loss"], look.model.get_weights()))
    )
    phase = dataclasses.replace(ADAPTERS, callbacks=[stop] if of_phase else ())
    result = tuned([HEAD, phase], callbacks=[look] if of_phase else [look, stop])
    best = max(seen[1:] if of_phase else seen, key=lambda each: each[0])
    assert same(result.model.get_weights(), best[1])
    assert is_plain(result.model)


def test_an_exception_leaves_plain_layers_with_the_last_epoch(tmp_path):
    model = dense_network()
    state = [(v.path, v.trainable) for v in model.variables]
    weights = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights.append(look.model.get_weights())
    )
    with pytest.raises(KeyboardInterrupt):
        tuned([HEAD, ADAPTERS], model, callbacks=[look, Stops(1)])
    assert [(v.path, v.trainable) for v in model.variables] == state
    assert is_plain(model)
    assert same(model.get_weights(), weights[1])


def three_phases(average):
    adapters = dataclasses.replace(ADAPTERS, epochs=3, average=average)
    return [HEAD, adapters, dataclasses.replace(ALL, epochs=2)]


@functools.cache
def unbroken(average):
    return variables(tuned(three_phases(average), callbacks=[Stops()], validate=True).model)


@pytest.mark.parametrize(
    ("average", "epoch"),
    [
        (None, 3),
        (kt.EMA(0.5), 4),
        *(pytest.param(None, epoch, marks=pytest.mark.nightly) for epoch in (1, 4, 5)),
        pytest.param(kt.EMA(0.5), 3, marks=pytest.mark.nightly),
        pytest.param(kt.SWA(2), 3, marks=pytest.mark.nightly),
    ],
)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(average, epoch, tmp_path):
    """From before the phase with adapters, within it, at its end, and from the phase behind it."""
    phases = three_phases(average)
    with pytest.raises(KeyboardInterrupt):
        tuned(phases, callbacks=[Stops(epoch)], validate=True, output=tmp_path)
    resumed = tuned(phases, callbacks=[Stops()], validate=True, output=tmp_path, resume=True)
    assert same(variables(resumed.model), unbroken(average))
    assert is_plain(resumed.model)


def test_an_average_is_that_of_both_factors():
    factors = []

    class Looks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            layer = self.model.get_layer("block1_dense1")
            pair = (layer.lora_kernel_a, layer.lora_kernel_b)
            factors.append([np.array(keras.ops.convert_to_numpy(each)) for each in pair])

    model = dense_network()
    kernel = np.array(model.get_layer("block1_dense1").get_weights()[0])
    phase = dataclasses.replace(ADAPTERS, average=kt.EMA(0.5), callbacks=[Looks()])
    tuned([phase], model)
    a, b = factors[0]
    for pair in factors[1:]:
        a, b = (0.5 * mean + 0.5 * now for mean, now in zip((a, b), pair, strict=True))
    assert len(factors) == 6
    np.testing.assert_allclose(
        model.get_layer("block1_dense1").get_weights()[0], kernel + a @ b, atol=1e-6
    )


@pytest.mark.parametrize("goes_on", [True, False])
def test_slots_of_the_head_go_on(goes_on):
    """By the first step of a fresh Adam each number moves by the rate, whatever its betas are."""
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(
            look.model.get_layer("predictions").get_weights()[0]
        )
    )
    first = kt.Phase("first", 2, "head", 1e-2, optimizer=keras.optimizers.Adam(beta_2=0.99))
    adam = keras.optimizers.Adam(beta_2=0.99 if goes_on else 0.98)
    second = dataclasses.replace(ADAPTERS, epochs=1, optimizer=adam, learning_rate=1e-2)
    tuned([first, second], network(blocks=1), callbacks=[look], batch_size=48)
    fresh = np.allclose(np.abs(seen[2] - seen[1]), 1e-2, rtol=1e-3)
    assert fresh is not goes_on


def test_a_range_test_finds_a_rate_for_adapters():
    model = dense_network()
    phase = dataclasses.replace(ADAPTERS, epochs=1, learning_rate="find")
    result = tuned([HEAD, phase], model)
    assert 1e-6 < result.phases[1].settings["found"] < 10
    assert is_plain(model)


@pytest.mark.parametrize(
    "make", [kt.callbacks.GradualUnfreezing, lambda: kt.callbacks.SnapshotEnsemble("x", 1)]
)
def test_refuses_callbacks_that_would_change_what_trains(make):
    callback = make()
    with pytest.raises(ValueError, match="must be without callbacks"):
        tuned([ADAPTERS], callbacks=[callback])
    with pytest.raises(ValueError, match="must be without callbacks"):
        tuned([dataclasses.replace(ADAPTERS, callbacks=[callback])])


def test_half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = network(blocks=1)
    finally:
        keras.config.set_dtype_policy("float32")
    before = by_path(model)
    tuned([ADAPTERS], model)
    assert not np.array_equal(before["block1_dense1/kernel"], by_path(model)["block1_dense1/kernel"])
    assert is_plain(model)


def test_plots_know_the_rates_of_adapters():
    model = network()
    phase = dataclasses.replace(ADAPTERS, multipliers={".*lora_kernel_b": 16.0, "predictions/.*": 0.5})
    axes = kt.plots.learning_rates(model, [phase], steps_per_epoch=3).axes[0]
    highest = max(np.max(line.get_ydata()) for line in axes.lines)
    assert highest == pytest.approx(0.16)
    assert is_plain(model)
