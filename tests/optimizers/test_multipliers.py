"""The policies, with the rates that the tutorials give written out."""

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from tiny import tiny_backbone, tiny_transformer

import keras_transfer as kt
from keras_transfer.layers.graph import leaf_layers


@pytest.fixture(scope="module", autouse=True)
def _quick_weights():
    with numpy_initial_weights():
        yield


@pytest.fixture(scope="module")
def built():
    """Return networks that are built once; tests freeze parts of them."""
    small = {"image_size": 32, "weights": None}
    return {
        "vgg16": kt.classifier("vgg16", 3, hidden_units=(4,), **small),
        "resnet50": kt.classifier("resnet50", 3, **small),
    }


def all_trainable(model):
    model.trainable = True
    return model


@pytest.fixture
def vgg16(built):
    return all_trainable(built["vgg16"])


@pytest.fixture
def resnet50(built):
    return all_trainable(built["resnet50"])


def rates(model, multipliers, learning_rate=1.0):
    """Return the rate of each layer with weights, by its name, as an optimizer has it."""
    model.compile(kt.optimizers.LayerwiseLR(keras.optimizers.SGD(learning_rate), multipliers))
    return {row.layer: row.learning_rate for row in kt.trainable_table(model)}


def test_linear_over_the_13_convolutions_of_vgg16(vgg16):
    """The flowers article: from 1e-7 at the first convolution to 1e-4 at the classifier."""
    found = rates(vgg16, kt.multipliers.linear(vgg16, lowest=1e-3), 1e-4)
    convolutions = [name for name in found if name.startswith("block")]
    assert len(convolutions) == 13
    for index, name in enumerate(convolutions):
        assert found[name] == pytest.approx(1e-7 + (1e-4 - 1e-7) * index / 13, rel=1e-6)
    assert found["block1_conv1"] == pytest.approx(1e-7)
    assert found["fc1"] == found["predictions"] == pytest.approx(1e-4)


def test_each_stage_of_resnet50_a_third_of_the_next(resnet50):
    """The flowers article: conv1, bn1, four stages and the classifier."""
    split = ["conv1_conv", "conv1_bn", "conv2_block1_.*", "conv3_.*", "conv4_.*", "conv5_.*"]
    found = rates(resnet50, kt.multipliers.geometric(resnet50, 3.0, split=split), 1e-4)
    expected = {
        "conv1_conv": 1e-4 / 3**6,
        "conv1_bn": 1e-4 / 3**5,
        "conv2_block3_out": None,
        "conv2_block1_0_conv": 1e-4 / 3**4,
        "conv3_block4_3_conv": 1e-4 / 3**3,
        "conv4_block6_2_bn": 1e-4 / 3**2,
        "conv5_block1_1_conv": 1e-4 / 3,
        "predictions": 1e-4,
    }
    for name, rate in expected.items():
        assert rate is None or found[name] == pytest.approx(rate, rel=1e-6), name


def test_geometric_over_the_groups(vgg16):
    found = rates(vgg16, kt.multipliers.geometric(vgg16, 10.0))
    names = ["block1_conv1", "block2_conv2", "block3_conv1", "block4_conv3", "block5_conv1", "fc1"]
    assert [found[name] for name in names] == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_geometric_over_layers(vgg16):
    found = rates(vgg16, kt.multipliers.geometric(vgg16, 2.0, per="layer"))
    assert list(found.values())[:13] == pytest.approx([2.0 ** (i - 13) for i in range(13)])
    assert found["fc1"] == found["predictions"] == 1.0


def test_linear_over_the_groups(vgg16):
    found = rates(vgg16, kt.multipliers.linear(vgg16, 0.1, per="group"))
    names = ["block1_conv1", "block2_conv2", "block3_conv1", "block4_conv3", "block5_conv1", "fc1"]
    assert [found[name] for name in names] == pytest.approx([0.1, 0.28, 0.46, 0.64, 0.82, 1.0])


@pytest.mark.parametrize(("per", "count"), [("group", 6), ("layer", 14)])
def test_span(vgg16, per, count):
    found = list(rates(vgg16, kt.multipliers.span(vgg16, 1e-4, 2.0, per=per)).values())
    distinct = list(dict.fromkeys(found))
    assert distinct == pytest.approx(list(np.geomspace(1e-4, 2.0, count)))


def test_head_at_ten_times_the_rest(resnet50):
    """d2l: the output layer at 10 times the learning rate of the rest."""
    found = rates(resnet50, kt.multipliers.head(resnet50), 5e-5)
    assert found.pop("predictions") == pytest.approx(5e-4)
    assert list(found.values()) == pytest.approx([5e-5] * len(found))


def test_each_rate_of_a_layer_is_shown(resnet50):
    """Caffe's habit: a bias at twice the rate of its kernel."""
    optimizer = kt.optimizers.LayerwiseLR(keras.optimizers.SGD(0.25), {"predictions/bias": 2.0})
    resnet50.compile(optimizer)
    row = kt.trainable_table(resnet50)[-1]
    assert (row.learning_rate, row.learning_rates) == (0.25, (0.25, 0.5))
    assert "0.25, 0.5" in str(kt.trainable_table(resnet50))


@pytest.mark.parametrize("policy", ["geometric", "linear", "head"])
def test_what_is_frozen_counts(vgg16, policy):
    policy = getattr(kt.multipliers, policy)
    before = policy(vgg16)
    kt.freeze_to(vgg16, -2)
    try:
        assert policy(vgg16) == before
        found = rates(vgg16, before)  # patterns of frozen variables are no error
        assert found["block1_conv1"] is None
        assert found["block5_conv1"] == pytest.approx(before["block5_conv1/kernel"])
    finally:
        kt.unfreeze(vgg16)


