import itertools
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("cv2")

import keras_transfer
from keras_transfer.data import color_jitter, rand_augment, trivial_augment
from keras_transfer.data.images import transforms

CHANGES = (
    *("shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "saturation", "contrast", "sharpness"),
    *("posterize", "solarize", "autocontrast", "equalize"),
)


@pytest.fixture
def image(rng):
    return rng.integers(30, 200, (16, 24, 3), "uint8")


@pytest.fixture
def applied(monkeypatch):
    """Record which changes are made, with their strengths, instead of making them."""
    calls = []

    def recording(name):
        def record(image, *strength):
            if threading.current_thread() is threading.main_thread():  # and not some loader's
                calls.append((name, *strength))
            return image

        return record

    for name in (*CHANGES, "hue"):
        monkeypatch.setattr(transforms, name, recording(name))
    return calls


def strengths(calls):
    """Return the strengths of each change."""
    found = {}
    for name, *strength in calls:
        found.setdefault(name, []).extend(strength)
    return found


# Colour jitter


def test_jitter_changes_all_four_in_every_order(image, rng, applied):
    orders = set()
    for _ in range(300):
        applied.clear()
        assert color_jitter(image, rng) is image
        orders.add(tuple(name for name, _ in applied))
    assert orders == set(itertools.permutations(["brightness", "contrast", "saturation", "hue"]))


def test_jitter_goes_as_far_as_it_is_told_in_both_directions(image, rng, applied):
    for _ in range(500):
        color_jitter(image, rng, brightness=0.4, contrast=1.5, saturation=0.1, hue=0.5)
    limits = {
        "brightness": (0.6, 1.4),
        "contrast": (0.0, 2.5),  # a factor is never below 0
        "saturation": (0.9, 1.1),
        "hue": (-0.5, 0.5),
    }
    for name, values in strengths(applied).items():
        low, high = limits[name]
        parts = np.histogram(values, np.linspace(low, high, 5))[0]
        assert parts.sum() == 500, name
        assert parts.min() > 90, name


def test_jitter_leaves_out_what_it_is_told_to_leave(image, rng, applied):
    assert color_jitter(image, rng, brightness=0, contrast=0, saturation=0, hue=0) is image
    color_jitter(image, rng, brightness=0, saturation=0, hue=0)
    assert [name for name, _ in applied] == ["contrast"]


# RandAugment and TrivialAugment


def test_rand_augment_makes_every_change_at_one_strength(image, rng, applied):
    for _ in range(300):
        assert rand_augment(image, rng, magnitude=12) is image
    part = 12 / 30
    factors = pytest.approx(1 - part * 0.9), pytest.approx(1 + part * 0.9)

    def either_way(strength):
        return pytest.approx(-strength), pytest.approx(strength)

    wanted = {
        "shear_x": either_way(part * 0.3),
        "shear_y": either_way(part * 0.3),
        "translate_x": either_way(part * 150 / 331),
        "translate_y": either_way(part * 150 / 331),
        "rotate": either_way(part * 30),
        "brightness": factors,
        "saturation": factors,
        "contrast": factors,
        "sharpness": factors,
        "posterize": (6,),  # 8 - 0.4 * 4 = 6.4
        "solarize": (pytest.approx(256 * (1 - part)),),
        "autocontrast": (),
        "equalize": (),
    }
    assert {name: tuple(sorted(set(values))) for name, values in strengths(applied).items()} == wanted
    assert 520 < len(applied) < 580  # of 600; one change in fourteen is none


@pytest.mark.parametrize("count", [0, 1, 5])
def test_rand_augment_makes_as_many_changes_as_it_is_told(count, image, rng, applied):
    counts = set()
    for _ in range(100):
        applied.clear()
        rand_augment(image, rng, num_ops=count)
        counts.add(len(applied))
    assert max(counts) == count


def test_rand_augment_of_no_strength_does_what_has_none(image):
    possible = {
        each.tobytes() for each in (image, transforms.autocontrast(image), transforms.equalize(image))
    }
    found = {
        rand_augment(image, np.random.default_rng(seed), num_ops=1, magnitude=0).tobytes()
        for seed in range(100)
    }
    assert found == possible


def test_trivial_augment_makes_one_change_of_any_strength(image, rng, applied):
    counts = []
    for _ in range(14 * 800):
        before = len(applied)
        assert trivial_augment(image, rng) is image
        counts.append(len(applied) - before)
    assert set(counts) == {0, 1}
    frequencies = np.unique([name for name, *_ in applied], return_counts=True)
    assert set(frequencies[0]) == set(CHANGES)
    assert frequencies[1].min() > 680
    assert frequencies[1].max() < 920
    steps = np.arange(31) / 30
    both = np.concatenate([-steps[:0:-1], steps])
    factors = 1 + 0.99 * both
    wanted = {
        "shear_x": 0.99 * both,
        "shear_y": 0.99 * both,
        "translate_x": 32 / 224 * both,
        "translate_y": 32 / 224 * both,
        "rotate": 135.0 * both,
        "brightness": factors,
        "saturation": factors,
        "contrast": factors,
        "sharpness": factors,
        "posterize": np.arange(2, 9),
        "solarize": 256 * steps,
        "autocontrast": [],
        "equalize": [],
    }
    for name, values in strengths(applied).items():
        found = np.unique(np.round(values, 9))
        np.testing.assert_allclose(found, wanted[name], atol=1e-8, err_msg=name)


@pytest.mark.parametrize("augment", [color_jitter, rand_augment, trivial_augment])
@pytest.mark.parametrize(("shape", "dtype"), [((8, 8, 1), "uint8"), ((8, 8, 3), "float32")])
def test_images_of_other_kinds_are_refused_whatever_is_drawn(augment, shape, dtype):
    for seed in range(30):  # some of the changes of shape would do
        with pytest.raises(TypeError, match=r"need RGB images of uint8, of shape \(height, width, 3\)"):
            augment(np.zeros(shape, dtype), np.random.default_rng(seed))


@pytest.mark.parametrize("augment", [color_jitter, rand_augment, trivial_augment])
def test_without_opencv_all_of_them_say_what_to_install(augment, image, rng, monkeypatch):
    monkeypatch.delattr(keras_transfer.data.images, "transforms")
    monkeypatch.delitem(sys.modules, "keras_transfer.data.images.transforms")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"OpenCV: pip install 'keras-transfer\[data\]'"):
        augment(image, rng)
