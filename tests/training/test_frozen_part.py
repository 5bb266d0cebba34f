"""Training on cached features is training, only sooner: same weights, same metrics, same history."""

import contextlib
import dataclasses
import errno
import importlib
import tempfile

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from keras import layers
from mappings import mapped, watch_folders
from tiny import same, tiny_backbone, tiny_task, variables

import keras_transfer as kt
from keras_transfer._lib.arrays import write_arrays
from keras_transfer.data.sources import Subset
from keras_transfer.features import caches
from keras_transfer.features.cache import cache as cache_module
from keras_transfer.layers.freezing import trainable_state
from keras_transfer.training import resuming
from keras_transfer.training.state import RunState

HEAD = kt.Phase("head", 2, learning_rate=1e-2, optimizer="sgd")
BLOCK = kt.Phase("block2", 2, train="from:block2_conv1", learning_rate=1e-2, optimizer="sgd")
ALL = kt.Phase("all", 1, train="all", learning_rate=1e-3, optimizer="sgd")


@pytest.fixture(scope="module", autouse=True)
def _quick_programs():
    """Compile quickly on JAX, where each phase of each run is a program of its own."""
    jax = importlib.import_module("jax") if keras.backend.backend() == "jax" else None
    if jax is not None:
        jax.config.update("jax_disable_most_optimizations", True)
    yield
    if jax is not None:
        jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def _quick_weights():
    with numpy_initial_weights():
        yield


