"""The feature cache: computed once, never stale, whole whatever happens to process and disk."""

import contextlib
import errno
import json
import os
import shutil
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from mappings import mapped
from processes import server

import keras_transfer as kt
from keras_transfer._lib.arrays import write_arrays
from keras_transfer.features import caches, clear
from keras_transfer.features.cache import cache as cache_module
from keras_transfer.features.cache import stored
from keras_transfer.features.cache.identity import model_digest

FOLDER = Path(__file__).parent


def prefix_model(scale=0.3, filters=3, stride=2, value=0.5, dtype=None):
    """A convolution of 6-pixel images whose features are easily told."""
    inputs = keras.Input((6, 6, 3))
    x = layers.Rescaling(scale, name="rescaling", dtype=dtype)(inputs)
    initializer = keras.initializers.Constant(value)
    x = layers.Conv2D(filters, 2, stride, kernel_initializer=initializer, name="conv", dtype=dtype)(x)
    return keras.Model(inputs, x, name="prefix")


def images(samples=10, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (samples, 6, 6, 3), dtype="uint8"), np.arange(samples) % 3


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "caches"


@pytest.fixture
def small_files(monkeypatch):
    """Four samples a file."""
    monkeypatch.setattr(cache_module, "_SHARD_BYTES", 4 * 27 * 4)


@pytest.fixture
def passes(monkeypatch):
    """Count the batches that networks compute for caches."""
    counted = []
    predict = cache_module._predict

    def counting(compute, images):
        counted.append(len(images))
        return predict(compute, images)

    monkeypatch.setattr(cache_module, "_predict", counting)
    return counted


def build(folder, data=None, prefix=None, batch_size=4, views=None, **arguments):
    cache = kt.FeatureCache(prefix or prefix_model(), folder, **arguments)
    data = images() if data is None else data
    return cache.build(data, batch_size, views=views, verbose=0)


def all_of(loader, epoch=0):
    features, labels = zip(*(loader.batch(epoch, i) for i in range(len(loader))), strict=True)
    return np.concatenate(features), np.concatenate(labels)


def shards_of(folder):
    return sorted(path for path in folder.rglob("*.bin"))


