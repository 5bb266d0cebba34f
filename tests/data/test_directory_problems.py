"""Folders as they are: damaged files, links, pipes, names of all kinds."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_transfer
from keras_transfer.data import from_directory, looking

Image = pytest.importorskip("PIL.Image")

ON_ERROR = ("raise", "skip", "defer")
links = pytest.mark.skipif(not hasattr(os, "symlink"), reason="symbolic links")
pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
not_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)


def colour(number):
    """Tells a few hundred images apart."""
    return number % 20 * 12, number // 20 * 12, 100


def write(path, number):
    image = Image.new("RGB", (10, 8), colour(number))
    image.putpixel((0, 0), (9, 9, 9))  # so that it isn't all of one colour
    image.save(path)


def number_of(image):
    red, green, blue = np.rint(image[4, 4].astype(float)).astype(int)
    assert abs(blue - 100) < 6
    return round(red / 12) + 20 * round(green / 12)


@pytest.fixture
def pets(tmp_path):
    """Six ants from 0 and six bees from 10."""
    for name, first in (("ant", 0), ("bee", 10)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(first, first + 6):
            write(tmp_path / "pets" / name / f"{number:03}.png", number)
    return tmp_path / "pets"


def cut(path):
    """Leave half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def refused(folder, **arguments):
    """Return what `from_directory` says."""
    with pytest.raises(ValueError, match="Received: ") as error:
        from_directory(folder, image_size=8, **arguments)
    return str(error.value)


# What happens on errors


def test_by_default_an_error_names_the_damaged_files(pets):
    cut(pets / "ant" / "002.png")
    (pets / "bee" / "text.jpg").write_text("hello")
    told = refused(pets)
    assert told.startswith(
        "2 of 13 files can't be used; mend or remove them, or leave them out with on_"
    )
    assert f"{str(pets / 'ant' / '002.png')!r} (" in told
    assert f"{str(pets / 'bee' / 'text.jpg')!r} (no image of a known format)" in told
    assert told.endswith(f"Received: directory={str(pets)!r}")
    assert refused(pets, on_error="raise") == told


def test_of_many_damaged_files_ten_are_named(pets):
    for number in range(25):
        (pets / "ant" / f"x{number:02}.jpg").touch()
    told = refused(pets)
    assert told.count("no image of a known format") == 10
    assert "x09.jpg" in told
    assert "x10.jpg" not in told
    assert "; and 15 more. Received" in told


@pytest.mark.parametrize("split", [None, 0.5])
def test_damaged_files_are_left_out_and_listed(split, pets, caplog):
    cut(pets / "ant" / "002.png")
    (pets / "bee" / "text.jpg").write_text("hello")
    with caplog.at_level(logging.WARNING, "keras_transfer"):
        loader = from_directory(pets, image_size=8, on_error="skip")
    loaders = [loader] if split is None else loader.split(split)
    (record,) = caplog.records
    assert record.getMessage().startswith("left out 2 of 13 files: ")
    assert "002.png" in record.getMessage()
    for loader in loaders:
        assert loader.skipped.keys() == {str(pets / "ant" / "002.png"), str(pets / "bee" / "text.jpg")}
        assert loader.skipped[str(pets / "bee" / "text.jpg")] == "no image of a known format"
        assert loader.replace(seed=7).skipped == loader.subset([0]).skipped == loader.skipped
    assert sum(loader.num_samples for loader in loaders) == 11
    found = {number_of(image) for loader in loaders for images, _ in loader for image in images}
    assert found == {*range(6), *range(10, 16)} - {2}


def test_nothing_is_said_where_nothing_is_wrong(pets, caplog):
    for on_error in ON_ERROR:
        assert from_directory(pets, image_size=8, on_error=on_error).skipped == {}
    assert not caplog.records


