"""Images that were decoded to look at their files aren't decoded again, and are the same."""

import gc
import os
import pickle
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

from keras_transfer.data import from_directory, taking
from keras_transfer.data.images import jpeg, kept, reading
from keras_transfer.data.images.kept import Kept
from keras_transfer.data.images.reading import read_image
from keras_transfer.data.looking import Look, look, looked_at

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")

SIZE = (24, 32)
KINDS = {
    **{f"turned {value}": ("RGB", {"orientation": value}) for value in range(1, 9)},
    "large": ("RGB", {"scale": 4, "orientation": 6}),
    "grey": ("L", {}),
    "CMYK": ("CMYK", {"orientation": 3}),
    "progressive": ("RGB", {"progressive": True, "orientation": 8}),
    "fine": ("RGB", {"quality": 100, "subsampling": 0}),
}


def aged(path):
    """Let a file be an hour old, as one that was written just now isn't kept."""
    hour_ago = time.time() - 3600
    os.utime(path, (hour_ago, hour_ago))
    return path


def write(path, mode="RGB", seed=0, scale=1, orientation=None, **options):
    """Write a JPEG of waves and edges, 90 pixels high and 150 wide or `scale` times that."""
    y, x = np.mgrid[0 : 90 * scale, 0 : 150 * scale] / scale
    waves = np.stack([np.sin(x / 9 + seed), np.cos(y / 7), np.sin((x + 2 * y) / 11)], axis=-1)
    waves[30 * scale : 40 * scale, 20 * scale : 130 * scale] = 1
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray((128 + 100 * waves).astype("uint8")).convert(mode)
    image.save(path, "JPEG", exif=exif, **options)
    return aged(path)


@pytest.fixture
def pets(tmp_path):
    """JPEGs of every kind in one class, and PNGs in another."""
    for number, (mode, options) in enumerate(KINDS.values()):
        write(tmp_path / "pets" / "ant" / f"{number:02}.jpg", mode, **options)
    for number in range(3):
        path = write(tmp_path / "pets" / "bee" / f"{number}.jpg", seed=number)
        Image.open(path).save(path.with_suffix(".png"))
        aged(path.with_suffix(".png"))
        path.unlink()
    return tmp_path / "pets"


@pytest.fixture
def decoded(monkeypatch):
    """Record by which divisor each JPEG is decoded, and each other image as 1."""
    divisors, decode, load = [], jpeg.decode, reading._load

    def decoding(content, about, divisor):
        divisors.append(divisor)
        return decode(content, about, divisor)

    def loading(image):
        divisors.append(1)
        load(image)

    monkeypatch.setattr(jpeg, "decode", decoding)
    monkeypatch.setattr(reading, "_load", loading)
    return divisors


def images(loader):
    """Return all images in the order of the files; a loop would read ahead, into the next epoch."""
    return loader.samples(0, loader.num_samples)[0]


def test_each_file_is_decoded_once_and_gives_the_same_pixels(pets, decoded):
    loader = from_directory(pets, image_size=SIZE, shuffle=False)
    assert len(decoded) == loader.num_samples == len(KINDS) + 3
    found = images(loader)
    train, validation = loader.split(0.2)
    for other in (train, validation, loader.replace(augmentation="light"), loader.replace(seed=1)):
        assert len(images(other)) == other.num_samples
    np.testing.assert_array_equal(images(loader), found)
    assert len(decoded) == len(KINDS) + 3
    for index, image in enumerate(found):
        np.testing.assert_array_equal(image, read_image(loader.file(index), SIZE))
    assert len(decoded) == 2 * (len(KINDS) + 3)


def test_nobody_writes_into_a_kept_image(pets):
    """It is given out again and again."""
    paths = sorted((pets / "ant").iterdir())
    store = Kept((24, 32))
    looked_at(paths, 0, kept=store)
    for path in paths:
        with pytest.raises(ValueError, match="read-only"):
            store.get(path)[0, 0] = 0


