import importlib
import os
import re
import sys
import tracemalloc
import warnings

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")

from keras_transfer.data.images import jpeg, kinds, reading  # noqa: E402
from keras_transfer.data.images.reading import read_image, resize_image  # noqa: E402
from keras_transfer.data.images.rules import Rules  # noqa: E402
from keras_transfer.data.looking import damage  # noqa: E402

WITHOUT_AVIF = pytest.mark.skipif("AVIF" not in kinds._formats(), reason="an older Pillow")
AVIF = pytest.param("avif", marks=WITHOUT_AVIF)


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


def turned(picture, orientation):
    """Return how a camera stores the upright picture that it gives this EXIF value."""
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
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Image.fromarray(np.ascontiguousarray(stored[orientation])), exif


ORIENTATIONS = range(1, 9)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_comes_upright(orientation, suffix, picture, tmp_path):
    image, exif = turned(picture, orientation)
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(image, tmp_path / f"1.{suffix}", exif=exif, **options)
    np.testing.assert_array_equal(read_image(path, (16, 24)), picture)
    seen = []

    def crop(height, width):
        seen.append((height, width))
        return 3, 8, 10, 15

    # What is cropped is the upright picture.
    np.testing.assert_array_equal(read_image(path, (10, 15), crop), picture[3:13, 8:23])
    assert seen == [(16, 24)]
    assert damage(path) is None


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
        ("LA", (99, 10), "1.png", (249, 249, 249)),
        ("RGBA", (200, 100, 50, 128), "1.png", (227, 177, 152)),
        ("CMYK", (0, 255, 255, 0), "1.jpg", (255, 0, 0)),
        ("CMYK", (0, 255, 255, 0), "1.tif", (255, 0, 0)),
        ("YCbCr", (76, 85, 255), "1.jpg", (255, 0, 0)),
        ("RGBA", (200, 100, 50, 0), "1.tif", (255, 255, 255)),
        ("I;16", 0x8040, "1.png", (0x80, 0x80, 0x80)),
        ("I;16", 0xFFFF, "1.tif", (0xFF, 0xFF, 0xFF)),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, name, expected, tmp_path):
    image = read_image(saved(Image.new(mode, (9, 9), colour), tmp_path / name), (8, 8))
    assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)
    np.testing.assert_allclose(image[4, 4].astype(int), expected, atol=3 if name == "1.jpg" else 0)


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({}, [10, 20, 30], [40, 50, 60]),
        ({"transparency": 1}, [10, 20, 30], [255, 255, 255]),
        ({"transparency": b"\x00\x80\xff"}, [255, 255, 255], [147, 152, 157]),
    ],
)
def test_palettes(options, first, second, tmp_path):
    image = Image.new("P", (2, 2))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2, 0])
    found = read_image(saved(image, tmp_path / "1.png", **options), (2, 2))
    assert found.reshape(-1, 3).tolist() == [first, second, [70, 80, 90], first]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_range(mode, tmp_path):
    path = saved(Image.new(mode, (9, 9)), tmp_path / "1.tif")
    with pytest.raises(ValueError, match=rf"1\.tif.*pixels of mode '{mode}' have no known range"):
        read_image(path, (8, 8))


@pytest.mark.parametrize(
    "suffix", ["jpg", "png", "gif", "webp", "bmp", "tif", "jp2", "ppm", "tga", AVIF]
)
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


# Too many pixels


