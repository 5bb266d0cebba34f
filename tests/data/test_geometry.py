import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_transfer.data import random_crop, random_flip, random_resized_crop, random_rotation


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


def test_rotation_is_by_any_angle_up_to_the_largest(image, rng, monkeypatch):
    transforms = pytest.importorskip("keras_transfer.data.images.transforms")
    angles = []
    monkeypatch.setattr(transforms, "rotate", lambda image, degrees: angles.append(degrees))
    for _ in range(500):
        random_rotation(image, rng, degrees=40.0)
    quarters = np.histogram(angles, [-40, -20, 0, 20, 40])[0]
    assert quarters.sum() == 500
    assert quarters.min() > 90
    angles.clear()
    random_rotation(image, rng)
    assert abs(angles[0]) <= 15


def test_rotation_turns(image, rng):
    transforms = pytest.importorskip("keras_transfer.data.images.transforms")
    angle = np.random.default_rng(3).uniform(-15, 15)
    found = random_rotation(image, np.random.default_rng(3))
    np.testing.assert_array_equal(found, transforms.rotate(image, angle))
    assert not np.array_equal(found, image)
    np.testing.assert_array_equal(random_rotation(image, rng, degrees=0.0), image)


# A random part of an image


@settings(deadline=None, max_examples=300)
@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    seed=st.integers(0, 2**32 - 1),
    smallest=st.floats(0.001, 1.0),
)
def test_the_part_is_in_the_image(height, width, seed, smallest):
    rng = np.random.default_rng(seed)
    part = random_resized_crop(height, width, rng, scale=(smallest, 1.0))
    assert {type(length) for length in part} == {int}  # as what is written to JSON
    top, left, rows, columns = part
    assert 0 <= top < top + rows <= height
    assert 0 <= left < left + columns <= width


def drawn(height, width, count=2000, **arguments):
    """Return (top, left, height, width) of many parts, as rows."""
    rng = np.random.default_rng(0)
    return np.array([random_resized_crop(height, width, rng, **arguments) for _ in range(count)])


def assert_uniform(values, low, high):
    """The largest distance of the distribution from the uniform one is what chance allows."""
    ranks = (np.sort(values) - low) / (high - low)
    assert np.abs(ranks - (np.arange(len(ranks)) + 0.5) / len(ranks)).max() < 1.63 / len(ranks) ** 0.5


def test_area_and_shape_are_drawn_evenly():
    # No part of these areas and shapes is too large for the image: none is drawn again.
    _, _, rows, columns = drawn(1000, 1000, scale=(0.2, 0.6), ratio=(0.7, 1.5)).T
    assert_uniform(rows * columns / 1e6, 0.2, 0.6)
    assert_uniform(np.log(columns / rows), math.log(0.7), math.log(1.5))


def test_the_part_is_anywhere():
    top, left, rows, columns = drawn(1000, 1400, scale=(0.1, 0.3)).T
    assert_uniform((top + 0.5) / (1001 - rows), 0, 1)
    assert_uniform((left + 0.5) / (1401 - columns), 0, 1)
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.1


def test_areas_and_shapes_are_those_of_the_papers_by_default():
    _, _, rows, columns = drawn(900, 1100).T
    areas, ratios = rows * columns / (900 * 1100), columns / rows
    assert 0.079 < areas.min() < 0.1
    assert 0.9 < areas.max() <= 1.0
    assert 0.745 < ratios.min() < 0.77
    assert 1.3 < ratios.max() < 1.34


@pytest.mark.parametrize(
    ("height", "width", "part"),
    [
        (1, 1, (0, 0, 1, 1)),
        (10, 1000, (0, 493, 10, 13)),  # no part of 8 % of it is as short as 4/3: 13 columns are that
        (1000, 10, (493, 0, 13, 10)),
        (1, 5000, (0, 2499, 1, 1)),
        (5000, 1, (2499, 0, 1, 1)),
    ],
)
def test_of_an_image_that_is_too_long_it_is_the_middle(height, width, part):
    assert {tuple(row) for row in drawn(height, width, 20)} == {part}
