"""What files come to as red, green and blue of 8 bits: transparency, and more than 8 bits."""

import io
import struct

import keras
import numpy as np
import pytest
from transparent import KINDS, SIDE, figure

import keras_transfer as kt
from keras_transfer.data.images.reading import read_image
from keras_transfer.data.images.rules import Rules, as_bytes, checked_rules

Image = pytest.importorskip("PIL.Image")
cv2 = pytest.importorskip("cv2")


def file(folder, content, name="1.png"):
    (folder / name).write_bytes(content)
    return folder / name


# Transparency


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("background", [(255, 255, 255), (10, 20, 30)])
def test_what_is_transparent_is_laid_on_a_background(background, kind, tmp_path):
    mask = figure("circle", 7)
    path = file(tmp_path, KINDS[kind](mask), kind)
    wanted = np.where(mask[..., None], 0, background)
    found = read_image(path, (SIDE, SIDE), rules=Rules(background))
    np.testing.assert_allclose(found, wanted, atol=6 if kind.endswith("avif") else 0)


IN_FOLDERS = [kind for kind in KINDS if kind.endswith(("png", "gif", "webp", "tif"))]


@pytest.fixture(params=IN_FOLDERS)
def figures(request, tmp_path):
    """Twelve circles and twelve squares, black on transparent ground."""
    for shape in ("circle", "square"):
        (tmp_path / shape).mkdir()
        for number in range(12):
            content = KINDS[request.param](figure(shape, number))
            file(tmp_path / shape, content, f"{number}_{request.param}")
    return tmp_path


def test_circles_and_squares_are_24_images(figures):
    """They were 24 times the same black."""
    loader = kt.data.from_directory(figures, image_size=SIDE, shuffle=False, batch_size=24, verbose=0)
    images, _ = loader.batch(0, 0)
    assert len({image.tobytes() for image in images}) == 24
    assert loader.noted == {}


def test_on_a_ground_of_their_own_colour_they_are_named(figures, caplog):
    loader = kt.data.from_directory(figures, image_size=SIDE, background="black", verbose=0)
    assert loader.num_samples == len(loader.noted) == 24
    assert {note.partition(";")[0] for note in loader.noted.values()} == {"all of one colour"}
    (record,) = caplog.records
    assert record.getMessage().startswith("something is odd about 24 of 24 files: ")
    assert loader.split(0.5)[0].noted == loader.noted


def test_a_linear_head_tells_circles_from_squares(tmp_path):
    pytest.importorskip("sklearn")
    for shape in ("circle", "square"):
        (tmp_path / shape).mkdir()
        for number in range(12):
            file(tmp_path / shape, KINDS["RGBA.png"](figure(shape, number)), f"{number}.png")
    loader = kt.data.from_directory(tmp_path, image_size=SIDE, verbose=0)
    x = keras.Input((SIDE, SIDE, 3))
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(x))
    model = keras.Model(x, keras.layers.Dense(2, "softmax")(flat))
    fitted = kt.fit_linear_head(model, loader, C=10.0, verbose=0)
    assert kt.evaluation.evaluate(fitted, loader, verbose=0).accuracy == 1.0


def test_half_transparent_colours_and_those_multiplied_already(tmp_path):
    for name, colour in (("plain", (200, 100, 50, 128)), ("associated", (100, 50, 25, 128))):
        content = io.BytesIO()
        Image.new("RGBA", (4, 4), colour).save(content, "TIFF")
        entry = struct.pack("<HHI", 338, 3, 1)
        content = content.getvalue()
        if name == "associated":
            content = content.replace(entry + b"\2\0", entry + b"\1\0")
        found = read_image(file(tmp_path, content, f"{name}.tif"), (4, 4))
        np.testing.assert_allclose(found[0, 0].astype(int), (227, 177, 152), atol=1)