def test_a_deferred_error_is_raised_when_the_turn_of_the_file_comes(pets, monkeypatch):
    cut(pets / "bee" / "012.png")

    def looked_at(paths, verbose, rules):
        raise AssertionError("nothing is to be decoded beforehand")

    monkeypatch.setattr(looking, "looked_at", looked_at)
    loader = from_directory(pets, image_size=8, on_error="defer", shuffle=False, batch_size=6)
    assert loader.num_samples == 12
    assert loader.batch(0, 0)[0].shape == (6, 8, 8, 3)
    for read in (lambda: loader.batch(0, 1), lambda: list(loader)):
        with pytest.raises(
            ValueError, match=r"can't read the image '.*bee.012\.png' \(.*\); mend or rem"
        ):
            read()


@pytest.mark.parametrize("on_error", ["ignore", None, True])
def test_other_ways_to_deal_with_errors(on_error, pets):
    with pytest.raises(
        ValueError, match=f"on_error must be 'raise', 'skip' or 'defer'. Received: on_error={on_error!r}"
    ):
        from_directory(pets, image_size=8, on_error=on_error)


def test_a_class_of_damaged_files_only_can_not_be_left_out(pets):
    for path in (pets / "bee").iterdir():
        cut(path)
    told = refused(pets, on_error="skip")
    assert told.startswith(
        f"each class must have images; {str(pets / 'bee')!r} has none that can be used (6 damaged); add"
    )
    assert "6 of 12 files" in refused(pets)
    assert from_directory(pets, image_size=8, on_error="defer").num_samples == 12


def test_parts_are_looked_at_each_for_itself(pets, tmp_path, caplog):
    (tmp_path / "both").mkdir()
    pets.rename(tmp_path / "both" / "train")
    for name, number in (("ant", 20), ("bee", 21)):
        (tmp_path / "both" / "val" / name).mkdir(parents=True)
        write(tmp_path / "both" / "val" / name / "1.png", number)
        (tmp_path / "both" / "val" / name / "2.png").touch()
    cut(tmp_path / "both" / "train" / "ant" / "000.png")
    train, validation = (
        from_directory(tmp_path / "both", part=part, image_size=8, on_error="skip")
        for part in ("train", "val")
    )
    assert (train.num_samples, validation.num_samples) == (11, 2)
    assert [len(loader.skipped) for loader in (train, validation)] == [1, 2]
    assert [record.getMessage()[:19] for record in caplog.records] == [
        "left out 1 of 12 fi",
        "left out 2 of 4 fil",
    ]


def test_many_files_are_looked_at_some_at_a_time(pets, monkeypatch):
    monkeypatch.setattr(looking, "_AT_A_TIME", 5)
    for name in ("ant/000.png", "ant/005.png", "bee/010.png", "bee/015.png"):
        cut(pets / name)
    loader = from_directory(pets, image_size=8, on_error="skip")
    assert sorted(Path(path).name for path in loader.skipped) == [
        "000.png",
        "005.png",
        "010.png",
        "015.png",
    ]


# What is no file


@pipes
@pytest.mark.parametrize("on_error", ON_ERROR)
def test_pipes_do_not_count_and_folders_named_as_images_are_folders(on_error, pets):
    os.mkfifo(pets / "ant" / "pipe.jpg")
    os.mkfifo(pets / "pipe")
    (pets / "ant" / "folder.png").mkdir()
    write(pets / "ant" / "folder.png" / "1.png", 3)
    loader = from_directory(pets, image_size=8, on_error=on_error)
    assert loader.class_counts().tolist() == [7, 6]
    strange = "neither a file nor a folder"
    pipes = [pets / "pipe", pets / "ant" / "pipe.jpg"]
    assert loader.skipped == {str(path): strange for path in pipes}


@links
@pipes
def test_a_link_to_a_pipe_is_no_image(pets):
    os.mkfifo(pets / "ant" / "pipe")
    (pets / "ant" / "link.jpg").symlink_to(pets / "ant" / "pipe")
    assert "link.jpg' (neither a file nor a folder)" in refused(pets)


