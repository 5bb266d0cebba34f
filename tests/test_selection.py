"""Which layers are meant: by a word, an index, a name, a pattern, a function or a list."""

import functools
import json

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt
from keras_transfer.layers.graph import leaf_layers
from keras_transfer.layers.selection import checked_selection, described, select, select_from


def conv(name):
    return layers.Conv2D(4, 3, padding="same", name=name)


def base(name="base"):
    """Return a model of two blocks without a head."""
    inputs = x = keras.Input((8, 8, 3))
    for block in (1, 2):
        x = layers.ReLU(name=f"block{block}_relu")(conv(f"block{block}_conv")(x))
    return keras.Model(inputs, x, name=name)


def nested():
    return kt.classifier(base(), 2, hidden_units=(5,))


def flat():
    stack = [layer for layer in base().layers if not isinstance(layer, layers.InputLayer)]
    ends = [layers.GlobalAveragePooling2D(name="avg_pool"), layers.Dense(5, name="fc1")]
    ends += [layers.Dense(2, name="predictions"), layers.Softmax(name="softmax")]
    return keras.Sequential([keras.Input((8, 8, 3)), *stack, *ends], name="base_classifier")


def subclassed():
    class Small(keras.Model):
        def __init__(self):
            super().__init__(name="small")
            self.first, self.second = layers.Dense(3, name="first"), layers.Dense(3, name="second")
            self.third = layers.Dense(2, name="third")

        def call(self, x):
            return self.third(self.second(self.first(x)))

    model = Small()
    model(np.zeros((1, 3), "float32"))
    return model


def names(found):
    return [layer.name for layer in found]


BLOCK1, BLOCK2 = ["block1_conv", "block1_relu"], ["block2_conv", "block2_relu"]
HEAD = ["avg_pool", "fc1", "predictions", "softmax"]
STYLE = pytest.mark.parametrize("style", [nested, flat])


class TestSelect:
    @STYLE
    @pytest.mark.parametrize(
        ("selection", "found"),
        [
            ("all", [*BLOCK1, *BLOCK2, *HEAD]),
            ("head", HEAD),
            ("output", ["predictions"]),
            (0, [*BLOCK1, *BLOCK2, *HEAD]),
            (1, [*BLOCK2, *HEAD]),
            (-1, HEAD),
            (np.int64(-2), [*BLOCK2, *HEAD]),
            ("fc1", ["fc1"]),
            ("block1", BLOCK1),
            ("block[12]", [*BLOCK1, *BLOCK2]),
            (".*_conv", ["block1_conv", "block2_conv"]),
            ("from:block2_relu", ["block2_relu", *HEAD]),
            ("from:block2", [*BLOCK2, *HEAD]),
            ("from:.*_relu", ["block1_relu", *BLOCK2, *HEAD]),
            ("from:head", HEAD),
            ("from:output", ["predictions", "softmax"]),
            (lambda layer: layer.name.endswith("1"), ["fc1"]),
            (["softmax", "block1"], [*BLOCK1, "softmax"]),
            (("block1_conv", -1), ["block1_conv", *HEAD]),
            (["block1", lambda layer: isinstance(layer, layers.Dense)], [*BLOCK1, "fc1", "predictions"]),
        ],
    )
    def test_in_depth_order(self, style, selection, found):
        assert names(select(style(), selection)) == found

    def test_what_is_new(self):
        model = kt.replace_head(nested(), 3)
        assert names(select(model, "new")) == ["predictions", "softmax"]
        assert names(select(model, ["new", "block1"])) == [*BLOCK1, "predictions", "softmax"]

    def test_a_nested_model(self):
        assert names(select(nested(), "base")) == [*BLOCK1, *BLOCK2]
        assert names(select(nested(), "from:base")) == [*BLOCK1, *BLOCK2, *HEAD]

    def test_the_model_itself_is_no_nested_one(self):
        model = nested()
        with pytest.raises(ValueError, match="no layer 'base_classifier'"):
            select(model, model.name)

    def test_a_name_that_looks_like_a_pattern_is_a_name(self):
        stack = [layers.Dense(2, name="a[1]"), layers.Dense(2, name="a1")]
        assert names(select(keras.Sequential([keras.Input((4,)), *stack]), "a[1]")) == ["a[1]"]

    def test_a_word_goes_before_a_layer_that_is_called_so(self):
        stack = [layers.Dense(4, name="output"), layers.Dense(3, name="head"), layers.Dense(2, name="b")]
        model = keras.Sequential([keras.Input((4,)), *stack])
        assert names(select(model, "head")) == names(select(model, "output")) == ["b"]
        assert names(select(model, lambda layer: layer.name == "output")) == ["output"]

    def test_of_a_subclassed_model(self):
        model = subclassed()
        assert names(select(model, ["third", "f.*"])) == ["first", "third"]
        assert names(select(model, "all")) == ["first", "second", "third"]
        assert names(select(model, 1, split=["second"])) == ["second", "third"]
        for selection in ("head", "output", "from:second", -1):
            with pytest.raises(ValueError, match="model 'small' is subclassed"):
                select(model, selection)

    def test_one_name_for_two_layers(self):
        inputs = keras.Input((8, 8, 3))
        model = keras.Model(inputs, base("second")(layers.Conv2D(3, 1)(base()(inputs))))
        for selection in ("block1_conv", "from:block1_conv"):
            with pytest.raises(
                ValueError, match="2 layers of model .* are called 'block1_conv'; rename"
            ):
                select(model, selection)
        assert len(select(model, "block1_con.")) == 2  # a pattern means all that it matches

    @pytest.mark.parametrize(
        ("selection", "message"),
        [
            ("block1_con", "no layer 'block1_con' in .*; did you mean .*block1_conv"),
            ("Block1_Conv", "did you mean block1_conv"),
            ("from:block3", "no layer 'block3' in .*; did you mean block"),
            ("heads", r"no layer 'heads' in .*; did you mean head\?"),
            ("bases", "no layer 'bases' in .*; did you mean .*base"),
            ("onv.*", r"no layer 'onv\.\*' in model 'base_classifier'\."),
            ("image", "no layer 'image'"),
            ("groups:-2", "no layer 'groups:-2'"),
            (["fc1", "xyz"], "no layer 'xyz'"),
            (3, r"must be the index of a group .* from -3 to 2 \(0 block1, 1 block2, 2 head\)"),
            (-4, "must be the index of a group"),
            (lambda layer: False, "must mean a layer; the function is true for none of model"),
        ],
    )
    def test_what_is_not_there(self, selection, message):
        with pytest.raises(ValueError, match=message) as caught:
            select(nested(), selection, argument="train")
        assert str(caught.value).endswith(f"Received: train={selection!r}")

    def test_a_pattern_that_is_none(self):
        with pytest.raises(ValueError, match=r"by its name or a regular expression .* Received: '\('"):
            select(nested(), "(")