@pytest.mark.parametrize("size", [(24, 32), (32, 24), (20, 20), (60, 100), (90, 150), (130, 130)])
def test_the_pixels_are_those_of_pillow_within_two_levels(size, pets):
    paths = sorted((pets / "ant").iterdir())
    store = Kept(size)
    assert looked_at(paths, 0, kept=store) == ({}, {})
    for path in paths:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) > 4
            height, width = (image.width, image.height) if turned else image.size[::-1]
            factor = min(height / size[0], width / size[1]) / 2
            divisor = next((divisor for divisor in (8, 4, 2) if divisor <= factor), 1)
            if divisor > 1:
                image.draft(None, (image.width // divisor, image.height // divisor))
            upright = ImageOps.exif_transpose(image.convert("RGB"))
            # The centre of the whole image, in pixels of the smaller one.
            scale = min(height / size[0], width / size[1])
            rows, columns = scale * size[0], scale * size[1]
            top, left = (height - rows) / 2, (width - columns) / 2
            box = np.array([left, top, left + columns, top + rows]) / divisor
            box = (*box[:2], min(box[2], upright.width), min(box[3], upright.height))
            wanted = np.asarray(upright.resize(size[::-1], Image.Resampling.BILINEAR, box=box))
        found = store.get(path)
        assert np.abs(found.astype(int) - wanted).max() <= 2
        np.testing.assert_array_equal(found, read_image(path, size))


def test_a_part_of_each_original_image_is_decoded_again(pets, decoded):
    """And images are looked at as small as can be, as none would be of use."""
    loader = from_directory(pets / "..", part="pets", image_size=SIZE, augmentation="standard")
    looked = len(decoded)
    assert decoded.count(8) == len(KINDS)
    images(loader)
    assert len(decoded) == 2 * looked
    images(loader.replace(augmentation=None))
    assert len(decoded) == 3 * looked


def test_another_size_is_decoded_again(pets, decoded):
    loader = from_directory(pets, image_size=SIZE)
    looked = len(decoded)
    assert images(loader.replace(image_size=SIZE[::-1])).shape[1:3] == SIZE[::-1]
    assert len(decoded) == 2 * looked


# What takes how much memory


def test_no_more_is_kept_than_the_bound_allows(pets, decoded, monkeypatch):
    wanted = images(from_directory(pets, image_size=SIZE, shuffle=False, on_error="defer"))
    decoded.clear()
    most = 5 * wanted[0].nbytes + 1
    monkeypatch.setattr(taking, "Kept", partial(Kept, most_bytes=most))
    loader = from_directory(pets, image_size=SIZE, shuffle=False)
    stored = loader._source._kept
    assert sum(image.nbytes for _, image in stored._images.values()) <= most
    assert len(stored) == 5
    assert len(decoded) == loader.num_samples
    np.testing.assert_array_equal(images(loader), wanted)
    assert len(decoded) == 2 * loader.num_samples - 5
    assert len(stored) == 5


def test_what_does_not_fit_at_all_is_looked_at_as_small_as_can_be(tmp_path, decoded):
    path, store = write(tmp_path / "1.jpg"), Kept(SIZE, most_bytes=SIZE[0] * SIZE[1] * 3 - 1)
    assert look(path, kept=store) == Look()
    assert (len(store), decoded) == (0, [8])


def test_threads_do_not_pass_the_bound(tmp_path):
    paths = [
        aged(tmp_path / str(number)) for number in range(64) if not (tmp_path / str(number)).touch()
    ]
    image = np.zeros((*SIZE, 3), "uint8")
    store = Kept(SIZE, most_bytes=10 * image.nbytes)
    barrier = threading.Barrier(8)

    def put(number):
        if number < 8:
            barrier.wait(10)
        store.put(paths[number], kept.version(paths[number]), image.copy())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(64)))
    assert len(store) == 10
    assert sum(store.get(path) is not None for path in paths) == 10


