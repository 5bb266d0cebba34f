"""The order of a `Loader` and what models see of it: every test runs the same on each backend."""

import copy
import hashlib
import importlib.util
import inspect
import os
import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_transfer
from keras_transfer.data import Loader
from keras_transfer.data.images.augmentation import PRESETS
from keras_transfer.data.sources import ArraySource


def numbered(samples=10):
    """Images of 2 x 2 pixels whose first pixel is their label and their number."""
    images = np.zeros((samples, 2, 2, 1), "float32")
    images[:, 0, 0, 0] = np.arange(samples)
    return images, np.arange(samples)


def noise(image, rng):
    """Fill the second row with noise, which tells a sample's epochs apart."""
    image[1] = rng.random((2, 1))
    return image


def numbered_loader(samples=10, batch_size=4, seed=3, **arguments):
    return Loader(numbered(samples), batch_size, seed=seed, augmentation=noise, **arguments)


class Recorder(keras.layers.Layer):
    """Keeps, in a variable, all images that it sees in training; gives their first pixel."""

    def build(self, shape):
        self.seen = self.add_weight(shape=(100, 4), initializer="zeros", trainable=False)
        self.count = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, images, training=False):
        flat = keras.ops.reshape(images, (-1, 4))
        if training:
            ones = keras.ops.ones_like(flat[:, 0], dtype="int32")
            places = self.count + keras.ops.cumsum(ones) - 1
            self.seen.assign(keras.ops.scatter_update(self.seen, places[:, None], flat))
            self.count.assign_add(keras.ops.sum(ones))
        return flat[:, :1] * self.scale

    def take(self):
        """Return the images seen since the last time."""
        count = int(keras.ops.convert_to_numpy(self.count))
        self.count.assign(0)
        return np.array(keras.ops.convert_to_numpy(self.seen))[:count]


def recording_model():
    """A model that records, and whose loss is 0 if each label comes with its image."""
    inputs = keras.Input((2, 2, 1))
    model = keras.Model(inputs, Recorder(name="recorder")(inputs))
    model.compile(keras.optimizers.SGD(0.0), "mae", jit_compile=False)
    return model


def assert_saw(model, loader, *batches):
    """Check what `model` has recorded against (epoch, index) of the batches of `loader`."""
    untouched = loader.replace()
    expected = [untouched.batch(*batch)[0].reshape(-1, 4) for batch in batches]
    np.testing.assert_array_equal(model.get_layer("recorder").take(), np.concatenate(expected))


def epochs(loader, *numbers):
    return [(epoch, index) for epoch in numbers for index in range(loader.num_batches)]


def digest(loader, batches):
    result = hashlib.sha256()
    for epoch, index in batches:
        for array in loader.batch(epoch, index):
            result.update(f"{array.dtype}{array.shape}".encode())
            result.update(array.tobytes())
    return result.hexdigest()


# Order


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_every_epoch_is_a_permutation_of_its_own(seed):
    loader = Loader(numbered(50), seed=seed)
    orders = [loader.order(epoch) for epoch in range(5)]
    for order in orders:
        assert sorted(order) == list(range(50))
    assert len({tuple(order) for order in orders}) == 5


def test_the_seed_decides_the_order():
    assert list(Loader(numbered(50), seed=1).order(2)) == list(Loader(numbered(50), seed=1).order(2))
    assert list(Loader(numbered(50), seed=1).order(2)) != list(Loader(numbered(50), seed=2).order(2))


def test_order_is_the_order_of_the_batches():
    loader = numbered_loader()
    labels = [loader.batch(3, index)[1] for index in range(3)]
    np.testing.assert_array_equal(np.concatenate(labels), loader.order(3))


def test_without_shuffle_the_order_is_that_of_the_source():
    loader = Loader(numbered(), 4, shuffle=False)
    for epoch in (0, 5):
        assert list(loader.order(epoch)) == list(range(10))
    assert list(loader.batch(5, 1)[1]) == [4, 5, 6, 7]


