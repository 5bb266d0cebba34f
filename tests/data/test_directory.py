import shutil

import numpy as np
import pytest

from keras_transfer.data import Loader, folders, from_directory, layout

Image = pytest.importorskip("PIL.Image")


def write(folder, *numbers):
    """Write one-coloured images; the colour is a number that tells them apart."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("RGB", (10, 8), (number, 0, 0)).save(folder / f"{number:03}.png")


def numbers(loader, epoch=0):
    """Return the numbers of a loader's images in their order, and their labels."""
    batches = [loader.batch(epoch, index) for index in range(loader.num_batches)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    return images[:, 0, 0, 0].tolist(), labels.tolist()


@pytest.fixture
def pets(tmp_path):
    """20 cats from 100, 12 ants from 0, 4 bees from 50."""
    for name, start, count in (("cat", 100, 20), ("ant", 0, 12), ("bee", 50, 4)):
        write(tmp_path / "pets" / name, *range(start, start + count))
    return tmp_path / "pets"


@pytest.fixture
def parts(tmp_path):
    """The folders "train" and "val" of two classes."""
    write(tmp_path / "parts" / "train" / "ant", *range(10))
    write(tmp_path / "parts" / "train" / "bee", *range(50, 56))
    write(tmp_path / "parts" / "val" / "bee", 70, 71)
    write(tmp_path / "parts" / "val" / "ant", 20)
    return tmp_path / "parts"


def test_classes_and_files_are_in_the_order_of_their_names(pets):
    loader = from_directory(pets, image_size=8, shuffle=False)
    assert isinstance(loader, Loader)
    assert loader.class_names == ["ant", "bee", "cat"]
    assert (loader.num_classes, loader.num_samples) == (3, 36)
    np.testing.assert_array_equal(loader.labels, [0] * 12 + [1] * 4 + [2] * 20)
    assert numbers(loader) == ([*range(12), *range(50, 54), *range(100, 120)], loader.labels.tolist())


def reverse(entries):
    return sorted(entries, key=lambda entry: entry.name, reverse=True)


def test_the_order_does_not_come_from_the_file_system(pets, monkeypatch):
    wanted = numbers(from_directory(pets, image_size=8).split(0.25)[0])
    entries = folders.entries
    for module in (folders, layout):
        monkeypatch.setattr(module, "entries", lambda folder: reverse(entries(folder)))
    assert numbers(from_directory(pets, image_size=8).split(0.25)[0]) == wanted


def test_arguments_reach_the_loader(pets):
    loader = from_directory(
        str(pets), image_size=(8, 6), batch_size=5, seed=9, augmentation="light", num_threads=3
    )
    assert loader.batch(0, 0)[0].shape == (5, 8, 6, 3)
    assert loader.batch(0, 0)[0].dtype == "uint8"
    assert (loader.batch_size, loader.seed, loader.shuffle) == (5, 9, True)
    assert (loader.num_threads, loader.augmentation, loader.skipped) == (3, "light", {})
    assert numbers(loader)[0] != numbers(loader, 1)[0]


def test_files_that_are_no_images_are_passed_over(pets):
    (pets / "README.txt").write_text("hello")
    (pets / "ant" / "Thumbs.db").write_bytes(b"x")
    (pets / "ant" / ".hidden.png").write_bytes(b"x")
    (pets / "ant" / "LICENSE").write_text("free")
    (pets / ".git").mkdir()
    loader = from_directory(pets, image_size=8)
    assert loader.num_samples == 36
    assert loader.skipped == {
        str(pets / ".git"): "hidden",
        str(pets / "README.txt"): "not an image",
        str(pets / "ant" / ".hidden.png"): "hidden",
        str(pets / "ant" / "LICENSE"): "not an image",
        str(pets / "ant" / "Thumbs.db"): "not an image",
    }
    shutil.copy(pets / "ant" / "000.png", pets / "ant" / "999.PNG")
    Image.new("L", (9, 9), 7).save(pets / "ant" / "1000.JPeG")
    assert from_directory(pets, image_size=8).num_samples == 38


# Training and validation


def opened(parts, *names, **arguments):
    return [from_directory(parts, part=name, image_size=8, **arguments) for name in names]


def test_folders_for_training_and_validation(parts):
    train, validation = opened(parts, "train", "val", batch_size=4, seed=3)
    assert train.class_names == validation.class_names == ["ant", "bee"]
    assert sorted(numbers(train)[0]) == [*range(10), *range(50, 56)]
    assert numbers(validation) == ([20, 70, 71], [0, 1, 1])


@pytest.mark.parametrize("name", ["valid", "validation", "test"])
def test_other_names_of_parts(name, parts):
    (parts / "val").rename(parts / name)
    train, other = opened(parts, "train", name)
    assert (train.num_samples, other.num_samples) == (16, 3)
    message = rf"is divided into train, {name}: take one .* with part='{name}'.*Received: .*part=None"
    with pytest.raises(ValueError, match=message):
        from_directory(parts, image_size=8)


def test_a_part_may_be_opened_by_itself(parts):
    assert numbers(from_directory(parts / "val", image_size=8, shuffle=False)) == (
        [20, 70, 71],
        [0, 1, 1],
    )


@pytest.mark.parametrize("part", ["vall", "val/ant", "..", "", ".", 3])
def test_a_part_is_the_name_of_a_folder(part, parts):
    hint = "; did you mean val" if part == "vall" else ""
    with pytest.raises(ValueError, match=f"name of a folder in .*{hint}.* Received: part={part!r}"):
        from_directory(parts, part=part, image_size=8)


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path / "train", 1)
    write(tmp_path / "tram", 2)
    assert from_directory(tmp_path, image_size=8).class_names == ["train", "tram"]


