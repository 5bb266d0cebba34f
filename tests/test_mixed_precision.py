"""What each public function does under Keras' policies mixed_float16 and mixed_bfloat16."""

import contextlib
import importlib
import types
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from tiny import tiny_transformer

import keras_transfer as kt
from keras_transfer.backbones.applications import affine_preprocessing, find_backbone
from keras_transfer.layers.precision import in_full_precision
from keras_transfer.models import ensembles
from keras_transfer.saving import exporting

for package in ("jinja2", "matplotlib", "PIL", "sklearn"):
    pytest.importorskip(package)

# By how much a few steps may differ from those in float32: norm of the difference over the norm.
TOLERANCES = {"mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}
SIZE, CLASSES = 8, 3
_TESTED = {}  # by public name, the test

# Public names that a dtype policy means nothing to.
NOT_TESTED = {
    "no network is computed": [
        "describe_backbone",
        "list_backbones",
        *(f"plots.{name}" for name in ("history", "learning_rates", "lr_finder", "training", "compare")),
        "plots.show_batch",
        *(f"features.{name}" for name in ("caches", "clear", "log_maximum_evidence")),
        *(
            f"multipliers.{name}" for name in ("linear", "span", "head")
        ),  # numbers, from the layers' order
        *(f"recipes.{name}" for name in kt.recipes.__all__),
    ],
    "images and labels are read on the host, before any network": [
        "Loader",
        *(f"data.{name}" for name in ("Compose", "Loader", "load")),
        *(f"data.from_{name}" for name in ("directory", "huggingface", "table", "webdataset")),
        *(f"data.{name}" for name in ("color_jitter", "rand_augment", "trivial_augment")),
        *(f"data.random_{name}" for name in ("crop", "flip", "resized_crop", "rotation")),
        *(f"data.{name}" for name in ("cutmix", "mixup", "mixup_or_cutmix")),
    ],
    "it is about probabilities, which are float32": [
        *(f"calibration.{name}" for name in ("attach_calibration", "forget_calibration")),
        *(f"calibration.{name}" for name in ("conformal_threshold", "prediction_sets", "unsure")),
        *(f"calibration.{name}" for name in ("find_thresholds", "thresholds_of")),
    ],
    "what another function gives back, tested with it": [
        *("Advice", "FineTuneResult", "LRFinderResult", "LayerGroup"),
        *(f"automatic.{name}" for name in ("Depth", "DepthScore", "LeftOut", "LinearHead")),
        *("automatic.Plan", "automatic.Trained"),
        *("calibration.Calibration", "evaluation.ClassScore", "evaluation.Evaluation"),
        *("calibration.Thresholds", "evaluation.LabelScore", "evaluation.MultiLabelEvaluation"),
        *(f"features.{name}" for name in ("Advice", "BackboneRanking", "CacheInfo", "Cut", "HeadScore")),
        *(f"features.{name}" for name in ("LayerScore", "RankedBackbone")),
        "multipliers.Policy",
    ],
    "the same under its other name": [
        *(f"features.{name}" for name in ("CacheOptions", "FeatureCache", "advise", "fit_linear_head")),
        *(f"features.{name}" for name in ("frozen_prefix", "rank_backbones", "split_model")),
    ],
}


def of(*names):
    """Say which public names a test is of."""

    def register(test):
        _TESTED.update(dict.fromkeys(names, test))
        return test

    return register


@contextlib.contextmanager
def policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Draw weights quickly, and compile so on JAX, where each run is a program of its own."""
    jax = importlib.import_module("jax") if keras.backend.backend() == "jax" else None
    if jax is not None:
        jax.config.update("jax_disable_most_optimizations", True)
    with numpy_initial_weights():
        yield
    if jax is not None:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def known():
    """Return a dict for what runs in float32 gave, with which both policies are compared."""
    return {}


@pytest.fixture(params=TOLERANCES)
def mixed(request):
    """Set a policy, and return its name."""
    with policy(request.param):
        yield request.param


def images(count=24, seed=0):
    """Return noise whose brightness tells the class."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % CLASSES
    x = rng.integers(0, 90, (count, SIZE, SIZE, 3)) + 70 * y[:, None, None, None]
    return x.astype("uint8"), y


X, Y = images()


def backbone(name="tiny", seed=0):
    rng = np.random.default_rng(seed)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0, name="rescaling")(inputs)
    for block in (1, 2):
        x = keras.layers.Conv2D(4, 3, padding="same", name=f"block{block}_conv1")(x)
        x = keras.layers.BatchNormalization(name=f"block{block}_norm")(x)
        x = keras.layers.ReLU(name=f"block{block}_relu")(x)
    model = keras.Model(inputs, x, name=name)
    model.set_weights(
        [0.4 * rng.standard_normal(w.shape) if w.ndim == 4 else w for w in model.get_weights()]
    )
    return model


