"""What trains: the flags, and what really moves under fit."""

import math

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from keras import layers

import keras_transfer as kt
from keras_transfer.layers.freezing import restore_trainable_state, trainable_state
from keras_transfer.layers.graph import leaf_layers
from keras_transfer.layers.head import backbone_layers, head_layers
from keras_transfer.layers.selection import select_from
from keras_transfer.layers.table import TrainableTable

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


def subclassed():
    class Small(keras.Model):
        def __init__(self):
            super().__init__()
            self.base = base()
            self.pool = layers.GlobalAveragePooling2D(name="pool")
            self.out = layers.Dense(3, name="out")

        def call(self, images):
            return self.out(self.pool(self.base(images)))

    model = Small()
    model(np.zeros((1, *SHAPE), "float32"))
    return model


@pytest.fixture(scope="module", autouse=True)
def _quick_weights():
    with numpy_initial_weights():
        yield


def not_as_asked(style):
    """Return a model in which no promise is kept yet, so that every call changes something."""
    model = style()
    model.get_layer("out").trainable = False
    return model


def flags(model):
    return {layer.name: layer.trainable for layer in leaf_layers(model)}


def all_flags(model):
    """Return the flags of all layers and models, and of all variables, to compare before and after."""
    found = [(layer.name, layer.trainable) for layer in model._flatten_layers()]
    return found, [(v.path, v.trainable) for v in model.variables]


def values(model):
    return {v.path: keras.ops.convert_to_numpy(v).copy() for v in model.weights}


def moved(model, logits="out"):
    """Train two steps on the logits and return what has moved: {layer name: {variable names}}."""
    view = keras.Model(model.inputs, model.get_layer(logits).output)
    return moved_through(view, model, model.input_shape[1:])


