"""Saved models open in stock Keras, on the other backends, without this package."""

from pathlib import Path

import keras
import numpy as np
import pytest
from processes import each_backend, others, require, run_alone
from weights import assign_weights

import keras_transfer as kt


def _nested():
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, name="block1_conv1")(inputs)
    x = keras.layers.BatchNormalization(name="block1_bn")(x)
    backbone = keras.Model(inputs, x, name="mine")
    return kt.classifier(backbone, 4, preprocessing=keras.layers.Rescaling(1 / 255))


def _named(name, **arguments):
    names = ["ant", "bee", "<script>", "\u00e9t\u00e9"]
    return kt.classifier(name, 4, image_size=32, weights=None, class_names=names, **arguments)


MODELS = {
    "vgg16": lambda: _named("vgg16", pooling="flatten", hidden_units=(16,), dropout=0.3),
    "mobilenet_v2": lambda: _named("mobilenet_v2", pooling="max"),
    "nested": _nested,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Save each model from this backend, fine-tuned for a step; return the folder and predictions."""
    folder = tmp_path_factory.mktemp("saved")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 32, 32, 3)).astype("float32")
    np.save(folder / "images.npy", images)
    predictions = {}
    for name, build in MODELS.items():
        model = build()
        assign_weights(model)
        head = model.get_layer("predictions")
        logits = keras.Model(model.inputs, head.output).predict(images, verbose=0)
        head.kernel.assign(keras.ops.convert_to_numpy(head.kernel) / logits.std(axis=0).max())
        head.bias.assign(-logits.mean(axis=0) / logits.std(axis=0).max())
        predictions[name] = model.predict(images, verbose=0)
        assert predictions[name].std(axis=0).max() > 0.05  # they depend on the image
        model.save(folder / f"{name}.keras")
    # What fine_tune writes.
    kt.fine_tune(
        model,
        (images, np.arange(5) % 4),
        phases=[kt.Phase("head", 1)],
        output=folder / "run",
        verbose=0,
    )
    (folder / "run" / "model.keras").rename(folder / "fine_tuned.keras")
    predictions["fine_tuned"] = model.predict(images, verbose=0)
    return folder, predictions


@pytest.mark.slow
@pytest.mark.parametrize("backend", each_backend())
def test_opens_in_stock_keras(saved, backend):
    require(backend)
    folder, predictions = saved
    if backend not in others():
        for name, expected in predictions.items():
            loaded = keras.models.load_model(folder / f"{name}.keras", safe_mode=True)
            np.testing.assert_array_equal(
                loaded.predict(np.load(folder / "images.npy"), verbose=0), expected
            )
        return
    packages = Path(keras.__file__).parents[1]
    files = [folder / f"{name}.keras" for name in predictions]
    run_alone(backend, "stock_predict.py", packages, folder / "images.npy", *files, options=("-I", "-S"))
    for name, expected in predictions.items():
        found = np.load(folder / f"{name}.{backend}.npy")
        assert np.abs(found - expected).max() < 1e-5, name
    assert kt.class_names(folder / "vgg16.keras")[2:] == ["<script>", "\u00e9t\u00e9"]