def network(seed=0, **options):
    """Return a classifier with the same weights under each policy and on each backend."""
    model = kt.classifier(backbone(), CLASSES, class_names=list("abc"), **options)
    dense = model.get_layer("predictions")
    values = np.random.default_rng(seed).standard_normal(dense.kernel.shape)
    dense.set_weights([values, np.zeros(CLASSES)])
    return model


def optimizer(model):
    return kt.optimizers.LayerwiseLR(keras.optimizers.Adam(1e-3), kt.multipliers.geometric(model))


def distance(found, expected):
    found, expected = (
        np.concatenate([np.ravel(each).astype("float64") for each in arrays])
        for arrays in (found, expected)
    )
    assert np.isfinite(found).all()
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def in_float32(function, known=None, key=None):
    """Return what a function returns without mixed precision, or what `known` has of another test."""
    known = {} if known is None else known
    if key not in known:
        with policy("float32"):
            known[key] = function()
    return known[key]


def assert_float32(model):
    types = {keras.backend.standardize_dtype(v.dtype) for v in model.weights}
    assert types == {"float32"}


def assert_scales_loss(model, name):
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (name == "mixed_float16")


@of("classifier", "class_names", "load_model")
def test_a_classifier(mixed, tmp_path):
    model, plain = network(), in_float32(network)
    assert model.get_layer("predictions").compute_dtype == mixed.removeprefix("mixed_")
    assert_float32(model)
    found = model.predict(X, verbose=0)
    assert found.dtype == np.float32
    assert 0 < distance([found], [plain.predict(X, verbose=0)]) < 3 * TOLERANCES[mixed]
    model.compile(optimizer(model), "sparse_categorical_crossentropy")
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    found = model.predict(X, verbose=0)

    def opened():
        model = kt.load_model(tmp_path / "model.keras")
        assert model.get_layer("predictions").dtype_policy.name == mixed
        assert_scales_loss(model, mixed)
        assert_float32(model)
        np.testing.assert_array_equal(model.predict(X, verbose=0), found)
        assert kt.class_names(model) == list("abc")
        return model

    in_float32(opened)
    again = opened()
    for each in (model, again):
        each.fit(X, Y, shuffle=False, verbose=0)
    assert distance(again.get_weights(), model.get_weights()) < 1e-6


@pytest.mark.parametrize("name", ["vgg16", "mobilenet"])
def test_pixels_are_preprocessed_as_in_float32(name, mixed):
    def preprocessed():
        inputs = keras.Input((SIZE, SIZE, 3))
        model = keras.Model(inputs, affine_preprocessing(find_backbone(name))(inputs))
        return model.predict(X, verbose=0)

    np.testing.assert_array_equal(preprocessed(), in_float32(preprocessed))


@of("replace_head")
def test_a_new_head(mixed, known):
    def replaced():
        return kt.replace_head(network(), 4, init_from={0: 1, 3: 2})

    model, plain = replaced(), in_float32(replaced, known, "head")
    assert_float32(model)
    kernels = [m.get_layer("predictions").get_weights()[0][:, [0, 3]] for m in (model, plain)]
    np.testing.assert_array_equal(*kernels)
    assert model.predict(X, verbose=0).dtype == np.float32