@pytest.mark.parametrize("size", [(40, 40), (64, 64)])  # from 2,000 pixels on Pillow refuses of itself
@pytest.mark.parametrize("filtered", ["error", "ignore"])
def test_more_pixels_than_pillow_s_limit_are_refused(size, filtered, monkeypatch, tmp_path):
    path = saved(Image.new("RGB", size), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter(filtered, Image.DecompressionBombWarning)
        told = r"pixels.*; make it smaller, or allow them with max_pixels"
        with pytest.raises(ValueError, match=rf"bomb\.png' \(.*{told}\); mend or remove"):
            read_image(path, (8, 8))
        assert re.search(told, damage(path))


@pytest.mark.parametrize("limit", [1600, None])
def test_the_limit_itself_is_no_bomb_and_there_may_be_none(limit, monkeypatch, tmp_path):
    path = saved(Image.new("RGB", (40, 40)), tmp_path / "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert read_image(path, (8, 8)).shape == (8, 8, 3)
    assert damage(path) is None


@pytest.mark.parametrize("size", [(40, 40), (64, 64)])
def test_more_pixels_can_be_allowed(size, monkeypatch, tmp_path):
    path = saved(Image.new("RGB", size), tmp_path / "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    allowed = Rules(max_pixels=size[0] * size[1])
    assert read_image(path, (8, 8), rules=allowed).shape == (8, 8, 3)
    assert damage(path, allowed) is None
    assert "make it smaller" in damage(path, Rules(max_pixels=size[0] * size[1] - 1))


# JPEGs decoded smaller


@pytest.fixture
def decoded(monkeypatch):
    """Record how large images are decoded."""
    sizes = []
    resize = Image.Image.resize

    def recording(image, *arguments, **options):
        image.load()
        sizes.append(image.size)
        return resize(image, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", recording)
    return sizes


@pytest.fixture(scope="module")
def photo():
    """Waves and edges, 331 pixels high and 503 wide: no multiple of the 8 of a JPEG."""
    y, x = np.mgrid[0:331, 0:503]
    waves = np.stack([np.sin(x / 23), np.cos(y / 17), np.sin((x + 2 * y) / 31)], axis=-1)
    image = 128 + 90 * waves
    image[90:130, 100:420] = (250, 40, 40)
    image[200:320, 300:340] = (10, 10, 240)
    return image.clip(0, 255).astype("uint8")


FINE = {"quality": 100, "subsampling": 0}


@pytest.mark.parametrize(
    ("size", "width"),
    [((10, 10), 63), ((20, 31), 63), ((21, 31), 126), ((41, 62), 126), ((42, 62), 252), ((82, 125), 252),
     ((83, 126), 503), ((331, 503), 503), ((600, 600), 503)],
)  # fmt: skip
def test_a_jpeg_is_decoded_no_smaller_than_twice_what_is_wanted(size, width, photo, decoded, tmp_path):
    path = saved(Image.fromarray(photo), tmp_path / "1.jpg", **FINE)
    read_image(path, size)
    assert [size[0] for size in decoded] == [width]


@pytest.mark.parametrize("crop", [None, lambda height, width: (11, 30, 300, 440)])
@pytest.mark.parametrize("size", [(8, 8), (20, 30), (30, 20), (64, 64)])
def test_a_jpeg_decoded_smaller_is_nearly_the_whole_one_resized(
    size, crop, photo, decoded, monkeypatch, tmp_path
):
    path = saved(Image.fromarray(photo), tmp_path / "1.jpg", **FINE)
    found = read_image(path, size, crop).astype(int)
    monkeypatch.setattr(reading, "_divisor", lambda factor: 1)
    wanted = read_image(path, size, crop)
    assert decoded[0] < decoded[1] == (503, 331)
    assert np.abs(found - wanted).mean() < 1.0
    assert np.abs(found - wanted).max() < 16  # at the edges


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("crop", [None, lambda height, width: (41, 90, 200, 320)])
def test_a_jpeg_on_its_side_decoded_smaller_and_cropped(orientation, crop, photo, decoded, tmp_path):
    image, exif = turned(photo, orientation)
    path = saved(image, tmp_path / "1.jpg", exif=exif, **FINE)
    found = read_image(path, (16, 24), crop).astype(int)
    assert max(decoded[0]) <= 126
    wanted = resize_image(photo, (16, 24), crop)
    assert np.abs(found - wanted).mean() < 1.0
    assert np.abs(found - wanted).max() < 20


def test_the_part_decides_how_small_a_jpeg_is_decoded(photo, decoded, tmp_path):
    path = saved(Image.fromarray(photo), tmp_path / "1.jpg", **FINE)
    read_image(path, (20, 20), lambda height, width: (0, 0, height, width))
    read_image(path, (20, 20), lambda height, width: (100, 100, 80, 300))
    read_image(path, (20, 20), lambda height, width: (100, 100, 79, 300))
    assert [width for width, _ in decoded] == [63, 252, 503]


@pytest.mark.parametrize(("mode", "colour"), [("L", 99), ("CMYK", (0, 255, 255, 0))])
def test_jpegs_of_other_modes_are_decoded_smaller_too(mode, colour, decoded, tmp_path):
    path = saved(Image.new(mode, (400, 400), colour), tmp_path / "1.jpg")
    wanted = (99, 99, 99) if mode == "L" else (255, 0, 0)
    np.testing.assert_allclose(read_image(path, (8, 8))[4, 4].astype(int), wanted, atol=3)
    assert decoded == [(50, 50)]


def test_a_jpeg_of_several_pictures_gives_the_first(photo, decoded, tmp_path):
    path = tmp_path / "1.jpg"
    second = Image.new("RGB", (503, 331))
    Image.fromarray(photo).save(path, "MPO", save_all=True, append_images=[second], **FINE)
    found = read_image(path, (16, 24)).astype(int)
    assert np.abs(found - resize_image(photo, (16, 24))).mean() < 1.0
    assert decoded[0] == (63, 42)
    assert damage(path) is None


def test_a_large_jpeg_below_the_limit(decoded, tmp_path):
    path = saved(Image.new("L", (9000, 9000), 99), tmp_path / "1.jpg")
    assert np.abs(read_image(path, (32, 32)).astype(int) - 99).max() < 4
    assert decoded == [(1125, 1125)]  # 1 MB, not 81


WHOLE, EIGHTH = 331 * 503, 2602  # pixels of the photo


@pytest.mark.parametrize("size", [(8, 8), (331, 503)])
@pytest.mark.parametrize("crop", [None, lambda height, width: (0, 0, 40, 40)])
def test_the_limit_goes_by_what_is_decoded_of_a_jpeg(size, crop, photo, monkeypatch, tmp_path):
    path, divisors, decode = saved(Image.fromarray(photo), tmp_path / "1.jpg"), [], jpeg.decode
    monkeypatch.setattr(jpeg, "decode", lambda *given: (divisors.append(given[-1]), decode(*given))[1])
    for limit in (EIGHTH, WHOLE // 4 + 1):
        found = read_image(path, size, crop, Rules(max_pixels=limit))
        assert found.shape == (*size, 3)
    assert divisors[0] == 8  # however large the result is
    assert divisors[1] >= 2
    assert damage(path, Rules(max_pixels=EIGHTH)) is None
    with pytest.raises(ValueError, match="166,493 pixels, and more than 2,601 may .* max_pixels"):
        read_image(path, size, crop, Rules(max_pixels=EIGHTH - 1))


def test_of_a_progressive_jpeg_all_is_in_memory(photo, tmp_path):
    path = saved(Image.fromarray(photo), tmp_path / "1.jpg", progressive=True)
    assert read_image(path, (8, 8), rules=Rules(max_pixels=WHOLE)).shape == (8, 8, 3)
    assert "pixels, and more than" in damage(path, Rules(max_pixels=WHOLE - 1))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_small_jpeg_that_says_that_it_is_large(progressive, photo, tmp_path):
    """Four billion pixels in 20 kB: nothing of it is decoded."""
    path = saved(Image.fromarray(photo), tmp_path / "1.jpg", progressive=progressive)
    content = path.read_bytes()
    size = b"".join(side.to_bytes(2, "big") for side in (331, 503))
    assert content.count(size) == 1
    path.write_bytes(content.replace(size, b"\xff\xff\xff\xff"))
    assert "65535 x 65535 pixels, which can't stand in" in damage(path)


# The pixels of JPEGs


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0"}, {"quality": 20}])
def test_the_pixels_of_a_jpeg_are_those_of_pillow(mode, options, photo, tmp_path):
    path = saved(Image.fromarray(photo).convert(mode), tmp_path / "1.jpg", **options)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_image(path, (331, 503)), pixels)
    np.testing.assert_array_equal(
        read_image(path, (200, 300), lambda height, width: (7, 9, 200, 300)), pixels[7:207, 9:309]
    )


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("divisor", [2, 4, 8])
def test_the_pixels_of_a_jpeg_decoded_smaller_are_those_of_pillow(
    divisor, options, mode, photo, tmp_path
):
    path = saved(Image.fromarray(photo).convert(mode), tmp_path / "1.jpg", **options)
    with Image.open(path) as image:
        image.draft(None, (503 // divisor, 331 // divisor))
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (-(-331 // divisor), -(-503 // divisor), 3)
    with reading.opened(path, Rules()) as opened:
        found, scale = opened.decode(divisor)
    assert scale == 1 / divisor
    np.testing.assert_array_equal(np.asarray(found), pixels)


def test_the_header_of_a_jpeg(photo, tmp_path):
    image = Image.fromarray(photo)
    content = saved(image, tmp_path / "1.jpg").read_bytes()
    assert jpeg.header(content) == (331, 503, 3, True, False)
    assert jpeg.header(content[:2] + b"\xff\xff" + content[2:]) == (331, 503, 3, True, False)
    content = saved(image, tmp_path / "1.jpg", progressive=True, exif=b"Exif\0\0").read_bytes()
    assert jpeg.header(content) == (331, 503, 3, False, True)
    content = saved(image.convert("L"), tmp_path / "1.jpg").read_bytes()
    assert jpeg.header(content) == (331, 503, 1, True, False)
    start = content.index(b"\xff\xda")
    for length in range(start):
        with pytest.raises(ValueError, match="a JPEG whose header is damaged"):
            jpeg.header(content[:length])
    # A scan of one colour of three: all that comes before the last scan is kept in memory.
    content = saved(image, tmp_path / "1.jpg").read_bytes()
    start = content.index(b"\xff\xda")
    content = content[: start + 4] + b"\1" + content[start + 5 :]
    assert jpeg.header(content) == (331, 503, 3, False, False)


@pytest.mark.parametrize("start", [b"BM", b"anything", b"\xff\xd8\xff"])
def test_a_file_of_gigabytes_does_not_fill_the_memory(start, tmp_path):
    path = tmp_path / "1.jpg"
    path.write_bytes(start)
    with path.open("r+b") as file:
        file.truncate(2 << 30)  # a hole, which takes no room on the disk
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"1\.jpg"):
            read_image(path, (8, 8))
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


# A part of an image


@pytest.mark.parametrize("size", [(200, 320), (240, 400), (150, 300), (101, 161), (64, 64), (1, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int32"])
def test_a_part_is_resized_nearly_as_pillow_does(size, dtype, photo, tmp_path):
    path = saved(Image.fromarray(photo), tmp_path / "1.png")

    def crop(height, width):
        assert (height, width) == (331, 503)
        return 41, 90, 200, 320

    box = (90, 41, 410, 241)
    wanted = Image.fromarray(photo).resize(size[::-1], Image.Resampling.BILINEAR, box=box)
    found = resize_image(photo.astype(dtype), size, crop)
    assert (found.shape, found.dtype) == ((*size, 3), dtype)
    difference = np.abs(found - np.asarray(wanted).astype(int))
    assert difference.mean() < 0.7
    assert difference.max() < 20  # at the edges
    if dtype == "uint8":
        np.testing.assert_array_equal(read_image(path, size, crop), found)
    if size == (200, 320):
        np.testing.assert_array_equal(found, photo[41:241, 90:410])


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
@pytest.mark.parametrize("size", [(24, 24), (12, 12), (5, 5)])
def test_the_channels_of_a_part_are_resized_alike(channels, size, rng):
    image = rng.integers(0, 256, (16, 16, channels), "uint8")
    found = resize_image(image, size, lambda height, width: (2, 1, 14, 14))
    assert found.shape == (*size, channels)
    for channel in range(channels):
        alone = resize_image(image[:, :, channel, None], size, lambda height, width: (2, 1, 14, 14))
        np.testing.assert_array_equal(found[:, :, channel], alone[:, :, 0])


@pytest.mark.parametrize(
    "part", [(-1, 0, 8, 8), (0, -1, 8, 8), (9, 0, 8, 8), (0, 17, 8, 8), (0, 0, 0, 8), (0, 0, 8, 0)]
)
def test_a_part_that_is_not_in_the_image(part, picture, tmp_path):
    path = saved(Image.fromarray(picture), tmp_path / "1.png")
    message = r"crop must give a part .* of an image of 16 rows and 24 columns. Received: \("
    for image, read in ((path, read_image), (picture, resize_image)):
        with pytest.raises(ValueError, match=f"^{message}"):  # the file is not to blame
            read(image, (8, 8), lambda height, width: part)


def test_an_error_in_crop_is_not_blamed_on_the_file(picture, tmp_path):
    def crop(height, width):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="^mine$"):
        read_image(saved(Image.fromarray(picture), tmp_path / "1.png"), (8, 8), crop)


# What is wrong with a file


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_nobody_waits_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert damage(tmp_path / "pipe.jpg") == "neither a file nor a folder"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "suffix", ["jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "jp2", "ppm", "tga", "dib", AVIF]
)
def test_whatever_is_in_a_file_it_is_read_or_named(suffix, picture, tmp_path, rng):
    """And `damage` tells beforehand which of both."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    options = {"exif": exif} if suffix in ("jpg", "png", "webp", "tif", "avif") else {}
    good = saved(Image.fromarray(picture), tmp_path / f"1.{suffix}", **options).read_bytes()
    outcomes = []
    for number in range(150):
        content = bytearray(good)
        for _ in range(rng.integers(6)):
            content[rng.integers(len(content) if number % 2 else min(len(content), 200))] = rng.integers(
                256
            )
        (path := tmp_path / f"{number}.{suffix}").write_bytes(content)
        told = damage(path)
        if told is None:
            assert read_image(path, (8, 8)).shape == (8, 8, 3)
        else:
            with pytest.raises(ValueError, match="can't read the image"):
                read_image(path, (8, 8))
        outcomes.append(told is None)
    assert 0 < sum(outcomes) < 150


def test_without_pillow_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras_transfer.data.images.reading")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"Pillow: pip install 'keras-transfer\[data\]'"):
        importlib.import_module("keras_transfer.data.images.reading")


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