@pytest.fixture(autouse=True)
def _temporary(tmp_path, monkeypatch):
    """Let temporary folders be made where we can see them."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def passes(monkeypatch):
    """Record the shape of what networks compute for caches, one entry a sample."""
    counted = []
    predict = cache_module._predict

    def counting(compute, images):
        counted.extend([images.shape[1:]] * len(images))
        return predict(compute, images)

    monkeypatch.setattr(cache_module, "_predict", counting)
    return counted


@pytest.fixture
def after_phases(monkeypatch):
    """Record the weights after each phase."""
    recorded = []
    go_back = RunState.go_back_to_best

    def recording(self, model):
        go_back(self, model)
        recorded.append([np.array(w) for w in model.get_weights()])

    monkeypatch.setattr(RunState, "go_back_to_best", recording)
    return recorded


IMAGE, BLOCK1, POOLED = (16, 16, 3), (8, 8, 4), (8,)


def nested():
    return kt.classifier(tiny_backbone(), 3, seed=0)


def flat():
    base = tiny_backbone()
    x = layers.GlobalAveragePooling2D(name="avg_pool")(base.outputs[0])
    return keras.Model(base.inputs, layers.Dense(3, activation="softmax", name="predictions")(x))


def tune(model, phases, cache, train=None, validation=None, **arguments):
    arguments = {"batch_size": 8, "verbose": 0, **arguments}
    train = tiny_task(24) if train is None else train
    return kt.fine_tune(model, train, validation, phases, cache=cache, **arguments)


def twins(make=nested):
    first, second = make(), make()
    second.set_weights(first.get_weights())
    return first, second


def assert_close(weights, expected, tolerance=1e-5):
    for number, (one, two) in enumerate(zip(weights, expected, strict=True)):
        distance = np.linalg.norm(one.astype("float64") - two)
        assert distance <= tolerance * np.linalg.norm(two) + 1e-12, number


def assert_same_course(result, other):
    assert result.history.keys() == other.history.keys()
    for name, values in other.history.items():
        np.testing.assert_allclose(result.history[name], values, rtol=1e-4, err_msg=name)
    for phase, expected in zip(result.phases, other.phases, strict=True):
        assert (phase.name, phase.first_epoch, phase.epochs) == (
            expected.name,
            expected.first_epoch,
            expected.epochs,
        )
        assert phase.settings == expected.settings


def assert_as_without(phases, make=nested, passes=None, tolerance=1e-5, one_hot=False, **arguments):
    """Train with and without a cache, and compare all."""
    model, twin = twins(make)
    result = tune(model, phases, "auto", **arguments)
    if passes is not None:
        assert passes, "nothing was cached"
    assert_same_course(result, tune(twin, phases, False, **arguments))
    assert_close(model.get_weights(), twin.get_weights(), tolerance)
    assert [f for _, f in trainable_state(model)] == [f for _, f in trainable_state(twin)]
    x, y = tiny_task(12, seed=2)
    y = np.eye(3, dtype="float32")[y] if one_hot else y
    scores = [m.evaluate(x, y, verbose=0, return_dict=True) for m in (model, twin)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)
    return result


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


# As without a cache


@pytest.mark.parametrize("make", [nested, flat])
def test_weights_metrics_and_history(make, passes):
    assert_as_without([HEAD, BLOCK], make, passes, validation=tiny_task(12, seed=1))


def test_each_phase(passes, after_phases):
    """Adam, whose slots go from phase to phase, and phases that cut deeper and less deep."""
    head, block, everything = (dataclasses.replace(p, optimizer="adam") for p in (HEAD, BLOCK, ALL))
    phases = [head, block, head, everything, head]
    for model, cache in zip(twins(), ("auto", False), strict=True):
        tune(model, phases, cache)
    assert passes
    assert len(after_phases) == 10
    for found, expected in zip(after_phases[:5], after_phases[5:], strict=True):
        assert_close(found, expected)


def test_dropout_behind_the_cut(passes):
    """The seeds are the same, and so is what is dropped."""
    head = dataclasses.replace(HEAD, epochs=3)
    assert_as_without(
        [head],
        lambda: kt.classifier(tiny_backbone(), 3, hidden_units=(8,), dropout=0.5, seed=0),
        passes,
        validation=tiny_task(12, seed=1),
    )


def test_batch_norm_that_trains_behind_the_cut(passes):
    block = dataclasses.replace(BLOCK, batch_norm="train")
    assert_as_without([HEAD, block], passes=passes)


def test_batch_norm_that_trains_in_the_head_s_phase(capsys, passes):
    phase = dataclasses.replace(HEAD, batch_norm="train")
    assert_as_without([phase], passes=passes)
    tune(nested(), [phase], "auto", verbose=2)
    text = said(capsys)
    assert "Cache: all up to block2_conv1 is computed once (0.0 MB); then an epoch is over 100" in text
    assert "No deeper cut, as layer 'block2_bn' trains" in text


def test_layerwise_rates_weight_decay_and_class_weights(passes):
    block = kt.Phase(
        "block2",
        2,
        train="from:block2_conv1",
        optimizer=keras.optimizers.AdamW(1e-3, weight_decay=0.1, global_clipnorm=0.5),
        multipliers={".*predictions.*": 1.0, ".*": 0.1},
    )
    assert_as_without([block], passes=passes, class_weight={0: 1.0, 1: 3.0, 2: 0.5}, tolerance=2e-5)


def test_schedules(passes):
    def falling(rate, steps_per_epoch):
        return keras.optimizers.schedules.ExponentialDecay(rate, steps_per_epoch, 0.5)

    assert_as_without([dataclasses.replace(HEAD, schedule=falling)], passes=passes)


def test_a_range_test_on_features(passes):
    phases = [dataclasses.replace(BLOCK, learning_rate="find", optimizer="adam")]
    model, twin = twins()
    found, expected = (tune(m, phases, c) for m, c in ((model, "auto"), (twin, False)))
    rates = [result.phases[0].settings["learning_rate"] for result in (found, expected)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-3)
    assert passes


def test_one_hot_labels_and_a_loader(passes):
    x, y = tiny_task(24)
    loader = kt.Loader((x, np.eye(3, dtype="float32")[y]), 7, seed=5)
    assert_as_without([HEAD, BLOCK], passes=passes, train=loader, one_hot=True)
    assert loader.epoch == 0


def test_a_model_in_half_precision(passes):
    def make():
        keras.config.set_dtype_policy("mixed_float16")
        try:
            return nested()
        finally:
            keras.config.set_dtype_policy("float32")

    model, twin = twins(make)
    result = tune(model, [HEAD, BLOCK], "auto")
    expected = tune(twin, [HEAD, BLOCK], False)
    assert passes
    np.testing.assert_allclose(result.history["loss"], expected.history["loss"], rtol=5e-3)
    assert_close(model.get_weights(), twin.get_weights(), 5e-3)


def test_early_stopping_and_the_best_weights(passes):
    stop = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=10.0, restore_best_weights=True)
    head = dataclasses.replace(HEAD, epochs=6, callbacks=[stop])
    result = assert_as_without([head, BLOCK], passes=passes)
    assert [phase.epochs for phase in result.phases] == [2, 2]


def test_without_a_cache_nothing_is_computed_or_said(passes, capsys):
    tune(nested(), [HEAD, BLOCK], False, verbose=2)
    assert passes == []
    assert "Cache" not in said(capsys)


# How much is computed


def test_one_pass_serves_consecutive_phases(passes):
    tune(nested(), [HEAD, BLOCK], "auto", validation=tiny_task(12, seed=1))
    assert passes.count(IMAGE) == 24 + 12
    assert passes.count(BLOCK1) == 24 + 12
    assert len(passes) == 72


def test_a_pass_of_one_epoch_each_pays_together(passes):
    once = [dataclasses.replace(phase, epochs=1) for phase in (HEAD, BLOCK)]
    tune(nested(), once, "auto")
    assert passes.count(IMAGE) == 24
    passes.clear()
    tune(nested(), once[:1], "auto")
    tune(nested(), [*once[:1], ALL], "auto")
    assert passes == []


def test_what_trained_is_computed_anew(passes):
    tune(nested(), [HEAD, BLOCK, HEAD], "auto")
    assert passes.count(IMAGE) == 24 + 24  # up to block1_pool, and then up to the trained avg_pool
    passes.clear()
    tune(nested(), [BLOCK, dataclasses.replace(BLOCK, name="again")], "auto")
    assert len(passes) == 24


def test_phases_that_differ_in_augmentation_share_nothing(passes):
    other = dataclasses.replace(BLOCK, augmentation="light")
    tune(nested(), [HEAD, other], "auto")
    assert len(passes) == 24
    passes.clear()
    tune(nested(), [HEAD, dataclasses.replace(other, epochs=3)], kt.CacheOptions(views=2))
    assert len(passes) == 24 + 2 * 24
    passes.clear()
    augmented = dataclasses.replace(HEAD, augmentation="light", epochs=3)  # with the same cut
    tune(nested(), [HEAD, augmented, HEAD], kt.CacheOptions(views=2))
    assert len(passes) == 24 + 2 * 24  # the third phase finds the files of the first


def test_a_kept_cache_serves_the_next_run(passes, tmp_path):
    model, twin = twins()
    tune(model, [HEAD], kt.CacheOptions(tmp_path / "kept"), validation=tiny_task(12, seed=1))
    assert len(caches(tmp_path / "kept")) == 2
    passes.clear()
    tune(twin, [HEAD], kt.CacheOptions(str(tmp_path / "kept")), validation=tiny_task(12, seed=1))
    assert passes == []
    assert same(variables(model), variables(twin))
    tune(twin, [HEAD], kt.CacheOptions(tmp_path / "kept"), train=tiny_task(24, seed=8))
    assert len(passes) == 24
    kernel = twin.get_layer("tiny").get_layer("block1_conv1").kernel
    kernel.assign(2 * kernel)
    tune(twin, [HEAD], kt.CacheOptions(tmp_path / "kept"), train=tiny_task(24, seed=8))
    assert len(passes) == 48


def test_the_temporary_cache_is_removed(tmp_path):
    tune(nested(), [HEAD], "auto")
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("rate", [1e-3, 1e38])
def test_no_file_is_mapped_when_its_folder_goes(rate, monkeypatch):
    # Windows would not remove it.
    folders = watch_folders(monkeypatch)
    error = pytest.raises(FloatingPointError) if rate > 1 else contextlib.nullcontext()
    with error:
        head = dataclasses.replace(HEAD, learning_rate=rate)
        tune(nested(), [head, BLOCK], "auto", validation=tiny_task(12, seed=1))
    assert folders == [[]]


def test_no_file_of_a_finished_run_is_mapped(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    found, finish = [], resuming.Recorder.finish

    def watched(self):
        found.append((list(self.features.rglob("*.bin")), mapped(self.features)))
        finish(self)

    monkeypatch.setattr(resuming.Recorder, "finish", watched)
    kt.fine_tune(nested(), tiny_task(24), phases=[HEAD], output=tmp_path / "run", verbose=0)
    ((files, still_mapped),) = found
    assert files
    assert still_mapped == []


# Augmentation


class Brighter:
    """An augmentation that is no key of a dict."""

    __hash__ = None

    def __call__(self, image, rng):
        return image // 2 + rng.integers(0, 100, dtype="uint8")


@pytest.mark.parametrize("augmentation", ["light", Brighter()])
def test_augmented_versions(passes, augmentation, capsys):
    head = dataclasses.replace(HEAD, epochs=3)
    result = tune(
        nested(), [head, BLOCK], kt.CacheOptions(views=2), augmentation=augmentation, verbose=2
    )
    assert passes.count(IMAGE) == 2 * 24
    assert passes.count(BLOCK1) == 2 * 24
    assert "2 augmented versions of each image" in said(capsys)
    names = [phase.settings["augmentation"] for phase in result.phases]
    assert names == ["light" if augmentation == "light" else "Brighter"] * 2


def test_augmentation_without_versions_trains_directly(passes, capsys):
    assert_as_without([HEAD], augmentation="light")
    tune(nested(), [HEAD], "auto", augmentation="light", verbose=2)
    assert "images of its own by augmentation; cache=kt.CacheOptions(views=n)" in said(capsys)
    tune(nested(), [HEAD], kt.CacheOptions(views=2), augmentation="light", verbose=2)
    assert "no more epochs than the 2 versions" in said(capsys)
    assert passes == []


def test_versions_without_augmentation_are_one(passes):
    tune(nested(), [HEAD], kt.CacheOptions(views=3))
    assert len(passes) == 24


# Where there is no cache


def any_size():
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, name="block1_conv1")(inputs)
    x = layers.Conv2D(4, 3, name="block2_conv1")(x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


class Unknown(keras.callbacks.Callback):
    pass


class Drawn:
    """Samples that are other ones each time."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.rng.integers(0, 256, (16, 16, 3), dtype="uint8"), index % 3