class TestSelectFrom:
    @STYLE
    @pytest.mark.parametrize(
        ("selection", "found"),
        [
            ("block1_conv", [*BLOCK1, *BLOCK2, *HEAD]),
            ("block2_relu", ["block2_relu", *HEAD]),
            ("softmax", ["softmax"]),
            ("block2", [*BLOCK2, *HEAD]),
            ("block[23].*", [*BLOCK2, *HEAD]),
            (["fc1", "block2"], [*BLOCK2, *HEAD]),
            (lambda layer: isinstance(layer, layers.Dense), ["fc1", "predictions", "softmax"]),
            (-2, [*BLOCK2, *HEAD]),
            ("head", HEAD),
            ("from:fc1", ["fc1", "predictions", "softmax"]),
        ],
    )
    def test_from_the_first_that_is_meant(self, style, selection, found):
        assert names(select_from(style(), selection)) == found

    def test_groups_whose_layers_stand_between_others(self):
        split = {"block1_conv": "a", "block1_relu": "b", "block2_conv": "a", "block2_relu": "b"}
        found = select_from(nested(), 1, split=lambda layer: split[layer.name])
        assert names(found) == ["block1_relu", "block2_relu", *HEAD]

    def test_a_subclassed_model_has_an_order_with_a_split(self):
        model = subclassed()
        with pytest.raises(ValueError, match="is subclassed"):
            select_from(model, "second")
        assert names(select_from(model, "second", split=["third"])) == ["second", "third"]


class Picks:
    def __call__(self, layer):
        return layer.name == "fc1"


def picks(layer):
    return layer.name == "fc1"


class TestDescribed:
    @pytest.mark.parametrize(
        ("selection", "plain"),
        [
            ("from:fc1", "from:fc1"),
            (np.int64(-2), -2),
            (("head", 1), ["head", 1]),
            (picks, f"{__name__}.picks"),
            ([Picks(), "fc1"], [f"{__name__}.Picks", "fc1"]),
            (functools.partial(picks), "functools.partial"),
        ],
    )
    def test_is_plain_data(self, selection, plain):
        checked = checked_selection(selection, "train")
        assert described(checked) == plain
        assert json.loads(json.dumps(described(checked))) == plain
        model = nested()
        meant = "fc1" if callable(selection) else selection
        if meant == "fc1":
            assert select(model, checked) == select(model, meant)


@pytest.mark.parametrize(
    "selection",
    ["", "from:", None, True, 1.0, b"fc1", [], [[]], ["head", None], {"fc1"}, keras.layers.Dense],
)
def test_what_can_be_no_selection(selection):
    with pytest.raises(ValueError, match=r"layers must be 'output', 'head', 'new', 'all', the index "):
        checked_selection(selection, "layers")


def test_a_layer_is_meant_by_its_name():
    model = flat()
    with pytest.raises(ValueError, match="the name of a layer"):
        select(model, leaf_layers(model)[0])
