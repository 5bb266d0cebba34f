"""Classifiers on what ends in tokens, or in a dict of maps."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt
from keras_transfer.layers.graph import leaf_layers
from keras_transfer.models.tokens import Tokens, tokens_in

SIDE, PATCH, WIDTH = 16, 8, 6


def transformer(leading, blocks=2):
    """Return a network of patches, with so many tokens of its own before them, and blocks."""
    image = keras.Input((SIDE, SIDE, 3), name="image")
    x = layers.Conv2D(WIDTH, PATCH, PATCH, name="stem_patches")(image)
    x = layers.Reshape((-1, WIDTH))(x)
    if leading:
        x = layers.ZeroPadding1D((leading, 0))(x)
    index = keras.ops.cumsum(keras.ops.ones_like(x[..., 0]), axis=1) - 1
    positions = layers.Embedding(leading + (SIDE // PATCH) ** 2, WIDTH, name="stem_positions")(index)
    x = layers.Add()([x, positions])
    for number in range(1, blocks + 1):
        y = layers.LayerNormalization(name=f"block{number}_norm")(x)
        y = layers.Dense(WIDTH, "gelu", name=f"block{number}_mlp")(y)
        x = layers.Add(name=f"block{number}_add")([x, y])
    return keras.Model(image, layers.LayerNormalization(name="norm")(x), name="tokens")


@pytest.fixture
def images(rng):
    return rng.uniform(0, 1, (3, SIDE, SIDE, 3)).astype("float32")


def head_given(model, images):
    """Return what the last layer with weights is given."""
    return keras.Model(model.input, model.get_layer("predictions").input).predict(images, verbose=0)


def by_hand(tokens, leading, pooling):
    """Return a vector of each image, in NumPy."""
    patches = tokens[:, leading:]
    return {
        "token": tokens[:, 0],
        "avg": patches.mean(axis=1),
        "max": patches.max(axis=1),
        "token+avg": np.concatenate([tokens[:, 0], patches.mean(axis=1)], axis=1),
        "flatten": tokens.reshape(len(tokens), -1),
    }[pooling]


@pytest.mark.parametrize(
    ("count", "side", "expected"),
    [
        (197, (224, 224), (1, 1)),  # ViT, patches of 16
        (198, (224, 224), (2, 1)),  # DeiT, which says itself that both are of the class
        (50, (224, 224), (1, 1)),  # CLIP, of 32
        (1370, (518, 518), (1, 1)),  # DINOv2, of 14
        (1374, (518, 518), (5, 1)),  # with registers
        (393, (224, 448), (1, 1)),
        (49, (224, 224), (0, 0)),  # Swin
        (7, (224, 224), (3, 1)),
        (None, (224, 224), (0, 0)),
        (50, (None, 224), (0, 0)),
    ],
)
def test_what_is_more_than_patches_stands_before_them(count, side, expected):
    found = tokens_in(keras.KerasTensor((None, count, 8)), keras.KerasTensor((None, *side, 3)))
    assert found == Tokens(*expected)


@pytest.mark.parametrize("leading", [0, 1, 3])
@pytest.mark.parametrize("pooling", [None, "token", "avg", "max", "token+avg", "flatten"])
def test_become_a_vector(images, leading, pooling):
    network = transformer(leading)
    if leading == 0 and pooling in ("token", "token+avg"):
        with pytest.raises(ValueError, match=r"'avg', 'max' or 'flatten' .*Received: pooling='token"):
            kt.classifier(network, 3, pooling=pooling)
        return
    model = kt.classifier(network, 3, pooling=pooling)
    tokens = network.predict(images, verbose=0)
    usual = "token" if leading else "avg"
    np.testing.assert_allclose(
        head_given(model, images), by_hand(tokens, leading, pooling or usual), rtol=1e-5, atol=1e-6
    )
    head = [layer.name for layer in kt.layer_groups(model)[-1].layers]
    assert head[-2:] == ["predictions", "softmax"]
    assert "block2_mlp" not in head


def test_the_file_opens_in_stock_keras(images, tmp_path):
    model = kt.classifier(transformer(3), 3, pooling="token+avg", hidden_units=(4,))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    expected = model.predict(images, verbose=0)
    np.testing.assert_array_equal(again.predict(images, verbose=0), expected)


def test_have_their_channels_last_whatever_images_have(images):
    network = transformer(1)
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        model = kt.classifier(network, 3, pooling="avg")
    finally:
        keras.config.set_image_data_format(before)
    assert model.get_layer("predictions").input.shape == (None, WIDTH)


def test_of_a_map_there_are_none():
    base = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)])
    with pytest.raises(
        ValueError, match=r"pooling must be 'avg', .* no tokens\. Received: pooling='tok"
    ):
        kt.classifier(base, 3, pooling="token")
    with pytest.raises(ValueError, match="pooling must be .*did you mean token"):
        kt.classifier(base, 3, pooling="tokens")


def test_a_sequence_of_any_length_has_no_flat_vector():
    image = keras.Input((None, None, 3))
    x = layers.Reshape((-1, 4))(layers.Conv2D(4, 8, 8)(image))
    network = keras.Model(image, x)
    assert kt.classifier(network, 2).get_layer("avg_pool").output.shape == (None, 4)
    with pytest.raises(ValueError, match="pooling='flatten' needs images of one size"):
        kt.classifier(network, 2, pooling="flatten")


class TestLinearHead:
    def test_at_a_block_is_on_the_token_of_the_class(self, images):
        model = kt.classifier(transformer(1), 3)
        flat = kt.replace_head(model, 3)  # any classifier
        y = np.arange(3)
        made = kt.fit_linear_head(flat, (images, y), at="block1_add", C=1.0, verbose=0)
        inner = model.get_layer("tokens")
        tokens = keras.Model(inner.input, inner.get_layer("block1_add").output)
        expected = tokens.predict(images, verbose=0)[:, 0]
        np.testing.assert_allclose(head_given(made, images), expected, rtol=1e-5, atol=1e-6)

    def test_is_found_by_one_pass(self, rng):
        x = rng.uniform(0, 1, (16, SIDE, SIDE, 3)).astype("float32")
        y = np.arange(16) % 2
        x[y == 1] /= 4
        model = kt.classifier(transformer(1), 2, pooling="token+avg")
        trained = kt.automatic.train(model, (x, y), fast=True, verbose=0)
        assert trained.chosen == "linear head"
        assert trained.scores[0].accuracy > 0.8


def test_a_new_head_pools_the_tokens_that_are_kept(images):
    network = transformer(1)
    x = layers.GlobalAveragePooling1D(name="pool")(network.output)  # of all tokens
    model = keras.Model(network.input, layers.Dense(5, name="logits")(x))
    made = kt.replace_head(model, 3, part="head", pooling="token+avg")
    expected = by_hand(network.predict(images, verbose=0), 1, "token+avg")
    np.testing.assert_allclose(head_given(made, images), expected, rtol=1e-5, atol=1e-6)


def test_of_a_dict_of_maps_the_smallest_counts(images):
    image = keras.Input((SIDE, SIDE, 3))
    first = layers.Conv2D(4, 3, 2, name="first")(image)
    last = layers.Conv2D(5, 3, 2, name="last")(first)
    network = keras.Model(image, {"a_last": last, "z_first": first})
    model = kt.classifier(network, 3)
    expected = network.predict(images, verbose=0)["a_last"].mean(axis=(1, 2))
    np.testing.assert_allclose(head_given(model, images), expected, rtol=1e-5, atol=1e-6)
    assert len(leaf_layers(model)) > 3


def test_side_by_side_with_a_backbone_of_maps(images):
    vgg = keras.Sequential([keras.Input((SIDE, SIDE, 3)), layers.Conv2D(7, 3)], name="vgg")
    network = transformer(1)
    model = kt.classifier((network, vgg), 3)
    tokens, maps = network.predict(images, verbose=0), vgg.predict(images, verbose=0)
    expected = np.concatenate([tokens[:, 0], maps.mean(axis=(1, 2))], axis=1)
    np.testing.assert_allclose(head_given(model, images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", ["token", "avg", "max", "token+avg"])
def test_are_pooled_by_onnx_runtime_as_by_keras(images, pooling):
    pytest.importorskip("onnxruntime")
    from keras_transfer.inference.onnx_runtime import computing

    model = kt.classifier(keras.Sequential([keras.Input((SIDE, SIDE, 3)), *stem()]), 3, pooling=pooling)
    (found,) = computing(model)(images)
    np.testing.assert_allclose(found, model.predict(images, verbose=0), rtol=1e-5, atol=1e-6)


def stem():
    """Return layers that give five tokens, the first one of the class."""
    return (
        layers.Conv2D(WIDTH, PATCH, PATCH),
        layers.Reshape((-1, WIDTH)),
        layers.ZeroPadding1D((1, 0)),
        layers.Dense(WIDTH, "relu"),
    )