@pytest.mark.parametrize("case", ["pets", "parts"])
def test_validation_is_neither_shuffled_nor_augmented(case, request):
    def augmentation(image, rng):
        return np.full_like(image, 255)

    folder = request.getfixturevalue(case)
    if case == "pets":
        train, validation = from_directory(folder, image_size=8, augmentation=augmentation).split(0.5)
    else:
        (train,) = opened(folder, "train", augmentation=augmentation)
        (validation,) = opened(folder, "val")
    assert set(numbers(train)[0]) == {255}
    found = numbers(validation)
    assert found[0] == sorted(found[0])
    assert 255 not in found[0]
    assert numbers(validation, 7) == found


@pytest.mark.parametrize(
    ("fraction", "held_back"),
    [(0.25, [3, 1, 5]), (0.5, [6, 2, 10]), (0.2, [2, 1, 4]), (0.75, [9, 3, 15])],
)
def test_split_takes_its_share_of_every_class(fraction, held_back, pets):
    train, validation = from_directory(pets, image_size=8).split(fraction)
    assert train.class_names == validation.class_names == ["ant", "bee", "cat"]
    assert np.bincount(validation.labels).tolist() == held_back
    first, second = numbers(train), numbers(validation)
    assert not set(first[0]) & set(second[0])
    assert sorted(first[0] + second[0]) == [*range(12), *range(50, 54), *range(100, 120)]
    for found, labels in (first, second):
        assert labels == [0 if number < 50 else 1 if number < 100 else 2 for number in found]


def test_split_is_of_the_seed(pets):
    def held_back(seed):
        return numbers(from_directory(pets, image_size=8, seed=seed).split(0.5)[1])[0]

    assert held_back(1) == held_back(1)
    assert held_back(1) == numbers(from_directory(pets, image_size=8).split(0.5, seed=1)[1])[0]
    assert held_back(1) != held_back(2)
    # Not the first nor the last of each class, as they come from one camera or one day.
    assert held_back(1)[:6] not in ([*range(6)], [*range(6, 12)])


# Bad input


def test_split_leaves_images_of_every_class(pets):
    for fraction, least in ((0.1, 6), (0.9, 5)):  # none, or all, of four bees
        message = (
            rf"fraction must leave .*must be {least} of each: add some.*; class 'bee' has 4\. "
            rf"Received: fraction={fraction}"
        )
        with pytest.raises(ValueError, match=message):
            from_directory(pets, image_size=8).split(fraction)


def test_classes_that_differ_are_named(parts):
    (parts / "val" / "ant").rename(parts / "val" / "aunt")
    with pytest.raises(ValueError, match=r"must have the same classes; .* has \['ant', 'aunt'\]"):
        from_directory(parts, part="val", image_size=8)


def test_an_empty_class_is_named(pets):
    (pets / "dog").mkdir()
    (pets / "dog" / "notes.txt").write_text("no image")
    with pytest.raises(
        ValueError,
        match=r"each class must have images; '.*dog' has none that can be used \(1 not an image\); add",
    ):
        from_directory(pets, image_size=8)


def test_a_missing_folder_and_its_neighbour(pets):
    with pytest.raises(ValueError, match=r"no folder '.*pet'; did you mean pets\? Received: directory="):
        from_directory(pets.parent / "pet", image_size=8)
    with pytest.raises(ValueError, match=r"there is no folder '.*nowhere.pets'"):
        from_directory(pets.parent / "nowhere" / "pets", image_size=8)
    with pytest.raises(ValueError, match=r"there is no folder '.*000\.png'"):
        from_directory(pets / "ant" / "000.png", image_size=8)


def test_a_folder_without_folders(pets):
    (pets / "empty").mkdir()
    for name in ("ant", "empty"):
        with pytest.raises(ValueError, match=rf"a folder for each class; '.*{name}' has no folders"):
            from_directory(pets / name, image_size=8)


def test_one_class_is_enough(tmp_path):
    write(tmp_path / "ant", *range(5))
    loader = from_directory(tmp_path, image_size=8)
    assert (loader.class_names, loader.class_counts().tolist()) == (["ant"], [5])


def test_image_size_is_needed(pets):
    with pytest.raises(TypeError, match="image_size"):
        from_directory(pets)
    with pytest.raises(ValueError, match="images in files need an image_size"):
        from_directory(pets, image_size=None).batch(0, 0)


@pytest.mark.real_data
def test_photos(real_data):
    folder, options = real_data / "hymenoptera", {"image_size": 32, "batch_size": 16}
    train, validation = (from_directory(folder, part=part, **options) for part in ("train", "val"))
    assert train.class_names == ["ants", "bees"]
    assert [np.bincount(loader.labels).tolist() for loader in (train, validation)] == [
        [123, 121],
        [70, 83],
    ]
    images, _ = validation.batch(0, 0)
    assert (images.shape, images.dtype) == ((16, 32, 32, 3), np.uint8)
    assert images.std() > 30