MIXING = kt.data.Compose(mix=kt.data.mixup)


def generated():
    while True:
        yield tiny_task(8)


@pytest.mark.parametrize(
    ("phases", "arguments", "why"),
    [
        ([dataclasses.replace(HEAD, epochs=1)], {}, "one epoch is one pass in any case"),
        ([dataclasses.replace(ALL, epochs=2)], {}, "only preprocessing before layer 'block1_conv1'"),
        ([HEAD], {"callbacks": [Unknown()]}, "callback Unknown may want or change the frozen part"),
        ([dataclasses.replace(HEAD, callbacks=[Unknown()])], {}, "callback Unknown may want or change"),
        ([HEAD], {"augmentation": MIXING}, "each epoch mixes images of its own"),
        ([HEAD], {"train": kt.Loader(Drawn(), 4)}, "train gives other images each time"),
        (
            [HEAD],
            {"validation": kt.Loader(tiny_task(8), 4, augmentation="light")},
            "the validation images are augmented",
        ),
    ],
    ids=["epoch", "all", "callback", "own", "mixed", "drawn", "validation"],
)
def test_no_cache_says_why(phases, arguments, why, passes, capsys):
    tune(nested(), phases, "auto", verbose=2, **arguments)
    assert f"Cache: none, as {why}" in said(capsys).replace("there is ", "")
    assert passes == []


