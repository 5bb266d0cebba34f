import pytest

from keras_transfer._lib.checks import did_you_mean, one_of


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (["a"], "'a'"),
        (["a", "b"], "'a' or 'b'"),
        (("a", "b", "c"), "'a', 'b' or 'c'"),
        ({"a": 1, "b": 2}, "'a' or 'b'"),
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
