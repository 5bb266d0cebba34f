"""Each change against its formula, or against Pillow or NumPy where they have the same."""

import sys

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")

from PIL import ImageEnhance, ImageOps  # noqa: E402

from keras_transfer.data.images import transforms  # noqa: E402

SHAPES = {  # each with a strength at which much changes
    "rotate": 33.0,
    "shear_x": 0.4,
    "shear_y": -0.4,
    "translate_x": 0.3,
    "translate_y": -0.3,
}
COLOURS = {
    "brightness": 1.5,
    "contrast": 0.4,
    "saturation": 1.8,
    "hue": 0.2,
    "sharpness": 1.9,
    "posterize": 3,
    "solarize": 100.0,
    "autocontrast": None,
    "equalize": None,
}
EVERY = SHAPES | COLOURS


def changed(name, image):
    """Return what a change makes of an image at its strength above."""
    strength = EVERY[name]
    return getattr(transforms, name)(image, *([] if strength is None else [strength]))


@pytest.fixture
def noise(rng):
    return rng.integers(0, 256, (16, 24, 3), "uint8")


@pytest.fixture
def soft():
    """Smooth colours that don't reach 0 nor 255, so that nothing is clipped or sharp."""
    y, x = np.mgrid[0:48, 0:64] / 10.0
    waves = np.stack([np.sin(x) * np.cos(y), np.sin(x + y), np.cos(x - 2 * y)], axis=-1)
    return (128 + 60 * waves).astype("uint8")


def assert_near(found, wanted, levels):
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - np.asarray(wanted).astype(int)).max() <= levels


# Shape


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [8, 9])
def test_quarter_turns_are_those_of_numpy(dtype, channels, size, rng):
    image = rng.integers(0, 256, (size, size, channels)).astype(dtype)
    for quarters in (-1, 0, 1, 2):
        found = transforms.rotate(image, 90.0 * quarters)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, np.rot90(image, quarters))


def test_a_turn_is_that_of_pillow_where_that_has_pixels(soft):
    found = transforms.rotate(soft, 20.0)
    wanted = Image.fromarray(soft).rotate(20.0, Image.Resampling.BILINEAR)
    inside = (slice(16, 32), slice(20, 44))
    assert_near(found[inside], np.asarray(wanted)[inside], 3)
    assert np.abs(found[inside].astype(int) - soft[inside]).max() > 30


def test_what_is_turned_into_the_image_is_mirrored(soft):
    corners = transforms.rotate(soft, 10.0)[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.min() > 60  # not black


def test_shears_move_rows_and_columns_by_their_distance_from_the_middle(rng):
    image = rng.integers(0, 256, (7, 7, 3), "uint8")
    found, across = transforms.shear_x(image, 1.0), transforms.shear_y(image, 1.0)
    for line in range(7):
        shift = line - 3
        for place in range(max(0, shift), min(7, 7 + shift)):
            np.testing.assert_array_equal(found[line, place], image[line, place - shift])
            np.testing.assert_array_equal(across[place, line], image[place - shift, line])


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_shifts_go_right_and_down_and_mirror_the_rest(dtype, rng):
    image = rng.integers(0, 256, (8, 12, 1)).astype(dtype)
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(transforms.translate_x(image, 0.25), padded[4:12, 1:13])
    np.testing.assert_array_equal(transforms.translate_x(image, -0.25), padded[4:12, 7:19])
    np.testing.assert_array_equal(transforms.translate_y(image, 0.25), padded[2:10, 4:16])
    np.testing.assert_array_equal(transforms.translate_y(image, -0.25), padded[6:14, 4:16])


@pytest.mark.parametrize("name", SHAPES)
def test_floating_point_is_moved_as_integers_are(name, soft):
    assert_near(changed(name, soft), changed(name, soft.astype("float32")), 4)


# Colour


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.9])
def test_brightness(factor, noise):
    wanted = np.clip(np.rint(noise * factor), 0, 255)
    assert_near(transforms.brightness(noise, factor), wanted, 1)  # of float32: halves go either way


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.9])
@pytest.mark.parametrize(
    ("name", "enhancer"),
    [("brightness", "Brightness"), ("contrast", "Contrast"), ("saturation", "Color")],
)
def test_factors_are_those_of_pillow(name, enhancer, factor, noise):
    found = getattr(transforms, name)(noise, factor)
    assert_near(found, getattr(ImageEnhance, enhancer)(Image.fromarray(noise)).enhance(factor), 2)
    assert np.array_equal(found, noise) == (factor == 1.0)


def test_sharpness_is_that_of_pillow_but_at_the_edges(noise):
    for factor in (0.0, 0.3, 1.0, 1.9):
        wanted = ImageEnhance.Sharpness(Image.fromarray(noise)).enhance(factor)
        found = transforms.sharpness(noise, factor)
        assert_near(found[1:-1, 1:-1], np.asarray(wanted)[1:-1, 1:-1], 2)
        assert np.array_equal(found, noise) == (factor == 1.0)


