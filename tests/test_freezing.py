"""What trains: the flags, and what really moves under fit."""

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from keras import layers

import keras_transfer as kt
from keras_transfer.freezing import (
    TrainableTable,
    restore_trainable_state,
    trainable_state,
)
from keras_transfer.layer_groups import (
    backbone_layers,
    head_layers,
    layers_from,
    leaf_layers,
)

SHAPE = (8, 8, 3)
# The layers that train, of those of `features` and the head [norm_head, fc, out].
PROMISES = [
    pytest.param(kt.freeze_backbone, (), "freeze", {"norm_head", "fc", "out"}, id="head"),
    pytest.param(
        *(kt.freeze_backbone, (), "train", {"norm1", "norm2", "norm_head", "fc", "out"}),
        id="head-train_bn",
    ),
    pytest.param(*(kt.unfreeze, (), "freeze", {"conv1", "conv2", "norm_head", "fc", "out"}), id="all"),
    pytest.param(
        *(kt.unfreeze, (), "train"),
        {"conv1", "norm1", "conv2", "norm2", "norm_head", "fc", "out"},
        id="all-train_bn",
    ),
    pytest.param(
        *(kt.unfreeze_from, ("conv2",), "freeze", {"conv2", "norm_head", "fc", "out"}), id="conv2"
    ),
    pytest.param(
        *(kt.unfreeze_from, ("conv2",), "train"),
        {"norm1", "conv2", "norm2", "norm_head", "fc", "out"},
        id="conv2-train_bn",
    ),
    pytest.param(kt.unfreeze_from, ("fc",), "freeze", {"fc", "out"}, id="fc"),
]


def features(x):
    """Add two convolutions with batch norm."""
    for number in (1, 2):
        x = layers.Conv2D(4, 3, use_bias=False, name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"norm{number}")(x)
        x = layers.LeakyReLU(name=f"relu{number}")(x)  # lets a gradient through everywhere
    return x


def head():
    """Return the layers of a head, with a batch norm of its own."""
    return [
        layers.GlobalAveragePooling2D(name="pool"),
        layers.BatchNormalization(name="norm_head"),
        layers.Dense(6, activation="tanh", name="fc"),
        layers.Dense(3, name="out"),
    ]


def on(x, stack):
    for layer in stack:
        x = layer(x)
    return x


def base(name="base"):
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, features(inputs), name=name)


def flat():
    """The tutorials' style: new layers on `base.output`."""
    model = base()
    return keras.Model(model.input, on(model.output, head()))


def nested():
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, on(base()(inputs), head()))


def keras_guide():
    """The style of Keras' guide to transfer learning: a frozen base, called with training=False."""
    model = base()
    model.trainable = False
    inputs = keras.Input(SHAPE)
    return keras.Model(
        inputs, on(model(layers.Rescaling(2.0, name="scale")(inputs), training=False), head())
    )


def twice_nested():
    inner = base()
    inputs = keras.Input(SHAPE)
    outer = keras.Model(inputs, inner(inputs), name="outer")
    inner.trainable = False
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, on(outer(inputs), head()))


def sequential():
    return keras.Sequential([keras.Input(SHAPE), base(), *head()])


def flat_sequential():
    stack = [layer for layer in base().layers if not isinstance(layer, layers.InputLayer)]
    return keras.Sequential([keras.Input(SHAPE), *stack, *head()])


def frozen_whole():
    model = flat()
    model.trainable = False
    return model


def frozen_nested_whole():
    model = nested()
    model.trainable = False
    return model


STYLES = [
    *(flat, nested, keras_guide, twice_nested, sequential, flat_sequential, frozen_whole),
    frozen_nested_whole,
]


@pytest.fixture(scope="module", autouse=True)
def _quick_weights():
    with numpy_initial_weights():
        yield


def flags(model):
    return {layer.name: layer.trainable for layer in leaf_layers(model)}


def all_flags(model):
    """Return the flags of all layers and models, and of all variables, to compare before and after."""
    found = [(layer.name, layer.trainable) for layer in model._flatten_layers()]
    return found, [(v.path, v.trainable) for v in model.variables]


def values(model):
    return {v.path: keras.ops.convert_to_numpy(v).copy() for v in model.weights}


