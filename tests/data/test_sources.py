import numpy as np
import pytest

from keras_transfer.data import Loader
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


def test_the_same_samples_give_the_same_batches(arrays):
    images, labels = arrays
    pairs = list(zip(images, labels, strict=True))
    sources = [
        arrays,
        (list(images), list(labels)),
        pairs,
        [list(pair) for pair in pairs],
        tuple(pairs),
        [{"image": image, "label": label} for image, label in pairs],
        Prepared(*arrays),
        Subset(ArraySource(np.concatenate([images, images]), np.tile(labels, 2)), range(6, 12)),
    ]
    arguments = {"batch_size": 4, "seed": 5, "augmentation": "light", "image_size": 6}
    wanted = list(Loader(arrays, **arguments))
    for source in sources:
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
    with pytest.raises(TypeError, match=f"source must be .* Received: .* type {type(source).__name__}"):
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