@of("multi_view")
def test_views(mixed, known):
    def given():
        return kt.multi_view(network(), sizes=(SIZE // 2,)).predict(X, verbose=0)

    found, plain = given(), in_float32(given, known, "views")
    assert found.dtype == np.float32
    assert 0 < distance([found], [plain]) < 3 * TOLERANCES[mixed]


@of(*("freeze_backbone", "freeze_to", "layer_groups", "trainable_table", "unfreeze", "unfreeze_from"))
def test_freezing(mixed):
    def tables():
        model = network()
        model.compile(optimizer(model), "sparse_categorical_crossentropy")
        names = [
            (group.name, [layer.name for layer in group.layers]) for group in kt.layer_groups(model)
        ]
        found = [
            kt.freeze_backbone(model),
            kt.unfreeze_from(model, "block2_conv1"),
            kt.unfreeze(model, batch_norm="train"),
            kt.freeze_to(model, -1),
        ]
        kt.unfreeze(model)
        return names, found, kt.trainable_table(model)  # with the rates, behind a loss scale

    assert tables() == in_float32(tables)


@of("recompile", "optimizers.LayerwiseLR", "multipliers.geometric")
def test_recompiling_around_layerwise_rates(mixed, known):
    def trained():
        model = network()
        kt.freeze_backbone(model)
        model.compile(optimizer(model), "sparse_categorical_crossentropy")
        model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
        before = model.optimizer
        kt.unfreeze(model)
        kt.recompile(model)
        model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
        return model, before

    model, before = trained()
    assert_scales_loss(model, mixed)
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    assert isinstance(inner, kt.optimizers.LayerwiseLR)
    assert int(inner.iterations) == 6
    assert inner.births == [3] * (len(inner.births) - 2) + [0, 0]
    if inner is not model.optimizer:
        assert float(model.optimizer.dynamic_scale) == float(before.dynamic_scale)
    assert_float32(model)
    plain, _ = in_float32(trained, known, "recompiled")
    assert distance(model.get_weights(), plain.get_weights()) < TOLERANCES[mixed]


@of("find_lr", "callbacks.LRFinder")
def test_a_range_test(mixed, known):
    def state(model):
        variables = [*model.variables, *model.optimizer.variables]
        return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]

    def tested():
        model = network()
        model.compile(optimizer(model), "sparse_categorical_crossentropy")
        model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
        before = state(model)
        found = kt.find_lr(
            model, (X, Y), num_steps=20, batch_size=8, max_lr=0.3, shuffle=False, verbose=0
        )
        finder = kt.callbacks.LRFinder(1e-7, 0.3, 20)
        model.fit(X, Y, batch_size=8, epochs=7, shuffle=False, callbacks=[finder], verbose=0)
        for one, other in zip(before, state(model), strict=True):
            np.testing.assert_array_equal(one, other)
        return model, found, finder.result

    model, *found = tested()
    assert_scales_loss(model, mixed)
    _, *expected = in_float32(tested, known, "range")
    for result, plain in zip(found, expected, strict=True):
        np.testing.assert_array_equal(result.learning_rates, plain.learning_rates)
        assert result.stopped == plain.stopped
        assert distance([result.losses], [plain.losses]) < 5 * TOLERANCES[mixed]


CALLBACKS = {
    "cyclic": lambda folder: kt.callbacks.CyclicLR(1e-4, 1e-2, step_size=2),
    "one cycle": lambda folder: kt.callbacks.OneCycleLR(1e-2, total_epochs=2),
    "warm restarts": lambda folder: kt.callbacks.WarmRestartsLR(1e-2, cycle_epochs=1),
    "gradual": lambda folder: kt.callbacks.GradualUnfreezing(1),
    "snapshots": lambda folder: kt.callbacks.SnapshotEnsemble(
        folder / keras.config.dtype_policy().name, 2
    ),
}


@of(
    *(f"callbacks.{name}" for name in ("CyclicLR", "OneCycleLR", "WarmRestartsLR", "GradualUnfreezing")),
    "callbacks.SnapshotEnsemble",
)
@pytest.mark.parametrize("kind", CALLBACKS)
def test_callbacks(kind, mixed, known, tmp_path):
    def trained():
        model, callback = network(), CALLBACKS[kind](tmp_path)
        model.compile(optimizer(model), "sparse_categorical_crossentropy")
        model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, callbacks=[callback], verbose=0)
        return model, callback

    (model, callback), (plain, other) = trained(), in_float32(trained, known, kind)
    assert_float32(model)
    assert distance(model.get_weights(), plain.get_weights()) < TOLERANCES[mixed]
    rates = [float(keras.ops.convert_to_numpy(m.optimizer.learning_rate)) for m in (model, plain)]
    assert rates[0] == rates[1]
    trained_layers = [[layer.trainable for layer in m.layers] for m in (model, plain)]
    assert trained_layers[0] == trained_layers[1]
    if kind == "snapshots":
        found, expected = (
            each.ensemble(m).predict(X, verbose=0) for each, m in ((callback, model), (other, plain))
        )
        assert found.dtype == np.float32
        assert distance([found], [expected]) < 3 * TOLERANCES[mixed]


