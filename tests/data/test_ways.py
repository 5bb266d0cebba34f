"""The same photos, however they are given: the same order, bytes, splits and weights."""

import pickle

import keras
import numpy as np
import pytest
from ways import NEEDS, WAYS, write_photos

import keras_transfer as kt
from keras_transfer.data import from_directory

HOW = {"image_size": 8, "batch_size": 4, "seed": 3, "verbose": 0}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Class folders of photos; Keras' home, where archives are unpacked, is an empty one."""
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path / "home"))
    return write_photos(tmp_path / "photos")


@pytest.fixture
def given(photos, tmp_path):
    """Return a function that loads the photos in some way."""

    def load(way, **changes):
        pytest.importorskip(NEEDS.get(way, "PIL"))
        (tmp_path / "made").mkdir()
        function, arguments = WAYS[way](photos, tmp_path / "made")
        return function(*arguments, **HOW | changes)

    return load


def images(loader):
    return [loader.batch(epoch, 0) for epoch in (0, 1)]


@pytest.mark.parametrize("way", WAYS)
def test_each_way_gives_the_same(way, photos, given):
    wanted, found = from_directory(photos, **HOW), given(way)
    assert found.class_names == wanted.class_names == ["ant", "bee", "crab"]
    np.testing.assert_array_equal(found.labels, wanted.labels)
    assert found.fingerprint() == wanted.fingerprint()  # of the bytes in their order
    assert found.skipped == {}
    for pair in zip(images(found), images(wanted), strict=True):
        for one, other in zip(*pair, strict=True):
            np.testing.assert_array_equal(one, other)
    for one, other in zip(found.split(0.25), wanted.split(0.25), strict=True):
        assert one.fingerprint() == other.fingerprint()
    assert pickle.loads(pickle.dumps(found)).fingerprint() == wanted.fingerprint()
    names = [found.file(index).name for index in range(found.num_samples)]
    assert names == [wanted.file(index).name for index in range(wanted.num_samples)]


def trained(loader):
    """Return the weights of a small network after two epochs, with augmentation."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    kt.fine_tune(
        model,
        loader.replace(augmentation="light"),
        phases=[kt.Phase("all", 2, train="all", learning_rate=1e-4)],
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        verbose=0,
    )
    return model.get_weights()


def test_a_network_learns_the_same(photos, given):
    found = trained(given("webdataset"))
    for one, other in zip(found, trained(from_directory(photos, **HOW)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_members_of_a_tar_are_looked_at_and_kept_as_files_are(photos, given, monkeypatch):
    from keras_transfer.data.images import stored

    damaged = sorted((photos / "ant").iterdir())[0]
    damaged.write_bytes(b"\xff\xd8\xff nothing")
    monkeypatch.setattr(stored, "_UNSETTLED", -(10**12))
    loader = given("webdataset", on_error="skip")
    (skipped,) = loader.skipped
    assert skipped.endswith(damaged.name)
    monkeypatch.setattr(stored.Member, "read", None)
    assert loader.samples(0, 14)[0].shape == (14, 8, 8, 3)
    with pytest.raises(TypeError):
        loader.replace(image_size=9).samples(0, 14)