def test_data_without_random_access(passes, capsys):
    x, y = tiny_task(16)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return x[8 * index :][:8], y[8 * index :][:8]

    tune(nested(), [HEAD], "auto", train=Batches(), verbose=2)
    assert "Cache: none, as train is neither arrays nor a Loader" in said(capsys)
    tune(nested(), [HEAD], "auto", validation=Batches(), verbose=2)
    assert "Cache: none, as validation is neither" in said(capsys)
    assert passes == []


def test_images_of_any_size(passes, capsys):
    phase = dataclasses.replace(BLOCK, train="from:block2_conv1")
    tune(any_size(), [phase], "auto", verbose=2)
    assert "Cache: none, as the model takes images of any size" in said(capsys)
    tune(any_size(), [HEAD], "auto")  # behind the pooling all is known
    assert len(passes) == 24


def test_gradual_unfreezing_has_the_whole_model(passes, capsys):
    tune(nested(), [HEAD], "auto", callbacks=[kt.callbacks.GradualUnfreezing()], verbose=2)
    assert "callback GradualUnfreezing may want or change the frozen part" in said(capsys)
    assert passes == []


def test_no_room(passes, capsys, monkeypatch):
    usage = cache_module.shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage)
    assert_as_without([HEAD, BLOCK])
    tune(nested(), [HEAD, BLOCK], "auto", verbose=2)
    text = said(capsys)
    assert "Cache: no features of block1_pool are kept (the features need" in text
    assert passes == []


