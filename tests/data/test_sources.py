import pickle

import keras
import numpy as np
import pytest

from keras_transfer.data import Loader, sources
from keras_transfer.data.sources import ArraySource, SequenceSource, Subset, as_source


@pytest.fixture
def arrays(rng):
    return rng.integers(0, 256, (6, 8, 8, 3), "uint8"), np.arange(6)


class Prepared:
    """What `tfds.data_source` gives: random access to dicts, which may have more keys."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if not 0 <= index < len(self.images):
            raise IndexError(index)
        return {"id": b"x", "image": self.images[index], "label": self.labels[index]}


class Batches(keras.utils.PyDataset):
    """Arrays in batches, which end at the given places; `reads` tells which batches were asked for."""

    def __init__(self, images, labels, ends=(2, 5, 6), change=lambda batch: batch):
        super().__init__()
        self.images, self.labels, self.ends, self.change, self.reads = images, labels, ends, change, []

    def __len__(self):
        return len(self.ends)

    def __getitem__(self, index):
        self.reads.append(index)
        rows = slice((0, *self.ends)[index], self.ends[index])
        return self.change((self.images[rows], self.labels[rows]))


def test_the_same_samples_give_the_same_batches(arrays):
    images, labels = arrays[0], arrays[1].astype("int32")  # JAX has no others
    arrays = images, labels
    pairs = list(zip(images, labels, strict=True))
    every = [
        arrays,
        (list(images), list(labels)),
        pairs,
        [list(pair) for pair in pairs],
        tuple(pairs),
        [{"image": image, "label": label} for image, label in pairs],
        Prepared(*arrays),
        Batches(*arrays),
        Batches(images, labels[:, None], change=lambda batch: list(map(keras.ops.array, batch))),
        Subset(ArraySource(np.concatenate([images, images]), np.tile(labels, 2)), range(6, 12)),
    ]
    arguments = {"batch_size": 4, "seed": 5, "augmentation": "light", "image_size": 6}
    wanted = list(Loader(arrays, **arguments))
    for source in every:
        found = list(Loader(source, **arguments))
        for (images_a, labels_a), (images_b, labels_b) in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(images_a, images_b)
            np.testing.assert_array_equal(labels_a, labels_b)
            assert (images_a.dtype, labels_a.dtype) == (images_b.dtype, labels_b.dtype)


@pytest.mark.parametrize("shape", [(8, 8, 3), (6, 8, 8), (6, 192), (6, 1, 8, 8, 3)])
def test_images_need_four_dimensions(shape):
    with pytest.raises(ValueError, match=r"images must have the shape \(samples, .*Received: an array"):
        as_source((np.zeros(shape), np.arange(shape[0])))


@pytest.mark.parametrize("labels", [np.arange(5), np.arange(7), np.zeros((6, 2, 2)), np.zeros((5, 3))])
def test_labels_must_fit_the_images(arrays, labels):
    with pytest.raises(ValueError, match="labels must be 6 integers or one-hot rows, one an image"):
        as_source((arrays[0], labels))


def test_images_of_a_sequence_need_three_dimensions():
    source = as_source([(np.zeros((8, 8, 3)), 0), (np.zeros((8, 8)), 1)])
    with pytest.raises(ValueError, match=r"\(height, width, .*Received: image 1 of shape \(8, 8\)"):
        source.sample(1, None)


def test_labels_must_be_numbers(arrays):
    with pytest.raises(TypeError, match=r"labels must be numbers.+labels of dtype <U3"):
        as_source((arrays[0], np.array(["ant", "bee"] * 3)))
    with pytest.raises(TypeError, match=r"labels must be numbers.+labels of dtype <U3"):
        as_source([(arrays[0][0], "ant")]).sample(0, None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_pixels_must_be_finite(value, dtype):
    images = np.zeros((6, 8, 8, 3), dtype)
    images[4, 0, :2, 0] = value
    message = "pixels must be finite numbers. Received: image 4 with 2 of 192 values NaN or infinite"
    for source in (as_source((images, np.arange(6))), as_source([(image, 0) for image in images])):
        assert source.sample(3, None)[0].shape == (8, 8, 3)
        for size in (None, (4, 4)):
            with pytest.raises(ValueError, match=message):
                source.sample(4, size)


@pytest.mark.parametrize("source", [5, None, (image for image in [])])
def test_no_random_access(source):
    with pytest.raises(TypeError, match=f"data must be .* Received: .* type {type(source).__name__}"):
        as_source(source)


def test_a_source_is_taken_as_it_is(arrays):
    source = as_source(arrays)
    assert as_source(source) is source
    assert isinstance(as_source(Prepared(*arrays)), SequenceSource)


def test_subset(arrays):
    images, labels = arrays
    for source, known in ((ArraySource(*arrays), True), (SequenceSource(Prepared(*arrays)), False)):
        subset = Subset(source, range(4, 1, -1))
        assert len(subset) == 3
        for index, original in enumerate((4, 3, 2)):
            image, label = subset.sample(index, None)
            np.testing.assert_array_equal(image, images[original])
            assert label == labels[original]
        if known:
            np.testing.assert_array_equal(subset.labels, labels[4:1:-1])
        else:
            assert subset.labels is None


class TestBatches:
    def test_are_read_once_if_they_fit_into_memory(self, arrays):
        data = Batches(*arrays)
        loader = Loader(data, 4)
        np.testing.assert_array_equal(loader.labels, arrays[1])
        assert loader.num_threads == 1
        assert [len(list(loader)), loader.repeats(), data.reads] == [2, True, [0, 1, 2]]

    def test_may_come_in_the_same_arrays_each_time(self, arrays):
        images, labels = np.empty_like(arrays[0][:3]), np.empty_like(arrays[1][:3])

        def filled(batch):
            images[:], labels[:] = batch
            return images, labels

        loader = Loader(Batches(*arrays, ends=(3, 6), change=filled), 6, shuffle=False)
        np.testing.assert_array_equal(loader[0][0], arrays[0])

    def test_are_read_again_in_their_order_if_they_don_t(self, arrays, monkeypatch):
        monkeypatch.setattr(sources, "_KEPT_BYTES", 3 * 8 * 8 * 3)
        data = Batches(*arrays)
        loader = Loader(data, 2, shuffle=False)
        found = [np.concatenate(part) for part in zip(*loader, strict=True)]
        np.testing.assert_array_equal(found[0], arrays[0])
        np.testing.assert_array_equal(found[1], arrays[1])
        assert data.reads[:6] == [0, 1, 2] * 2  # then the next epoch, which is read ahead

    def test_may_not_change_meanwhile(self, arrays, monkeypatch, rng):
        monkeypatch.setattr(sources, "_KEPT_BYTES", 1)

        def turned(batch):
            return batch[0] + rng.integers(1, 9, dtype="uint8"), batch[1]

        loader = Loader(Batches(*arrays, change=turned), 2, num_threads=0)
        with pytest.raises(
            ValueError, match=r"same batches each time.*Received: a Batches whose batch \d"
        ):
            list(loader)

    def test_are_told_by_their_content(self, arrays):
        def told(images, labels, ends=(2, 5, 6)):
            return as_source(Batches(images, labels, ends)).fingerprint()

        assert told(*arrays) == told(*arrays)
        assert len({told(*arrays), told(arrays[0] + 1, arrays[1]), told(arrays[0], arrays[1] + 1)}) == 3

    def test_one_hot_labels(self, arrays):
        loader = Loader(Batches(arrays[0], np.eye(6)[arrays[1]]), 4, shuffle=False)
        np.testing.assert_array_equal(loader[1][1], np.eye(6)[4:])

    def test_a_loader_of_them_can_be_sent(self, arrays):
        loader = Loader(Batches(arrays[0], arrays[1], change=tuple), 4, seed=3)
        for one, other in zip(loader, pickle.loads(pickle.dumps(loader)), strict=True):
            np.testing.assert_array_equal(one[0], other[0])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda batch: (*batch, batch[1]),
                r"batches \(images, labels\)\. Received: a batch 0 of 3 parts",
            ),
            (lambda batch: batch[0], "Received: a batch 0 of ndarray"),
            (lambda batch: (batch[0], batch[1][:1]), r"a label for each image\. Received: a batch 0 of"),
            (lambda batch: (batch[0], np.array("ant")), "a label for each image"),
        ],
    )
    def test_must_be_images_and_labels(self, arrays, change, message):
        with pytest.raises(ValueError, match=message):
            Loader(Batches(*arrays, change=change))

    def test_must_be_so_many(self, arrays):
        class Endless(Batches):
            num_batches = None

        with pytest.raises(ValueError, match=r"how many batches it has.*Received: a Endless whose"):
            Loader(Endless(*arrays))
        with pytest.raises(ValueError, match="data must have at least one sample"):
            Loader(Batches(*arrays, ends=()))


def test_a_loader_is_made_already(arrays):
    with pytest.raises(TypeError, match=r"loader\.replace\(\.\.\.\) gives one.*Received: data="):
        Loader(Loader(arrays))