def contents(folder):
    """Return all files but locks, and what is in them."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


# What it gives


def test_features_are_what_the_prefix_gives(folder, small_files):
    prefix, source = prefix_model(), kt.Loader(images(), 4, shuffle=False)
    features = build(folder, source, prefix)
    assert len(shards_of(folder)) == 3
    for epoch in (0, 3):
        x, y = all_of(features, epoch)
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, prefix.predict_on_batch(images()[0]), rtol=1e-6)
        np.testing.assert_array_equal(y, images()[1])


def test_batches_come_in_the_order_of_the_source(folder, small_files):
    loader = kt.Loader(images(), 4, seed=7)
    loader.epoch = 2
    features = build(folder, loader)
    assert (features.epoch, features.batch_size, features.seed) == (2, 4, 7)
    for epoch in (0, 1, 5):
        np.testing.assert_array_equal(features.order(epoch), loader.order(epoch))
        np.testing.assert_array_equal(all_of(features, epoch)[1], all_of(loader, epoch)[1])
        for index in range(len(loader)):
            expected = prefix_model().predict_on_batch(loader.batch(epoch, index)[0])
            np.testing.assert_allclose(features.batch(epoch, index)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("classes", [3, 1])
def test_one_hot_and_column_labels(folder, classes):
    x, y = images()
    labels = np.eye(3)[y] if classes == 3 else y[:, None]
    _, found = all_of(build(folder, kt.Loader((x, labels), 4, shuffle=False)))
    np.testing.assert_array_equal(found, labels if classes == 3 else y)


def test_sequences_and_files(folder, tmp_path):
    image = pytest.importorskip("PIL.Image")
    x, y = images(4)
    expected = prefix_model().predict_on_batch(x)
    sequence = [{"image": a, "label": b} for a, b in zip(x, y, strict=True)]
    found, labels = all_of(build(folder, kt.Loader(sequence, 3, shuffle=False)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(labels, y)
    for number, one in enumerate(x):
        where = tmp_path / "images" / f"class{number % 3}"
        where.mkdir(parents=True, exist_ok=True)
        image.fromarray(one).save(where / f"{number}.png")
    loader = kt.data.from_directory(tmp_path / "images", image_size=6, shuffle=False)
    found, labels = all_of(build(folder, loader))
    np.testing.assert_allclose(found, expected[[0, 3, 1, 2]], rtol=1e-6)
    np.testing.assert_array_equal(labels, [0, 0, 1, 2])


@pytest.mark.parametrize(("dtype", "off"), [("float16", 5e-4), ("bfloat16", 4e-3)])
def test_half_the_size(folder, dtype, off):
    full, half = build(folder), build(folder, dtype=dtype)
    (x, _), (rounded, _) = all_of(full), all_of(half)
    assert rounded.dtype == np.float32
    assert 0 < np.linalg.norm(rounded - x) / np.linalg.norm(x) < off
    sizes = {info.dtype: info.megabytes for info in caches(folder)}
    assert sizes[dtype] < 0.7 * sizes["float32"]


def test_features_that_float16_has_no_room_for(folder):
    with pytest.raises(ValueError, match=r"too large.*bfloat16.*Received: dtype='float16'"):
        build(folder, prefix=prefix_model(scale=1e4), dtype="float16")
    assert np.isfinite(all_of(build(folder, prefix=prefix_model(scale=1e4), dtype="bfloat16"))[0]).all()


def test_one_output_value(folder):
    inputs = keras.Input((6, 6, 3))
    x = layers.Dense(1, name="d")(layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.ops.squeeze(x, -1))
    assert all_of(build(folder, prefix=model))[0].shape == (10,)


# When it is computed


def test_it_is_computed_once(folder, passes):
    first = build(folder)
    assert sum(passes) == 10
    second = build(folder)
    assert sum(passes) == 10
    np.testing.assert_array_equal(all_of(first)[0], all_of(second)[0])


def test_order_batch_size_and_names_don_t_matter(folder, passes):
    build(folder)
    build(folder, kt.Loader(images(), 3, seed=9), batch_size=5)
    other = keras.Model((model := prefix_model()).inputs, model.outputs[0], name="other")
    other.get_layer("conv").trainable = False
    build(folder, prefix=other)
    assert sum(passes) == 10


def test_all_batches_have_one_size(folder, monkeypatch):
    """The last ones too: each other size would be compiled anew."""
    sizes = set()
    model = prefix_model()
    predict = model.predict_on_batch
    monkeypatch.setattr(model, "predict_on_batch", lambda x: sizes.add(len(x)) or predict(x))
    build(folder, kt.Loader(images(), 4), model, batch_size=3, runtime="keras")
    assert sizes == {3}


def swapped(x, y):
    return x[[1, 0, *range(2, 10)]], y[[1, 0, *range(2, 10)]]


def one_pixel(x, y):
    x = x.copy()
    x[3, 2, 2, 1] ^= 1
    return x, y


def relabelled(x, y):
    return x, np.where(np.arange(10) == 9, 0, y) + (np.arange(10) == 9) * 2


@pytest.mark.parametrize(
    "change",
    [
        swapped,
        one_pixel,
        relabelled,
        lambda x, y: (x[:9], y[:9]),
        lambda x, y: (x.astype("float32"), y),
        lambda x, y: (x, np.eye(3)[y]),
    ],
    ids=["order", "pixel", "label", "fewer", "dtype", "one-hot"],
)
def test_other_data_have_another_cache(folder, change, passes):
    build(folder)
    loader = kt.Loader(change(*images()), 4, shuffle=False)
    x, y = all_of(build(folder, loader))
    assert sum(passes) == 10 + loader.num_samples
    np.testing.assert_allclose(x, prefix_model().predict_on_batch(all_of(loader)[0]), rtol=1e-6)
    np.testing.assert_array_equal(y, all_of(loader)[1])


def test_arrays_that_were_changed_in_place(folder, passes):
    x, y = images()
    loader = kt.Loader((x, y), 4)
    build(folder, loader)
    x[0] = 0
    build(folder, loader)
    assert sum(passes) == 20


def test_files_that_were_changed(folder, tmp_path, passes):
    image = pytest.importorskip("PIL.Image")
    x, _ = images(2)
    where = tmp_path / "images" / "ant"
    where.mkdir(parents=True)
    for number in (0, 1):
        image.fromarray(x[number]).save(where / f"{number}.png")
    loader = kt.data.from_directory(tmp_path / "images", image_size=6)
    build(folder, loader)
    build(folder, loader)
    assert sum(passes) == 2
    stat = (where / "0.png").stat()
    image.fromarray(x[1]).save(where / "0.png")
    os.utime(where / "0.png", (stat.st_atime, stat.st_mtime))  # bytes count, not times
    build(folder, loader)
    assert sum(passes) == 4


def test_another_size_of_images(folder, passes):
    pytest.importorskip("PIL")
    x = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype="uint8")
    for size in (6, (5, 6)):
        inputs = keras.Input((None, None, 3))
        pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 1, kernel_initializer="ones")(inputs))
        build(folder, kt.Loader((x, np.arange(4)), image_size=size), keras.Model(inputs, pooled))
    assert sum(passes) == 8


def activated(function):
    inputs = keras.Input((6, 6, 3))
    return keras.Model(inputs, layers.Activation(function)(inputs))


def times(factor):
    def same_name(x):
        return x * factor

    return same_name


class Times(layers.Layer):
    """Does what its settings don't tell."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def get_config(self):
        raise NotImplementedError

    def call(self, x):
        return x * self.factor