def moved_through(view, model, shape=SHAPE):
    """Train two steps of `view`, which gives the logits of `model`, and return what has moved."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, *shape)).astype("float32")
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
        model = not_as_asked(style)
        function(model, *arguments, batch_norm=batch_norm)
        weighted = [layer for layer in leaf_layers(model) if layer.weights]
        assert len(weighted) == 7
        assert {layer.name for layer in weighted if layer.trainable} == promised
        assert {row.layer for row in kt.trainable_table(model) if row.trainable} == promised
        trained = {id(variable) for variable in model.trainable_variables}
        assert trained == {
            id(variable)
            for layer in weighted
            if layer.name in promised
            for variable in layer.weights
            if not variable.name.startswith("moving_")
        }

    @pytest.mark.parametrize("trainable", [False, True])
    def test_reach_variables_that_say_otherwise(self, trainable):
        model = not_as_asked(flat)
        layer = model.get_layer("conv1")
        layer.trainable = trainable
        layer.kernel.trainable = not trainable
        (kt.unfreeze if trainable else kt.freeze_backbone)(model)
        assert layer.kernel.trainable == trainable

    @pytest.mark.parametrize(
        "call", [kt.freeze_backbone, kt.unfreeze, lambda model: kt.unfreeze_from(model, "conv1")]
    )
    def test_default_keeps_batch_norm_frozen(self, call):
        model = nested()
        call(model)
        assert not flags(model)["norm1"]
        assert flags(model)["norm_head"]

    def test_each_call_stands_for_itself(self):
        model = keras_guide()
        kt.unfreeze(model, batch_norm="train")
        kt.unfreeze_from(model, "conv2")
        kt.freeze_backbone(model)
        once = not_as_asked(keras_guide)
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

    @pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet_v2"])
    def test_of_classifiers(self, name):
        model = kt.classifier(name, 3, image_size=32, weights=None, hidden_units=(4,))
        kt.freeze_backbone(model)
        trains = [layer.name for layer in leaf_layers(model) if layer.weights and layer.trainable]
        assert trains == ["fc1", "predictions"]
        kt.unfreeze(model)
        for layer in leaf_layers(model):
            assert layer.trainable is not isinstance(layer, layers.BatchNormalization), layer.name
        kt.freeze_backbone(model)
        kt.unfreeze(model, batch_norm="train")
        assert all(flags(model).values())


class TestFit:
    @pytest.mark.parametrize("style", [flat, keras_guide])
    @pytest.mark.parametrize(("function", "arguments", "batch_norm", "promised"), PROMISES)
    def test_moves_exactly_what_was_promised(self, style, function, arguments, batch_norm, promised):
        model = not_as_asked(style)
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
        model = kt.classifier(name, 3, image_size=32, weights=None)
        norms = {layer.name for layer in leaf_layers(model) if hasattr(layer, "moving_mean")}
        kt.unfreeze_from(model, first)
        trains = {layer.name for layer in select_from(model, first) if layer.weights} - norms
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
        assert str(caught.value).endswith(f"Received: first={layer!r}")
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

    def test_there_is_no_head(self):
        model = base()
        before = all_flags(model)
        with pytest.raises(ValueError, match=r"no classification head .* with output \(None, 4, 4, 4\)"):
            kt.freeze_backbone(model)
        assert all_flags(model) == before

    @pytest.mark.parametrize(
        "call",
        [
            kt.freeze_backbone,
            kt.unfreeze,
            lambda model: kt.unfreeze(model, layers=["out"]),
            lambda model: kt.unfreeze_from(model, "out"),
            lambda model: kt.freeze_to(model, -1),
            kt.trainable_table,
        ],
    )
    def test_an_unbuilt_model(self, call):
        model = keras.Sequential([layers.Flatten(), layers.Dense(2, name="out")], name="mine")
        with pytest.raises(ValueError, match="model 'mine' is not built: its weights don't exist yet"):
            call(model)

    @pytest.mark.parametrize(
        "call",
        [
            kt.freeze_backbone,
            lambda model: kt.unfreeze_from(model, "out"),
            lambda model: kt.freeze_to(model, -1),
        ],
    )
    def test_a_subclassed_model_has_no_order(self, call):
        model = subclassed()
        before = all_flags(model)
        with pytest.raises(ValueError, match=r"is subclassed: .* What works is kt.unfreeze\(model\)"):
            call(model)
        assert all_flags(model) == before


class TestNothingChanged:
    @pytest.mark.parametrize(("function", "arguments", "batch_norm", "promised"), PROMISES)
    @pytest.mark.parametrize("style", [flat, keras_guide])
    def test_the_second_time(self, style, function, arguments, batch_norm, promised):
        model = not_as_asked(style)
        function(model, *arguments, batch_norm=batch_norm)
        before = all_flags(model)
        table = function(model, *arguments, batch_norm=batch_norm)
        assert isinstance(table, TrainableTable)
        assert len(table) == 0
        assert all_flags(model) == before
        with pytest.raises(ValueError, match="nothing changed: .* already as asked") as caught:
            function(model, *arguments, batch_norm=batch_norm, strict=True)
        assert str(caught.value).endswith(f"Received: model {model.name!r}")
        assert all_flags(model) == before

    @pytest.mark.parametrize(("function", "arguments", "batch_norm", "promised"), PROMISES)
    def test_strict_is_no_error_the_first_time(self, function, arguments, batch_norm, promised):
        model, twin = not_as_asked(flat), not_as_asked(flat)
        table = function(model, *arguments, batch_norm=batch_norm, strict=True)
        assert table == function(twin, *arguments, batch_norm=batch_norm)
        assert flags(model) == flags(twin)

    def test_leaves_the_flags_of_nested_models_as_they_were(self):
        model = keras_guide()
        assert not model.get_layer("base").trainable
        assert len(kt.freeze_backbone(model)) == 0
        assert not model.get_layer("base").trainable

    def test_a_layer_without_weights_is_no_change(self):
        model = flat()
        model.get_layer("relu1").trainable = False
        assert len(kt.unfreeze(model, batch_norm="train")) == 0
        assert not model.get_layer("relu1").trainable

    def test_a_flag_of_the_whole_model_that_hides_its_layers_is_one(self):
        model = flat()
        model.trainable = False
        for layer in model.layers:
            layer.trainable = True
        assert model.trainable_variables == []
        assert {row.trainable for row in kt.trainable_table(model)} == {False}
        assert len(kt.unfreeze(model, batch_norm="train")) == 7
        assert model.trainable_variables

    def test_a_variable_frozen_by_itself_is_one(self):
        model = flat()
        model.get_layer("fc").kernel.trainable = False
        assert [row.layer for row in kt.unfreeze(model, batch_norm="train")] == ["fc"]
        assert model.get_layer("fc").kernel.trainable


class TestWhatNoLeafOwns:
    """Variables beside the layers: of low-rank adaptation, and of models themselves."""

    def test_low_rank_adaptation_keeps_what_it_adapts(self):
        model = flat()
        model.get_layer("fc").enable_lora(2)
        kt.freeze_backbone(model)
        kt.unfreeze(model, batch_norm="train")
        layer = model.get_layer("fc")
        assert not layer._kernel.trainable
        assert len(layer.trainable_variables) == 3

    def test_the_table_counts_what_trains_of_a_layer(self):
        model = flat()
        layer = model.get_layer("fc")
        inputs, units = layer.kernel.shape
        layer.enable_lora(2)
        rows = {row.layer: row for row in kt.trainable_table(model)}
        assert rows["fc"].training == 2 * (inputs + units) + units
        assert rows["fc"].parameters == rows["fc"].training + inputs * units
        assert f"{rows['fc'].training:,}" in str(kt.trainable_table(model)).split()
        trains = sum(math.prod(variable.shape) for variable in model.trainable_variables)
        moving = sum(row.parameters // 2 for row in rows.values() if row.kind == "BatchNormalization")
        groups = kt.trainable_table(model).by_group()
        assert sum(group["training"] for group in groups) == trains + moving
        summary = kt.trainable_table(model).summary()
        assert sum(row.training for row in summary) == trains + moving

    @pytest.mark.parametrize("mode", ["int8", "int4"])
    def test_the_table_counts_nothing_that_is_quantized(self, mode):
        model = flat()
        layer = model.get_layer("fc")
        layer.quantize(mode)
        (row,) = (row for row in kt.trainable_table(model) if row.layer == "fc")
        assert row.training == sum(math.prod(v.shape) for v in layer.trainable_variables) == layer.units

    def test_the_table_counts_variables_that_were_frozen_one_by_one(self):
        model = flat()
        layer = model.get_layer("fc")
        layer.kernel.trainable = False
        (row,) = (row for row in kt.trainable_table(model) if row.layer == "fc")
        assert (row.trainable, row.training) == (True, layer.units)

    @pytest.mark.parametrize("with_token", [False, True])
    def test_a_subclassed_model_inside(self, with_token):
        inputs = keras.Input((4,))
        x = layers.Dense(4, name="first")(inputs)
        model = keras.Model(inputs, layers.Dense(2, name="out")(WithToken(with_token)(x)))
        kt.freeze_backbone(model)
        assert [v.path for v in model.trainable_variables] == ["out/kernel", "out/bias"]
        kt.unfreeze(model)
        assert len(model.trainable_variables) == 6 + with_token

    def test_a_nested_model_by_its_name(self):
        inputs = keras.Input((4,))
        inner = keras.Sequential([layers.Dense(4, name="a"), layers.Dense(4, name="b")], name="inner")
        model = keras.Model(inputs, layers.Dense(2, name="out")(inner(inputs)))
        kt.freeze_backbone(model)
        assert [row.layer for row in kt.unfreeze(model, "inner")] == ["a", "b"]

    def test_flags_are_put_back_where_models_share_a_layer(self):
        """The containers first, however deep they are: setting theirs sets the layer's."""
        shared = layers.Dense(4, name="shared")
        inputs = keras.Input((4,))
        deep = keras.Model(inputs, keras.Model(inputs, shared(inputs), name="c")(inputs), name="b")
        flat_ = keras.Model(inputs, shared(inputs), name="a")
        model = keras.Model(inputs, layers.Add()([flat_(inputs), deep(inputs)]))
        flat_.trainable = True
        deep.trainable = False
        shared.trainable = True
        before = {id(thing): flag for thing, flag in trainable_state(model)}
        state = trainable_state(model)
        model.trainable = False
        restore_trainable_state(state)
        assert {id(thing): flag for thing, flag in trainable_state(model)} == before

    def test_an_error_half_way_changes_nothing(self, monkeypatch):
        model = flat()
        before = flags(model)
        monkeypatch.setattr("keras_transfer.layers.freezing.rows_of", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            kt.freeze_backbone(model)
        assert flags(model) == before

    def test_of_the_model_itself_train_where_all_layers_do(self):
        model = WithToken(True)
        model(np.zeros((1, 4), "float32"))
        model.trainable = False
        kt.unfreeze(model, ["inner"])
        assert len(model.trainable_variables) == 3
        model = WithToken(True, twice=True)
        model(np.zeros((1, 4), "float32"))
        model.trainable = False
        kt.unfreeze(model, ["inner"])
        assert len(model.trainable_variables) == 2
        kt.unfreeze(model)
        assert len(model.trainable_variables) == 5


class WithToken(keras.Model):
    """A subclassed model with a variable of its own, such as a class token."""

    def __init__(self, with_token, twice=False):
        super().__init__()
        self.inner = layers.Dense(4, name="inner")
        self.second = layers.Dense(4, name="second") if twice else None
        self.token = self.add_weight(shape=(4,), name="token") if with_token else None

    def call(self, x):
        x = self.inner(x)
        x = x if self.second is None else self.second(x)
        return x if self.token is None else x + self.token

    def compute_output_shape(self, shape):
        return (shape[0], 4)


class TestWhatChanged:
    @pytest.mark.parametrize("style", STYLES)
    @pytest.mark.parametrize(("function", "arguments", "batch_norm", "promised"), PROMISES)
    def test_is_returned(self, style, function, arguments, batch_norm, promised):
        model = not_as_asked(style)
        before = flags(model)
        table = function(model, *arguments, batch_norm=batch_norm)
        after = flags(model)
        assert isinstance(table, TrainableTable)
        assert table == tuple(
            row for row in kt.trainable_table(model) if before[row.layer] != after[row.layer]
        )

    def test_counts_batch_norm_inside_a_layer_made_of_layers(self):
        model = keras.Sequential(
            [
                *(keras.Input((4, 4, 3)), layers.TimeDistributed(layers.Dense(3), name="dense")),
                *(layers.TimeDistributed(layers.BatchNormalization(), name="norm"), layers.Flatten()),
                layers.Dense(2, name="out"),
            ]
        )
        assert [row.layer for row in kt.unfreeze(model)] == ["norm"]


class TestFreezeTo:
    @pytest.mark.parametrize(
        ("n", "promised"),
        [
            (0, {"conv1", "conv2", "norm_head", "fc", "out"}),
            (1, {"conv2", "norm_head", "fc", "out"}),
            (2, {"norm_head", "fc", "out"}),
            (-1, {"norm_head", "fc", "out"}),
            (-2, {"conv2", "norm_head", "fc", "out"}),
            (-3, {"conv1", "conv2", "norm_head", "fc", "out"}),
        ],
    )
    def test_counts_groups_from_either_end(self, n, promised):
        model = not_as_asked(keras_guide)
        kt.freeze_to(model, n)
        assert {row.layer for row in kt.trainable_table(model) if row.trainable} == promised

    @pytest.mark.parametrize(
        ("n", "message"),
        [
            (3, r"first must be .* from -3 to 2 \(0 block1, 1 block2, 2 head\)"),
            (-4, r"first must be .* from -3 to 2 \(0 block1, 1 block2, 2 head\)"),
            (1.0, "first must be 'output', .* the index of a group"),
            (True, "first must be 'output', .* the index of a group"),
            (None, "first must be 'output', .* the index of a group"),
        ],
    )
    def test_of_a_group_that_is_not_there(self, n, message):
        model = keras_guide()
        before = all_flags(model)
        with pytest.raises(ValueError, match=message) as caught:
            kt.freeze_to(model, n)
        assert str(caught.value).endswith(f"Received: first={n!r}")
        assert all_flags(model) == before

    @pytest.mark.parametrize("first", ["conv2", "block2", 1, "conv[2-9]", ["out", "block2"]])
    def test_is_unfreeze_from(self, first):
        model, twin = not_as_asked(keras_guide), not_as_asked(keras_guide)
        assert kt.freeze_to(model, first) == kt.unfreeze_from(twin, first)
        assert {row.layer for row in kt.trainable_table(model) if row.trainable} == {
            *("conv2", "norm_head", "fc", "out"),
        }

    def test_of_numpy_integers(self):
        model = not_as_asked(flat)
        kt.freeze_to(model, np.int64(-1))
        assert not flags(model)["conv2"]

    def test_of_groups_of_one_s_own(self):
        model = flat()
        kt.freeze_to(model, 1, split=["relu1"])
        assert [name for name in flags(model) if flags(model)[name] and name.startswith("conv")] == [
            "conv2"
        ]

    def test_with_batch_norm(self):
        model = flat()
        kt.freeze_to(model, -1, batch_norm="train")
        found = flags(model)
        assert [name for name in found if not found[name]] == ["conv1", "relu1", "conv2", "relu2"]


class TestUnfreezeLayers:
    @pytest.mark.parametrize("style", STYLES)
    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ("conv2", {"conv2"}),
            (["conv2"], {"conv2"}),
            (["conv1", "out"], {"conv1"}),
            (["conv.*"], {"conv1", "conv2"}),
            (["relu1", "conv[2-9]"], {"conv2"}),
            (["block1", "out"], {"conv1"}),
            (1, {"conv2"}),
            ("from:relu1", {"conv2"}),
            (lambda layer: layer.name.startswith("conv"), {"conv1", "conv2"}),
        ],
    )
    def test_adds_them_to_what_trains_already(self, style, wanted, found):
        model = not_as_asked(style)
        kt.freeze_backbone(model)
        table = kt.unfreeze(model, wanted)
        assert {row.layer for row in table} == found
        trains = {row.layer for row in kt.trainable_table(model) if row.trainable}
        assert trains == {"norm_head", "fc", "out"} | found

    def test_batch_norm_trains_only_if_that_is_said(self):
        model = flat()
        kt.freeze_backbone(model)
        assert len(kt.unfreeze(model, ["norm1"])) == 0
        assert [row.layer for row in kt.unfreeze(model, "norm1", batch_norm="train")] == [
            *("norm1", "norm2"),
        ]

    @pytest.mark.parametrize(
        ("wanted", "message"),
        [
            (["conv3"], "no layer 'conv3' in .*; did you mean .*conv2"),
            (["conv1", "stage.*"], r"no layer 'stage\.\*' in "),
            (["conv("], r"a layer must be meant by its name or a regular expression .*'conv\('"),
            ([3], r"layers must be the index of a group .* from -3 to 2 .* Received: layers=\[3\]"),
            ([], r"layers must be 'output', .* or a list of these\. Received: layers=\[\]"),
            (None, r"layers must be 'output', .* Received: layers=None"),
        ],
    )
    def test_that_are_not_there(self, wanted, message):
        model = keras_guide()
        before = all_flags(model)
        with pytest.raises(ValueError, match=message):
            kt.unfreeze(model, wanted)
        assert all_flags(model) == before

    def test_a_name_of_two_layers(self):
        inputs = keras.Input(SHAPE)
        x = layers.Resizing(8, 8)(layers.Conv2D(3, 1, name="between")(base("first")(inputs)))
        model = keras.Model(inputs, on(base("second")(x), head()))
        kt.freeze_backbone(model)
        with pytest.raises(ValueError, match="2 layers of model .* are called 'conv1'; rename them"):
            kt.unfreeze(model, ["conv1"])
        assert len(kt.unfreeze(model, ["conv1.*"])) == 2  # a pattern means all it matches