def test_opaque_pixels_of_the_transparent_value_but_for_the_lower_byte(tmp_path):
    """Grey of 16 bits is compared as a whole."""
    values = np.array([[0x8000, 0x80FF]], "uint16")
    path = tmp_path / "1.png"
    Image.fromarray(values).save(path, transparency=0x8000)
    assert read_image(path, (1, 2))[..., 0].tolist() == [[255, 0x80]]


@pytest.mark.parametrize(
    ("given", "colour"),
    [("white", (255, 255, 255)), ("#0a141e", (10, 20, 30)), ([1, 2, np.uint8(3)], (1, 2, 3))],
)
def test_backgrounds(given, colour):
    assert checked_rules(given).background == colour


@pytest.mark.parametrize("given", ["whit", "#12345", (1, 2), (0, 0, 256), (0.5, 0, 0), None, 3, True])
def test_what_is_no_background(given):
    with pytest.raises(ValueError, match="background must be 'white', .* Received: background="):
        kt.data.from_directory("nowhere", image_size=8, background=given)


# More than 8 bits

TWELVE = np.array([[0, 2048, 4095]], "uint16")
BYTES = [[0, 128, 255]]


def grey16(suffix):
    def write(path):
        Image.fromarray(TWELVE).save(path.with_suffix(suffix))
        return path.with_suffix(suffix)

    return write


def colours16(suffix, channels=3):
    def write(path):
        image = np.repeat(TWELVE[..., None], channels, axis=2)
        if channels == 4:
            image[..., 3] = 65535
        cv2.imwrite(str(path.with_suffix(suffix)), image)
        return path.with_suffix(suffix)

    return write


SIXTEEN = {
    "grey.png": grey16(".png"),
    "grey.tif": grey16(".tif"),
    "colours.png": colours16(".png"),
    "colours.tif": colours16(".tif"),
    "transparency.png": colours16(".png", 4),
}


@pytest.mark.parametrize("kind", SIXTEEN)
def test_twelve_bits_in_sixteen(kind, tmp_path):
    path = SIXTEEN[kind](tmp_path / "1")
    found = read_image(path, (1, 3), rules=Rules(value_range=(0.0, 4095.0)))
    assert found.tolist() == [[[value] * 3 for value in row] for row in BYTES]
    assert read_image(path, (1, 3))[..., 0].tolist() == [[0, 8, 15]]  # four bits are left


@pytest.mark.parametrize("kind", SIXTEEN)
def test_bits_that_no_file_uses_are_told(kind, tmp_path, caplog):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(2):
            SIXTEEN[kind](tmp_path / name / str(number))
    loader = kt.data.from_directory(tmp_path, image_size=3, verbose=0)
    assert len(loader.noted) == 4
    told = "of its 16 bits no file uses more than 12, of which 4 are kept; value_range=(0, 4095) keeps 8"
    assert set(loader.noted.values()) == {told}
    assert told in caplog.text
    caplog.clear()
    loader = kt.data.from_directory(tmp_path, image_size=(1, 3), value_range=(0, 4095), verbose=0)
    assert loader.noted == {}
    assert loader.batch(0, 0)[0].max() == 255
    assert not caplog.records


def test_files_of_sixteen_bits_may_be_dark(tmp_path, caplog):
    for name, value in (("ant", 300), ("bee", 60000)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.array([[0, value]], "uint16")).save(tmp_path / name / "1.png")
    assert kt.data.from_directory(tmp_path, image_size=2, verbose=0).noted == {}
    assert not caplog.records