def of_operation(operation):
    inputs = keras.Input((6, 6, 3))
    return keras.Model(inputs, operation(inputs))


def plus(constant):
    return of_operation(lambda x: x + constant)


def scaled_by(factor):
    return of_operation(layers.Lambda(times(factor)))


def branches(first, second):
    """Two convolutions of the same settings, one of them subtracted from the other."""
    inputs = keras.Input((6, 6, 3))
    a, b = (layers.Conv2D(2, 1, kernel_initializer=keras.initializers.Constant(v)) for v in (1.0, 2.0))
    found = {"a": a(inputs), "b": b(inputs)}
    return keras.Model(inputs, layers.Subtract()([found[first], found[second]]))


CONSTANTS = np.arange(2 * 6 * 6 * 3, dtype="float32").reshape(2, 6, 6, 3)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: prefix_model(), lambda: prefix_model(value=0.25)),
        (lambda: prefix_model(), lambda: prefix_model(scale=1.0)),
        (lambda: prefix_model(), lambda: prefix_model(filters=2)),
        (lambda: prefix_model(), lambda: prefix_model(stride=1)),
        (lambda: prefix_model(), lambda: prefix_model(dtype="mixed_bfloat16")),
        (lambda: activated("relu"), lambda: activated("tanh")),
        (lambda: activated(times(1.0)), lambda: activated(times(2.0))),
        (lambda: scaled_by(1.0), lambda: scaled_by(2.0)),
        (lambda: of_operation(Times(1.0)), lambda: of_operation(Times(2.0))),
        (lambda: of_operation(lambda x: x + 1.0), lambda: of_operation(lambda x: x + 1.5)),
        (lambda: of_operation(lambda x: x + 1.0), lambda: of_operation(lambda x: x - 1.0)),
        (
            lambda: of_operation(lambda x: x + CONSTANTS[0]),
            lambda: of_operation(lambda x: x + CONSTANTS[1]),
        ),
        (lambda: of_operation(lambda x: x[:, ::2]), lambda: of_operation(lambda x: x[:, 1::2])),
        (lambda: of_operation(lambda x: 1.0 - x), lambda: of_operation(lambda x: x - 1.0)),
        (lambda: branches("a", "b"), lambda: branches("b", "a")),
    ],
    ids=[
        "weights",
        "preprocessing",
        "width",
        "stride",
        "policy",
        "activation",
        "function",
        "lambda",
        "layer",
        "number",
        "operation",
        "constant",
        "slice",
        "order",
        "branch",
    ],
)
def test_other_networks_have_another_digest(one, other):
    first, second = one(), other()
    assert model_digest(first) != model_digest(second)
    assert model_digest(first) == model_digest(first)


def test_a_large_constant_counts_whole():
    """As text NumPy leaves its middle out."""
    wide = np.zeros((40, 40, 3), "float32")
    other = wide.copy()
    other[20, 20, 1] = 1.0
    inputs = keras.Input((40, 40, 3))
    digests = {model_digest(keras.Model(inputs, inputs - constant)) for constant in (wide, other)}
    assert len(digests) == 2


