"""Folders as people lay them out: each works, or the message says what was found and meant."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_backbone

import keras_transfer as kt
from keras_transfer.data import from_directory
from keras_transfer.data.layout import Division, division

Image = pytest.importorskip("PIL.Image")
links = pytest.mark.skipif(not hasattr(os, "symlink"), reason="symbolic links")


def classes(folder, *names, first=0):
    for number, name in enumerate(names or ("ants", "bees"), first):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (9, 7), (number, 0, 0)).save(folder / name / "1.png")


def opened(root, part=None, **options):
    return from_directory(root, part=part, image_size=7, **options)


def refused(root, part=None):
    with pytest.raises(ValueError, match="Received: ") as error:
        opened(root, part)
    return str(error.value)


@pytest.mark.parametrize(
    ("training", "other", "role"),
    [
        ("train", "val", "val"),
        ("Train", "Val", "val"),
        ("training", "validation", "val"),
        ("TRAIN", "valid", "val"),
        ("train", "test", "test"),
        ("Training", "Testing", "test"),
        ("train", "dev", "val"),
        ("Training Set", "Test Set", "test"),
        ("train_set", "test_set", "test"),
        ("seg_train", "seg_test", "test"),
        ("TrainingSet", "ValidationSet", "val"),
        ("train2017", "val2017", "val"),
    ],
)
def test_names_of_parts(training, other, role, tmp_path):
    classes(tmp_path / training)
    classes(tmp_path / other)
    assert division(tmp_path) == Division(training, other, [])
    assert (opened(tmp_path, "train").shuffle, opened(tmp_path, role).shuffle) == (True, False)
    assert opened(tmp_path, other).class_names == ["ants", "bees"]
    told = refused(tmp_path)
    assert (
        f"is divided into {training}, {other}: take one of these, as {str(tmp_path / other)!r}" in told
    )
    assert ".jpg" not in told


def test_what_is_for_testing_is_not_used_where_there_is_validation(tmp_path):
    for part in ("train", "val", "test", "extra"):
        classes(tmp_path / part)
    assert division(tmp_path) == Division("train", "val", ["extra", "test"])


def test_a_part_that_is_missing(tmp_path):
    for part in ("train", "test"):
        classes(tmp_path / part)
    told = refused(tmp_path, "val")
    assert "part must be the name of a folder in" in told
    assert "; found train and test, no val. Received: part='val'" in told


def test_parts_without_one_for_training(tmp_path):
    for part in ("val", "test"):
        classes(tmp_path / part)
    assert division(tmp_path) is None
    told = refused(tmp_path)
    assert "found val and test, no train: take one of these" in told


def test_classes_may_be_called_as_parts(tmp_path):
    classes(tmp_path, "test", "val")  # which have images, and no folders of classes
    assert opened(tmp_path).class_names == ["test", "val"]
    assert division(tmp_path) is None


def test_a_word_for_a_part_may_be_in_the_name_of_a_class(tmp_path):
    classes(tmp_path, "test tube", "train station")
    assert division(tmp_path) is None
    assert opened(tmp_path).class_names == ["test tube", "train station"]


def test_parts_that_are_not_called_so_are_told(tmp_path, caplog):
    for fold in ("fold1", "fold2"):
        classes(tmp_path / fold)
    assert opened(tmp_path).class_names == ["fold1", "fold2"]
    assert "the classes are fold1, fold2, though each has the folders ants, bees" in caplog.text
    caplog.clear()
    (tmp_path / "fold2" / "bees").rename(tmp_path / "fold2" / "wasps")  # as years and places may be
    assert opened(tmp_path).class_names == ["fold1", "fold2"]
    assert "though" not in caplog.text


def test_a_wrapper_within_a_part(tmp_path):
    for part in ("train", "test"):
        classes(tmp_path / part / "images")
    told = refused(tmp_path, "train")
    assert (
        f"'images', which has folders and no images; move these into {str(tmp_path / 'train')!r}" in told
    )
    assert "did you mean" not in told


@pytest.mark.parametrize("name", ["", "unlabelled"])
def test_a_part_without_labels(name, tmp_path):
    classes(tmp_path / "train")
    (tmp_path / "test" / name).mkdir(parents=True)
    Image.new("RGB", (9, 7)).save(tmp_path / "test" / name / "1.png")
    told = refused(tmp_path, "test")
    assert f"To do without 'test', take {str(tmp_path / 'train')!r} alone." in told
    assert ("'test' has no folders of classes" in told) == (not name)


def test_an_archive(tmp_path):
    (tmp_path / "photos.7z").touch()
    (tmp_path / "photos").touch()
    assert "photos.7z', but a file; unpack it first" in refused(tmp_path / "photos.7z")
    assert "did you mean" not in refused(tmp_path / "photo")


@pytest.mark.parametrize("way", ["photos", "data/photos", "photos/train"])
def test_a_wrapper(way, tmp_path):
    classes(tmp_path / way)
    (tmp_path / "__MACOSX" / "photos").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "photos" / "._1.jpg").write_bytes(b"\0\5\26\7")
    (tmp_path / ".DS_Store").touch()
    told = refused(tmp_path)
    assert f"did you mean {str(tmp_path / way)!r}?" in told
    assert f"has one folder alone, {Path(way).parts[0]!r}, which has folders and no images" in told
    assert opened(tmp_path / way).class_names == ["ants", "bees"]


def test_a_divided_folder_in_a_wrapper(tmp_path):
    for part in ("train", "val"):
        classes(tmp_path / "photos" / part)
    assert f"did you mean {str(tmp_path / 'photos')!r}?" in refused(tmp_path)


def test_images_beside_what_describes_them(tmp_path):
    classes(tmp_path / "images")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "1.xml").write_text("<xml/>")
    told = refused(tmp_path)
    assert told.startswith(f"each class must have images; {str(tmp_path / 'annotations')!r} has none")
    assert f"(1 not an image); did you mean {str(tmp_path / 'images')!r}?" in told


def test_images_in_no_folder(tmp_path):
    classes(tmp_path / "photos", "ants")
    told = refused(tmp_path / "photos" / "ants")
    assert "has no folders, but 1 images: put those of each class into a folder of its own" in told


@links
def test_a_folder_for_training_may_be_a_link(tmp_path):
    classes(tmp_path / "shared" / "train")
    classes(tmp_path / "photos" / "val")
    (tmp_path / "photos" / "train").symlink_to(tmp_path / "shared" / "train", target_is_directory=True)
    assert opened(tmp_path / "photos", "train").num_samples == 2


# Names of classes


NAMES = [unicodedata.normalize(form, "fourmí") for form in ("NFC", "NFD")]


def both_forms(folder):
    """Make a folder for each way to write a name, or skip where the file system has but one."""
    classes(folder, *NAMES) if not _same_there(folder) else pytest.skip("one folder for both names")


def _same_there(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAMES[0]).mkdir()
    same = (folder / NAMES[1]).exists()
    (folder / NAMES[0]).rmdir()
    return same


def test_an_accent_is_the_same_composed_or_not(tmp_path):
    classes(tmp_path / "train", NAMES[0], "ants")
    classes(tmp_path / "val", NAMES[1], "ants")
    for part in ("train", "val"):
        assert opened(tmp_path, part).class_names == ["ants", NAMES[0]]


def test_names_are_compared_however_they_are_written():
    model = kt.classifier(tiny_backbone(), 2, class_names=[NAMES[1], "wasps"], seed=0)  # of macOS
    x, y = np.zeros((2, 16, 16, 3), "uint8"), np.arange(2)
    loader = kt.Loader((x, y), class_names=[NAMES[0], "wasps"])
    assert kt.evaluation.evaluate(model, loader, verbose=0).samples == 2
    with pytest.raises(ValueError, match="must have the same classes in the same order"):
        kt.evaluation.evaluate(model, loader.replace(class_names=["wasps", NAMES[0]]), verbose=0)


def test_two_folders_of_one_name_are_one_class(tmp_path):
    both_forms(tmp_path)
    classes(tmp_path, "wasps", first=5)
    loader = opened(tmp_path)
    assert loader.class_names == [NAMES[0], "wasps"]
    assert loader.class_counts().tolist() == [2, 1]
    assert sorted({int(image[3, 3, 0]) for images, _ in loader for image in images}) == [0, 1, 5]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes there")
def test_a_name_that_is_no_text_is_refused_and_shown(tmp_path):
    classes(tmp_path, "ants")
    os.makedirs(os.path.join(os.fsencode(tmp_path), "fourmí".encode("latin-1")))
    told = refused(tmp_path)
    assert told.startswith("the folders of classes must have names in UTF-8")
    assert r"Received: 'fourm\udced' in" in told
    told.encode()
