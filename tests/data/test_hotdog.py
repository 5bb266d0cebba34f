import dataclasses
import hashlib

import keras
import numpy as np
import pytest
from small_archives import files, jpeg, number_of, write_zip

import keras_transfer as kt
from keras_transfer.data.sets import hotdog

PHOTOS = [
    f"hotdog/{split}/{kind}/{n}.png"
    for split, count in (("train", 4), ("test", 2))
    for kind in ("hotdog", "not-hotdog")
    for n in range(count)
]


@pytest.fixture
def site(monkeypatch, tmp_path):
    """Publish the photographs in small: photograph n is `jpeg(n)`."""
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path / "home"))
    path = tmp_path / "hotdog.zip"
    write_zip(path, {name: jpeg(n) for n, name in enumerate(PHOTOS)})
    checksum = hashlib.sha1(path.read_bytes()).hexdigest()
    changes = {"url": path.as_uri(), "checksum": checksum, "num_images": len(PHOTOS)}
    monkeypatch.setattr(hotdog, "_PHOTOS", dataclasses.replace(hotdog._PHOTOS, **changes))
    return path


def test_images_and_labels(site):
    for split, numbers in (("train", range(8)), ("test", range(8, 12))):
        loader = kt.data.load("hotdog", split, image_size=8, shuffle=False)
        images, labels = loader.samples(0, loader.num_samples)
        found = [number_of(image) for image in images]
        assert sorted(found) == list(numbers)
        names = np.array(loader.class_names)[labels]
        assert all(f"/{name}/" in PHOTOS[n] for name, n in zip(names, found, strict=True))


def test_a_part_has_both_classes(site):
    assert set(kt.data.load("hotdog", "train[:6]", image_size=8).labels) == {0, 1}


def test_another_file(site, tmp_path):
    folder = tmp_path / "home" / "datasets" / "hotdog"
    folder.mkdir(parents=True)
    (folder / "hotdog.zip").write_bytes(b"another")
    with pytest.raises(ValueError, match="must have the SHA-1 checksum"):
        kt.data.load("hotdog", "test", image_size=8)
    assert files(folder) == ["hotdog.zip"]


def test_no_network(site):
    site.unlink()
    with pytest.raises(ConnectionError, match=r"could not fetch hotdog.zip of the data set hotdog"):
        kt.data.load("hotdog", "test", image_size=8)


def test_the_checksum_is_the_one_that_the_book_has():
    assert hotdog._PHOTOS.algorithm == "sha1"
    assert hotdog._PHOTOS.checksum == "fba480ffa8aa7e0febbb511d181409f899b9baa5"