def test_every_variable_has_a_multiplier(resnet50):
    found = kt.multipliers.geometric(resnet50)
    paths = {variable.path for layer in leaf_layers(resnet50) for variable in layer.weights}
    assert found.keys() == paths


def test_in_phases(vgg16, capsys):
    multipliers = kt.multipliers.geometric(vgg16, 2.0)
    phase = kt.Phase("all", 1, train=-2, learning_rate=1e-2, optimizer="sgd", multipliers=multipliers)
    x = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), "uint8")
    result = kt.fine_tune(vgg16, (x, np.arange(6) % 3), phases=[phase], verbose=2)
    shown = capsys.readouterr().out
    assert "0.005" in shown
    assert result.phases[0].settings["multipliers"] == multipliers
    assert vgg16.optimizer.multiplier_of(vgg16.get_layer("block5_conv1").kernel) == 0.5


def test_a_phase_checks_its_patterns_before_anything_trains(vgg16):
    phases = [
        kt.Phase("head", 1),
        kt.Phase("all", 1, train="all", multipliers={"block5_conv9/.*": 0.1}),
    ]
    x = np.zeros((2, 32, 32, 3))
    with pytest.raises(ValueError, match=r"no variable is left for the pattern 'block5_conv9/\.\*'"):
        kt.fine_tune(vgg16, (x, np.array([0, 1])), phases=phases, verbose=0)


class TestErrors:
    def test_per(self, vgg16):
        with pytest.raises(ValueError, match="per must be 'group' or 'layer'. Received: per='block'"):
            kt.multipliers.geometric(vgg16, per="block")

    def test_a_model_without_head(self):
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
        for policy in (kt.multipliers.linear, kt.multipliers.head):
            with pytest.raises(ValueError, match="has no classification head"):
                policy(model)

    def test_paths_that_don_t_tell_variables_apart(self):
        def branch():
            inputs = keras.Input((4,))
            return keras.Model(inputs, keras.layers.Dense(4, name="same")(inputs))

        inputs = keras.Input((4,))
        x = branch()(branch()(inputs))
        model = keras.Model(inputs, keras.layers.Dense(2, name="out")(x))
        with pytest.raises(ValueError, match="rename the layers.*several variables with path 'same"):
            kt.multipliers.geometric(model, split=lambda layer: str(id(layer)))


def groups_of(model, multipliers):
    """Return the multiplier of each layer with weights, by its name."""
    found = {}
    for layer in leaf_layers(model):
        for variable in layer.weights:
            assert found.setdefault(layer.name, multipliers[variable.path]) == multipliers[variable.path]
    return found


@pytest.mark.parametrize("multi_head", [False, True])
def test_layer_decay_is_that_of_mae(multi_head):
    """MAE's util/lr_decay.py: layer 0 is patches and positions, k the block k - 1, N + 1 the rest."""
    model = tiny_transformer(multi_head)
    found = groups_of(model, kt.multipliers.layer_decay(model, 0.75))
    layer_ids = {"stem": 0, "block1": 1, "block2": 2, "norm": 3, "predictions": 3}
    for name, multiplier in found.items():
        assert multiplier == pytest.approx(0.75 ** (3 - layer_ids[name.split("_")[0]]), rel=1e-12), name
    assert {"stem_patches", "stem_positions", "norm"} <= set(found)


def test_layer_decay_of_resnet50(resnet50):
    """ResNet's groups are conv1 to conv5; what has no stage in its name only counts behind the last."""
    found = groups_of(resnet50, kt.multipliers.layer_decay(resnet50, 0.5))
    expected = {
        "conv1_conv": 2**-5,
        "conv2_block1_1_conv": 2**-4,
        "conv5_block3_3_bn": 0.5,
        "predictions": 1,
    }
    assert {name: found[name] for name in expected} == expected


def test_layer_decay_is_geometric_but_for_the_last_norm():
    model = kt.classifier(tiny_backbone(), 3)
    assert kt.multipliers.layer_decay(model, 0.5) == kt.multipliers.geometric(model, 2.0)
    model = tiny_transformer()
    split = ["stem_patches", "block1_norm1", "block2_norm1"]
    found, other = (
        kt.multipliers.layer_decay(model, 0.5, split=split),
        kt.multipliers.geometric(model, 2.0),
    )
    assert found == other
    assert found["norm/gamma"] == 0.5


def test_layer_decay_of_nested_blocks():
    """Blocks without stages in their names, with a norm behind the last one."""
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Dense(8, name="patches")(inputs)
    for name in ("first", "second"):
        entry = keras.Input((4, 4, 8))
        dense = keras.layers.Dense(8, name=f"{name}_dense")(entry)
        dense = keras.layers.LayerNormalization(name=f"{name}_norm")(dense)
        x = keras.Model(entry, keras.layers.Dense(8, name=f"{name}_out")(dense), name=name)(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.LayerNormalization(name="final")(x))
    model = keras.Model(inputs, keras.layers.Dense(2, name="predictions")(x))
    found = groups_of(model, kt.multipliers.layer_decay(model, 0.5))
    assert (found["final"], found["predictions"]) == (1, 1)
    assert (found["second_norm"], found["second_out"], found["first_dense"]) == (0.5, 0.5, 0.25)


@pytest.mark.parametrize("decay", [0, 1.5, "x"])
def test_layer_decay_refuses(decay, vgg16):
    with pytest.raises(ValueError, match="decay must be a number"):
        kt.multipliers.layer_decay(vgg16, decay)


def test_layer_decay_needs_a_head():
    with pytest.raises(ValueError, match="no classification head"):
        kt.multipliers.layer_decay(tiny_backbone())
