import importlib
import sys

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")

from keras_transfer.data.images import read_image, resize_image  # noqa: E402 - needs Pillow


def saved(image, path, **options):
    image.save(path, **options)
    return path


@pytest.fixture
def picture(rng):
    """An image without any symmetry, 24 wide and 16 high."""
    return rng.integers(0, 256, (16, 24, 3), "uint8")


# Reading


def test_reads_what_is_in_the_file(picture, tmp_path):
    for suffix in ("png", "bmp", "tiff"):
        image = read_image(saved(Image.fromarray(picture), tmp_path / f"1.{suffix}"), (16, 24))
        assert image.dtype == "uint8"
        np.testing.assert_array_equal(image, picture)


def test_every_orientation_comes_upright(picture, tmp_path):
    # For each EXIF value, how its camera stores the upright picture.
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture),
        7: picture[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(picture, -1),
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(Image.fromarray(np.ascontiguousarray(pixels)), tmp_path / "1.png", exif=exif)
        np.testing.assert_array_equal(read_image(path, (16, 24)), picture, str(orientation))


def test_orientation_of_a_jpeg(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((8, 32, 3), "uint8")
    stored[:, 16:] = 255  # bright on the right, which is the bottom once it is upright
    image = read_image(saved(Image.fromarray(stored), tmp_path / "1.jpg", exif=exif), (32, 8))
    assert image[:12].max() < 50
    assert image[20:].min() > 200


@pytest.mark.parametrize(
    ("mode", "colour", "name", "expected"),
    [
        ("L", 99, "1.png", (99, 99, 99)),
        ("L", 99, "1.jpg", (99, 99, 99)),
        ("1", 1, "1.png", (255, 255, 255)),
        ("LA", (99, 10), "1.png", (99, 99, 99)),
        ("RGBA", (200, 100, 50, 128), "1.png", (200, 100, 50)),
        ("CMYK", (0, 255, 255, 0), "1.jpg", (255, 0, 0)),
        ("I;16", 0x8040, "1.png", (0x80, 0x80, 0x80)),
        ("I;16", 0xFFFF, "1.tif", (0xFF, 0xFF, 0xFF)),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, name, expected, tmp_path):
    image = read_image(saved(Image.new(mode, (9, 9), colour), tmp_path / name), (8, 8))
    assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)
    np.testing.assert_allclose(image[4, 4].astype(int), expected, atol=3 if name == "1.jpg" else 0)


@pytest.mark.parametrize("options", [{}, {"transparency": 1}, {"transparency": b"\x00\x80\xff"}])
def test_palettes(options, tmp_path):
    image = Image.new("P", (2, 2))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2, 0])
    found = read_image(saved(image, tmp_path / "1.png", **options), (2, 2))
    assert found.reshape(-1, 3).tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90], [10, 20, 30]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_range(mode, tmp_path):
    path = saved(Image.new(mode, (9, 9)), tmp_path / "1.tif")
    with pytest.raises(ValueError, match=rf"1\.tif.*pixels of mode '{mode}' have no known range"):
        read_image(path, (8, 8))


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tif"])
def test_a_truncated_file_is_named(suffix, picture, tmp_path):
    path = saved(Image.fromarray(picture), tmp_path / f"broken.{suffix}")
    content = path.read_bytes()
    for length in (len(content) // 2, 5, 0):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=rf"can't read the image '.*broken\.{suffix}'.*mend or rem"):
            read_image(path, (8, 8))


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    for name in ("text.jpg", "missing.jpg", "."):
        with pytest.raises(ValueError, match=r"can't read the image .* Received: "):
            read_image(tmp_path / name, (8, 8))


def test_a_decompression_bomb_is_refused(monkeypatch, tmp_path):
    path = saved(Image.new("RGB", (64, 64)), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"bomb\.png"):
        read_image(path, (8, 8))


def test_without_pillow_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras_transfer.data.images")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"Pillow: pip install 'keras-transfer\[data\]'"):
        importlib.import_module("keras_transfer.data.images")


# Resizing


def test_resizing_interpolates_and_does_not_tile():
    gradient = np.tile(np.linspace(0, 240, 16, dtype="uint8")[None, :, None], (16, 1, 3))
    found = resize_image(gradient, (48, 48))
    assert (np.diff(found[:, :, 0].astype(int), axis=1) >= 0).all()
    assert len(np.unique(found)) > 40  # most of them between the 16 values of the original
    assert np.abs(np.diff(found[0, :, 0].astype(int))).max() <= 8
    assert not np.array_equal(found, np.resize(gradient, (48, 48, 3)))


@pytest.mark.parametrize("size", [(48, 48), (8, 8), (16, 8), (5, 30), (1, 1)])
def test_resizing_is_that_of_pillow(size, picture, tmp_path):
    height, width = size
    wanted = ImageOps.fit(Image.fromarray(picture), (width, height), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize_image(picture, size), np.asarray(wanted))
    path = saved(Image.fromarray(picture), tmp_path / "1.png")
    np.testing.assert_array_equal(read_image(path, size), np.asarray(wanted))


def test_shrinking_averages():
    board = np.indices((64, 64)).sum(0)[:, :, None] % 2 * np.full(3, 255)
    found = resize_image(board.astype("uint8"), (8, 8))
    assert np.abs(found.astype(int) - 127).max() < 12


def test_the_sides_are_cropped():
    image = np.full((10, 30, 3), 255, "uint8")
    image[:, 10:20] = 0
    np.testing.assert_array_equal(resize_image(image, (10, 10)), 0)
    np.testing.assert_array_equal(resize_image(image.transpose(1, 0, 2), (10, 10)), 0)
    np.testing.assert_array_equal(resize_image(image, (5, 5))[:, 1:-1], 0)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "uint16", "float16", "float32"])
def test_channels_are_resized_alike(channels, dtype, rng):
    image = rng.integers(0, 256, (12, 12, channels)).astype(dtype)
    found = resize_image(image, (8, 8))
    assert (found.shape, found.dtype) == ((8, 8, channels), dtype)
    for channel in range(channels):
        wanted = Image.fromarray(image[:, :, channel].astype("float32"))
        wanted = np.asarray(wanted.resize((8, 8), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(found[:, :, channel], wanted, atol=1.0)


def test_floats_may_be_negative_and_large():
    image = np.tile(np.linspace(-3.0, 1000.0, 12, dtype="float32")[None, :, None], (12, 1, 3))
    found = resize_image(image, (24, 24))
    assert found.min() == -3.0
    assert found.max() == 1000.0
    assert (np.diff(found, axis=1) >= 0).all()


def test_an_image_of_the_size_stays(picture):
    assert resize_image(picture, (16, 24)) is picture