def test_the_same_network_made_again_has_the_same_digest():
    first = kt.classifier("mobilenet", 3, image_size=32, weights=None)
    keras.layers.Dense(2)  # so that names of layers go on elsewhere
    second = kt.classifier("mobilenet", 3, image_size=32, weights=None)
    assert model_digest(first) != model_digest(second)
    second.set_weights(first.get_weights())
    assert model_digest(first) == model_digest(second)


def test_changed_weights_have_another_cache(folder, passes):
    model = prefix_model()
    build(folder, prefix=model)
    model.get_layer("conv").bias.assign([0.0, 0.0, 1.0])
    x, _ = all_of(build(folder, prefix=model))
    assert sum(passes) == 20
    order = kt.Loader(images(), 4).order(0)
    np.testing.assert_allclose(x, model.predict_on_batch(images()[0][order]), rtol=1e-6)


# Views


def shifted(image, rng):
    return image + rng.integers(1, 100, dtype="uint8")


def test_views_are_the_augmented_images_of_the_first_epochs(folder, small_files):
    loader = kt.Loader(images(), 4, augmentation=shifted, seed=3)
    features = build(folder, loader, views=3)
    assert features.augmentation is None
    model = prefix_model()
    by_epoch = []
    for epoch in range(3):
        x, _ = all_of(loader, epoch)
        by_epoch.append(model.predict_on_batch(x)[np.argsort(loader.order(epoch))])
    drawn = []
    for epoch in range(20):
        x, y = all_of(features, epoch)
        order = loader.order(epoch)
        np.testing.assert_array_equal(y, images()[1][order])
        distances = [np.abs(x - view[order]).reshape(10, -1).max(1) for view in by_epoch]
        assert np.min(distances, axis=0).max() < 1e-3  # each is one of the three
        drawn.append(np.argmin(distances, axis=0)[np.argsort(order)])
    drawn = np.array(drawn)
    assert (np.bincount(drawn.ravel()) > 45).all()  # of 200 draws, about 67 each
    assert (np.array([len(set(draws)) for draws in drawn.T]) == 3).all()  # each sample gets all
    assert all(len(set(draws)) > 1 for draws in drawn)  # and an epoch isn't one version of all


def test_views_are_drawn_by_seed_and_epoch_alone(folder):
    loader = kt.Loader(images(), 4, augmentation=shifted, seed=3)
    first, second = (build(folder, loader, views=2) for _ in range(2))
    later = all_of(second, 5)[0]
    for epoch in range(5):
        all_of(first, epoch)
    np.testing.assert_array_equal(all_of(first, 5)[0], later)
    assert not np.array_equal(all_of(first, 5)[0], all_of(first, 4)[0])


def test_other_views_have_another_cache(folder, passes):
    loader = kt.Loader(images(), 4, augmentation=shifted, seed=3)
    build(folder, loader, views=2)
    build(folder, loader, views=2)
    assert sum(passes) == 20
    build(folder, loader, views=1)
    build(folder, loader.replace(seed=4), views=2)
    build(folder, loader.replace(augmentation=lambda image, rng: image), views=2)
    build(folder, loader.replace(augmentation="light"), views=2)
    assert sum(passes) == 90


def test_features_of_features_keep_the_views(folder, passes):
    loader = kt.Loader(images(), 4, augmentation=shifted, seed=3)
    model = prefix_model()
    inputs = keras.Input(model.output_shape[1:])
    second = keras.Model(inputs, layers.Rescaling(3.0)(inputs))
    first = build(folder, loader, model, views=2)
    both = build(folder, first, second)
    assert both.views == 2
    assert sum(passes) == 40
    for epoch in (0, 4):
        np.testing.assert_allclose(all_of(both, epoch)[0], 3 * all_of(first, epoch)[0], rtol=1e-6)


def test_views_go_with_augmentation(folder):
    loader = kt.Loader(images(), 4)
    with pytest.raises(ValueError, match=r"views must say.*Received: views=2 and augmentation=None"):
        build(folder, loader, views=2)
    with pytest.raises(ValueError, match=r"views must say.*Received: views=None and .*'light'"):
        build(folder, loader.replace(augmentation="light"))
    with pytest.raises(ValueError, match=r"views must be .*Received: .*0"):
        build(folder, loader.replace(augmentation="light"), views=0)


@pytest.mark.parametrize("views", [None, 2])
def test_mixed_images_have_no_features_of_their_own(views, folder, passes):
    mixing = kt.data.Compose(mix=kt.data.mixup)
    loader = kt.Loader(images(), 4, augmentation=mixing, num_classes=3)
    with pytest.raises(ValueError, match=r"data must not mix images, .*Received: augmentation=Compose"):
        build(folder, loader, views=views)
    assert passes == []