def test_no_saturation_is_grey_and_no_contrast_is_flat(noise):
    grey = transforms.saturation(noise, 0.0)
    assert (grey == grey[..., :1]).all()
    assert_near(grey[..., 0], noise @ (0.299, 0.587, 0.114), 1)
    flat = transforms.contrast(noise, 0.0)
    assert (flat == flat[0, 0, 0]).all()


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.mark.parametrize(
    ("turn", "found"),
    [(1 / 3, (GREEN, BLUE, RED)), (-1 / 3, (BLUE, RED, GREEN)), (1.0, (RED, GREEN, BLUE))],
)
def test_hue_turns_the_circle_of_colours(turn, found):
    image = np.array([[RED, GREEN, BLUE]], "uint8")
    assert_near(transforms.hue(image, turn)[0], found, 7)  # there are 256 values of hue


def test_no_turn_of_the_hue_is_no_change_but_for_rounding(noise):
    assert_near(transforms.hue(noise, 0.0), noise, 9)
    grey = np.repeat(noise[..., :1], 3, axis=2)
    np.testing.assert_array_equal(transforms.hue(grey, 0.3), grey)


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_is_that_of_pillow(bits, noise):
    wanted = ImageOps.posterize(Image.fromarray(noise), bits)
    np.testing.assert_array_equal(transforms.posterize(noise, bits), wanted)


@pytest.mark.parametrize("threshold", [0, 1, 100, 255, 256])
def test_solarize_is_that_of_pillow(threshold, noise):
    wanted = ImageOps.solarize(Image.fromarray(noise), threshold)
    np.testing.assert_array_equal(transforms.solarize(noise, threshold), wanted)


def test_autocontrast_is_that_of_pillow(soft):
    found = transforms.autocontrast(soft)
    assert_near(found, ImageOps.autocontrast(Image.fromarray(soft)), 1)
    assert found.min(axis=(0, 1)).tolist() == [0, 0, 0]
    assert found.max(axis=(0, 1)).tolist() == [255, 255, 255]


def test_a_channel_of_one_value_has_no_contrast_to_be_stretched(soft):
    soft[..., 1] = 99
    for name in ("autocontrast", "equalize"):
        found = changed(name, soft)
        assert set(found[..., 1].flat) == {99}
        assert found[..., 0].std() > soft[..., 0].std()


def test_equalize_maps_values_to_their_ranks(soft):
    found = transforms.equalize(soft)
    for channel in range(3):
        values = soft[..., channel]
        below = np.array([(values <= value).sum() for value in range(256)])
        lowest = below[values.min()]
        ranks = np.rint(255 * (below - lowest) / (values.size - lowest))
        np.testing.assert_array_equal(found[..., channel], ranks[values])


def test_equalize_makes_all_values_about_equally_frequent(rng):
    image = rng.normal(100, 10, (100, 100, 3)).astype("uint8")
    found = np.sort(transforms.equalize(image)[..., 0].ravel()) / 255
    assert np.abs(found - np.linspace(0, 1, found.size)).max() < 0.06


# All of them


@pytest.mark.parametrize("name", EVERY)
def test_the_image_stays_as_it_was_and_something_changes(name, noise):
    before = noise.copy()
    noise.flags.writeable = False  # as one of Pillow's is
    found = changed(name, noise)
    assert (found.shape, found.dtype) == (noise.shape, noise.dtype)
    assert not np.array_equal(found, noise)
    np.testing.assert_array_equal(noise, before)


@pytest.mark.parametrize("name", EVERY)
def test_a_view_of_an_image_is_an_image(name, noise):
    for view in (noise[:, ::-1], noise[::-1], noise.transpose(1, 0, 2), noise[::2, 1::2]):
        np.testing.assert_array_equal(changed(name, view), changed(name, view.copy()))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 50, 3), (50, 1, 3), (2, 3, 3)])
def test_the_smallest_and_the_longest_images(name, shape, rng):
    image = rng.integers(0, 256, shape, "uint8")
    found = changed(name, image)
    assert (found.shape, found.dtype) == (shape, np.uint8)


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((8, 8, 1), "uint8"), ((8, 8, 4), "uint8"), ((8, 8), "uint8"), ((8, 8, 3), "float32")],
)
def test_colours_are_those_of_rgb_images_of_uint8(name, shape, dtype):
    with pytest.raises(TypeError, match=r"need RGB images of uint8, .*Received: shape \(8, 8.* dtype"):
        changed(name, np.zeros(shape, dtype))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", ["int32", "float64", "float16"])
def test_shapes_are_of_uint8_or_float32(name, dtype):
    with pytest.raises(TypeError, match=f"must be of uint8 or float32. Received: dtype {dtype}"):
        changed(name, np.zeros((8, 8, 3), dtype))


def test_without_opencv_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras_transfer.data.images.transforms")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"OpenCV: pip install 'keras-transfer\[data\]'"):
        __import__("keras_transfer.data.images.transforms")
