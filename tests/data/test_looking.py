"""What is found in image files before they are used: damage, and what is odd."""

import io
import os
import re
import threading
import warnings

import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer._lib.attributes import warnings_heard
from keras_transfer._lib.printed import printed_heard
from keras_transfer.data.images.reading import _LIBTIFF, read_image
from keras_transfer.data.images.rules import Rules
from keras_transfer.data.looking import Look, damage, look

Image = pytest.importorskip("PIL.Image")
cv2 = pytest.importorskip("cv2")

END = b"\xff\xd9"  # of a JPEG


@pytest.fixture(scope="module")
def photo():
    """Waves, 160 pixels high and 240 wide."""
    y, x = np.mgrid[0:160, 0:240]
    waves = np.stack([np.sin(x / 13), np.cos(y / 7), np.sin((x + 2 * y) / 11)], axis=-1)
    return Image.fromarray((128 + 90 * waves).astype("uint8"))


def saved(image, path, **options):
    image.save(path, **options)
    return path


KINDS = {
    "plain": {},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True},
    "restarts": {"restart_marker_blocks": 5},
    "turned": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\6\0\0\0\0\0\0"},
}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_that_ends_too_soon_but_properly(kind, mode, photo, tmp_path, capfd):
    """Its lower part would be grey, and libjpeg only warns."""
    path = saved(photo.convert(mode), tmp_path / "1.jpg", **KINDS[kind])
    content = path.read_bytes()
    assert look(path) == Look()
    size = (240, 160) if kind == "turned" else (160, 240)
    assert read_image(path, size).shape == (*size, 3)
    for part in (0.5, 0.9):
        path.write_bytes(content[: int(part * len(content))].rstrip(b"\xff") + END)
        assert "Corrupt JPEG data" in damage(path) or "premature" in damage(path).lower()
        with pytest.raises(ValueError, match=r"can't read the image '.*1\.jpg' \(.*\); mend or remove"):
            read_image(path, size)
        for side in (8, 40, 160):
            with pytest.raises(ValueError, match="can't read the image"):
                read_image(path, (side, side))
    assert capfd.readouterr() == ("", "")


def test_why_other_decoders_will_not_do(photo, tmp_path, capfd):
    """Pillow passes over the warnings of libjpeg, and OpenCV prints them."""
    content = saved(photo, tmp_path / "1.jpg").read_bytes()
    damaged = content[: len(content) // 2] + END
    with Image.open(io.BytesIO(damaged)) as image:
        image.load()
    assert capfd.readouterr() == ("", "")
    assert cv2.imdecode(np.frombuffer(damaged, "uint8"), cv2.IMREAD_COLOR).shape == (160, 240, 3)
    assert "Corrupt JPEG data: premature end of data segment" in capfd.readouterr().err


def test_a_jpeg_with_other_bytes_in_its_middle(photo, tmp_path, capfd, rng):
    path = saved(photo, tmp_path / "1.jpg")
    content = path.read_bytes()
    middle = len(content) // 2
    noise = bytes(rng.integers(0, 255, 400, "uint8").tolist())
    path.write_bytes(content[:middle] + noise + content[middle + 400 :])
    assert damage(path)
    assert capfd.readouterr() == ("", "")


def test_bytes_behind_a_jpeg_are_no_damage(photo, tmp_path):
    """Such as the second picture of a phone."""
    path = saved(photo, tmp_path / "1.jpg")
    path.write_bytes(path.read_bytes() + bytes(100) + path.read_bytes())
    assert look(path) == Look()


def test_bytes_before_the_end_of_a_jpeg_are_told(photo, tmp_path, capfd):
    """Some cameras leave them; no pixel is lost."""
    content = saved(photo, tmp_path / "1.jpg").read_bytes()
    (tmp_path / "2.jpg").write_bytes(content.removesuffix(END) + bytes(30) + END)
    (note,) = look(tmp_path / "2.jpg").notes
    assert "extraneous bytes before marker 0xd9" in note
    same = [read_image(tmp_path / name, (160, 240)) for name in ("1.jpg", "2.jpg")]
    np.testing.assert_array_equal(*same)
    assert capfd.readouterr() == ("", "")


TIFFS = {
    f"{name}.tif": {"compression": name}
    for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
}
OTHERS = {**TIFFS, "1.tif": {}, "1.png": {}, "1.gif": {}, "1.webp": {}, "1.jp2": {}, "1.bmp": {}}


@pytest.mark.parametrize("name", OTHERS)
def test_other_decoders_print_nothing(name, photo, tmp_path, capfd):
    path = saved(photo, tmp_path / name, **OTHERS[name])
    content = path.read_bytes()
    assert look(path) == Look()
    middle, found = len(content) // 2, []
    for damaged in (
        content[:middle],
        content[:middle] + bytes(200) + content[middle + 200 :],
        content[:200] + bytes(range(256)) + content[456:],
        content[:middle] + b"\xff" * 50 + content[middle + 50 :],
    ):
        path.write_bytes(damaged)
        found.append(damage(path))
        if found[-1]:
            with pytest.raises(ValueError, match="can't read the image"):
                read_image(path, (160, 240))
        else:
            read_image(path, (160, 240))
    assert any(found) or name == "1.bmp"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name", ["TIFFReadDirectory", "MissingRequired", "Fax3PutEOL", "PredictorVSetField", "swabHorAcc16"]
)
def test_what_libtiff_calls_its_parts(name):
    assert re.match(_LIBTIFF, f"{name}: something is missing")


