"""Weights of classes by name, by index and balanced."""

import numpy as np
import pytest

from keras_transfer.tasks.class_weights import checked_class_weight

NAMES = ["ant", "bee", "cat"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ({}, {0: 1.0, 1: 1.0, 2: 1.0}),
        ({"bee": 2}, {0: 1.0, 1: 2.0, 2: 1.0}),
        ({np.int64(2): np.float32(0.5), "ant": 0}, {2: 0.5, 0: 0.0, 1: 1.0}),
    ],
)
def test_names_and_indices(given, expected):
    assert checked_class_weight(given, 3, NAMES) == expected


@pytest.mark.parametrize("names", [None, NAMES])
def test_balanced_is_what_scikit_learn_says(names):
    utils = pytest.importorskip("sklearn.utils.class_weight")
    y = np.array([0] * 7 + [1] * 2 + [2] * 3)
    expected = dict(enumerate(utils.compute_class_weight("balanced", classes=np.arange(3), y=y)))
    assert checked_class_weight("balanced", 3, names, lambda: np.bincount(y)) == pytest.approx(expected)
    some = dict(enumerate(utils.compute_class_weight("balanced", classes=np.arange(2), y=y[:9])))
    counts = np.bincount(y[:9], minlength=3)  # of the third there is none
    assert checked_class_weight("balanced", 3, names, lambda: counts) == pytest.approx(some)


@pytest.mark.parametrize(
    ("given", "names", "message"),
    [
        ({"beee": 1}, NAMES, "'beee' is none; did you mean bee"),
        ({"0": 1}, None, "no names of classes are known .*'0' is none"),
        ({3: 1}, NAMES, "names of classes or integers from 0 to 2 as keys, and 3 is none"),
        ({-1: 1}, None, "-1 is none"),
        ({True: 1}, None, "True is none"),
        ({1.0: 1}, None, "1.0 is none"),
        ({"bee": 1, 1: 2}, NAMES, "each class once, but 1 is class 1"),
        ({0: -1}, None, r"class_weight\[0\] must be a finite number of at least 0"),
        ({0: "2"}, None, r"class_weight\[0\] must be"),
        ({0: np.nan}, None, r"class_weight\[0\] must be"),
        ("balanced", None, "only where labels can be counted"),
        ("even", NAMES, "must be 'balanced', a dict from classes to weights, such as {'ant': 2.0}"),
        ([1, 2, 3], None, r"such as {0: 2.0}"),
    ],
)
def test_what_names_no_class_is_refused(given, names, message):
    with pytest.raises((ValueError, TypeError), match=f"{message}.*Received: class_weight"):
        checked_class_weight(given, 3, names)