def moved(model, logits="out"):
    """Train two steps and return what has moved: {layer name: {variable names}}."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, *model.input_shape[1:])).astype("float32")
    y = np.arange(8) % 3
    owners = {
        variable.path: (layer.name, variable.name)
        for layer in leaf_layers(model)
        for variable in layer.weights
    }
    before = values(model)
    # From the logits, and with the sign of the gradient, so that none is too small to be seen; at a
    # falling rate, so that the two steps can't cancel out.
    rate = keras.optimizers.schedules.ExponentialDecay(1e-3, 1, 0.5)
    view = keras.Model(model.inputs, model.get_layer(logits).output)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    view.compile(keras.optimizers.Lion(rate), loss)
    view.fit(x, y, batch_size=4, verbose=0)
    after = values(model)
    found = {}
    for path, (layer, variable) in owners.items():
        assert np.isfinite(after[path]).all()
        if (before[path] != after[path]).any():
            found.setdefault(layer, set()).add(variable)
    return found


def everything_in(model, names):
    return {
        layer.name: {variable.name for variable in layer.weights}
        for layer in leaf_layers(model)
        if layer.name in names
    }


class TestFlags:
    @pytest.mark.parametrize("style", STYLES)
    @pytest.mark.parametrize(("function", "arguments", "batch_norm", "promised"), PROMISES)
    def test_are_as_promised(self, style, function, arguments, batch_norm, promised):
        model = style()
        table = function(model, *arguments, batch_norm=batch_norm)
        weighted = [layer for layer in leaf_layers(model) if layer.weights]
        assert len(weighted) == 7
        assert {layer.name for layer in weighted if layer.trainable} == promised
        assert {row.layer for row in table if row.trainable} == promised
        trained = {id(variable) for variable in model.trainable_variables}
        assert trained == {
            id(variable)
            for layer in weighted
            if layer.name in promised
            for variable in layer.weights
            if not variable.name.startswith("moving_")
        }

    def test_default_keeps_batch_norm_frozen(self):
        model = nested()
        for call in (kt.freeze_backbone, kt.unfreeze, lambda m: kt.unfreeze_from(m, "conv1")):
            call(model)
            assert not flags(model)["norm1"]
            assert flags(model)["norm_head"]

    def test_each_call_stands_for_itself(self):
        model = keras_guide()
        kt.unfreeze(model, batch_norm="train")
        kt.unfreeze_from(model, "conv2")
        kt.freeze_backbone(model)
        once = keras_guide()
        kt.freeze_backbone(once)
        assert flags(model) == flags(once)
        kt.unfreeze(model, batch_norm="train")
        assert all(flags(model).values())

    def test_unfreeze_from_takes_layers_without_weights_too(self):
        model = nested()
        kt.unfreeze_from(model, "relu1")
        trains = [layer.name for layer in leaf_layers(model) if layer.weights and layer.trainable]
        assert trains == ["conv2", "norm_head", "fc", "out"]

    def test_of_a_shared_layer(self):
        inputs = keras.Input((4,))
        shared = layers.Dense(4, name="shared")
        x = shared(layers.Dense(4, name="between")(shared(inputs)))
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        kt.freeze_backbone(model)
        assert flags(model) == {"shared": False, "between": False, "out": True}

    def test_of_a_layer_made_of_layers(self):
        inputs = keras.Input((8, 6))
        x = layers.Bidirectional(layers.LSTM(3), name="both")(inputs)
        model = keras.Model(inputs, layers.Dense(2, name="out")(x))
        kt.freeze_backbone(model)
        assert model.get_layer("both").trainable_variables == []
        assert len(model.trainable_variables) == 2
        kt.unfreeze(model)
        assert len(model.trainable_variables) == 8

    def test_of_a_subclassed_model(self):
        class Small(keras.Model):
            def __init__(self):
                super().__init__()
                self.base = base()
                self.pool = layers.GlobalAveragePooling2D(name="pool")
                self.out = layers.Dense(2, name="out")

            def call(self, images):
                return self.out(self.pool(self.base(images)))

        model = Small()
        model(np.zeros((1, *SHAPE), "float32"))
        table = kt.freeze_backbone(model)
        assert [row.layer for row in table if row.trainable] == ["out"]

    @pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet_v2"])
    def test_of_classifiers(self, name):
        model = kt.classifier(name, 3, input_shape=(32, 32, 3), weights=None, hidden_units=(4,))
        kt.freeze_backbone(model)
        trains = [layer.name for layer in leaf_layers(model) if layer.weights and layer.trainable]
        assert trains == ["fc1", "predictions"]
        kt.unfreeze(model)
        for layer in leaf_layers(model):
            assert layer.trainable is not isinstance(layer, layers.BatchNormalization), layer.name
        kt.unfreeze(model, batch_norm="train")
        assert all(flags(model).values())


class TestFit:
    @pytest.mark.parametrize("style", [flat, keras_guide])
    @pytest.mark.parametrize(("function", "arguments", "batch_norm", "promised"), PROMISES)
    def test_moves_exactly_what_was_promised(self, style, function, arguments, batch_norm, promised):
        model = style()
        function(model, *arguments, batch_norm=batch_norm)
        assert moved(model) == everything_in(model, promised)

    @pytest.mark.parametrize("style", [nested, flat_sequential])
    def test_takes_a_change_at_the_next_compile(self, style):
        model = style()
        kt.freeze_backbone(model)
        assert set(moved(model)) == {"norm_head", "fc", "out"}
        kt.unfreeze(model)
        assert set(moved(model)) == {"conv1", "conv2", "norm_head", "fc", "out"}
        kt.freeze_backbone(model)
        assert set(moved(model)) == {"norm_head", "fc", "out"}

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "first"), [("mobilenet_v2", "block_14_expand"), ("resnet50", "conv5_block3_1_conv")]
    )
    def test_of_the_large_networks(self, name, first):
        model = kt.classifier(name, 3, input_shape=(32, 32, 3), weights=None)
        norms = {layer.name for layer in leaf_layers(model) if hasattr(layer, "moving_mean")}
        kt.unfreeze_from(model, first)
        trains = {layer.name for layer in layers_from(model, first) if layer.weights} - norms
        assert len(trains) > 3
        assert moved(model, "predictions") == everything_in(model, trains)

        kt.freeze_backbone(model, batch_norm="train")
        trains = norms | {"predictions"}
        assert moved(model, "predictions") == everything_in(model, trains)


class TestErrors:
    @pytest.mark.parametrize("call", [kt.freeze_backbone, kt.unfreeze])
    @pytest.mark.parametrize("batch_norm", ["frozen", None, True])
    def test_batch_norm_is_freeze_or_train(self, call, batch_norm):
        model = keras_guide()
        before = all_flags(model)
        with pytest.raises(ValueError, match="batch_norm must be 'freeze' or 'train'") as caught:
            call(model, batch_norm=batch_norm)
        assert str(caught.value).endswith(f"Received: batch_norm={batch_norm!r}")
        assert all_flags(model) == before

    @pytest.mark.parametrize(
        ("layer", "hint"),
        [
            ("conv3", r"did you mean .*conv2.*\?"),
            ("Conv1", r"did you mean conv1.*\?"),
            ("xyz", r"no layer 'xyz' in model 'functional\w*'\. "),
        ],
    )
    def test_a_layer_that_is_not_there(self, layer, hint):
        model = keras_guide()
        before = all_flags(model)
        with pytest.raises(ValueError, match=hint) as caught:
            kt.unfreeze_from(model, layer)
        assert str(caught.value).endswith(f"Received: layer name {layer!r}")
        assert all_flags(model) == before

    def test_two_layers_of_one_name(self):
        inputs = keras.Input(SHAPE)
        x = layers.Conv2D(3, 1, name="between")(base("first")(inputs))
        model = keras.Model(inputs, on(base("second")(layers.Resizing(8, 8)(x)), head()))
        kt.freeze_backbone(model)
        before = all_flags(model)
        with pytest.raises(ValueError, match="2 layers of model .* are called 'conv1'; rename them"):
            kt.unfreeze_from(model, "conv1")
        assert all_flags(model) == before
        kt.unfreeze_from(model, "between")  # other names are as good as ever
        assert flags(model)["between"]

    def test_a_wrong_batch_norm_with_a_right_layer(self):
        model = flat()
        before = all_flags(model)
        with pytest.raises(ValueError, match="batch_norm"):
            kt.unfreeze_from(model, "conv2", batch_norm="inference")
        assert all_flags(model) == before


class TestState:
    @pytest.mark.parametrize("style", STYLES)
    def test_is_put_back(self, style):
        model = style()
        before = all_flags(model)
        state = trainable_state(model)
        kt.unfreeze_from(model, "conv2", batch_norm="train")
        restore_trainable_state(state)
        assert all_flags(model) == before


class TestTable:
    @pytest.mark.parametrize("style", STYLES)
    def test_has_a_row_for_each_layer_with_weights(self, style):
        model = style()
        kt.freeze_backbone(model)
        table = kt.trainable_table(model)
        assert [(row.layer, row.kind, row.group, row.trainable) for row in table] == [
            ("conv1", "Conv2D", "backbone", False),
            ("norm1", "BatchNormalization", "backbone", False),
            ("conv2", "Conv2D", "backbone", False),
            ("norm2", "BatchNormalization", "backbone", False),
            ("norm_head", "BatchNormalization", "head", True),
            ("fc", "Dense", "head", True),
            ("out", "Dense", "head", True),
        ]
        assert [row.parameters for row in table] == [108, 16, 144, 16, 16, 30, 21]
        assert sum(row.parameters for row in table) == model.count_params()

    @pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet_v2"])
    def test_of_classifiers_counts_every_parameter(self, name):
        model = kt.classifier(name, 3, input_shape=(32, 32, 3), weights=None)
        table = kt.freeze_backbone(model)
        for rows in (table, table.summary()):
            assert sum(row.parameters for row in rows) == model.count_params()
        head_parameters = sum(row.parameters for row in table if row.group == "head")
        assert head_parameters == sum(layer.count_params() for layer in head_layers(model))
        backbone = sum(layer.count_params() for layer in backbone_layers(model))
        assert head_parameters + backbone == model.count_params()

    def test_the_functions_return_it(self):
        model = flat()
        for table in (kt.freeze_backbone(model), kt.unfreeze(model), kt.unfreeze_from(model, "fc")):
            assert isinstance(table, TrainableTable)
        assert table == kt.trainable_table(model)

    def test_a_shared_layer_counts_once(self):
        inputs = keras.Input((4,))
        shared = layers.Dense(4, name="shared")
        model = keras.Model(inputs, layers.Dense(2, name="out")(shared(shared(inputs))))
        table = kt.trainable_table(model)
        assert [row.layer for row in table] == ["shared", "out"]
        assert sum(row.parameters for row in table) == model.count_params()

    def test_learning_rate_of_the_compiled_optimizer(self):
        model = flat()
        kt.freeze_backbone(model)
        assert {row.learning_rate for row in kt.trainable_table(model)} == {None}
        model.compile(keras.optimizers.SGD(0.25), "mse")
        rates = {row.layer: row.learning_rate for row in kt.trainable_table(model)}
        assert rates["out"] == 0.25
        assert rates["conv1"] is None
        model.optimizer.learning_rate = 0.5
        assert kt.trainable_table(model)[-1].learning_rate == 0.5
        assert kt.trainable_table(model, 0.125)[-1].learning_rate == 0.125

    def test_learning_rate_of_a_schedule_is_its_present_value(self):
        model = flat()
        schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)
        model.compile(keras.optimizers.SGD(schedule), "mse")
        assert kt.trainable_table(model)[-1].learning_rate == 0.5
        model.optimizer.iterations.assign(20)
        assert kt.trainable_table(model)[-1].learning_rate == pytest.approx(0.125)

    def test_an_optimizer_of_many_rates_has_none_to_show(self):
        model = flat()
        rates = [(keras.optimizers.SGD(0.5 * i), [model.layers[-i]]) for i in (1, 2)]
        rates.append((keras.optimizers.SGD(0.25), model.layers[:-2]))
        model.compile(keras.optimizers.MultiOptimizer(rates), "mse")
        assert kt.freeze_backbone(model)[-1].learning_rate is None

    def test_summary_joins_stretches_and_sets_batch_norm_apart(self):
        model = flat()
        model.compile(keras.optimizers.SGD(0.25), "mse")
        rows = kt.unfreeze_from(model, "conv2").summary()
        assert [(row.layer, row.kind, row.group, row.parameters, row.trainable) for row in rows] == [
            ("conv1", "Conv2D", "backbone", 108, False),
            ("conv2", "Conv2D", "backbone", 144, True),
            ("fc ... out", "Dense", "head", 51, True),
            ("batch norm: 2 layers", "BatchNormalization", "backbone", 32, False),
            ("batch norm: 1 layer", "BatchNormalization", "head", 16, True),
        ]
        assert [row.learning_rate for row in rows] == [None, 0.25, 0.25, None, 0.25]

    def test_summary_of_a_large_network_is_short(self):
        model = kt.classifier("mobilenet_v2", 3, input_shape=(32, 32, 3), weights=None)
        rows = kt.freeze_backbone(model).summary()
        assert [row.layer for row in rows] == [
            *("Conv1 ... Conv_1", "predictions", "batch norm: 52 layers"),
        ]
        assert rows[0].kind == "various"

    def test_prints_as_a_table(self):
        model = flat()
        model.compile(keras.optimizers.SGD(0.25), "mse")
        table = kt.freeze_backbone(model)
        text = str(table)
        assert text == repr(table)
        lines = text.strip().splitlines()
        assert lines[0].split() == ["layer", "group", "parameters", "trains", "learning", "rate"]
        cells = [line.split() for line in lines[2:]]
        assert [row[0] for row in cells] == [row.layer for row in table]
        assert cells[0] == ["conv1", "backbone", "108", "-"]
        assert cells[-1] == ["out", "head", "21", "yes", "0.25"]

    def test_prints_large_numbers_with_commas(self):
        model = kt.classifier("mobilenet_v2", 3, input_shape=(32, 32, 3), weights=None)
        assert "3,843" in str(kt.freeze_backbone(model))

    def test_prints_a_name_with_markup_as_it_is(self):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, layers.Dense(2, name="out[bold]")(inputs))
        assert "out[bold]" in str(kt.trainable_table(model))