def test_libtiff_is_heard_and_others_are_not_lost(rng, tmp_path, capfd):
    noise = Image.fromarray(rng.integers(0, 256, (60, 50, 3), "uint8"))
    path = saved(noise, tmp_path / "1.tif", compression="tiff_adobe_deflate")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(content)
    assert "ZIPDecode: Decoding error" in damage(path)
    with printed_heard("mine: ") as heard:
        os.write(2, b"mine: one\nother\nmine: two\nwithout an end")
    assert heard == ["mine: one", "mine: two"]
    assert capfd.readouterr().err == "other\nwithout an end"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of threads, as in a loader
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")  # of JAX, for the same
def test_a_fork_meanwhile_has_its_standard_error(capfd):
    with printed_heard("mine: ") as heard:
        child = os.fork()
        if child == 0:
            with printed_heard("mine: "):
                pass
            os.write(2, b"mine: of the child\n")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert heard == []
    assert capfd.readouterr().err == "mine: of the child\n"


# Warnings


def test_what_a_decoder_warns_of_is_named(photo, tmp_path, caplog):
    """Of metadata, as the image is whole."""
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        saved(photo, tmp_path / name / "1.png")
    # Nine entries, of which one is there.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12\0\x03\0\0\0\x01\0\1\0\0"
    saved(photo, tmp_path / "ant" / "2.jpg", exif=exif)
    loader = kt.data.from_directory(tmp_path, image_size=8, verbose=0)
    (note,) = loader.noted.values()
    assert note.startswith("its decoder warns: ")
    assert "2.jpg" in next(iter(loader.noted))
    assert "2.jpg" in caplog.text


def test_warnings_of_this_thread_are_heard_and_others_shown():
    heard_there, entered, leave = [], threading.Event(), threading.Event()

    def other():
        with warnings_heard(__name__) as heard:
            entered.set()
            leave.wait(10)
            warnings.warn("there", stacklevel=1)
        heard_there.extend(heard)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait(10)
        warnings.warn("mine", stacklevel=1)
        with warnings_heard(__name__) as heard:
            warnings.warn("here", stacklevel=1)
            leave.set()
            thread.join()
        warnings.warn("mine, too", stacklevel=1)
    assert heard == ["here"]
    assert heard_there == ["there"]
    assert [str(each.message) for each in shown] == ["mine", "mine, too"]
    with pytest.warns(UserWarning, match="afterwards"):
        warnings.warn("afterwards", stacklevel=1)


# One colour


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_images_of_one_colour_are_named(suffix, tmp_path):
    path = saved(Image.new("RGB", (50, 40), (10, 200, 30)), tmp_path / f"1.{suffix}")
    assert look(path) == Look(None, ("all of one colour",))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_fine_pattern_is_not_one_colour(suffix, tmp_path):
    """Though its mean is the same in each block of a JPEG."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype("uint8")
    assert look(saved(Image.fromarray(board), tmp_path / f"1.{suffix}", quality=100)) == Look()


def test_a_single_dot_is_not_one_colour(tmp_path):
    image = Image.new("L", (50, 40))
    image.putpixel((45, 33), 1)
    assert look(saved(image, tmp_path / "1.png")) == Look()


# What is wrong


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tif"])
def test_nothing_is_wrong_with_a_good_file_and_a_truncated_one_is_told(suffix, photo, tmp_path):
    path = saved(photo, tmp_path / f"1.{suffix}")
    assert damage(path) is None
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert damage(path)
    assert "1." not in damage(path)  # whose caller knows the name


def test_the_reason_why_a_file_is_no_image(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "program.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    (tmp_path / "start.jpg").write_bytes(b"\xff\xd8")
    saved(Image.new("F", (9, 9)), tmp_path / "float.tif")
    names = ("empty.png", "text.jpg", "program.jpg", "start.jpg", "float.tif", "none.png", ".")
    assert {name: damage(tmp_path / name) for name in names} == {
        "empty.png": "no image of a known format",
        "text.jpg": "no image of a known format",
        "program.jpg": "no image of a known format",
        "start.jpg": "a JPEG whose header is damaged",
        "float.tif": "pixels of mode 'F' have no known range; value_range=(low, high) tells it",
        "none.png": "No such file or directory",
        ".": "Is a directory",
    }


def test_the_rules_decide_what_is_wrong(tmp_path):
    path = saved(Image.fromarray(np.eye(9, dtype="float32")), tmp_path / "float.tif")
    assert damage(path, Rules(value_range=(0.0, 1.0))) is None
