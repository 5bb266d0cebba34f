import csv
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from small_archives import KINDS, NUMBERS, PHOTOS, files, number_of, publish_flowers, sha256

from keras_transfer.data.sets import flowers
from keras_transfer.data.sets.flowers import class_names, oxford_flowers102, tf_flowers


@pytest.fixture
def site(monkeypatch, tmp_path):
    """The folder where both data sets are published in small; Keras' home is empty."""
    return publish_flowers(monkeypatch, tmp_path)


def numbers(source):
    return [number_of(source.sample(index, (8, 8))[0]) for index in range(len(source))]


def in_order_of_tfds(tmp_path, split, keys):
    """Let TFDS shuffle samples as it does when it prepares a data set."""
    shuffle = pytest.importorskip("tensorflow_datasets.core.shuffle")
    shuffler = shuffle.Shuffler(tmp_path, hash_salt=split)
    for key in keys:
        shuffler.add(key, key.encode())
    return [content.decode() for _, content in shuffler]


class TestTFFlowers:
    def test_photographs_and_labels(self, site, tmp_path):
        source, sizes = tf_flowers(["train"])
        assert sizes == {"train": 20}
        order = numbers(source)
        assert sorted(order) == list(range(20))
        names = [PHOTOS[number].partition("/")[0] for number in order]
        assert [class_names("tf_flowers")[label] for label in source.labels] == names
        assert source.labels.dtype == "int32"
        assert "flower_photos/LICENSE.txt" in files(tmp_path / "home" / "datasets" / "tf_flowers")

    def test_order(self, site, tmp_path):
        source, _ = tf_flowers(["train"])
        expected = in_order_of_tfds(tmp_path, "train", PHOTOS)
        assert [PHOTOS[number] for number in numbers(source)] == expected
        assert expected != sorted(expected)

    def test_once(self, site):
        expected = tf_flowers(["train"])[0].paths
        (site / "flower_photos.tgz").unlink()
        assert tf_flowers(["train"])[0].paths == expected

    def test_another_archive(self, site, tmp_path):
        (site / "flower_photos.tgz").write_bytes(b"another")
        with pytest.raises(ValueError, match="flower_photos.tgz must have the SHA-256 checksum"):
            tf_flowers(["train"])
        assert files(tmp_path / "home") == []


class TestOxfordFlowers102:
    @pytest.mark.parametrize(
        ("split", "name"), [("train", "trnid"), ("validation", "valid"), ("test", "tstid")]
    )
    def test_images_and_labels(self, site, split, name, tmp_path):
        source, sizes = oxford_flowers102([split])
        assert sizes == {split: len(NUMBERS[name])}
        order = numbers(source)
        assert sorted(order) == NUMBERS[name].tolist()
        assert source.labels.tolist() == [KINDS[number - 1] - 1 for number in order]
        keys = [f"image_{number:05d}.jpg" for number in NUMBERS[name]]
        assert [path.name for path in source.paths] == in_order_of_tfds(tmp_path, split, keys)

    def test_several_splits(self, site):
        parts = [oxford_flowers102([split])[0] for split in ("test", "train")]
        source, sizes = oxford_flowers102(["test", "train"])
        assert sizes == {"test": 16, "train": 6}
        assert list(sizes) == ["test", "train"]
        assert source.paths == [path for part in parts for path in part.paths]
        np.testing.assert_array_equal(source.labels, np.concatenate([part.labels for part in parts]))

    def test_first_and_last_kind(self, site, monkeypatch):
        scipy.io.savemat(site / "imagelabels.mat", {"labels": np.array([[1, 102] * 15], "uint8")})
        download = dataclasses.replace(flowers._LABELS, checksum=sha256(site / "imagelabels.mat"))
        monkeypatch.setattr(flowers, "_LABELS", download)
        assert set(oxford_flowers102(["test"])[0].labels.tolist()) == {0, 101}

    def test_without_scipy_nothing_is_fetched(self, site, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "scipy.io", None)
        with pytest.raises(ImportError, match=r"needs scipy: pip install 'keras-transfer\[data\]'"):
            oxford_flowers102(["train"])
        assert not (tmp_path / "home").exists()

    @pytest.mark.parametrize("name", ["imagelabels.mat", "setid.mat"])
    def test_tables_are_checked_each_time_and_first(self, site, name, tmp_path):
        (site / "102flowers.tgz").unlink()
        with pytest.raises(ConnectionError, match="102flowers.tgz of the data set oxford_flowers102"):
            oxford_flowers102(["train"])
        folder = tmp_path / "home" / "datasets" / "oxford_flowers102"
        (folder / name).write_bytes(b"another")
        with pytest.raises(ValueError, match=f"{name}' must have the SHA-256 checksum"):
            oxford_flowers102(["train"])


class TestAgainstTFDS:
    """What both have to say alike; TFDS has it in its code, so no data is needed."""

    @pytest.fixture
    def definitions(self):
        return Path(pytest.importorskip("tensorflow_datasets").__file__).parent / "datasets"

    @pytest.mark.parametrize(
        ("data_set", "names"),
        [("tf_flowers", ["_PHOTOS"]), ("oxford_flowers102", ["_IMAGES", "_LABELS", "_SPLITS"])],
    )
    def test_checksums(self, definitions, data_set, names):
        with (definitions / data_set / "checksums.tsv").open(encoding="utf-8") as file:
            checksums = {row[3]: row[2] for row in csv.reader(file, delimiter="\t")}
        downloads = [getattr(flowers, name) for name in names]
        assert {download.name: download.checksum for download in downloads} == checksums
        assert all(download.url.startswith("https://") for download in downloads)

    @pytest.mark.parametrize("data_set", ["tf_flowers", "oxford_flowers102"])
    def test_class_names(self, data_set, tmp_path):
        tfds = pytest.importorskip("tensorflow_datasets")
        builder = tfds.builder(data_set, data_dir=tmp_path)
        assert class_names(data_set) == builder.info.features["label"].names


def test_the_photographs_of_all_classes_are_unpacked():
    for name in class_names("tf_flowers"):
        assert flowers._PHOTOS.image.fullmatch(f"{name}/10140303196_b88d3d6cec_n.jpg")
    assert not flowers._PHOTOS.image.fullmatch("weeds/1.jpg")