def test_labels_that_come_as_rows_do_so_with_features(folder):
    loader = kt.Loader(images(), 4, num_classes=3, one_hot=True)
    features = build(folder, loader)
    labels = all_of(features)[1]
    np.testing.assert_array_equal(labels, np.eye(3)[images()[1][loader.order(0)]])
    assert labels.dtype == "float32"


@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_threads_that_read_make_no_difference(num_threads, folder, small_files):
    def slowly(image, rng):
        time.sleep(0.001 * rng.integers(5))
        return shifted(image, rng)

    loader = kt.Loader(images(), 4, augmentation=slowly, seed=3, num_threads=num_threads)
    found = all_of(build(folder, loader, views=1))[0]
    wanted = prefix_model().predict_on_batch(all_of(loader)[0])
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


# Damage


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
def test_damaged_files_are_made_again(folder, small_files, passes, damage, capsys):
    whole = all_of(build(folder))[0]
    before = contents(folder)
    path = shards_of(folder)[1]
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-5] ^= 4
        path.write_bytes(data)
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:100] if damage == "truncate" else b"")
    passes.clear()
    again = kt.FeatureCache(prefix_model(), folder).build(images(), 4)
    assert sum(passes) == 4
    assert "1 of 3 files are made again" in capsys.readouterr().out
    np.testing.assert_array_equal(all_of(again)[0], whole)
    assert contents(folder) == before


@pytest.mark.parametrize(
    "manifest", ["", "{", "[]", '{"format": 99}', '{"shape": 3}', "[" * 100_000, "\udcff"]
)
def test_a_manifest_is_not_believed(folder, small_files, passes, manifest):
    whole = all_of(build(folder))[0]
    path = next(folder.rglob("manifest.json"))
    before = path.read_bytes()
    path.write_bytes(manifest.encode(errors="surrogateescape"))
    assert caches(folder) == []
    np.testing.assert_array_equal(all_of(build(folder))[0], whole)
    assert sum(passes) == 10
    assert path.read_bytes() == before


def test_a_linked_file_is_not_used(folder, tmp_path, small_files, passes):
    whole = all_of(build(folder))[0]
    path = shards_of(folder)[0]
    target = tmp_path / path.name
    shutil.move(path, target)
    path.symlink_to(target)
    np.testing.assert_array_equal(all_of(build(folder))[0], whole)
    assert sum(passes) == 14
    assert not path.is_symlink()
    assert target.exists()


def test_a_full_disk_is_told_beforehand(folder, monkeypatch, passes):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"need 0 MB .* 0 MB are free; .*Received: cache="):
        build(folder)
    assert passes == []
    monkeypatch.undo()
    assert caches(folder) == []
    assert len(all_of(build(folder))[0]) == 10


