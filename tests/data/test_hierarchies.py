"""Folders within the folders of classes: `level` of `from_directory`."""

import numpy as np
import pytest

from keras_transfer.data import from_directory

Image = pytest.importorskip("PIL.Image")
FILES = [
    "animals/birds/heron/1.png",
    "animals/birds/heron/2.png",
    "animals/birds/owl/1.png",
    "animals/frogs/1.png",
    "plants/ferns/1.png",
]


def write(root, files):
    for number, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (9, 9, 3), "uint8")
        Image.fromarray(noise).save(root / name)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tree"), FILES)


def read(folder, **options):
    return from_directory(folder, **{"image_size": 8, "verbose": 0, **options})


@pytest.mark.parametrize(
    ("options", "names", "labels"),
    [
        ({}, ["animals", "plants"], [0, 0, 0, 0, 1]),
        ({"level": 1}, ["animals", "plants"], [0, 0, 0, 0, 1]),
        ({"level": 2}, ["animals/birds", "animals/frogs", "plants/ferns"], [0, 0, 0, 1, 2]),
        (
            {"level": "leaf"},
            ["animals/birds/heron", "animals/birds/owl", "animals/frogs", "plants/ferns"],
            [0, 0, 1, 2, 3],
        ),
    ],
)
def test_the_class_is_the_way_to_an_image(folder, options, names, labels):
    loader = read(folder, **options)
    assert loader.class_names == names
    assert loader.labels.tolist() == labels
    files = [loader.file(index).relative_to(folder).as_posix() for index in range(len(FILES))]
    assert files == FILES


def test_classes_come_in_the_order_of_folders(tmp_path):
    write(tmp_path, ["a-b/c/1.png", "a/z/1.png", "a/b/1.png"])
    assert read(tmp_path, level=2).class_names == ["a/b", "a/z", "a-b/c"]


def test_one_folder_may_have_all_of_them(tmp_path):
    write(tmp_path, ["birds/owl/1.png", "birds/heron/1.png"])
    with pytest.raises(ValueError, match="did you mean"):
        read(tmp_path)
    assert read(tmp_path, level=2).class_names == ["birds/heron", "birds/owl"]


def test_a_level_deeper_than_the_folders(folder):
    with pytest.raises(ValueError, match=r"2 images have fewer than 3, such as '.*frogs.1.png' with 2"):
        read(folder, level=3)


def test_a_class_within_another_is_told(tmp_path, caplog):
    write(tmp_path, ["birds/1.png", "birds/owl/1.png", "frogs/1.png"])
    assert read(tmp_path, level="leaf").class_names == ["birds", "birds/owl", "frogs"]
    assert "1 classes are within others that have images of their own, such as birds/owl" in caplog.text


def test_a_class_without_good_images(tmp_path):
    write(tmp_path, FILES)
    (tmp_path / "animals/frogs/1.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(ValueError, match="each class must have images; .*frogs' has none"):
        read(tmp_path, level=2, on_error="skip")


def test_parts_have_the_same_classes(tmp_path):
    write(tmp_path / "train", FILES)
    write(tmp_path / "val", [*FILES[:2], *FILES[3:]])
    assert read(tmp_path, part="val", level=2).class_names[0] == "animals/birds"
    with pytest.raises(ValueError, match=r"only one of them has \['animals/birds/owl'\]"):
        read(tmp_path, part="val", level="leaf")


@pytest.mark.parametrize("level", [0, -1, 1.5, True, "top", None])
def test_what_is_no_level(folder, level):
    with pytest.raises(ValueError, match="level must be how many"):
        read(folder, level=level)
