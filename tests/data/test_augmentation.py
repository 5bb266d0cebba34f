import numpy as np
import pytest

from keras_transfer.data import Loader, random_crop, random_flip
from keras_transfer.data.augmentation import PRESETS, resolve_augmentation


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (16, 24, 3), "uint8")


def test_flip_mirrors_half_of_the_time(image, rng):
    mirrored = 0
    for _ in range(400):
        result = random_flip(image, rng)
        mirrored += np.array_equal(result, image[:, ::-1])
        assert np.array_equal(result, image) or np.array_equal(result, image[:, ::-1])
    assert 160 < mirrored < 240


def test_crop_shifts_into_the_mirrored_margin(image, rng):
    padded = np.pad(image, ((2, 2), (3, 3), (0, 0)), mode="reflect")
    places = [(top, left) for top in range(5) for left in range(7)]
    shifts = {(top, left): padded[top : top + 16, left : left + 24] for top, left in places}
    found = set()
    for _ in range(600):
        result = random_crop(image, rng)
        found.add(next(shift for shift, wanted in shifts.items() if np.array_equal(result, wanted)))
    assert found == set(shifts)  # all of them, the original at (2, 3) included


def test_crop_without_padding_changes_nothing(image, rng):
    np.testing.assert_array_equal(random_crop(image, rng, padding=0.0), image)
    one_pixel = np.ones((1, 1, 3), "uint8")
    np.testing.assert_array_equal(random_crop(one_pixel, rng), one_pixel)


@pytest.mark.parametrize("augmentation", [random_flip, random_crop, *PRESETS.values()])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_shape_dtype_and_argument_stay(augmentation, dtype, image):
    image = image.astype(dtype)
    before = image.copy()
    results = [augmentation(image, np.random.default_rng(seed)) for seed in range(10)]
    assert {(result.shape, result.dtype) for result in results} == {(image.shape, image.dtype)}
    assert len({result.tobytes() for result in results}) > 1
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(results[3], augmentation(image, np.random.default_rng(3)))


def test_light_flips_and_crops(image, rng):
    padded = np.pad(image, ((2, 2), (3, 3), (0, 0)), mode="reflect")
    # Padding is symmetric: the crops of the mirror image are the mirrored crops of the image.
    crops = [padded[top : top + 16, left : left + 24] for top in range(5) for left in range(7)]
    straight, mirrored = ({crop[:, ::step].tobytes() for crop in crops} for step in (1, -1))
    found = {PRESETS["light"](image, rng).tobytes() for _ in range(300)}
    assert found <= straight | mirrored
    assert len(found & straight) > 20
    assert len(found & mirrored) > 20


def test_what_an_argument_stands_for():
    assert resolve_augmentation(None) is None
    assert resolve_augmentation("light") is PRESETS["light"]
    assert resolve_augmentation(random_flip) is random_flip


def test_unknown_preset():
    message = "augmentation must be .*did you mean light. Received: augmentation='Ligth'"
    with pytest.raises(ValueError, match=message):
        resolve_augmentation("Ligth")
    with pytest.raises(ValueError, match=r"'light'.* Received: augmentation='zebra'"):
        Loader((np.zeros((1, 2, 2, 1)), np.zeros(1)), augmentation="zebra")


@pytest.mark.parametrize("augmentation", [3, ["light"]])
def test_neither_name_nor_callable(augmentation):
    with pytest.raises(TypeError, match=r"augmentation must be .* Received: augmentation="):
        resolve_augmentation(augmentation)