def test_room_is_wanted_for_what_is_missing_only(folder, monkeypatch, small_files):
    whole = all_of(build(folder))[0]
    shards_of(folder)[1].unlink()  # rows 4 to 7
    usage = shutil.disk_usage("/")._replace(free=4 * whole[0].nbytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    np.testing.assert_array_equal(all_of(build(folder))[0], whole)


def test_a_disk_that_gets_full(folder, small_files, monkeypatch, passes):
    """What was written stays, nothing half-written does, and the next build goes on from there."""
    written = []

    def half(arrays):
        yield arrays[0][:1]
        raise OSError(errno.ENOSPC, "No space left on device")

    def full(path, arrays):
        write_arrays(path, half(arrays) if len(written) == 2 else arrays)
        written.append(path)

    with monkeypatch.context() as patch:
        patch.setattr("keras_transfer.features.cache.shards.write_arrays", full)
        with pytest.raises(OSError, match="No space left"):
            build(folder)
    assert len(shards_of(folder)) == 2
    passes.clear()
    np.testing.assert_array_equal(all_of(build(folder))[0], all_of(build(folder.with_name("other")))[0])
    assert sum(passes) == 2 + 10


def test_an_error_while_reading_leaves_what_was_done(folder, small_files, passes):
    x, y = images()
    x = x.astype("float32")
    broken, before = [True], set(threading.enumerate())

    class Sequence:
        def __len__(self):
            return 10

        def __getitem__(self, index):
            if index == 9 and broken[0] and passes:
                raise RuntimeError("disk gone")
            return x[index], y[index]

    loader = kt.Loader(Sequence(), num_threads=2)  # more could read all before the first pass
    with pytest.raises(RuntimeError, match="disk gone"):
        build(folder, loader, batch_size=2)
    broken[0] = False
    done = sum(passes)
    assert 0 < done < 10
    build(folder, loader, batch_size=2)
    assert sum(passes) < done + 10
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
    assert set(threading.enumerate()) <= before  # other tests' threads may be there, too


def test_many_files_are_not_all_open(folder, small_files, monkeypatch):
    monkeypatch.setattr(stored, "_OPEN", 2)
    expected = all_of(build(folder.with_name("other"), images(40)))[0]
    features = build(folder, images(40))
    np.testing.assert_array_equal(all_of(features)[0], expected)
    assert features._source._shard.cache_info().currsize == 2


# Bad input


def test_arguments(folder):
    model = prefix_model()
    with pytest.raises(ValueError, match=r"did you mean float32.*Received: dtype='float3'"):
        kt.FeatureCache(model, folder, dtype="float3")
    with pytest.raises(ValueError, match=r"Received: compute_dtype='int8'"):
        kt.FeatureCache(model, folder, compute_dtype="int8")
    with pytest.raises(ValueError, match=r"batch_size.*Received"):
        build(folder, batch_size=0)
    inputs = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match=r"one output of a known shape.*Received"):
        kt.FeatureCache(keras.Model(inputs, layers.Conv2D(2, 2)(inputs)), folder)
    with pytest.raises(ValueError, match=r"one input.*Received"):
        kt.FeatureCache(keras.Model([inputs, other := keras.Input((2,))], other), folder)


def test_data_that_can_t_be_read_twice(folder):
    generator = ((image, label) for image, label in zip(*images(), strict=True))
    with pytest.raises(TypeError, match=r"data must be \(x, y\) arrays, .* Received: .*generator"):
        build(folder, generator)

    class Endless:
        def __getitem__(self, index):
            return images(1)[0][0], 0

    with pytest.raises(TypeError, match=r"data must be .* Received: .*Endless"):
        build(folder, Endless())
    with pytest.raises(TypeError, match=r"labels must be numbers\. Received"):
        build(folder, (images(2)[0], np.array(["a", "b"])))