def test_a_disk_that_gets_full_ends_no_run(passes, monkeypatch):
    """What fits is used, the rest is trained directly."""
    written = []

    def full(path, arrays):
        written.append(path)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_arrays(path, arrays)

    monkeypatch.setattr("keras_transfer.features.cache.shards.write_arrays", full)
    assert_as_without([HEAD, BLOCK])
    assert passes.count(IMAGE) == 24 + 0


# Bad input, and errors on the way


def test_true_is_auto(passes):
    tune(nested(), [HEAD], True)
    assert passes.count(IMAGE) == 24


@pytest.mark.parametrize("cache", ["on", 3, None, ["a"]])
def test_a_cache_is_auto_true_false_or_options(cache):
    model = nested()
    with pytest.raises(ValueError, match=r"cache must be 'auto', True, False or .*Received: cache="):
        tune(model, [HEAD], cache)


def test_a_folder_of_other_things(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    model = nested()
    before = variables(model)
    with pytest.raises(ValueError, match=r"feature caches alone.*Received: cache="):
        tune(model, [HEAD], kt.CacheOptions(tmp_path))
    assert same(variables(model), before)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt", "temporary"}


def test_pixels_that_are_no_numbers():
    x, y = tiny_task(24)
    x = x.astype("float32")
    x[20, 3, 3, 1] = np.inf
    model = nested()
    before = variables(model)
    for cache in ("auto", False):
        with pytest.raises(ValueError, match=r"must be finite numbers\. Received: image 20 with 1"):
            tune(model, [HEAD], cache, train=(x, y))
    assert same(variables(model), before)


def test_an_error_in_a_phase(tmp_path):
    model = nested()
    before = variables(model)
    flags = trainable_state(model)
    with pytest.raises(FloatingPointError, match=r"Received: loss"):
        tune(model, [dataclasses.replace(HEAD, learning_rate=1e38)], "auto")
    assert same(variables(model), before)
    assert [f for _, f in trainable_state(model)] == [f for _, f in flags]
    assert list((tmp_path / "temporary").iterdir()) == []
    assert np.isfinite(model.predict(tiny_task(4)[0], verbose=0)).all()


def test_ctrl_c_while_features_are_computed(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module, "_predict", interrupted)
    model = nested()
    before = variables(model)
    with pytest.raises(KeyboardInterrupt):
        tune(model, [HEAD], "auto")
    assert same(variables(model), before)
    assert list((tmp_path / "temporary").iterdir()) == []


# The architectures


NETWORKS = {
    "vgg16": "from:block5_conv1",
    "resnet50": "from:conv5_block1_1_conv",
    "mobilenetv2": "from:block_16_expand",
    "efficientnetb0": "from:block1a_dwconv",
    "densenet121": "from:conv5_block1_0_bn",
    "convnexttiny": "from:convnext_tiny_stage_3_block_0_depthwise_conv",
}


# Inverted residuals, dense connections, and blocks with layer norm and scale.
AT_A_PUSH = ("mobilenetv2", "densenet121", "convnexttiny")
EACH = [pytest.param(n, marks=() if n in AT_A_PUSH else pytest.mark.nightly) for n in NETWORKS]


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_architectures(name, passes, after_phases):
    """Head and then the last block, in a few steps of one batch."""
    rng = np.random.default_rng(0)
    task = rng.integers(0, 256, (8, 32, 32, 3), dtype="uint8"), np.arange(8) % 3
    flat = kt.classifier(name, 3, image_size=32, weights=None, seed=0)
    base = keras.Model(flat.inputs, flat.get_layer("avg_pool").input, name="base")
    nested = kt.classifier(base, 3, image_size=32, preprocessing=False, seed=0)
    weights = [np.array(weight) for weight in flat.get_weights()]
    phases = [
        kt.Phase("head", 2, learning_rate=1e-2, optimizer="sgd"),
        kt.Phase("last", 1, train=NETWORKS[name], learning_rate=1e-2, optimizer="sgd"),
    ]
    histories = []
    for model, cache in ((flat, False), (flat, "auto"), (nested, "auto")):
        model.set_weights(weights)
        passes.clear()
        histories.append(tune(model, phases, cache, train=task).history)
        assert bool(passes) == (cache == "auto")
    for number in (1, 2):
        np.testing.assert_allclose(histories[number]["loss"], histories[0]["loss"], rtol=1e-4)
        for phase in (0, 1):
            assert_close(after_phases[2 * number + phase], after_phases[phase])


# Real images and weights


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    "name",
    ["hymenoptera", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("flowers", "cifar10"))],
)
def test_real_images(real_data, name, passes, after_phases):
    size = 96
    if name == "cifar10":
        with np.load(real_data / "cifar10_lossless.npz") as arrays:
            parts = [(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")]
        train, validation = (kt.Loader(part, image_size=size, num_classes=10) for part in parts)
    else:
        train, validation = (
            kt.data.from_directory(real_data / name, part=part, image_size=size)
            for part in ("train", "val")
        )
    few = [np.arange(len(loader.labels))[:: len(loader.labels) // 80] for loader in (train, validation)]
    train, validation = (
        loader.replace(data=Subset(loader._source, rows), batch_size=16)
        for loader, rows in zip((train, validation), few, strict=True)
    )
    weights = keras.utils.get_file(
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", "", cache_subdir="models"
    )
    model = kt.classifier("mobilenet_v2", train.num_classes, image_size=size, weights=weights)
    head = model.get_layer("predictions")
    head.kernel.assign(keras.ops.zeros_like(head.kernel))  # so that what it learns hangs on no luck
    before = model.get_weights()
    phases = [
        kt.Phase("head", 3, learning_rate=1e-3),
        kt.Phase("last", 1, train="from:block_16_expand", learning_rate=1e-4),
    ]
    results = []
    for cache in (False, kt.CacheOptions(runtime="keras")):
        model.set_weights(before)
        results.append(tune(model, phases, cache, train, validation, batch_size=16))
        assert bool(passes) == bool(cache)
    direct, cached = results
    for metric in ("accuracy", "val_accuracy"):
        assert cached.history[metric] == direct.history[metric]
    assert max(cached.history["val_accuracy"]) > 1.5 / train.num_classes
    # With Adam the entries that hardly matter go their own ways: real images have no exact zeros.
    for phase, tolerance in ((0, 1e-5), (1, 1e-3)):
        assert_close(after_phases[2 + phase], after_phases[phase], tolerance)