@not_root
def test_what_may_not_be_read(pets):
    (pets / "ant" / "002.png").chmod(0)
    assert "002.png' (Permission denied)" in refused(pets)
    for mode in (0, 0o444):  # not to be listed; to be listed only
        (pets / "bee").chmod(mode)
        try:
            assert "bee" in refused(pets)
        finally:
            (pets / "bee").chmod(0o755)


def test_a_class_folder_that_can_not_be_listed(pets, monkeypatch):
    scandir = os.scandir

    def forbidden(folder):
        if Path(folder).name == "bee":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    for on_error in ON_ERROR:
        told = refused(pets, on_error=on_error)
        assert told.startswith("directory must have folders that can be read (Permission denied). Rec")
        assert told.endswith(repr(str(pets / "bee")))


# Links


@pytest.fixture
def outside(tmp_path):
    """A folder outside with an image and a folder of two."""
    (tmp_path / "outside" / "cat").mkdir(parents=True)
    for number, name in ((30, "1.png"), (31, "cat/1.png"), (32, "cat/2.png")):
        write(tmp_path / "outside" / name, number)
    return tmp_path / "outside"


@links
def test_links_out_of_the_folder_are_refused_or_left_out_unless_they_are_followed(pets, outside):
    (pets / "ant" / "link.png").symlink_to(outside / "1.png")
    (pets / "cat").symlink_to(outside / "cat", target_is_directory=True)
    for on_error in ("raise", "defer"):
        told = refused(pets, on_error=on_error)
        assert told.startswith("3 of 15 files can't be used")
        assert f"link.png' (a link to {str(outside / '1.png')!r}, out of the folder)" in told
        assert f"cat{os.sep}1.png' (a link to {str(outside / 'cat')!r}, out of the folder)" in told
    loader = from_directory(pets, image_size=8, follow_links=True)
    assert loader.class_names == ["ant", "bee", "cat"]
    assert loader.class_counts().tolist() == [7, 6, 2]
    assert {number_of(image) for images, _ in loader for image in images} >= {30, 31, 32}
    # A class can not be left out: all others would have other numbers.
    assert refused(pets, on_error="skip").startswith(
        f"each class must have images; {str(pets / 'cat')!r}"
    )
    (pets / "cat").unlink()
    loader = from_directory(pets, image_size=8, on_error="skip")
    assert (loader.class_counts().tolist(), len(loader.skipped)) == ([6, 6], 1)


@links
def test_a_folder_for_training_that_is_a_link_out(pets, outside):
    (outside / "both" / "val").mkdir(parents=True)
    for name, number in (("ant", 20), ("bee", 21)):
        (outside / "both" / "val" / name).mkdir()
        write(outside / "both" / "val" / name / "1.png", number)
    (outside / "both" / "train").symlink_to(pets, target_is_directory=True)
    for follow in (False, True):
        train, validation = (
            from_directory(outside / "both", part=part, image_size=8, follow_links=follow)
            for part in ("train", "val")
        )
        assert (train.num_samples, validation.num_samples) == (12, 2)
    # That the part may be elsewhere doesn't let its classes be.
    (pets / "cat").symlink_to(outside / "cat", target_is_directory=True)
    (outside / "both" / "val" / "cat").mkdir()
    assert "2 of 14 files can't be used" in refused(outside / "both", part="train")


@links
def test_links_from_part_to_part_are_good(pets, tmp_path):
    (tmp_path / "both" / "val").mkdir(parents=True)
    pets.rename(tmp_path / "both" / "train")
    for name in ("ant", "bee"):
        target = Path("..") / "train" / name
        (tmp_path / "both" / "val" / name).symlink_to(target, target_is_directory=True)
    assert from_directory(tmp_path / "both", part="val", image_size=8).num_samples == 12


