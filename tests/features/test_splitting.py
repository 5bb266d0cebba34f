"""Where models may be cut: after what every path runs through, behind what is frozen and repeats."""

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from keras import layers

import keras_transfer as kt
from keras_transfer.features import deepest_cut

X = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), dtype="uint8")


@pytest.fixture(scope="module", autouse=True)
def _quick_weights():
    with numpy_initial_weights():
        yield


def stem(x):
    x = layers.Rescaling(1 / 255.0, name="rescaling")(x)
    return layers.Conv2D(4, 3, padding="same", name="conv1")(x)


def block(x):
    """A residual block with batch norm on its branch."""
    y = layers.Conv2D(4, 3, padding="same", name="branch_conv")(x)
    y = layers.BatchNormalization(name="branch_bn")(y)
    return layers.Add(name="add")([x, y])


def end(x):
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return layers.Dense(3, name="out")(x)


def flat():
    inputs = keras.Input((12, 12, 3))
    return keras.Model(inputs, end(block(stem(inputs))), name="mine")


def nested():
    inner = keras.Input((12, 12, 3))
    base = keras.Model(inner, block(stem(inner)), name="base")
    inputs = keras.Input((12, 12, 3))
    return keras.Model(inputs, end(base(inputs, training=False)), name="mine")


def twice_nested():
    inner = keras.Input((12, 12, 3))
    start = keras.Model(inner, stem(inner), name="start")
    middle = keras.Input((12, 12, 3))
    base = keras.Model(middle, block(start(middle)), name="base")
    inputs = keras.Input((12, 12, 3))
    return keras.Model(inputs, end(base(inputs)), name="mine")


def in_a_row():
    stack = [layers.Conv2D(4, 3, name="conv1"), layers.ReLU(name="add"), layers.Flatten(name="pool")]
    return keras.Sequential([keras.Input((12, 12, 3)), *stack, layers.Dense(3, name="out")], name="mine")


def nested_rows():
    base = keras.Sequential([keras.Input((12, 12, 3)), layers.Conv2D(4, 3, name="conv1")], name="base")
    rest = [layers.ReLU(name="add"), layers.Flatten(name="pool"), layers.Dense(3, name="out")]
    return keras.Sequential([keras.Input((12, 12, 3)), base, *rest], name="mine")


MODELS = [flat, nested, twice_nested, in_a_row, nested_rows]


def frozen(model, *trainable):
    """Freeze all leaves but those of these names."""
    for layer in model._flatten_layers():
        if not isinstance(layer, keras.Model):
            layer.trainable = layer.name in trainable
    return model


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("at", ["conv1", "add", "pool"])
def test_the_parts_make_the_whole(make, at):
    model = make()
    prefix, tail = kt.split_model(model, at)
    features = prefix.predict_on_batch(X)
    np.testing.assert_allclose(
        tail.predict_on_batch(features), model.predict_on_batch(X), rtol=1e-5, atol=1e-6
    )
    assert prefix.output_shape == tail.input_shape
    assert tail.name == "mine"