@of("schedules.Cyclic", "schedules.OneCycle", "schedules.WarmRestarts")
def test_schedules_are_computed_in_float32(mixed):
    def rates():
        schedules = [
            kt.schedules.Cyclic(1e-4, 1e-2, 1000),
            kt.schedules.OneCycle(1e-2, 3001),
            kt.schedules.WarmRestarts(1e-2, 1500),
        ]
        return [keras.ops.convert_to_numpy(schedule(2999)) for schedule in schedules]

    found = rates()
    assert found == in_float32(rates)
    assert {rate.dtype for rate in found} == {np.dtype("float32")}


class Watch(keras.callbacks.Callback):
    """Keeps the kinds of the optimizers that it met."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_begin(self, logs=None):
        self.seen.append(type(self.model.optimizer))


def phases():
    return [
        kt.Phase("head", 1, learning_rate=1e-2),
        kt.Phase(
            "block2",
            2,
            train="from:block2_conv1",
            learning_rate=1e-3,
            multipliers={".*conv1.*": 0.1},
            schedule=lambda rate, steps: kt.schedules.WarmRestarts(rate, steps),
        ),
    ]


def tuned(cache="auto", **options):
    model = network()
    result = kt.fine_tune(
        model, (X, Y), (X[::2], Y[::2]), phases(), batch_size=8, cache=cache, verbose=0, **options
    )
    return SimpleNamespace(model=model, result=result)


@pytest.fixture(scope="module")
def exact():
    """Return a run in float32."""
    return in_float32(tuned)


@pytest.fixture(scope="module", params=TOLERANCES)
def run(request):
    """Return a run in mixed precision."""
    with policy(request.param):
        done = tuned()
    done.policy, done.tolerance = request.param, TOLERANCES[request.param]
    return done


@of("fine_tune", "Phase", "CacheOptions")
class TestFineTune:
    def test_it_is_near_float32(self, run, exact):
        assert distance(run.model.get_weights(), exact.model.get_weights()) < run.tolerance
        for name in ("loss", "val_loss"):
            found, expected = run.result.history[name], exact.result.history[name]
            assert distance([found], [expected]) < run.tolerance
        assert_float32(run.model)
        assert_scales_loss(run.model, run.policy)
        assert run.model.predict(X, verbose=0).dtype == np.float32

    def test_without_a_cache(self, run):
        with policy(run.policy):
            other = tuned(cache=False, callbacks=[watch := Watch()])
        assert distance(run.model.get_weights(), other.model.get_weights()) < run.tolerance
        scaled = {issubclass(kind, keras.optimizers.LossScaleOptimizer) for kind in watch.seen}
        assert scaled == {run.policy == "mixed_float16"}

    def test_with_a_cache_in_16_bits(self, run):
        with policy(run.policy):
            options = kt.CacheOptions(dtype=run.policy.removeprefix("mixed_"))
            other = tuned(cache=options)
        assert distance(run.model.get_weights(), other.model.get_weights()) < run.tolerance

    @pytest.mark.parametrize("now", ["float32", "mixed_float16", "mixed_bfloat16"])
    def test_the_loss_is_scaled_by_what_the_layers_compute_in(self, now, run):
        """A model from a file has its own policy, whichever is set."""
        with policy(run.policy):
            model = network()
        with policy(now):
            kt.fine_tune(model, (X, Y), phases=phases()[:1], verbose=0, callbacks=[watch := Watch()])
        assert_scales_loss(model, run.policy)
        scaled = issubclass(watch.seen[0], keras.optimizers.LossScaleOptimizer)
        assert scaled == (run.policy == "mixed_float16")

    def test_what_it_leaves_is_saved_and_goes_on(self, run, tmp_path):
        run.model.save(tmp_path / "model.keras")
        model = kt.load_model(tmp_path / "model.keras")
        assert_scales_loss(model, run.policy)
        found, expected = (m.evaluate(X, Y, verbose=0, return_dict=True) for m in (model, run.model))
        assert found == expected
        history = model.fit(X, Y, verbose=0).history
        assert np.isfinite(history["loss"]).all()

    def test_a_resumed_run_equals_one_that_was_not_stopped(self, run, tmp_path):
        class Stop(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 2:
                    raise InterruptedError

        class Idle(keras.callbacks.Callback):
            """Takes its place."""

        Idle.__name__ = "Stop"
        with policy(run.policy):
            whole = tuned(callbacks=[Idle()], output=tmp_path / "whole")
            with pytest.raises(InterruptedError):
                tuned(callbacks=[Stop()], output=tmp_path / "stopped")
            resumed = tuned(callbacks=[Idle()], output=tmp_path / "stopped", resume=True)
        assert resumed.result.history == whole.result.history
        for one, other in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
        stock = keras.models.load_model(tmp_path / "stopped" / "model.keras")
        assert stock.get_layer("predictions").dtype_policy.name == run.policy


@of("EMA", "SWA", "L2SP")
def test_averages_and_a_penalty(mixed, known):
    def trained():
        model = network()
        phases = [
            kt.Phase("ema", 1, "all", 1e-3, batch_norm="train", average=kt.EMA(0.5)),
            kt.Phase("swa", 3, "all", 1e-3, average=kt.SWA(2), l2_sp=kt.L2SP(0.5, 0.5)),
        ]
        kt.fine_tune(model, (X, Y), phases=phases, batch_size=8, verbose=0)
        return model

    model, exact = trained(), in_float32(trained, known, "averages")
    assert distance(model.get_weights(), exact.get_weights()) < 2 * TOLERANCES[mixed]
    assert_float32(model)


@of("LoRA", "multipliers.layer_decay", "optimizers.decay_kernels")
def test_adapters(mixed, known):
    x = np.repeat(np.repeat(X[:, :8, :8], 2, axis=1), 2, axis=2)

    def trained():
        model, rng = tiny_transformer(classes=CLASSES), np.random.default_rng(0)
        drawn = (0.3 * rng.standard_normal(each.shape) for each in model.get_weights())
        model.set_weights([*drawn])
        adapters = kt.Phase(
            "adapters", 2, kt.LoRA(2), 1e-2, multipliers=kt.multipliers.layer_decay(model, 0.5)
        )
        kt.fine_tune(model, (x, Y), phases=[adapters], batch_size=8, verbose=0)
        optimizer = keras.optimizers.AdamW(1e-3)
        kt.optimizers.decay_kernels(optimizer, model)
        model.compile(optimizer, "sparse_categorical_crossentropy")
        model.fit(x, Y, batch_size=8, shuffle=False, verbose=0)
        return model

    model, exact = trained(), in_float32(trained, known, "adapters")
    assert distance(model.get_weights(), exact.get_weights()) < 2 * TOLERANCES[mixed]
    assert_float32(model)


@of("FeatureCache", "frozen_prefix", "split_model", "features.deepest_cut", "features.extract")
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_features(dtype, mixed, tmp_path):
    model = network()
    kt.freeze_backbone(model)
    at = kt.frozen_prefix(model)
    assert at == kt.features.deepest_cut(model).at == in_float32(lambda: kt.frozen_prefix(model))
    prefix, tail = kt.split_model(model, at)
    loader = kt.Loader((X, Y), 8, shuffle=False)
    features = kt.FeatureCache(prefix, tmp_path, dtype=dtype).build(loader, verbose=0)
    rows = features.samples(0, len(X))[0]
    assert rows.dtype == np.float32
    extracted = kt.features.extract(prefix, loader, tmp_path, dtype=dtype, verbose=0)
    np.testing.assert_array_equal(extracted.samples(0, len(X))[0], rows)
    limit = TOLERANCES["mixed_bfloat16" if dtype == "bfloat16" else "mixed_float16"]
    assert distance([rows], [prefix.predict(X, verbose=0)]) <= limit
    expected = model.predict(X, verbose=0)
    assert distance([tail.predict(rows, verbose=0)], [expected]) < TOLERANCES["mixed_bfloat16"]


@of("fit_linear_head", "features.cross_validate_head")
def test_a_linear_head(mixed, known):
    def fitted():
        model = kt.fit_linear_head(network(), (X, Y), C=0.1, verbose=0)
        return model, kt.features.cross_validate_head(model, (X, Y), C=0.1, folds=3, verbose=0)

    (model, score), (plain, other) = fitted(), in_float32(fitted, known, "linear")
    assert_float32(model)
    assert distance(model.get_weights(), plain.get_weights()) < 5 * TOLERANCES[mixed]
    assert score.accuracies == other.accuracies


@of("advise", "rank_backbones")
def test_scores_of_features(mixed, known):
    def scored():
        ranking = kt.rank_backbones([backbone("one"), backbone("two", 1)], (X, Y), verbose=0)
        advice = kt.advise(network(), (X, Y), verbose=0)
        scores = {row.name: row.logme for row in ranking}
        return advice, [scores["one"], scores["two"], *(layer.logme for layer in advice.layers)]

    (advice, found), (other, expected) = scored(), in_float32(scored, known, "scores")
    assert (advice.at, advice.train) == (other.at, other.train)
    # LogME is a logarithm: features that tell the classes apart well have large ones.
    np.testing.assert_allclose(found, expected, rtol=10 * TOLERANCES[mixed])


@of("calibration.calibrate", "calibration.of", "calibration.fit_temperature", "evaluation.evaluate")
@of("evaluation.losses", "calibration.expected_calibration_error", "plots.reliability")
@of("plots.confusion_matrix", "plots.show_predictions", "plots.top_losses")
def test_calibration_and_evaluation(mixed, known):
    x, y = images(60, seed=1)
    y = np.where(np.arange(60) % 5, y, (y + 1) % CLASSES)  # some are wrong

    def measured():
        model = network()
        logits = keras.Model(model.inputs, model.get_layer("predictions").output).predict(x, verbose=0)
        temperature = kt.calibration.fit_temperature(logits, y)
        found = kt.calibration.calibrate(model, (x, y), verbose=0)
        assert found.temperature == pytest.approx(temperature, rel=1e-5)  # by another runtime
        assert kt.calibration.of(model) == found
        evaluation = kt.evaluation.evaluate(model, (x, y), verbose=0)
        losses = kt.evaluation.losses(evaluation.probabilities, y)
        error = kt.calibration.expected_calibration_error(evaluation.probabilities, y)
        assert losses.mean() == pytest.approx(evaluation.log_loss)
        assert error == pytest.approx(evaluation.calibration_error)
        return model, evaluation, [temperature, evaluation.log_loss], losses

    model, evaluation, found, losses = measured()
    _, _, expected, others = in_float32(measured, known, "measured")
    assert distance(found, expected) < 5 * TOLERANCES[mixed]
    assert distance(losses, others) < 5 * TOLERANCES[mixed]
    figures = [
        kt.plots.confusion_matrix(evaluation),
        kt.plots.reliability(evaluation.probabilities, y),
        kt.plots.show_predictions(model, (x, y), count=2),
        kt.plots.top_losses(model, (x, y), count=2),
    ]
    for figure in figures:
        assert figure.axes


@of("average_weights")
def test_ensembles_give_float32(mixed):
    model = network()
    sets = [model.get_weights(), network(seed=1).get_weights()]
    parts = []
    for weights in sets:
        model.set_weights(weights)
        parts.append(model.predict(X, verbose=0).astype("float64"))
    found = ensembles.mean_of_predictions(model, sets)
    predicted = found.predict(X, verbose=0)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, np.mean(parts, axis=0), rtol=1e-6)
    logits = keras.Model(model.inputs, model.get_layer("predictions").output)
    sets = [weights[: len(logits.get_weights())] for weights in sets]
    predicted = ensembles.mean_of_predictions(logits, sets, from_logits=True).predict(X, verbose=0)
    np.testing.assert_allclose(predicted, np.mean(parts, axis=0), rtol=1e-5)
    mean = kt.average_weights(model, sets)
    assert_float32(mean)
    for value, *values in zip(mean.get_weights(), *sets, strict=True):
        np.testing.assert_allclose(value, np.mean(values, axis=0), rtol=1e-6, atol=1e-7)


class TestExport:
    def test_what_computes_in_16_bits_is_written_in_32(self, mixed):
        model, plain = network(), in_float32(network)
        full = in_full_precision(model)
        assert in_full_precision(plain) is plain
        np.testing.assert_array_equal(full.predict(X, verbose=0), plain.predict(X, verbose=0))
        assert model.get_layer("predictions").dtype_policy.name == mixed

    @of("export")
    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # of the converters
    def test_a_file_for_another_program(self, mixed, tmp_path):
        if keras.backend.backend() not in exporting.FORMATS["onnx"].packages:
            pytest.skip("ONNX is not written from this backend")
        runtime = pytest.importorskip("onnxruntime")
        model = network()
        path = kt.export(model, tmp_path / "model.onnx", "onnx")
        session = runtime.InferenceSession(str(path))
        found = session.run(None, {session.get_inputs()[0].name: X.astype("float32")})[0]
        assert distance([found], [model.predict(X, verbose=0)]) < 3 * TOLERANCES[mixed]


@of("report")
def test_a_report(run, tmp_path):
    text = kt.report(run.result, (X, Y), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "nan" not in text.lower().split("<svg")[0]
    accuracy = (run.model.predict(X, verbose=0).argmax(axis=1) == Y).mean()
    assert f"{100 * accuracy:.1f}" in text


@of("automatic.train", "automatic.propose", "automatic.follow")
def test_automatic_training(mixed, known):
    def trained():
        model = network()
        plan = kt.automatic.propose(model, (X, Y), verbose=0)
        return model, kt.automatic.train(model, (X, Y), plan=plan, augmentation=None, verbose=0)

    (model, found), (_, other) = trained(), in_float32(trained, known, "automatic")
    assert found.chosen == other.chosen
    assert [score.name for score in found.scores] == [score.name for score in other.scores]
    for mine, theirs in zip(found.scores, other.scores, strict=True):
        assert mine.accuracy == pytest.approx(theirs.accuracy, abs=2 / len(Y))
    assert_float32(model)
    model = network()
    kt.automatic.follow(model, (X, Y), phases(), verbose=0)
    assert np.isfinite(model.predict(X, verbose=0)).all()
    assert_scales_loss(model, mixed)


def public_names():
    """Return all public names, those of modules with the module's name before them."""
    names = []
    for name in (*kt.__all__, "plots"):
        value = getattr(kt, name)
        if not isinstance(value, types.ModuleType):
            names.append(name)
            continue
        own = [n for n, v in vars(value).items() if getattr(v, "__module__", None) == value.__name__]
        inside = getattr(value, "__all__", None) or [n for n in own if not n.startswith("_")]
        names += [f"{name}.{each}" for each in inside]
    return names


def names_in(code):
    """Return what the code of a function, and all code in it, takes by name."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*map(names_in, inner))


def test_no_public_name_is_forgotten():
    without = [name for names in NOT_TESTED.values() for name in names]
    assert sorted([*_TESTED, *without]) == sorted(public_names())
    for name, test in _TESTED.items():
        tests = vars(test).values() if isinstance(test, type) else [test]
        used = set().union(*(names_in(each.__code__) for each in tests if hasattr(each, "__code__")))
        for helper in used & globals().keys():  # one level of helpers
            used |= names_in(getattr(globals()[helper], "__code__", names_in.__code__))
        if "CALLBACKS" in used:
            used = used.union(*(names_in(make.__code__) for make in CALLBACKS.values()))
        assert name.split(".")[-1] in used, name