@links
def test_links_within_the_folder_and_to_the_folder_are_good(pets, tmp_path):
    (pets / "ant" / "again.png").symlink_to(Path("..") / "bee" / "010.png")
    (pets / "ants").symlink_to("ant", target_is_directory=True)
    (tmp_path / "link").symlink_to(pets, target_is_directory=True)
    for folder in (pets, tmp_path / "link"):
        loader = from_directory(folder, image_size=8)
        assert loader.class_names == ["ant", "ants", "bee"]
        assert loader.class_counts().tolist() == [7, 7, 6]


@links
@pytest.mark.parametrize("follow", [True, False])
def test_links_that_lead_nowhere(follow, pets):
    (pets / "ant" / "circle.jpg").symlink_to("circle.jpg")
    (pets / "ant" / "gone.jpg").symlink_to("nothing.jpg")
    told = refused(pets, follow_links=follow)
    assert "2 of 14 files" in told
    assert "circle.jpg' (Too many levels of symbolic links)" in told
    assert "gone.jpg' (No such file or directory)" in told
    assert from_directory(pets, image_size=8, on_error="skip", follow_links=follow).num_samples == 12


@links
@pytest.mark.parametrize("follow", [True, False])
def test_a_class_whose_link_leads_nowhere_is_not_forgotten_in_silence(follow, pets, outside):
    (pets / "cat").symlink_to(outside / "cat", target_is_directory=True)
    (outside / "cat").rename(outside / "dog")
    for on_error in ("raise", "defer"):
        told = refused(pets, on_error=on_error, follow_links=follow)
        assert "1 of 13 files" in told
        assert f"{str(pets / 'cat')!r} (a link to nowhere)" in told
    loader = from_directory(pets, image_size=8, on_error="skip", follow_links=follow)
    assert (loader.class_names, loader.skipped) == (
        ["ant", "bee"],
        {str(pets / "cat"): "a link to nowhere"},
    )


# Names


def test_names_of_all_kinds(pets):
    names = [
        "a\nb.png",
        "\u00fcber \U0001f41c.png",
        "'quoted\".png",
        "%s {x}.png",
        "-rf.png",
        "a" * 200 + ".png",
    ]
    for number, name in enumerate(names, start=20):
        write(pets / "ant" / name, number)
    (pets / "bee").rename(pets / "bienen\n\u2603")
    loader = from_directory(pets, image_size=8)
    assert loader.class_names == ["ant", "bienen\n\u2603"]
    assert {number_of(image) for images, _ in loader for image in images} >= set(range(20, 26))


def test_a_message_has_no_line_breaks_of_names(pets, caplog):
    for name in ("a\nERROR.png", "%s%d.png"):
        (pets / "ant" / name).touch()
    assert "\n" not in refused(pets)
    assert r"a\nERROR.png" in refused(pets)
    loader = from_directory(pets, image_size=8, on_error="skip")
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert "%s%d.png" in record.getMessage()
    assert str(pets / "ant" / "a\nERROR.png") in loader.skipped


# All at once


BROKEN, EMPTY, HUGE, TEXT, LINKS = 8, 3, 2, 2, 2
ONE_COLOUR = 24


def huge_image(path):
    """A PNG that is good and small, and 10,000 pixels high and wide."""
    Image.new("1", (10_000, 10_000)).save(path)