class TestSubclassed:
    """Keras knows the layers of a subclassed model, but not their order nor its head."""

    def test_unfreeze_all(self):
        model = subclassed()
        kt.unfreeze(model)
        assert {name for name, trains in flags(model).items() if not trains} == {"norm1", "norm2"}

    def test_unfreeze_by_name(self):
        model = subclassed()
        model.trainable = False
        table = kt.unfreeze(model, layers=["conv2", "out"])
        assert [(row.layer, row.group) for row in table] == [("conv2", ""), ("out", "")]
        assert set(moved_through(model, model)) == {"conv2", "out"}

    def test_table(self):
        model = subclassed()
        table = kt.trainable_table(model)
        assert [row.layer for row in table] == ["conv1", "norm1", "conv2", "norm2", "out"]
        assert {row.group for row in table} == {""}

    def test_freeze_to_with_a_split(self):
        model = subclassed()
        kt.freeze_to(model, 1, split=["conv2"])
        assert {row.layer for row in kt.trainable_table(model) if row.trainable} == {"conv2", "out"}


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
        model = not_as_asked(style)
        kt.freeze_backbone(model)
        table = kt.trainable_table(model)
        assert [(row.layer, row.kind, row.group, row.trainable) for row in table] == [
            ("conv1", "Conv2D", "block1", False),
            ("norm1", "BatchNormalization", "block1", False),
            ("conv2", "Conv2D", "block2", False),
            ("norm2", "BatchNormalization", "block2", False),
            ("norm_head", "BatchNormalization", "head", True),
            ("fc", "Dense", "head", True),
            ("out", "Dense", "head", True),
        ]
        assert [row.parameters for row in table] == [108, 16, 144, 16, 16, 30, 21]
        assert sum(row.parameters for row in table) == model.count_params()

    @pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet_v2"])
    def test_of_classifiers_counts_every_parameter(self, name):
        model = kt.classifier(name, 3, image_size=32, weights=None)
        table = kt.trainable_table(model)
        for rows in (table, table.summary()):
            assert sum(row.parameters for row in rows) == model.count_params()
        head_parameters = sum(row.parameters for row in table if row.group == "head")
        assert head_parameters == sum(layer.count_params() for layer in head_layers(model))
        backbone = sum(layer.count_params() for layer in backbone_layers(model))
        assert head_parameters + backbone == model.count_params()

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
        assert kt.trainable_table(model)[-1].learning_rate is None

    def test_summary_joins_stretches_and_sets_batch_norm_apart(self):
        model = flat()
        model.compile(keras.optimizers.SGD(0.25), "mse")
        kt.unfreeze_from(model, "conv2")
        rows = kt.trainable_table(model).summary()
        assert [(row.layer, row.kind, row.group, row.parameters, row.trainable) for row in rows] == [
            ("conv1", "Conv2D", "block1", 108, False),
            ("conv2", "Conv2D", "block2", 144, True),
            ("fc ... out", "Dense", "head", 51, True),
            ("batch norm: 1 layer", "BatchNormalization", "block1", 16, False),
            ("batch norm: 1 layer", "BatchNormalization", "block2", 16, False),
            ("batch norm: 1 layer", "BatchNormalization", "head", 16, True),
        ]
        assert [row.learning_rate for row in rows] == [None, 0.25, 0.25, None, None, 0.25]

    def test_summary_of_a_large_network_is_short(self):
        model = kt.classifier("mobilenet_v2", 3, image_size=32, weights=None)
        kt.freeze_backbone(model)
        rows = kt.trainable_table(model).summary()
        assert [(row.group, row.kind, row.trainable) for row in rows] == [
            *((f"stage{number}", "various", False) for number in (1, 2, 3, 4, 5)),
            ("head", "Dense", True),
            *((f"stage{number}", "BatchNormalization", False) for number in (1, 2, 3, 4, 5)),
        ]
        assert rows[0].layer == "Conv1 ... block_1_expand"
        assert [int(row.layer.split()[2]) for row in rows[6:]] == [4, 6, 9, 21, 12]

    def test_prints_as_a_table(self):
        model = flat()
        model.compile(keras.optimizers.SGD(0.25), "mse")
        kt.freeze_backbone(model)
        table = kt.trainable_table(model)
        text = str(table)
        assert text == repr(table)
        lines = text.strip().splitlines()
        assert lines[0].split() == ["layer", "group", "parameters", "trains", "learning", "rate"]
        cells = [line.split() for line in lines[2:]]
        assert [row[0] for row in cells] == [row.layer for row in table]
        assert cells[0] == ["conv1", "block1", "108", "-"]
        assert cells[-1] == ["out", "head", "21", "yes", "0.25"]

    def test_prints_large_numbers_with_commas(self):
        model = kt.classifier("mobilenet_v2", 3, image_size=32, weights=None)
        assert "3,843" in str(kt.trainable_table(model))

    def test_prints_a_name_with_markup_as_it_is(self):
        inputs = keras.Input((4,))
        model = keras.Model(inputs, layers.Dense(2, name="out[bold]")(inputs))
        assert "out[bold]" in str(kt.trainable_table(model))