@pytest.mark.parametrize("make", MODELS)
def test_the_parts_share_layers_and_variables(make):
    model = make()
    prefix, tail = kt.split_model(model, "add")
    parts = [id(v) for v in (*prefix.variables, *tail.variables)]
    assert sorted(parts) == sorted(id(v) for v in model.variables)
    tail.get_layer("out").bias.assign([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(model.get_layer("out").bias), [1.0, 2.0, 3.0]
    )


@pytest.mark.parametrize("make", MODELS)
def test_the_model_stays_as_it_is(make):
    model = make()
    config, before = model.get_config(), model.predict_on_batch(X)
    kt.split_model(model, "conv1")
    kt.split_model(model, "add")
    assert model.get_config() == config
    np.testing.assert_array_equal(model.predict_on_batch(X), before)


def test_a_tail_can_be_cut_again():
    model = nested()
    prefix, tail = kt.split_model(model, "conv1")
    middle, rest = kt.split_model(tail, "pool")
    x = rest.predict_on_batch(middle.predict_on_batch(prefix.predict_on_batch(X)))
    np.testing.assert_allclose(x, model.predict_on_batch(X), rtol=1e-5, atol=1e-6)


def test_batch_norm_in_the_tail_trains_as_in_the_model():
    model = nested()
    _, tail = kt.split_model(model, "conv1")
    features = np.random.default_rng(0).random((4, 12, 12, 4), "float32")
    bn = model.get_layer("base").get_layer("branch_bn")
    before = np.array(keras.ops.convert_to_numpy(bn.moving_mean))
    tail.compile("sgd", "mse")
    tail.train_on_batch(features, np.zeros((4, 3), "float32"))
    assert not np.allclose(before, keras.ops.convert_to_numpy(bn.moving_mean))


def test_a_nested_model_called_in_inference_mode_stays_so():
    _, tail = kt.split_model(nested(), "conv1")
    modes = [
        node.arguments.kwargs.get("training")
        for layer in tail.layers
        for node in layer._inbound_nodes
        if isinstance(layer, keras.Model)
    ]
    assert False in modes


def test_several_outputs_stay():
    inputs = keras.Input((4,))
    x = layers.Dense(3, name="shared")(inputs)
    model = keras.Model(inputs, [layers.Dense(2, name="a")(x), layers.Dense(5, name="b")(x)])
    _, tail = kt.split_model(model, "shared")
    assert [shape[-1] for shape in tail.output_shape] == [2, 5]
    base = keras.Model(inputs, [layers.Dense(2, name="c")(x), layers.Dense(2, name="d")(x)])
    outer = keras.Input((4,))
    summed = keras.Model(outer, layers.Add(name="sum")(base(outer)))
    prefix, tail = kt.split_model(summed, "shared")
    ones = np.ones((2, 4), "float32")
    np.testing.assert_allclose(
        tail.predict_on_batch(prefix.predict_on_batch(ones)), summed.predict_on_batch(ones), rtol=1e-5
    )


def test_a_cut_inside_a_branch_is_an_error():
    with pytest.raises(ValueError, match=r"by-pass layer 'branch_conv'.*after .*conv1.*Received: at="):
        kt.split_model(nested(), "branch_conv")


def test_the_last_layer_is_an_error():
    with pytest.raises(ValueError, match=r"it is the last; .*Received: at='out'"):
        kt.split_model(flat(), "out")


def test_a_layer_that_is_not_there_is_an_error_with_near_misses():
    with pytest.raises(ValueError, match=r"no layer 'con1' .*did you mean conv1\? Received: at='con1'"):
        kt.split_model(flat(), "con1")
    with pytest.raises(ValueError, match=r"Received: at=3"):
        kt.split_model(flat(), 3)


def test_a_layer_that_is_called_twice_is_an_error():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    model = keras.Model(inputs, layers.Dense(2, name="out")(shared(shared(inputs))))
    with pytest.raises(ValueError, match=r"name is that of several.*no place"):
        kt.split_model(model, "shared")


def test_a_subclassed_model_is_an_error():
    class Mine(keras.Model):
        def call(self, x):
            return x

    model = Mine()
    model.build((None, 3))
    for function in (deepest_cut, lambda m: kt.split_model(m, "x")):
        with pytest.raises(ValueError, match=r"subclassed.*Received"):
            function(model)


@pytest.mark.parametrize("make", [flat, nested, twice_nested])
def test_the_cut_is_before_what_trains(make):
    assert kt.frozen_prefix(frozen(make(), "out")) == "pool"
    assert kt.frozen_prefix(frozen(make(), "branch_conv", "out")) == "conv1"
    assert kt.frozen_prefix(frozen(make(), "branch_bn")) == "conv1"
    assert kt.frozen_prefix(frozen(make(), "conv1")) == "rescaling"
    cut = deepest_cut(frozen(make(), "branch_bn"))
    assert (cut.at, cut.obstacle) == ("conv1", "layer 'branch_bn' trains")


def test_nothing_is_frozen():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2)])
    assert kt.frozen_prefix(model) is None


