import math

import pytest

from keras_transfer._lib.checks import (
    checked_choice,
    checked_integer,
    checked_number,
    did_you_mean,
    one_of,
)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (["a"], "'a'"),
        (["a", "b"], "'a' or 'b'"),
        (("a", "b", "c"), "'a', 'b' or 'c'"),
        ({"a": 1, "b": 2}, "'a' or 'b'"),
        (("a", "b", None), "'a', 'b' or None"),
    ],
)
def test_one_of(choices, expected):
    assert one_of(choices) == expected


def test_near_misses_are_named():
    names = ["block5_conv1", "block5_conv2", "fc1", "VGG16"]
    message = did_you_mean("block5_conv", names)
    assert message.startswith("; did you mean block5_conv")
    assert message.endswith("?")
    assert "block5_conv1" in message
    assert "block5_conv2" in message
    assert "fc1" not in message
    assert did_you_mean("vgg16", names) == "; did you mean VGG16?"
    assert did_you_mean("block5_conv", names, limit=1).count("block5") == 1


def test_without_a_near_miss_the_sentence_ends():
    assert did_you_mean("zebra", ["fc1", "predictions"]) == "."
    assert did_you_mean("zebra", []) == "."


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: checked_number("n", -1), "n must be a finite number above 0. Received: n=-1"),
        (
            lambda: checked_number("n", math.inf, low=0.5, closed="left"),
            "n must be a finite number of at least 0.5. Received: n=inf",
        ),
        (
            lambda: checked_number("n", 1, low=1, closed="right"),
            "n must be a number above 1. Received: n=1",
        ),
        (
            lambda: checked_number("n", "0", high=1, closed="left", note=", or None"),
            "n must be a number in [0, 1), or None. Received: n='0'",
        ),
        (
            lambda: checked_integer("n", 0, 2),
            "n must be an integer of at least 2. Received: n=0",
        ),
        (
            lambda: checked_integer("n", 2.0, 0, 10_000),
            "n must be an integer from 0 to 10,000. Received: n=2.0",
        ),
        (
            lambda: checked_choice("way", "slowly", ("slow", "fast"), ", or a function"),
            "way must be 'slow' or 'fast', or a function; did you mean slow? Received: way='slowly'",
        ),
        (
            lambda: checked_choice("way", ["slow"], {"slow": 1}),
            "way must be 'slow'; did you mean slow? Received: way=['slow']",
        ),
    ],
)
def test_messages_of_checks(check, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        check()
    assert str(caught.value) == message


def test_what_passes_a_check():
    assert checked_choice("way", None, ("slow", None)) is None
    assert checked_choice("way", "slow", {"slow": 1}) == "slow"
    assert checked_number("n", math.inf, closed="right") == math.inf
