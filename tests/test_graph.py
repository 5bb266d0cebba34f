"""One walk over a model's graph, values that go along it, and what it ends in."""

import keras
import pytest
from keras import activations, layers

import keras_transfer as kt
from keras_transfer.layers.graph import along, walk
from keras_transfer.layers.head import endings
from keras_transfer.probabilities.calibration import calibrate_by_logits


def dense(name, activation=None):
    return layers.Dense(4, activation=activation, name=name)


def model_of(function, name="mine"):
    inputs = keras.Input((4,))
    return keras.Model(inputs, function(inputs), name=name)


def block(x):
    y = dense("right")(dense("left", "relu")(x))
    return layers.Add(name="add")([x, y])


def two_outputs():
    return model_of(lambda x: [dense("first")(x), dense("second")(x)], "two")


class TestWalk:
    def test_goes_into_nested_models(self):
        inner = model_of(lambda x: dense("b")(dense("a")(x)), "inner")
        middle = model_of(lambda x: inner(dense("before")(x)), "middle")
        calls = list(walk(model_of(lambda x: keras.ops.relu(middle(x)))))
        assert [call.operation.name for call in calls] == ["before", "a", "b", calls[-1].operation.name]
        paths = [[node.operation.name for node in call.path] for call in calls]
        assert paths == [["middle"], ["middle", "inner"], ["middle", "inner"], []]
        assert [call.last for call in calls] == [False, False, False, True]
        assert all(call.on_trunk for call in calls)

    def test_tells_what_every_path_runs_through(self):
        base = model_of(block, "base")
        branch = model_of(dense("aside"), "branch")
        model = model_of(lambda x: layers.Add(name="sum")([branch(x), base(dense("start")(x))]))
        found = {call.operation.name: call.on_trunk for call in walk(model)}
        assert found == dict.fromkeys(("aside", "start", "left", "right", "add"), False) | {"sum": True}
        found = {call.operation.name: call.on_trunk for call in walk(model_of(base))}
        assert found == {"left": False, "right": False, "add": True}

    def test_yields_a_call_for_each_call(self):
        shared, inner = dense("shared"), model_of(dense("inside"), "inner")
        model = model_of(lambda x: inner(shared(inner(shared(x)))))
        assert [call.operation.name for call in walk(model)] == ["shared", "inside"] * 2
        assert [call.last for call in walk(model)] == [False, False, False, True]

    def test_takes_for_an_end_what_the_model_gives_of_a_nested_one(self):
        two = two_outputs()
        model = model_of(lambda x: two(x)[1])
        assert [call.operation.name for call in walk(model) if call.last] == ["second"]


def test_along_takes_the_longest_path():
    def deeper(operation, depth):
        return depth + isinstance(operation, layers.Dense)

    model = model_of(lambda x: dense("end")(model_of(block, "base")(x)))
    assert along(model, 0, deeper) == 3
    assert along(keras.Sequential([layers.Dense(2)]), 7, deeper) == 7


class TestEndings:
    @pytest.mark.parametrize(
        ("end", "expected"),
        [
            (lambda x: x, [activations.linear]),
            (layers.Softmax(name="end"), [activations.linear, activations.softmax]),
            (keras.ops.sigmoid, [activations.linear, activations.sigmoid]),
            (layers.Activation("relu"), [activations.linear, activations.relu]),
            (layers.Dropout(0.5), [activations.linear, None]),
            (
                lambda x: model_of(layers.Softmax(name="end"), "nested")(x),
                [activations.linear, activations.softmax],
            ),
        ],
    )
    def test_of_a_layer(self, end, expected):
        last = dense("last")
        model = model_of(lambda x: end(last(dense("first", "relu")(x))))
        found = endings(model, last)
        assert [ending.activation for ending in found] == expected
        assert found[0].call.operation is last
        assert endings(model) == found[-1:]

    def test_what_changes_nothing_is_no_end(self):
        """For training it is what it is for calibration and for a new head."""
        soft, nothing = dense("last", "softmax"), layers.Activation("linear", name="nothing")
        nested = keras.Sequential([keras.Input((4,)), nothing])
        for end in (nothing, nested, lambda x: nothing(nested(x))):
            model = model_of(lambda x, end=end: end(soft(x)))
            assert [ending.call.operation for ending in endings(model)] == [soft]
            assert [ending.activation for ending in endings(model)] == [activations.softmax]
        only = keras.Sequential([keras.Input((4,)), layers.Activation("linear", name="only")])
        assert [ending.call.operation.name for ending in endings(only)] == ["only"]

    def test_a_layer_may_be_an_activation(self):
        model = model_of(dense("last", layers.Softmax(name="soft")))
        assert [(ending.activation, ending.name) for ending in endings(model)] == [
            (activations.softmax, "soft")
        ]

    def test_a_softmax_may_be_in_a_nested_model(self):
        """It ends a classifier for each function that asks."""
        end = keras.Sequential([keras.Input((3,)), layers.Softmax()])
        pooled = [layers.Flatten(name="flat"), layers.Dense(3, name="out")]
        model = keras.Sequential([keras.Input((2, 2, 3)), *pooled, end])
        replaced = kt.replace_head(model, 2)
        assert [layer.name for layer in replaced.layers[-2:]] == ["predictions", "softmax"]
        found = calibrate_by_logits(model, [[0.0, 1.0, 0.0]] * 3, [1, 1, 0])
        assert kt.calibration.of(model) == found