def test_batches_do_not_depend_on_what_was_read_before():
    straight, wandering = numbered_loader(), numbered_loader()
    wanted = [straight.batch(epoch, index) for epoch, index in epochs(straight, 0, 1, 2)]
    places = epochs(wandering, 0, 1, 2)
    random.Random(0).shuffle(places)
    list(wandering)
    wandering.epoch = 9
    _ = wandering[0]
    for epoch, index in [*places, *places]:
        images, labels = wandering.batch(epoch, index)
        np.testing.assert_array_equal(images, wanted[3 * epoch + index][0])
        np.testing.assert_array_equal(labels, wanted[3 * epoch + index][1])


def samples_of(loader, epoch):
    """Return the images of an epoch by their number."""
    batches = [loader.batch(epoch, index) for index in range(loader.num_batches)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    return images[np.argsort(labels)]


def test_augmentation_is_of_the_seed_the_epoch_and_the_sample():
    images = samples_of(numbered_loader(), 2)
    for other in (
        numbered_loader(batch_size=3),
        numbered_loader(batch_size=10),
        numbered_loader(shuffle=False),
    ):
        np.testing.assert_array_equal(samples_of(other, 2), images)
    # No two samples, no two epochs and no two seeds have noise in common.
    others = [samples_of(numbered_loader(), 3), samples_of(numbered_loader(seed=4), 2)]
    noises = np.concatenate([images, *others])[:, 1]
    assert len(np.unique(noises)) == noises.size


def test_one_sample_is_augmented_anew_each_epoch():
    loader = numbered_loader(samples=1)
    assert len({loader.batch(epoch, 0)[0].tobytes() for epoch in range(20)}) == 20


BATCHES = [(2, 1), (0, 0), (7, 2), (0, 2)]
SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import test_loader
import keras
print(keras.backend.backend(), *test_loader.digests())
"""


def realistic(augmentation="light"):
    """A loader that resizes and augments as one does."""
    images = (np.arange(9 * 12 * 12 * 3) % 251).astype("uint8").reshape(9, 12, 12, 3)
    data = images, np.arange(9)
    return Loader(data, 4, seed=11, augmentation=augmentation, image_size=16, num_classes=9)


def digests():
    """What a loader gives with each preset."""
    return [digest(realistic(preset), BATCHES) for preset in PRESETS]


def test_the_same_bytes_in_fresh_processes_on_other_backends(request):
    pytest.importorskip("cv2")
    expected = digests()
    assert len(set(expected)) == 3
    own = keras.backend.backend()
    others = {"jax", "tensorflow", "torch"} - {own}
    backends = [name for name in sorted(others) if importlib.util.find_spec(name)] or [own]
    if not request.config.getoption("nightly"):
        del backends[1:]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["PYTHONPATH"] = str(Path(keras_transfer.__file__).parents[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(folder=str(Path(__file__).parent))],
            env={**environment, "KERAS_BACKEND": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in backends
    ]
    for name, process in zip(backends, processes, strict=True):
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert output.split() == [name, *expected]


def global_states():
    legacy = np.random.get_state()  # noqa: NPY002 - the global state is what is looked at
    return random.getstate(), legacy[1].tobytes(), legacy[2:]


def test_global_random_states_are_neither_used_nor_changed():
    found = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        before = global_states()
        found.append(digest(realistic(), BATCHES))
        list(realistic())
        assert global_states() == before
    assert found[0] == found[1]


# What Keras' methods see


@pytest.mark.parametrize("shuffle", [True, False])
def test_fit_sees_the_epochs_in_order(shuffle):
    model, loader = recording_model(), numbered_loader()
    history = model.fit(loader, epochs=3, shuffle=shuffle, verbose=0)
    assert history.history["loss"] == [0.0, 0.0, 0.0]  # each label came with its image
    assert_saw(model, loader, *epochs(loader, 0, 1, 2))
    model.fit(loader, epochs=2, shuffle=shuffle, verbose=0)
    assert_saw(model, loader, *epochs(loader, 3, 4))
    assert loader.epoch == 5
    # The model is an old acquaintance now: nothing is drawn beforehand.
    another = loader.replace()
    model.fit(another, epochs=2, shuffle=shuffle, verbose=0)
    assert_saw(model, another, *epochs(another, 0, 1))
    loader.epoch = 40
    model.fit(loader, shuffle=shuffle, verbose=0)
    assert_saw(model, loader, *epochs(loader, 40))


def test_fit_sees_every_epoch_of_a_loader_of_one_batch():
    model, loader = recording_model(), numbered_loader(batch_size=10)
    model.fit(loader, epochs=3, verbose=0)
    assert_saw(model, loader, (0, 0), (1, 0), (2, 0))
    model.fit(loader, epochs=2, verbose=0)
    assert_saw(model, loader, (3, 0), (4, 0))


def test_fit_with_validation_moves_both_loaders():
    model, loader = recording_model(), numbered_loader()
    validation = numbered_loader(shuffle=False)
    model.fit(loader, epochs=2, validation_data=validation, verbose=0)
    assert_saw(model, loader, *epochs(loader, 0, 1))
    assert (loader.epoch, validation.epoch) == (2, 2)


def test_steps_per_epoch_of_one_goes_on_through_the_data():
    model, loader = recording_model(), numbered_loader(samples=8, batch_size=2)
    model.fit(loader, epochs=4, steps_per_epoch=1, verbose=0)
    seen = model.get_layer("recorder").take()
    assert seen.shape == (8, 4)
    # On TensorFlow it depends on how far ahead the data is fetched which batches these are.
    assert len(np.unique(seen[:, 2])) > 2


class Halt(keras.callbacks.Callback):
    def __init__(self, batch, error=None):
        super().__init__()
        self.batch, self.error = batch, error

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            if self.error:
                raise self.error
            self.model.stop_training = True


@pytest.mark.parametrize("batch", [0, 1, 2])
def test_an_epoch_that_was_stopped_is_begun_again(batch):
    model, loader = recording_model(), numbered_loader()
    model.fit(loader, epochs=5, callbacks=[Halt(batch)], verbose=0)
    assert_saw(model, loader, *epochs(loader, 0)[: batch + 1])
    model.fit(loader, epochs=2, verbose=0)
    assert_saw(model, loader, *epochs(loader, 0, 1))


def test_an_epoch_that_raised_is_begun_again():
    loader = numbered_loader()
    with pytest.raises(KeyboardInterrupt):
        recording_model().fit(loader, callbacks=[Halt(1, KeyboardInterrupt())], verbose=0)
    assert loader.epoch == 0
    model = recording_model()
    assert model.evaluate(loader, verbose=0) == 0.0
    model.fit(loader, verbose=0)
    assert_saw(model, loader, *epochs(loader, 1))


def test_an_error_in_the_data_reaches_the_caller_of_fit():
    images, labels = numbered()
    images[7, 1, 1, 0] = np.nan
    # TensorFlow puts it into an error of its own.
    with pytest.raises(Exception, match=r"(?s)image 7 with 1 of 4 values NaN"):
        recording_model().fit(Loader((images, labels), 4), verbose=0)


def test_evaluate_moves_on_and_predict_does_not():
    model, loader = recording_model(), numbered_loader()
    for passes in (1, 2):
        assert model.evaluate(loader, verbose=0) == 0.0
        assert loader.epoch == passes
        predicted = model.predict(loader, verbose=0)
        np.testing.assert_array_equal(predicted[:, 0], loader.order(passes))
    assert loader.epoch == 2


def test_predict_in_the_order_of_the_source():
    loader = numbered_loader(shuffle=False)
    predicted = recording_model().predict(loader, verbose=0)
    np.testing.assert_array_equal(predicted[:, 0], np.arange(10))


def test_class_weight_in_fit():
    inputs = keras.Input((2, 2, 1))
    outputs = keras.layers.Dense(1, kernel_initializer="zeros")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), "mae", jit_compile=False)
    history = model.fit(
        Loader(numbered(6), 3), class_weight={label: label + 1 for label in range(6)}, verbose=0
    )
    expected = np.mean([label * (label + 1) for label in range(6)])
    assert history.history["loss"] == [pytest.approx(expected)]


def test_keras_cannot_read_it_in_several_threads():
    # They would each take the next batch of the epoch, in no order.
    loader = numbered_loader()
    assert loader.workers == 0
    with pytest.raises(AttributeError):
        loader.workers = 4
    loader.use_multiprocessing = True
    model = recording_model()
    model.fit(loader, verbose=0)
    assert_saw(model, loader, *epochs(loader, 0))


# Without Keras


def test_a_loop_reads_an_epoch_and_moves_on():
    loader = numbered_loader()
    for epoch in range(2):
        batches = list(loader)
        assert [len(labels) for _, labels in batches] == [4, 4, 2]
        np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), loader.order(epoch))
    assert loader.epoch == 2


def test_a_loop_that_is_left_does_not_move_on():
    loader = numbered_loader()
    for _ in loader:
        break
    assert loader.epoch == 0
    np.testing.assert_array_equal(next(iter(loader))[0], loader.batch(0, 0)[0])


def test_indexing_reads_the_current_epoch():
    loader = numbered_loader()
    loader.epoch = 6
    assert len(loader) == loader.num_batches == 3
    assert loader.num_samples == 10
    np.testing.assert_array_equal(loader[2][0], loader.batch(6, 2)[0])
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"an epoch has 3 batches. Received: index={index}"):
            loader[index]


def test_the_last_batch_may_be_smaller():
    loader = numbered_loader(samples=7, batch_size=3)
    assert [loader.batch(4, index)[0].shape for index in range(3)] == [(n, 2, 2, 1) for n in (3, 3, 1)]
    assert numbered_loader(samples=3, batch_size=100).batch(0, 0)[0].shape == (3, 2, 2, 1)


def test_replace_changes_what_is_asked_and_starts_at_epoch_0():
    loader = numbered_loader(class_names=list("abcdefghij"))
    loader.epoch = 5
    other = loader.replace(batch_size=5, augmentation=None)
    assert (other.epoch, other.batch_size, other.seed, other.class_names) == (
        0,
        5,
        3,
        loader.class_names,
    )
    np.testing.assert_array_equal(other.order(1), loader.order(1))
    assert not other.batch(0, 0)[0][:, 1].any()
    assert loader.batch(0, 0)[0][:, 1].all()
    assert (loader.epoch, loader.batch_size) == (5, 4)
    assert loader.replace(shuffle=False).order(1)[0] == 0
    assert list(loader.replace(seed=4).order(1)) != list(loader.order(1))
    with pytest.raises(TypeError, match="batchsize"):
        loader.replace(batchsize=5)
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
        loader.replace(batch_size=0)


def test_replace_keeps_every_other_argument():
    arguments = {
        "batch_size": 3,
        "shuffle": False,
        "seed": 9,
        "augmentation": noise,
        "image_size": (2, 2),
        "class_names": [f"class {number}" for number in range(10)],
        "num_classes": 12,
        "one_hot": True,
        "multi_label": False,
        "value_range": (0.0, 99.0),
        "num_threads": 5,
        "sampling": "balanced",
    }
    groups = np.arange(10) // 2
    other = Loader(numbered(), groups=groups, **arguments).replace().replace()
    assert {name: getattr(other, name) for name in arguments} == arguments
    np.testing.assert_array_equal(other.groups, groups)
    names = inspect.signature(Loader).parameters.keys() - {"data", "groups"}
    assert names == arguments.keys()


def test_a_deep_copy_goes_its_own_way():
    loader = numbered_loader()
    loader.epoch = 5
    duplicate = copy.deepcopy(loader)
    assert duplicate.epoch == 5
    np.testing.assert_array_equal(duplicate[0][0], loader[0][0])
    duplicate.epoch += 1
    assert loader.epoch == 5


def test_labels():
    images, labels = numbered()
    np.testing.assert_array_equal(Loader((images, labels)).labels, labels)
    assert Loader(list(zip(images, labels, strict=True))).labels is None


def test_all_labels_are_known_after_reading_all_if_need_be():
    images, labels = numbered()
    for source, known in (((images, labels), True), (list(zip(images, labels, strict=True)), False)):
        loader = Loader(source, 4)
        assert (loader.labels is not None) == known
        np.testing.assert_array_equal(loader.known_labels(), labels)
        np.testing.assert_array_equal(loader.subset([3, 1]).known_labels(), [3, 1])
        some = Loader(source, 4).subset([3, 1])  # of a source whose labels nobody has asked for
        np.testing.assert_array_equal(some.known_labels(), [3, 1])


@pytest.mark.parametrize("kind", ["int32", "float32", "rows"])
@pytest.mark.parametrize("known", [True, False])
def test_class_counts(kind, known):
    images, labels = numbered(7)
    labels = np.array([0, 2, 2, 4, 0, 2, 0])
    given = np.eye(6, dtype="float32")[labels] if kind == "rows" else labels.astype(kind)
    source = (images, given) if known else list(zip(images, given, strict=True))
    assert Loader(source, num_classes=6).class_counts().tolist() == [3, 0, 3, 0, 1, 0]
    assert Loader(source).class_counts().tolist() == [3, 0, 3, 0, 1] + [0] * (kind == "rows")


def test_a_subset_is_a_loader_of_some_samples():
    loader = numbered_loader(class_names=list("abcdefghij"), num_threads=3)
    loader.epoch = 4
    some = loader.subset(np.array([7, 2, 5, 7]))
    assert (some.epoch, some.num_samples, some.seed, some.batch_size) == (0, 4, 3, 4)
    assert (some.class_names, some.num_threads) == (loader.class_names, 3)
    assert some.labels.tolist() == [7, 2, 5, 7]
    images, labels = some.batch(2, 0)
    np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
    assert sorted(labels) == [2, 5, 7, 7]
    assert images[:, 1].all()  # augmented as the other is
    assert some.subset([1, 0]).labels.tolist() == [2, 7]
    assert loader.num_samples == 10


@pytest.mark.parametrize(
    ("indices", "told"),
    [
        ([], "data must have at least one sample"),
        ([0, 10], "indices must be from 0 to 9. Received: the index 10"),
        ([-1], "indices must be from 0 to 9. Received: the index -1"),
        ([True] * 10, "indices must be integers. Received: indices of dtype bool"),
        ([0.0, 1.0], "indices must be integers. Received: indices of dtype float64"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_indices_of_no_samples(indices, told, known):
    images, labels = numbered()
    source = (images, labels) if known else list(zip(images, labels, strict=True))
    with pytest.raises(ValueError, match=told):
        Loader(source).subset(indices)


def test_one_hot_labels():
    images, labels = numbered()
    rows = np.eye(10, dtype="float32")[labels]
    for source in ((images, rows), list(zip(images, rows, strict=True))):
        loader = Loader(source, 4, num_classes=10)
        for epoch, index in epochs(loader, 0):
            found = loader.batch(epoch, index)
            np.testing.assert_array_equal(found[1], rows[found[0][:, 0, 0, 0].astype(int)])
            assert found[1].dtype == "float32"


def test_labels_in_one_column_are_integers():
    images, labels = numbered()
    for source in (
        (images, labels[:, None]),
        list(zip(images, labels[:, None], strict=True)),
    ):
        loader = Loader(source, 4, num_classes=10)
        assert loader.batch(0, 0)[1].shape == (4,)


@pytest.mark.parametrize(
    ("given", "served"),
    [("uint8", "uint8"), ("float32", "float32"), ("float64", "float32"), ("int32", "int32")],
)
def test_dtypes(given, served):
    images, labels = numbered()
    for source in (
        (images.astype(given), labels.astype("int32")),
        [(image.astype(given), np.int32(label)) for image, label in zip(images, labels, strict=True)],
    ):
        found = Loader(source, 4).batch(0, 0)
        assert [type(array) for array in found] == [np.ndarray, np.ndarray]
        assert [array.dtype for array in found] == [served, "int32"]


def test_augmentation_may_write_into_the_image():
    images, labels = numbered()
    untouched = images.copy()
    loader = Loader((images, labels), 4, augmentation=noise)
    first = loader.batch(0, 0)
    list(loader)
    np.testing.assert_array_equal(images, untouched)
    np.testing.assert_array_equal(loader.batch(0, 0)[0], first[0])


def test_image_size_is_a_number_or_two():
    images = np.zeros((3, 8, 8, 3), "uint8")
    for size, shape in [(4, (4, 4)), ((4, 6), (4, 6)), (None, (8, 8))]:
        found, _ = Loader((images, np.arange(3)), image_size=size).batch(0, 0)
        assert found.shape == (3, *shape, 3)


def test_class_names_give_the_number_of_classes():
    source = numbered(4)
    assert Loader(source).num_classes is None
    loader = Loader(source, class_names=("a", "b", "c", "d"))
    assert (loader.class_names, loader.num_classes) == (["a", "b", "c", "d"], 4)
    assert Loader(source, class_names=["a", "b", "c", "d"], num_classes=7).num_classes == 7


# Bad input


def test_no_two_seeds_share_an_order():
    orders = [tuple(Loader(numbered(50), seed=seed).order(e)) for seed in range(4) for e in range(4)]
    assert len(set(orders)) == 16


@pytest.mark.parametrize("source", [numbered(0), []])
def test_no_samples(source):
    with pytest.raises(ValueError, match="data must have at least one sample"):
        Loader(source)


@pytest.mark.parametrize("image_size", [0, -4, (4,), (4, 0), (4, 4, 3), "32"])
def test_bad_image_size(image_size):
    with pytest.raises(ValueError, match=r"image_size must be .* Received: image_size="):
        Loader(numbered(), image_size=image_size)


@pytest.mark.parametrize(
    ("label", "shown"), [(3, "3"), (-1, "-1"), (1.5, "1.5"), (np.nan, "nan"), (np.inf, "inf")]
)
def test_labels_outside_the_classes(label, shown):
    images, labels = numbered(4)
    labels = np.array([0, 1, label, 2])
    message = rf"labels must be integers from 0 to 2\. Received: label {shown} for sample 2"
    with pytest.raises(ValueError, match=message):
        Loader((images, labels), num_classes=3)
    with pytest.raises(ValueError, match=message):
        Loader((images, labels), class_names=["a", "b", "c"])
    # Those of a sequence are not known before they are read.
    loader = Loader(list(zip(images, labels, strict=True)), 2, shuffle=False, num_classes=3)
    assert list(loader[0][1]) == [0, 1]
    with pytest.raises(ValueError, match=message):
        loader[1]


def test_one_hot_labels_of_another_number_of_classes():
    images, _ = numbered(4)
    message = r"one-hot labels must have 3 columns, one a class. Received: labels of shape \(\d, 4\)"
    with pytest.raises(ValueError, match=message):
        Loader((images, np.eye(4)), num_classes=3)
    with pytest.raises(ValueError, match=message):
        Loader(list(zip(images, np.eye(4), strict=True)), num_classes=3)[0]


@pytest.mark.parametrize(
    ("augmentation", "shape"),
    [(lambda image, rng: image[:1], r"\(1, 2, 1\)"), (lambda image, rng: None, r"\(\)")],
)
def test_augmentation_that_changes_the_shape(augmentation, shape):
    loader = Loader(numbered(), augmentation=augmentation)
    for read in (lambda: loader[0], lambda: list(loader)):
        with pytest.raises(ValueError, match=rf"keep the shape \(2, 2, 1\) .* shape {shape}"):
            read()


def test_images_of_different_shapes():
    source = [(np.zeros((4, 4, 3)), 0), (np.zeros((5, 4, 3)), 1)]
    with pytest.raises(ValueError, match=r"image 0 of shape \(4, 4, 3\) and image 1 of shape \(5, 4, 3"):
        Loader(source, shuffle=False)[0]
    assert Loader(source, image_size=4)[0][0].shape == (2, 4, 4, 3)


def one_by_one(loader):
    """The same loader, made to read each sample by itself."""
    slow = loader.replace()
    slow.epoch, slow._gathers = loader.epoch, False
    return slow


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", "int32"])
@pytest.mark.parametrize("labels", ["integers", "one-hot", "column"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_whole_batches_are_what_samples_one_by_one_are(dtype, labels, shuffle):
    images = (255 * np.random.default_rng(0).random((10, 3, 2, 3))).astype(dtype)
    y = np.arange(10, dtype="int32") % 4
    y = {"integers": y, "one-hot": np.eye(4, dtype="float32")[y], "column": y[:, None]}[labels]
    loader = Loader((images, y), 4, seed=3, shuffle=shuffle)
    assert loader._gathers
    for epoch, index in epochs(loader, 0, 5, 1, 1, 0):
        for found, expected in zip(
            loader.batch(epoch, index), one_by_one(loader).batch(epoch, index), strict=True
        ):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("augmentation", [None, noise])
def test_samples_are_those_of_the_source(augmentation):
    loader = Loader(numbered(), 4, seed=3, augmentation=augmentation)
    images, labels = loader.samples(3, 7)
    np.testing.assert_array_equal(labels, [3, 4, 5, 6])
    np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
    whole, order = np.concatenate([loader.batch(2, i)[0] for i in range(3)]), loader.order(2)
    if augmentation is not None:
        np.testing.assert_array_equal(loader.samples(0, 10, view=2)[0][order], whole)
    for found, expected in zip(one_by_one(loader).samples(3, 7), (images, labels), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_whole_batches_follow_the_epoch():
    loader = Loader(numbered(), 4, seed=3)
    first = [labels.tolist() for _, labels in loader]
    second = [labels.tolist() for _, labels in loader]
    assert first != second
    loader.epoch = 0
    assert [labels.tolist() for _, labels in loader] == first


def test_a_batch_is_the_caller_s_own():
    images, labels = numbered()
    loader = Loader((images, labels), 4, shuffle=False)
    for part in loader.batch(0, 0):
        part[:] = 9
    np.testing.assert_array_equal(labels, np.arange(10))
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(10))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_whole_batches_name_the_pixel_that_is_no_number(bad):
    images, labels = numbered()
    images[6, 1, 1, 0] = bad
    loader = Loader((images, labels), 4, shuffle=False)
    loader.batch(0, 0)
    messages = []
    for each in (loader, one_by_one(loader)):
        with pytest.raises(
            ValueError, match=r"Received: image 6 with 1 of 4 values NaN or inf"
        ) as error:
            each.batch(0, 1)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_a_fingerprint_is_of_samples_not_of_their_order_in_epochs():
    images, labels = numbered()
    loader = Loader((images, labels), 4)
    digest = loader.fingerprint()
    assert (
        loader.replace(seed=7, batch_size=3, shuffle=False, augmentation=noise).fingerprint() == digest
    )
    sequence = list(zip(images, labels, strict=True))
    assert Loader(sequence, 4).fingerprint() == digest
    for other in ((images[::-1], labels[::-1]), (images, labels[::-1]), (images + 1, labels)):
        assert Loader(other, 4).fingerprint() != digest
    assert Loader((images, labels), 4, image_size=2).fingerprint() != digest


def test_labels_of_a_sequence_are_known_after_its_fingerprint():
    images, labels = numbered()
    loader = Loader(list(zip(images, labels, strict=True)), 4)
    assert loader.labels is None
    loader.fingerprint()
    np.testing.assert_array_equal(loader.labels, labels)


def test_a_subset_draws_among_the_versions_of_its_samples():
    class Versions(ArraySource):
        """Three versions of each image, which tell which they are."""

        views = 3

        def gather(self, indices):
            view, index = np.divmod(indices, len(self))
            return np.stack([view, index], axis=1)[:, None, None], self.labels[index]

    loader = Loader(Versions(*numbered()), 4, seed=3)
    some = loader.subset([8, 1, 4])
    assert (some._gathers, some.views) == (True, 3)
    seen = set()
    for epoch in range(20):
        images, labels = some.batch(epoch, 0)
        np.testing.assert_array_equal(images[:, 0, 0, 1], labels)
        seen |= {(int(view), int(index)) for view, index in images[:, 0, 0]}
    assert seen == {(view, index) for view in range(3) for index in (8, 1, 4)}
    images, _ = some.samples(1, 3, view=2)
    assert images[:, 0, 0].tolist() == [[2, 1], [2, 4]]


def test_a_source_that_gives_other_images_each_time_is_told():
    class Drawn:
        rng = np.random.default_rng(0)

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return self.rng.random((2, 2, 1)), index

    assert not Loader(Drawn()).repeats()
    assert Loader(numbered()).repeats()


class TestSplit:
    def test_gives_each_class_its_share_or_takes_all_together(self):
        images, _ = numbered(12)
        loader = Loader((images, np.repeat([0, 1], [8, 4])), augmentation="light", seed=3)
        for stratify in (True, False):
            kept, held_back = loader.split(0.25, seed=1, stratify=stratify)
            assert (kept.num_samples, held_back.num_samples) == (9, 3)
            assert (held_back.class_counts().tolist() == [2, 1]) or not stratify
            assert (kept.augmentation, kept.shuffle, kept.seed) == ("light", True, 3)
            assert (held_back.augmentation, held_back.shuffle) == (None, False)
            found = [part.replace(augmentation=None, shuffle=False) for part in (kept, held_back)]
            every = np.concatenate([part.samples(0, part.num_samples)[0] for part in found])
            np.testing.assert_array_equal(np.sort(every[:, 0, 0, 0]), images[:, 0, 0, 0])

    @pytest.mark.parametrize("rows", [False, True])
    def test_reads_labels_that_are_not_known(self, rows):
        images, _ = numbered(6)
        labels = np.eye(2, dtype="float32")[np.arange(6) % 2] if rows else np.arange(6) % 2
        parts = [Loader(list(zip(images, labels, strict=True))).split(1 / 3)]
        parts += [Loader((images, labels)).split(1 / 3)]
        assert [held_back.class_counts().tolist() for _, held_back in parts] == [[1, 1]] * 2
        for one, other in zip(*parts, strict=True):
            np.testing.assert_array_equal(
                one.replace(shuffle=False)[0][0], other.replace(shuffle=False)[0][0]
            )

    def test_needs_a_seed_that_is_one(self):
        for seed, error in ((-1, ValueError), ("1", TypeError)):
            with pytest.raises(error, match="seed must be .*Received: seed="):
                Loader(numbered(4)).split(0.5, seed=seed)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.2, 0.25, 0.3, 0.5, 0.6, 0.75, 0.9, 0.999])
def test_the_least_number_of_samples_for_a_split(fraction):
    from keras_transfer.data.order import stratified

    def divided(samples):
        try:
            kept, held_back = stratified(np.zeros(samples, int), fraction, 0)
        except ValueError as error:
            return str(error)
        return len(kept), len(held_back)

    least = next(n for n in range(1, 2000) if not isinstance(divided(n), str))
    for samples in range(1, least):
        assert f"there must be {least:,} of each: add some" in divided(samples)