def test_everything_is_frozen():
    cut = deepest_cut(frozen(flat()))
    assert (cut.at, cut.obstacle) == ("pool", "nothing trains")


def test_batch_norm_whose_statistics_alone_move():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, name="conv1")(inputs)
    x = layers.BatchNormalization(center=False, scale=False, name="bn")(x)
    model = frozen(keras.Model(inputs, end(x)), "bn", "out")
    cut = deepest_cut(model)
    assert cut.at == "conv1"
    assert "batch norm" in cut.obstacle


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Dropout(0.5, name="random"),
        lambda: layers.SpatialDropout2D(0.5, name="random"),
        lambda: layers.GaussianNoise(0.5, name="random"),
        lambda: layers.RandomFlip(name="random"),
        lambda: layers.RandomRotation(0.1, name="random"),
        lambda: layers.RandAugment(name="random"),
        lambda: keras.Sequential([keras.Input((12, 12, 4)), layers.Dropout(0.5, name="random")]),
        lambda: layers.TimeDistributed(layers.Dropout(0.5), name="random"),
    ],
)
def test_no_cut_behind_what_is_drawn_in_training(make):
    """Dropout acts whether or not it is trainable, and where it is inside another layer."""
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, padding="same", name="conv1")(inputs)
    x = layers.ReLU(name="relu1")(x)
    cut = deepest_cut(frozen(keras.Model(inputs, end(make()(x))), "out"))
    assert cut.at == "relu1"
    assert "'random' draws random numbers" in cut.obstacle


def test_dropout_that_is_off_is_no_obstacle():
    inputs = keras.Input((12, 12, 3))
    x = layers.Dropout(0.0, name="off")(stem(inputs))
    assert kt.frozen_prefix(frozen(keras.Model(inputs, end(x)), "out")) == "pool"


def test_dropout_on_a_branch_forbids_a_cut_where_it_meets_the_trunk():
    inputs = keras.Input((12, 12, 3))
    x = stem(inputs)
    x = layers.Add(name="add")([x, layers.Dropout(0.5, name="dropout")(x)])
    assert kt.frozen_prefix(frozen(keras.Model(inputs, end(x)), "out")) == "conv1"


class Otherwise(layers.Layer):
    """A user's layer that knows whether it trains."""

    def call(self, x, training=False):
        return x * 2.0 if training else x


class Same(layers.Layer):
    def call(self, x):
        return x * 2.0


def test_a_layer_of_the_user_counts_by_its_call():
    inputs = keras.Input((12, 12, 3))
    first = keras.Model(inputs, end(Same(name="mine")(stem(inputs))))
    second = keras.Model(inputs, end(Otherwise(name="mine")(stem(inputs))))
    assert kt.frozen_prefix(frozen(first, "out")) == "pool"
    cut = deepest_cut(frozen(second, "out"))
    assert (cut.at, cut.obstacle) == (
        "conv1",
        "layer 'mine' may act otherwise in training (class Otherwise)",
    )


def test_a_loss_of_activations_is_an_obstacle():
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(4, 3, activity_regularizer="l2", name="conv2")(stem(inputs))
    cut = deepest_cut(frozen(keras.Model(inputs, end(x)), "out"))
    assert cut.at == "conv1"
    assert "activity_regularizer" in cut.obstacle


def test_a_cut_is_no_later_than_the_user_s_classifier_allows():
    """VGG16's places have the names that its users know."""
    model = kt.classifier("vgg16", 3, image_size=32, weights=None)
    kt.freeze_backbone(model)
    assert kt.frozen_prefix(model) not in (None, "block5_pool")  # the pooling of the head is frozen, too
    kt.unfreeze_from(model, "block5_conv1")
    assert kt.frozen_prefix(model) == "block4_pool"
    kt.unfreeze_from(model, "block1_conv1")
    assert "block" not in str(kt.frozen_prefix(model))