def messy_folder(root):
    """Write 400 images in 4 classes and all that can be among them; return the numbers of each class."""
    rng = np.random.default_rng(0)
    outside = root.parent / "outside.png"
    write(outside, 399)
    wanted = {}
    for label, name in enumerate("abcd"):
        (root / name).mkdir(parents=True)
        wanted[name] = set(range(100 * label, 100 * label + 100))
    places = iter(rng.permutation(400).tolist())

    def take(suffix):
        number = next(places)
        return number, root / "abcd"[number // 100] / f"{number:03}.{suffix}"

    for _ in range(BROKEN):
        number, path = take("jpg")
        Image.effect_noise((64, 64), 90).convert("RGB").save(path)
        cut(path)
        wanted["abcd"[number // 100]].remove(number)
    exif = Image.Exif()
    for _ in range(ONE_COLOUR // 3):
        number, path = take("png")
        Image.new("RGB", (1, 1), colour(number)).save(path)  # one pixel is an image
        number, path = take("jpg")
        ink = [255 - value for value in colour(number)]
        Image.new("CMYK", (16, 16), (*ink, 0)).save(path, quality=95)
        number, path = take("jpg")
        exif[0x0112] = int(rng.integers(2, 9))
        Image.new("RGB", (160, 80), colour(number)).save(path, exif=exif, quality=95)
    for number in places:
        write(
            root / "abcd"[number // 100] / f"{number:03}.{('png', 'bmp', 'tif', 'gif')[number % 4]}",
            number,
        )
    for number in range(HUGE):
        huge_image(root / "abcd"[number] / "huge.png")
    for number in range(EMPTY):
        (root / "abcd"[number] / "empty.jpg").touch()
    for number in range(TEXT):
        (root / "abcd"[number] / "text.png").write_text("<html>404 not found</html>")
        (root / "abcd"[number] / "notes.txt").write_text("does not count")
    for number in range(LINKS):
        (root / "abcd"[number] / "link.png").symlink_to(outside)
    return wanted


@links
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_folder_of_everything(tmp_path, caplog):
    wanted = messy_folder(tmp_path / "messy")
    total, bad = 400 + EMPTY + HUGE + TEXT + LINKS, BROKEN + EMPTY + HUGE + TEXT + LINKS
    told = refused(tmp_path / "messy")
    assert told.startswith(
        f"{bad} of {total} files can't be used; mend or remove them, or leave them out"
    )
    assert f"; and {bad - 10} more." in told
    loader = from_directory(tmp_path / "messy", image_size=8, on_error="skip", shuffle=False)
    left_out, odd = (record.getMessage() for record in caplog.records)
    assert left_out.startswith(f"left out {bad} of {total} files: ")
    assert odd.startswith(f"something is odd about {ONE_COLOUR} of {total} files: ")
    assert len(loader.noted) == ONE_COLOUR
    # Each is listed with its reason.
    kinds = ("link to", "more than", "known format", "Premature end", "not an image")
    reasons = [next(kind for kind in kinds if kind in reason) for reason in loader.skipped.values()]
    found = (LINKS, HUGE, EMPTY + TEXT, BROKEN, TEXT)
    counts = dict(zip(kinds, found, strict=True))
    assert {kind: reasons.count(kind) for kind in reasons} == counts
    # All others are there, with the pixels of their own.
    assert loader.class_counts().tolist() == [len(numbers) for numbers in wanted.values()]
    found = {name: [] for name in wanted}
    for images, labels in loader:
        for image, label in zip(images, labels, strict=True):
            found["abcd"[label]].append(number_of(image))
    assert found == {name: sorted(numbers) for name, numbers in wanted.items()}


MEMORY = """
import sys, json
from pathlib import Path
from keras_transfer.data import from_directory
from keras_transfer.data.images import reading

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1000

before = peak()
loader = from_directory(sys.argv[1], image_size=8, on_error="skip", num_threads=2)
seen = sum(len(labels) for _, labels in loader)
print(json.dumps([loader.num_samples, seen, len(loader.skipped), peak() - before]))
"""


@links
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux")
def test_the_memory_for_a_folder_of_everything_is_bounded(tmp_path):
    """An image of 10,000 x 10,000 pixels would take 100 MB, and 300 MB more as RGB."""
    messy_folder(tmp_path / "messy")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY, str(tmp_path / "messy")],
        env={**os.environ, "PYTHONPATH": str(Path(keras_transfer.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    samples, seen, skipped, megabytes = json.loads(done.stdout.splitlines()[-1])
    assert samples == seen == 400 - BROKEN
    assert skipped == BROKEN + EMPTY + HUGE + TEXT + LINKS + TEXT  # and as many that are no images
    assert megabytes < 60