class Drawn:
    """Samples that are other ones each time."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return self.rng.integers(0, 256, (6, 6, 3), dtype="uint8"), index % 3


def test_images_that_are_others_each_time(folder):
    with pytest.raises(ValueError, match=r"same images each time; .*Received: data="):
        build(folder, kt.Loader(Drawn(), 4))
    with pytest.raises(ValueError, match=r"same images each time"):
        build(folder, kt.Loader(Drawn(), 4, augmentation="light"), views=2)


def test_pixels_that_are_no_numbers(folder):
    x, y = images()
    x = x.astype("float32")
    x[4, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"finite numbers\. Received: image 4 with 1 of 108 values"):
        build(folder, (x, y))
    assert list(folder.rglob("*.bin")) == []


def test_a_folder_that_holds_other_things(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for text in (None, "Signature: 8a477f597d28d172789f06886806bc55\n# made by another program\n"):
        if text:
            (tmp_path / "CACHEDIR.TAG").write_text(text)
        with pytest.raises(ValueError, match=r"feature caches alone.*Received: .*'thesis.txt'"):
            kt.FeatureCache(prefix_model(), tmp_path)
        for function in (caches, clear):
            with pytest.raises(ValueError, match=r"folder for feature caches\. Received"):
                function(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    with pytest.raises(ValueError, match=r"Received: cache="):
        kt.FeatureCache(prefix_model(), tmp_path / "thesis.txt")
    with pytest.raises(ValueError, match=r"Received: cache="):
        caches(tmp_path / "nowhere")


def test_a_start_that_was_killed_does_no_harm(tmp_path):
    (tmp_path / ".CACHEDIR-abcd1234.TAG").write_text("")
    assert len(all_of(build(tmp_path))[0]) == 10


# Listing and clearing


def test_listing(folder, small_files):
    cache = kt.FeatureCache(prefix_model(), folder)
    assert caches(folder) == []
    build(folder)
    (info,) = caches(folder)
    assert (info.prefix, info.samples, info.views, info.dtype) == ("prefix", 10, 1, "float32")
    assert info.shape == (3, 3, 3)
    assert info.megabytes == sum(path.stat().st_size for path in shards_of(folder)) / 1e6
    assert cache.nbytes(10) == 10 * 27 * 4
    assert cache.nbytes(10, views=3) == 3 * cache.nbytes(10)
    assert info.megabytes * 1e6 == pytest.approx(cache.nbytes(10))


def test_clearing(folder, small_files, passes):
    build(folder)
    build(folder, images(6))
    first, second = caches(folder)
    size = sum(len(data) for name, data in contents(folder).items() if name.startswith(first.key))
    assert clear(folder, first.key) == size
    assert caches(folder) == [second]
    (folder / second.key / "mine.txt").write_text("mine")
    (folder / second.key / f".0000000000-0000000004.{'a' * 32}-abcd1234.bin").write_text("half")
    (folder / "mine.txt").write_text("mine")
    assert clear(folder) > 0
    assert caches(folder) == []
    assert sorted(contents(folder)) == sorted(["CACHEDIR.TAG", "mine.txt", f"{second.key}/mine.txt"])
    passes.clear()
    build(folder)
    assert sum(passes) == 10


@pytest.mark.parametrize("key", ["../x", "..", "", ".", "/", "0" * 32, "*"])
def test_clearing_stays_in_the_folder(folder, key):
    build(folder)
    outside = folder.parent / "x"
    outside.mkdir()
    (outside / "manifest.json").write_text("mine")
    before = contents(folder)
    with pytest.raises(ValueError, match=r"key must be that of a cache.*Received: key="):
        clear(folder, key)
    assert contents(folder) == before
    assert (outside / "manifest.json").exists()


def test_clearing_follows_no_links(folder, tmp_path):
    build(folder)
    build(outside := tmp_path / "outside")
    (info,) = caches(outside)
    clear(folder)
    (folder / info.key).symlink_to(outside / info.key)
    assert caches(folder) == []
    assert clear(folder) == 0
    assert caches(outside) == [info]


def test_a_reader_goes_on_while_the_cache_is_cleared_and_made_again(folder, small_files):
    features = build(folder)
    before = all_of(features, 3)[0]
    clear(folder)
    np.testing.assert_array_equal(all_of(features, 3)[0], before)
    build(folder)
    np.testing.assert_array_equal(all_of(features, 3)[0], before)


# Several processes


def in_processes(what, folder):
    forks = server(keras.backend.backend())
    assert forks.run(FOLDER / "build_cache.py", what, folder) == 0, forks.printed()
    return json.loads(forks.printed().splitlines()[-1])


forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes can't be forked")


@pytest.mark.slow
@forking
def test_closed_features_are_mapped_no_more(folder, small_files):
    features = build(folder)
    part = features.subset([1, 5])
    batch, _ = part.batch(0, 0)
    assert len(mapped(folder)) == len(shards_of(folder)) > 1
    part.close()
    assert mapped(folder) == []
    assert batch.shape == (2, 3, 3, 3)
    for loader in (features, part):
        with pytest.raises(ValueError, match="Received: features that were closed"):
            loader.batch(0, 0)
    features.close()
    with contextlib.closing(kt.Loader(images())) as loader:
        pass
    assert len(loader.batch(0, 0)[0]) == 10  # arrays are no files


def test_two_processes_that_build_the_same_cache(tmp_path):
    found = in_processes("together", tmp_path)
    assert found["computed"] == [0, 60]  # one computes all, the other waits for it
    assert contents(tmp_path / "other") == contents(tmp_path / "alone")


@pytest.mark.slow
@forking
def test_a_process_killed_at_any_moment(tmp_path):
    """Twenty times: then the cache that is finished at last is that of a build without interruption."""
    found = in_processes("kill", tmp_path)
    assert len(found["files"]) == 20
    assert found["files"] == sorted(found["files"])  # nothing that was done is lost
    assert 0 < found["rest"] < 1_000
    assert found["left"] >= 3  # some were killed while they wrote a file
    assert contents(tmp_path / "other") == contents(tmp_path / "alone")


@pytest.mark.slow
@forking
def test_memory_does_not_grow_with_the_data(tmp_path):
    small, large = in_processes("memory", tmp_path)["peaks"]
    assert large < 1.1 * small