def test_memory_is_given_back(pets, decoded):
    loader = from_directory(pets, image_size=SIZE)
    subset, store = loader.subset([0, 1]), weakref.ref(loader._source._kept)
    looked = len(decoded)
    assert len(pickle.dumps(loader)) < SIZE[0] * SIZE[1] * 3
    loader.close()
    assert len(store()) == 0
    images(subset)  # is decoded again
    assert len(decoded) == looked + 2
    del loader, subset
    gc.collect()
    assert store() is None


def test_nobody_writes_into_what_is_kept(tmp_path):
    store = Kept(SIZE)
    look(path := write(tmp_path / "1.jpg"), kept=store)
    with pytest.raises(ValueError, match="read-only"):
        store.get(path)[0] = 1


# Files that change


def test_a_file_that_changes_is_read_anew(pets):
    loader = from_directory(pets, image_size=SIZE, shuffle=False)
    before, path = loader.samples(0, 1)[0], loader.file(0)
    for change in ("written", "replaced"):
        if change == "written":
            path.write_bytes(write(pets / ".." / "other.jpg", seed=2).read_bytes())
        else:
            os.replace(write(pets / ".." / "other.jpg", seed=3), path)
        after = loader.samples(0, 1)[0]
        assert not np.array_equal(after, before)
        np.testing.assert_array_equal(after[0], read_image(path, SIZE))
        before = after
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\xff\xd9")
    with pytest.raises(ValueError, match=r"can't read the image '.*00\.jpg'"):
        loader.samples(0, 1)
    path.unlink()
    with pytest.raises(ValueError, match=r"can't read the image '.*00\.jpg' \(No such file"):
        loader.samples(0, 1)


def test_another_file_of_the_same_size_and_time_is_read_anew(tmp_path):
    """As where one folder is synchronised with another."""
    first, second = (write(tmp_path / name, seed=seed) for name, seed in (("1.jpg", 0), ("2.jpg", 1)))
    length = max(path.stat().st_size for path in (first, second))
    for path in (first, second):  # bytes behind the end are no damage
        path.write_bytes(path.read_bytes().ljust(length, b"\0"))
        os.utime(path, (10**9, 10**9))
    store = Kept(SIZE)
    assert look(first, kept=store) == Look()
    assert store.get(first) is not None
    os.replace(second, first)
    assert store.get(first) is None


def test_a_file_that_was_just_written_is_not_kept(tmp_path, decoded):
    """It may be written again before the clock of the file system goes on."""
    path, store = write(tmp_path / "1.jpg"), Kept(SIZE)
    os.utime(path)
    assert look(path, kept=store) == Look()
    assert (len(store), decoded) == (0, [8])


# What is found in files


def test_what_is_found_is_the_same_whether_images_are_kept_or_not(pets, tmp_path):
    stripes = np.zeros((90, 150, 3), "uint8")
    stripes[:, :20] = 255  # the middle is of one colour
    whole = {"1.png": np.full_like(stripes, 7), "2.jpg": np.full_like(stripes, 200)}
    for name, image in {**whole, "3.png": stripes, "4.jpg": stripes}.items():
        Image.fromarray(image).save(pets / "bee" / name)
    dark = Image.fromarray(np.arange(90 * 150, dtype="uint16").reshape(90, 150) % 4096)
    dark.save(pets / "bee" / "5.png")
    path = write(pets / "bee" / "6.jpg")
    path.write_bytes(path.read_bytes()[:-400] + b"\xff\xd9")
    path = write(pets / "bee" / "7.jpg")
    path.write_bytes(path.read_bytes()[:-2] + bytes(30) + b"\xff\xd9")
    paths = [aged(path) for path in sorted(pets.rglob("*.*"))]
    store = Kept((50, 50))
    problems, notes = found = looked_at(paths, 0, kept=store)
    assert found == looked_at(paths, 0)
    assert [path.name for path in problems] == ["6.jpg"]
    assert {path.name for path in notes} == {"1.png", "2.jpg", "5.png", "7.jpg"}
    assert len(store) == len(paths) - 1
