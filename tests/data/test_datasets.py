import os
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from small_archives import KINDS, NUMBERS, PHOTOS, number_of, publish_flowers

from keras_transfer.data import from_directory, load

CLASSES = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]


def arrays(samples, first):
    """Images of one colour each, which tells them apart; labels as Keras gives them."""
    images = np.zeros((samples, 32, 32, 3), "uint8")
    images += np.arange(first, first + samples, dtype="uint8")[:, None, None, None]
    return images, (np.arange(samples) % 10).astype("uint8")[:, None]


@pytest.fixture
def downloaded(monkeypatch, tmp_path):
    """20 training and 10 test images from `keras.datasets`, and none from TFDS."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for data_set in (keras.datasets.cifar10, keras.datasets.cifar100):
        monkeypatch.setattr(data_set, "load_data", lambda: (arrays(20, 0), arrays(10, 100)))


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Both data sets of flowers in small, where they would be fetched from, and none from TFDS."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    publish_flowers(monkeypatch, tmp_path)


def numbers(loader, epoch=0):
    batches = [loader.batch(epoch, index) for index in range(loader.num_batches)]
    return np.concatenate([images[:, 0, 0, 0] for images, _ in batches]).tolist()


@pytest.mark.usefixtures("downloaded")
class TestFromKeras:
    def test_training_and_test_images(self):
        train = load("cifar10", "train", image_size=32, batch_size=8, seed=4)
        assert (train.num_samples, train.num_batches, train.seed) == (20, 3, 4)
        assert train.class_names == CLASSES
        assert train.num_classes == 10
        assert train.shuffle
        assert sorted(numbers(train)) == list(range(20))
        test = load("cifar10", "test", image_size=32)
        assert not test.shuffle
        assert numbers(test) == list(range(100, 110))
        np.testing.assert_array_equal(test.labels, np.arange(10))
        images, labels = test.batch(0, 0)
        assert (images.dtype, labels.dtype, labels.shape) == ("uint8", "uint8", (10,))

    def test_arguments_reach_the_loader(self):
        loader = load("cifar10", "test", image_size=(48, 40), shuffle=True, augmentation="light")
        assert loader.batch(0, 0)[0].shape == (10, 48, 40, 3)
        assert loader.shuffle
        assert not load("cifar10", "train", image_size=32, shuffle=False).shuffle

    @pytest.mark.parametrize(
        ("split", "part"),
        [
            ("train[:5]", slice(5)),
            ("train[5:]", slice(5, None)),
            ("train[2:8]", slice(2, 8)),
            ("train[-3:]", slice(-3, None)),
            ("train[:-3]", slice(-3)),
            ("train[:25%]", slice(5)),
            ("train[25%:75%]", slice(5, 15)),
            ("train[-10%:]", slice(-2, None)),
            ("train[:33%]", slice(7)),  # 6.6, to the nearest
            ("train[:]", slice(None)),
            ("train[50%:12]", slice(10, 12)),
        ],
    )
    def test_parts(self, split, part):
        loader = load("cifar10", split, image_size=32, shuffle=False)
        assert numbers(loader) == list(range(20)[part])
        np.testing.assert_array_equal(loader.labels, (np.arange(20) % 10)[part])

    def test_two_parts_make_the_whole(self):
        for percent in range(5, 100, 15):
            first = load("cifar10", f"train[:{percent}%]", image_size=32)
            second = load("cifar10", f"train[{percent}%:]", image_size=32)
            assert sorted(numbers(first) + numbers(second)) == list(range(20))

    def test_a_part_of_the_training_images_is_shuffled(self):
        loader = load("cifar10", "train[:10]", image_size=32)
        assert sorted(numbers(loader)) == list(range(10))
        assert numbers(loader) != numbers(loader, 1)

    def test_sums(self):
        for split, expected in [
            ("train+test", [*range(20), *range(100, 110)]),
            ("test+train", [*range(100, 110), *range(20)]),
            ("test[:2]+train[18:]+test[8:]", [100, 101, 18, 19, 108, 109]),
        ]:
            loader = load("cifar10", split, image_size=32, shuffle=False)
            assert numbers(loader) == expected
            np.testing.assert_array_equal(loader.labels, np.array(expected) % 10)
            assert loader.class_names == CLASSES

    @pytest.mark.parametrize(
        ("split", "shuffle"), [("train[5:]", True), ("test+train[:5]", True), ("test[:5]", False)]
    )
    def test_what_is_shuffled(self, split, shuffle):
        assert load("cifar10", split, image_size=32).shuffle is shuffle

    def test_cifar100(self):
        loader = load("cifar100", "train", image_size=32)
        assert (loader.num_samples, loader.num_classes) == (20, 100)
        assert loader.class_names[:3] == ["apple", "aquarium_fish", "baby"]
        assert sorted(numbers(loader)) == list(range(20))
        assert numbers(load("cifar100", "test[5:]", image_size=32)) == list(range(105, 110))

    @pytest.mark.parametrize(
        "split", ["train[5:5]", "train[30:]", "train[8:2]", "test[:0]", "test[:0%]"]
    )
    def test_an_empty_part(self, split):
        size = 20 if split.startswith("train") else 10
        with pytest.raises(ValueError, match=rf"at least one of the {size} samples. Received: split='"):
            load("cifar10", split, image_size=32)

    @pytest.mark.parametrize(
        "split",
        ["validation", "Train", "", "train[", "train[:5", "train[5]", "train[a:]", "train+", "[:5]"],
    )
    def test_no_such_split(self, split):
        with pytest.raises(
            ValueError, match=r"split must be 'train' or 'test', or a part such as"
        ) as error:
            load("cifar10", split, image_size=32)
        assert str(error.value).endswith(f"Received: split={split!r}")


@pytest.mark.usefixtures("published")
class TestFlowers:
    def pairs(self, loader):
        images, labels = loader.batch(0, 0)
        return [(number_of(image), int(label)) for image, label in zip(images, labels, strict=True)]

    def test_tf_flowers(self):
        loader = load("tf_flowers", "train", image_size=(8, 6), batch_size=20, seed=3)
        assert loader.class_names == ["dandelion", "daisy", "tulips", "sunflowers", "roses"]
        assert (loader.num_samples, loader.seed, loader.shuffle) == (20, 3, True)
        assert loader.batch(0, 0)[0].shape == (20, 8, 6, 3)
        expected = [
            (number, loader.class_names.index(name.partition("/")[0]))
            for number, name in enumerate(PHOTOS)
        ]
        assert sorted(self.pairs(loader)) == expected
        np.testing.assert_array_equal(loader.labels, load("tf_flowers", "train", image_size=8).labels)

    def test_parts_of_tf_flowers(self):
        parts = [load("tf_flowers", split, image_size=8) for split in ("train[:80%]", "train[80%:]")]
        assert [part.num_samples for part in parts] == [16, 4]
        found = [number for part in parts for number, _ in self.pairs(part)]
        assert sorted(found) == list(range(20))
        assert set(parts[0].labels.tolist()) == set(range(5))  # not class after class

    @pytest.mark.parametrize("split", ["test", "validation[:5]", "train+test"])
    def test_tf_flowers_has_one_split(self, split):
        with pytest.raises(ValueError, match=r"'train\[80%:\]', as tf_flowers has only 'train'\. Rec"):
            load("tf_flowers", split, image_size=8)

    @pytest.mark.parametrize(
        ("split", "names", "shuffle"),
        [
            ("train", ["trnid"], True),
            ("validation", ["valid"], False),
            ("test", ["tstid"], False),
            ("train+validation", ["trnid", "valid"], True),
            ("validation+test", ["valid", "tstid"], False),
        ],
    )
    def test_oxford_flowers102(self, split, names, shuffle):
        loader = load("oxford_flowers102", split, image_size=8)
        assert loader.num_classes == 102
        assert loader.class_names[0] == "pink primrose"
        assert loader.class_names[101] == "blackberry lily"
        assert loader.shuffle is shuffle
        expected = {n: KINDS[n - 1] - 1 for name in names for n in NUMBERS[name].tolist()}
        assert dict(self.pairs(loader)) == expected
        assert loader.num_samples == len(expected)

    def test_the_large_split_for_training(self):
        loader = load("oxford_flowers102", "test", image_size=8, shuffle=True, augmentation="light")
        assert loader.shuffle
        assert sorted(loader.labels.tolist()) == sorted((KINDS[NUMBERS["tstid"] - 1] - 1).tolist())

    def test_a_part_of_oxford_flowers102(self):
        whole = load("oxford_flowers102", "test", image_size=8)
        part = load("oxford_flowers102", "train+test[:50%]", image_size=8, shuffle=False)
        assert self.pairs(part)[6:] == self.pairs(whole)[:8]

    def test_no_such_split_of_oxford_flowers102(self):
        with pytest.raises(
            ValueError, match=r"'train', 'validation' or 'test'.*did you mean validation"
        ):
            load("oxford_flowers102", "valid", image_size=8)

    def test_nothing_is_fetched_for_a_wrong_split(self, tmp_path):
        for name in ("tf_flowers", "oxford_flowers102"):
            with pytest.raises(ValueError, match="split must be"):
                load(name, "all", image_size=8)
        assert not (tmp_path / "home").exists()


def test_unknown_name():
    names = "'cifar10', 'cifar100', 'hotdog', 'tf_flowers' or 'oxford_flowers102'"
    with pytest.raises(ValueError, match=rf"name must be {names}; did you mean oxford_.*'flowers102'$"):
        load("flowers102", "train", image_size=32)
    with pytest.raises(ValueError, match=rf"name must be {names}\. Received: name='zebras'$"):
        load("zebras", "train", image_size=32)


def test_a_directory_without_the_data(downloaded, tmp_path):
    with pytest.raises(ValueError, match=r"directory must hold cifar10 .*Received: directory='"):
        load("cifar10", "train", image_size=32, directory=tmp_path)


def test_without_tfds_the_error_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "cifar10" / "3.0.2").mkdir(parents=True)
    (tmp_path / "cifar10" / "3.0.2" / "cifar10-train.array_record-00000-of-00001").touch()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'keras-transfer\[data\]'"):
        load("cifar10", "train", image_size=32, directory=tmp_path)


@pytest.fixture(scope="module")
def prepared():
    """The folder of prepared data, and the same pixels as arrays."""
    folder, arrays = (os.environ.get(name) for name in ("TFDS_DATA_DIR", "KERAS_TRANSFER_REAL_DATA"))
    if not folder or not list(Path(folder).glob("cifar10/*/*.array_record*")):
        pytest.skip("set TFDS_DATA_DIR to a folder with cifar10 (see CONTRIBUTING.md)")
    if not arrays or not (Path(arrays) / "cifar10_lossless.npz").exists():
        pytest.skip("set KERAS_TRANSFER_REAL_DATA to the folder with cifar10_lossless.npz")
    pytest.importorskip("tensorflow_datasets")
    return Path(folder), np.load(Path(arrays) / "cifar10_lossless.npz")


@pytest.mark.real_data
@pytest.mark.parametrize("split", ["train", "test"])
def test_prepared_images_are_the_originals(split, prepared, monkeypatch):
    def fetched():
        raise AssertionError("nothing needs to be fetched")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", fetched)
    folder, originals = prepared
    # TFDS has another order than Keras: it shuffles when it prepares.
    labels_by_pixels = {
        image.tobytes(): label
        for image, label in zip(originals[f"x_{split}"], originals[f"y_{split}"][:, 0], strict=True)
    }
    loader = load("cifar10", split, image_size=32, batch_size=500, shuffle=False)
    assert loader.num_samples == len(labels_by_pixels)
    assert loader.class_names == CLASSES
    found = {
        image.tobytes(): label
        for images, labels in loader
        for image, label in zip(images, labels, strict=True)
    }
    assert found == labels_by_pixels
    images, labels = next(iter(loader))
    few = load("cifar10", f"{split}[2:6]", image_size=32, directory=folder, shuffle=False)
    np.testing.assert_array_equal(few.batch(0, 0)[0], images[2:6])
    np.testing.assert_array_equal(few.batch(0, 0)[1], labels[2:6])
    large = load("cifar10", f"{split}[:4]", image_size=(48, 40), directory=folder)
    assert large.batch(0, 0)[0].shape == (4, 48, 40, 3)


@pytest.mark.real_data
def test_a_sum_of_prepared_splits(prepared):
    parts = [load("cifar10", s, image_size=32, shuffle=False) for s in ("test[990:]", "train[:10]")]
    both = load("cifar10", "test[990:]+train[:10]", image_size=32, shuffle=False)
    for index in range(2):
        expected = np.concatenate([part.batch(0, 0)[index] for part in parts])
        np.testing.assert_array_equal(both.batch(0, 0)[index], expected)


@pytest.mark.real_data
def test_prepared_photographs_have_the_labels_of_their_folders(real_data, tmp_path, monkeypatch):
    folder = Path(os.environ.get("TFDS_DATA_DIR") or "none")
    if not list(folder.glob("tf_flowers/*/*.array_record*")):
        pytest.skip("set TFDS_DATA_DIR to a folder with tf_flowers (see CONTRIBUTING.md)")
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))
    # No smaller, or the files would be decoded smaller, to pixels that differ a little.
    loader = load("tf_flowers", "train", image_size=128, batch_size=50)
    for name in ("train", "val"):
        folder = real_data / "flowers" / name
        part = from_directory(folder, image_size=128, batch_size=50, shuffle=False)
        known = {
            image.tobytes(): part.class_names[label]
            for images, labels in part
            for image, label in zip(images, labels, strict=True)
        }
        found = {
            image.tobytes(): loader.class_names[label]
            for images, labels in loader
            for image, label in zip(images, labels, strict=True)
            if image.tobytes() in known
        }
        assert found == known
    assert not list(tmp_path.iterdir())
