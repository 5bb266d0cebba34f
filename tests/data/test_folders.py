"""Which files are images, for training, `predict` and `evaluate` alike, and what is said of others."""

import io
import logging
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from keras_transfer.data import folders, from_directory
from keras_transfer.data.folders import by_reason, counted, images_in
from keras_transfer.data.images import kinds
from keras_transfer.data.images.reading import read_image
from keras_transfer.data.looking import damage

Image = pytest.importorskip("PIL.Image")
links = pytest.mark.skipif(not hasattr(os, "symlink"), reason="symbolic links")

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
AVIF = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"


def encoded(format, shade=0, **options):
    with io.BytesIO() as file:
        Image.new("RGB", (9, 7), (shade, 0, 0)).save(file, format, **options)
        return file.getvalue()


@pytest.fixture
def ants(tmp_path):
    """A class of one image, which is the red of 10, beside another class."""
    for name, shade in (("ants", 10), ("bees", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").write_bytes(encoded("PNG", shade))
    return tmp_path / "photos" / "ants"


def opened(ants, **options):
    return from_directory(ants.parent, image_size=7, shuffle=False, **options)


def shades(loader):
    return [int(image[3, 3, 0]) for images, _ in loader for image in images]


def found(folder, follow_links=False):
    return images_in(folder, (os.path.realpath(folder),), follow_links)


def passed_over(caplog):
    (record,) = (each for each in caplog.records if each.getMessage().startswith("passed over"))
    return record


# Folders within folders


def test_a_class_has_the_images_of_the_folders_within_it(ants):
    for name, shade in (("2023/a/2.png", 20), ("2023/0.png", 30), ("0.png", 40), ("2024/9.png", 50)):
        (ants / name).parent.mkdir(parents=True, exist_ok=True)
        (ants / name).write_bytes(encoded("PNG", shade))
    loader = opened(ants)
    assert loader.class_counts().tolist() == [5, 1]
    assert shades(loader) == [40, 10, 30, 20, 50, 200]  # in the order of all names on the way
    assert loader.skipped == {}
    assert found(ants.parent).images == [loader.file(k) for k in range(6)]


def test_what_is_hidden_or_of_another_program_is_left_out_as_a_whole(ants, caplog):
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        for folder in (ants, ants.parent):
            (folder / name).mkdir()
            (folder / name / "1.png").write_bytes(encoded("PNG"))
    (ants / "._1.png").write_bytes(b"\0\5\26\7")
    (ants.parent / "features").mkdir()  # as `--cache` has made it
    (ants.parent / "features" / "CACHEDIR.TAG").touch()
    with caplog.at_level(logging.INFO, "keras_transfer"):
        loader = opened(ants)
    assert (loader.class_names, loader.num_samples) == (["ants", "bees"], 2)
    assert by_reason(loader.skipped.values()) == {"a folder of another program": 5, "hidden": 3}
    record = passed_over(caplog)
    assert record.levelname == "INFO"
    assert record.getMessage() == "passed over 8 files: 5 a folder of another program; 3 hidden"


@pytest.mark.parametrize("account", ["metrics.json", "history.json"])
def test_what_a_run_has_written_is_no_class_and_no_image(account, ants):
    for folder in (ants.parent / "photos-model", ants / "run", ants.parent / "several" / "vgg16"):
        folder.mkdir(parents=True)
        for name in ("model.keras", account, "report.html"):
            (folder / name).touch()
        (folder / "curves.png").write_bytes(encoded("PNG"))
    loader = opened(ants)
    assert (loader.class_names, loader.num_samples) == (["ants", "bees"], 2)
    assert by_reason(loader.skipped.values()) == {"written by keras_transfer": 3}
    (ants / "run" / account).unlink()
    assert opened(ants).num_samples == 3  # it was recognised by its files


@links
def test_links_in_a_circle_end(ants, tmp_path):
    (ants / "again").symlink_to(ants, target_is_directory=True)
    (ants / "up").symlink_to(ants.parent, target_is_directory=True)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "back").symlink_to(ants, target_is_directory=True)
    (tmp_path / "far" / "2.png").write_bytes(encoded("PNG", 20))
    (ants / "far").symlink_to(tmp_path / "far", target_is_directory=True)
    loader = opened(ants, follow_links=True)
    assert shades(loader) == [10, 20, 200]
    assert by_reason(loader.skipped.values()) == {"a link in a circle": 3}
    with pytest.raises(ValueError, match=r"1 of 3 files .*with on_error='skip', or follow links with"):
        opened(ants)


@links
def test_a_linked_folder_within_the_images_counts(ants):
    (ants / "more").symlink_to(Path("..") / "bees", target_is_directory=True)
    assert shades(opened(ants)) == [10, 200, 200]


# By content


WRITTEN = {
    "2.jfif": "JPEG",
    "3.jpe": "JPEG",
    "4.avif": "AVIF",
    "5.jp2": "JPEG2000",
    "6": "JPEG",
    "7.dat": "PNG",
    "8.txt": "GIF",
    "9.image": "WEBP",
    "a": "TIFF",
    "b.ppm": "PPM",
    "c": "PPM",
    "d.old": "BMP",
    "e.tga": "TGA",
    "f.JPG": "JPEG",
    "g.dib": "DIB",
    "h.dib": "BMP",
}


def test_what_the_decoder_opens_counts_whatever_it_is_called(ants):
    for number, (name, format) in enumerate(WRITTEN.items()):
        (ants / name).write_bytes(encoded(format, 50 + 10 * number))
    loader = opened(ants)
    assert loader.skipped == {}
    expected = [10, *range(50, 50 + 10 * len(WRITTEN), 10), 200]
    np.testing.assert_allclose(shades(loader), expected, atol=3)


def test_what_begins_like_text_or_like_nothing_is_no_image(ants):
    contents = {
        "labels.txt": b"P1 first\nP2 second\n",
        "BMI": b"BMI, age, weight of each of the patients\n",
        "Thumbs.db": bytes.fromhex("d0cf11e0a1b11ae1") + bytes(500),
        "desktop.ini": b"[.ShellClassInfo]\r\n",
        "film.mp4": b"\0\0\0\x18ftypmp42\0\0\0\0",
        "model.h5": b"\x89HDF\r\n\x1a\n",
        "nothing": b"",
        "page.html": b"<html>",
        "P6": b"P6 is the name of a cell",
        "sound.wav": b"RIFF\0\0\0\0WAVEfmt ",
        "x.json": b"{}",
        "z.zip": b"PK\3\4",
    }
    for name, content in contents.items():
        (ants / name).write_bytes(content)
    for on_error in ("raise", "skip", "defer"):
        loader = opened(ants, on_error=on_error)
        assert loader.num_samples == 2
        assert loader.skipped == {str(ants / name): "not an image" for name in sorted(contents)}


@pytest.mark.parametrize("name", ["2.jpg", "2.jfif", "2", "2.txt"])
def test_a_damaged_image_is_an_error_whatever_it_is_called(name, ants):
    photo = np.random.default_rng(0).integers(0, 255, (40, 40, 3), "uint8")
    with io.BytesIO() as file:
        Image.fromarray(photo).save(file, "JPEG")
        (ants / name).write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    with pytest.raises(ValueError, match=r"1 of 3 files can't be used; mend or remove them"):
        opened(ants)
    loader = opened(ants, on_error="skip")
    assert by_reason(loader.skipped.values()) == {"damaged": 1}


def test_images_of_types_that_are_not_read_are_named(ants, caplog):
    names = ["1.dng", "2.CR2", "3.svg", "4.psd"]
    # Of Sigma, Leaf, Leica, GoPro, Kodak, Hasselblad and Mamiya; sequences of HEIF; JPEG XR; maps.
    others = ("x3f", "mos", "rwl", "gpr", "dcr", "fff", "mef", "heics", "avci", "jxr", "pfm", "pam")
    names += [f"5.{ending}" for ending in others]
    for name in names:
        (ants / name).write_bytes(
            b"II*\0" + bytes(50)
        )  # as raw photos begin, in which is a small preview
    loader = opened(ants)
    assert loader.num_samples == 2
    reason = "an image of a type that is not read; convert it to JPEG or PNG"
    assert by_reason(loader.skipped.values()) == {reason: len(names)}
    record = passed_over(caplog)
    assert record.levelname == "WARNING"
    assert "2.CR2" in record.getMessage()


def test_images_beside_the_folders_of_classes_are_named(ants, caplog):
    (ants.parent / "lost.jpg").write_bytes(encoded("JPEG"))
    (ants.parent / "README").write_text("hello")
    loader = opened(ants)
    assert loader.skipped == {
        str(ants.parent / "README"): "not an image",
        str(ants.parent / "lost.jpg"): "an image in no class's folder",
    }
    assert "lost.jpg" in caplog.text


def test_what_runs_other_programs_is_never_opened(ants):
    """Pillow gives PostScript, whatever the file is called, to Ghostscript."""
    (ants / "2.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert damage(ants / "2.jpg") == "no image of a known format"


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_a_file_that_can_not_be_read_is_named(ants, monkeypatch, caplog):
    (ants / "2").write_bytes(encoded("PNG"))
    start = kinds._start

    def forbidden(path):
        if Path(path).name == "2":
            raise PermissionError(13, "Permission denied")
        return start(path)

    monkeypatch.setattr(kinds, "_start", forbidden)
    assert opened(ants).skipped == {str(ants / "2"): "can't be read"}
    assert caplog.records[0].levelname == "WARNING"


# What needs another package


@pytest.fixture
def without_heif(monkeypatch):
    find = kinds.importlib.util.find_spec
    monkeypatch.setattr(
        kinds.importlib.util, "find_spec", lambda name: None if name == "pillow_heif" else find(name)
    )


@pytest.mark.parametrize("name", ["2.heic", "2.HEIF", "2.jpg", "2"])
def test_heic_without_its_package_is_told_with_what_to_install(name, ants, caplog, without_heif):
    (ants / name).write_bytes(HEIC)
    loader = opened(ants)
    assert loader.num_samples == 2
    reason = "HEIC, which needs pillow-heif: pip install 'keras-transfer[heic]'"
    assert loader.skipped == {str(ants / name): reason}
    record = passed_over(caplog)
    assert record.levelname == "WARNING"
    assert reason in record.getMessage()
    assert damage(ants / name) == reason
    with pytest.raises(ValueError, match=r"needs pillow-heif: pip install 'keras-transfer\[heic\]'"):
        read_image(ants / name, (4, 4))


def test_a_class_of_heic_alone_says_what_to_install(ants, without_heif):
    (ants / "1.png").rename(ants.parent / "bees" / "2.png")
    (ants / "2.heic").write_bytes(HEIC)
    with pytest.raises(
        ValueError, match=r"none that can be used \(1 HEIC, which needs pillow-heif: pip"
    ):
        opened(ants)


def test_heic_is_opened_by_its_package(ants, monkeypatch):
    """By a class of its own, which is registered nowhere: other programs' Pillow stays as it is."""
    seen = []

    def opens(path):
        seen.append(Path(path).name)
        image = Image.new("RGB", (9, 7), (90, 0, 0))
        image.tile = []
        return image

    module = types.ModuleType("pillow_heif")
    module.__spec__ = types.SimpleNamespace(name="pillow_heif")
    module.HeifImageFile = opens
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    for name in ("2.heic", "3", "4.jpg"):
        (ants / name).write_bytes(HEIC)
    assert shades(opened(ants)) == [10, 90, 90, 90, 200]
    assert set(seen) == {"2.heic", "3", "4.jpg"}


def test_real_heic(ants):
    pillow_heif = pytest.importorskip("pillow_heif")
    photo = np.zeros((40, 60, 3), "uint8")
    photo[:, :30] = (200, 30, 30)  # red on the left
    image = pillow_heif.from_pillow(Image.fromarray(photo))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: red above
    image.save(ants / "2.heic", quality=90, exif=exif.tobytes())
    pixels = read_image(ants / "2.heic", (60, 40)).astype(int)
    np.testing.assert_allclose(pixels[5:25].mean(axis=(0, 1)), (200, 30, 30), atol=8)
    np.testing.assert_allclose(pixels[35:].mean(axis=(0, 1)), 0, atol=8)
    assert opened(ants).num_samples == 3
    assert "HEIF" not in Image.OPEN


def test_still_images_are_told_by_all_of_their_brands():
    assert kinds._brands(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif") == {b"mif1", b"avif"}
    assert kinds._of_start(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif") is None
    assert kinds._brands(b"\0\0\0\x14ftypmp42\0\0\0\0isommoov") == {b"mp42", b"isom"}


def test_avif_where_pillow_has_none(ants, monkeypatch):
    (ants / "2.avif").write_bytes(AVIF)
    (ants / "3").write_bytes(AVIF)
    monkeypatch.setattr(kinds, "_formats", lambda: tuple(f for f in kinds.FORMATS if f != "AVIF"))
    reason = "AVIF, which this Pillow was built without: pip install --upgrade pillow"
    assert by_reason(opened(ants).skipped.values()) == {reason: 2}


# Words


def test_reasons_are_counted():
    reasons = [
        "hidden",
        "not an image",
        "not an image",
        "truncated",
        "a link to '/x', out of the folder",
    ]
    assert by_reason(reasons) == {
        "not an image": 2,
        "hidden": 1,
        "damaged": 1,
        "a link out or to nowhere": 1,
    }
    assert counted(reasons[:3]) == "2 not an image; 1 hidden"
    assert [folders.is_missed(reason) for reason in reasons] == [False, False, False, True, True]


def test_all_parts_of_a_loader_know_what_was_left_out(ants):
    (ants / "notes.txt").write_text("hello")
    for number in range(2, 6):
        (ants / f"{number}.png").write_bytes(encoded("PNG"))
        (ants.parent / "bees" / f"{number}.png").write_bytes(encoded("PNG"))
    train, rest = opened(ants).split(0.2)
    assert train.skipped == rest.skipped == {str(ants / "notes.txt"): "not an image"}
