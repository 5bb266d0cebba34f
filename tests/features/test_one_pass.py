"""One pass over the images serves advice, the linear head, the last group and ranking."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt
from keras_transfer.data.inputs import checked_loader
from keras_transfer.features.cache import cache as cache_module
from keras_transfer.features.one_pass import one_pass

pytest.importorskip("sklearn")
IMAGES = 24


@pytest.fixture
def data():
    x = np.random.default_rng(0).integers(0, 200, (IMAGES, 8, 8, 3), "uint8")
    y = np.arange(IMAGES) % 2
    x[y == 1] //= 3
    return x, y


@pytest.fixture
def rows(monkeypatch):
    """How many images networks have computed."""
    counted, predict = [], cache_module._predict

    def counting(compute, images):
        counted.append(len(images))
        return predict(compute, images)

    monkeypatch.setattr(cache_module, "_predict", counting)
    return counted


def backbone():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="block1_conv")(layers.Rescaling(1 / 255)(inputs))
    x = layers.Conv2D(6, 3, activation="relu", name="block2_conv")(x)
    x = layers.Conv2D(5, 3, name="block3_conv")(x)
    return keras.Model(inputs, x, name="small")


def classifier():
    return kt.classifier(backbone(), 2, preprocessing=False, seed=0)


def test_it_keeps_what_single_networks_give(data):
    model = classifier()
    loader = checked_loader(data, model, 8, "data")
    outer = model.get_layer("small")
    ends = [outer.get_layer(f"block{k}_conv").output for k in (1, 2, 3)]
    expected = keras.Model(outer.inputs, ends).predict(data[0], verbose=0)
    with one_pass(model, loader, None, 8, 0) as seen:
        assert list(seen.groups) == ["block1_conv", "block2_conv", "block3_conv"]
        for found, maps in zip(seen.groups.values(), expected, strict=True):
            np.testing.assert_allclose(found[:], maps.mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(seen.head[:], expected[2].mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(seen.labels, data[1])
        assert seen.cut == "block2_conv"
        found, labels = seen.behind_cut.samples(0, IMAGES)
        np.testing.assert_allclose(found, expected[1], rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(labels, data[1])
    with pytest.raises(ValueError, match="must be open"):
        seen.behind_cut.samples(0, 2)


def test_parts_are_known_apart(data, tmp_path):
    """Else what is computed of one would be taken for what is computed of another."""
    model = backbone()
    loader = kt.Loader(data, 8)
    network = keras.Model(model.inputs, layers.Flatten()(model.outputs[0]))
    _, kept = cache_module.features_of(kt.FeatureCache(network, tmp_path), loader, 8, None, 0)
    parts = [kept, *(kept.part(slice(start, start + 5), (5,)) for start in (0, 5))]
    assert len({part.fingerprint() for part in parts}) == 3
    kept.close()


def test_enough_images_need_no_cut(data):
    x, y = (np.concatenate([part] * 17) for part in data)
    model = classifier()
    with one_pass(model, checked_loader((x, y), model, 64, "data"), None, 64, 0) as seen:
        assert (seen.cut, seen.behind_cut) == (None, None)


def test_each_image_is_computed_once(data, rows, tmp_path):
    kt.automatic.train(classifier(), data, verbose=0, seed=3)
    assert sum(rows) == IMAGES


def test_what_is_kept_serves_all_that_ask(data, rows, tmp_path):
    """As `--dry-run`, `rank` and `train` of the command line do with one `--cache`."""
    folder = {"cache": tmp_path, "verbose": 0}
    model = classifier()
    plan = kt.automatic.propose(model, data, **folder)
    assert sum(rows) == IMAGES
    kt.advise(model, data, **folder)
    trained = kt.automatic.train(model, data, **folder)
    assert sum(rows) == IMAGES
    assert trained.plan.depths == plan.depths


def test_ranking_and_training_share_a_pass(data, rows, tmp_path):
    made = backbone()
    kt.rank_backbones({"small": made}, data, cache=tmp_path, verbose=0)
    model = kt.classifier(made, 2, image_size=8, seed=0)
    kt.automatic.train(model, data, cache=tmp_path, verbose=0)
    assert sum(rows) == IMAGES


def test_a_head_behind_the_last_group(data, rows):
    """Its Dense layer is given what the last group gives."""
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D(name="block1_pool")(
        layers.Conv2D(4, 3, name="block1_conv")(inputs)
    )
    model = keras.Model(inputs, layers.Dense(2, "softmax", name="predictions")(x))
    trained = kt.automatic.train(model, data, verbose=0)
    assert trained.scores[0].samples == IMAGES
    assert sum(rows) == IMAGES