@pytest.mark.parametrize(
    ("header", "values", "wanted"),
    [
        (b"P5 3 1 4095\n", TWELVE.astype(">u2").tobytes(), [0, 127, 255]),
        (b"P5 3 1 65535\n", np.array([0, 32768, 65535], ">u2").tobytes(), [0, 128, 255]),
        (b"P5 3 1 255\n", b"\0\x80\xff", [0, 128, 255]),
        (b"P5 3 1 15\n", b"\0\x08\x0f", [0, 136, 255]),
        (b"P2 3 1 4095\n", b"0 2048 4095\n", [0, 127, 255]),
        (b"P6 1 1 4095\n", TWELVE.astype(">u2").tobytes(), None),
    ],
)
def test_a_pgm_has_its_range_in_the_header(header, values, wanted, tmp_path):
    path = file(tmp_path, header + values, "1.pgm")
    for rules in (Rules(), Rules(value_range=(0.0, 300.0))):
        if rules.value_range and b"65535" in header:
            continue  # which programs write whatever they have
        found = read_image(path, (1, 3 if wanted else 1), rules=rules)
        if wanted is None:
            np.testing.assert_allclose(found, [[[0, 128, 255]]], atol=1)
        else:
            np.testing.assert_allclose(found[0, :, 0], wanted, atol=1)


def test_a_pgm_that_says_sixteen_bits_may_have_twelve(tmp_path):
    path = file(tmp_path, b"P5 3 1 65535\n" + TWELVE.astype(">u2").tobytes(), "1.pgm")
    assert read_image(path, (1, 3), rules=Rules(value_range=(0.0, 4095.0)))[..., 0].tolist() == BYTES


def test_a_tiff_of_twelve_bits_says_so(tmp_path):
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 200, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    path = file(tmp_path, head.ljust(200, b"\0") + b"\x80\x0f\xff", "1.tif")  # 0x800 and 0xFFF
    for rules in (Rules(), Rules(value_range=(0.0, 300.0))):
        assert read_image(path, (1, 2), rules=rules)[..., 0].tolist() == [[128, 255]]


@pytest.mark.parametrize(("dtype", "span"), [("float32", (0.0, 1.0)), ("int32", (-1000.0, 1000.0))])
def test_values_without_a_known_range_can_be_told_it(dtype, span, tmp_path):
    values = np.linspace(*span, 3)[None].astype(dtype)
    Image.fromarray(values).save(tmp_path / "1.tif")
    with pytest.raises(ValueError, match=r"no known range; value_range=\(low, high\) tells it"):
        read_image(tmp_path / "1.tif", (1, 3))
    found = read_image(tmp_path / "1.tif", (1, 3), rules=Rules(value_range=span))
    assert found[..., 0].tolist() == BYTES


def test_values_that_are_no_numbers(tmp_path):
    Image.fromarray(np.array([[0.0, np.nan]], "float32")).save(tmp_path / "1.tif")
    with pytest.raises(ValueError, match=r"1\.tif.*pixels must be finite numbers"):
        read_image(tmp_path / "1.tif", (1, 2), rules=Rules(value_range=(0.0, 1.0)))


def test_a_range_is_stretched_to_bytes_and_cut_at_its_ends():
    values = np.array([-5, 0, 1, 2, 4, 5, 1000])
    assert as_bytes(values, (0, 4)).tolist() == [0, 0, 64, 128, 255, 255, 255]
    every = np.arange(256)
    np.testing.assert_array_equal(as_bytes(every, (0, 255)), every)
    np.testing.assert_array_equal(as_bytes((every / 255).astype("float32"), (0, 1)), every)
    np.testing.assert_array_equal(as_bytes(every / 127.5 - 1, (-1, 1)), every)


@pytest.mark.parametrize("given", [(1, 0), (0, 0), (0,), "12", 4095, (0, np.inf), (0, None)])
def test_what_is_no_range(given):
    with pytest.raises(ValueError, match="value_range must be two .* Received: value_range="):
        kt.data.from_directory("nowhere", image_size=8, value_range=given)
    with pytest.raises(ValueError, match="value_range must be two .* Received: value_range="):
        kt.Loader((np.zeros((1, 2, 2, 3)), [0]), value_range=given)


def test_features_are_those_of_the_rules(tmp_path):
    """A cache must not give the features of another background."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(KINDS["RGBA.png"](figure("circle", 0)))
    prints = [
        kt.data.from_directory(tmp_path, image_size=8, verbose=0, **rules).fingerprint()
        for rules in ({}, {"background": "white"}, {"background": "black"}, {"value_range": (0, 4095)})
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
