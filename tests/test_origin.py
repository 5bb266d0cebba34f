"""Where the weights of a model come from stays with it."""

import json
import zipfile

import keras
import pytest

import keras_transfer as kt
from keras_transfer.layers.about import Origin, origin_of
from keras_transfer.models.ensembles import mean_of_predictions

SIZE = 32
SHAPE = (SIZE, SIZE, 3)


@pytest.fixture(scope="module")
def model():
    return kt.classifier("mobilenet", 2, image_size=SIZE, weights=None, class_names=["a", "b"])


def test_of_a_backbone_by_name(model, tmp_path):
    assert origin_of(model) == Origin("MobileNet", "random")
    body = keras.applications.MobileNet(include_top=False, weights=None, input_shape=SHAPE)
    body.save_weights(tmp_path / "my.weights.h5")
    made = kt.classifier("mobilenet", 2, image_size=SIZE, weights=tmp_path / "my.weights.h5")
    assert origin_of(made) == Origin("MobileNet", "file: my.weights.h5")
    assert origin_of(kt.classifier(body, 2)) is None


def test_survives_saving_and_a_new_head(model, tmp_path):
    model.save(tmp_path / "model.keras")
    assert origin_of(tmp_path / "model.keras") == Origin("MobileNet", "random")
    loaded = kt.load_model(tmp_path / "model.keras")
    assert origin_of(loaded) == Origin("MobileNet", "random")
    assert kt.class_names(loaded) == ["a", "b"]
    replaced = kt.replace_head(loaded, 5)
    assert origin_of(replaced) == Origin("MobileNet", "random")
    assert kt.class_names(replaced) is None


def test_is_in_the_file_of_a_run(model, tmp_path, rng):
    data = rng.integers(0, 256, (4, *SHAPE), "uint8"), [0, 1, 0, 1]
    kt.fine_tune(model, data, phases=[kt.Phase("head", 1)], output=tmp_path, verbose=0)
    assert origin_of(tmp_path / "model.keras") == Origin("MobileNet", "random")
    assert kt.class_names(tmp_path / "model.keras") == ["a", "b"]


@pytest.mark.parametrize("content", ["[]", '{"backbone": "x"}', '{"backbone": 1, "weights": "x"}', "{"])
def test_a_damaged_one_is_told(model, tmp_path, content):
    model.save(tmp_path / "model.keras")
    with (
        zipfile.ZipFile(tmp_path / "model.keras") as source,
        zipfile.ZipFile(tmp_path / "damaged.keras", "w") as target,
    ):
        for name in source.namelist():
            target.writestr(name, content if name == "assets/origin.json" else source.read(name))
    with pytest.raises(ValueError, match="can't read the origin of the weights.*Received: model="):
        kt.load_model(tmp_path / "damaged.keras")


def test_the_file_is_plain_json(model, tmp_path):
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        content = json.loads(archive.read("assets/origin.json"))
    assert content == {"backbone": "MobileNet", "weights": "random"}


def test_a_calibration_is_not_handed_on(model):
    """It holds for the weights of the model it was found for, and for no mean of several."""
    kt.calibration.attach_calibration(model, kt.calibration.Calibration(1.0, 0.2, 0.9, 500))
    mean = mean_of_predictions(model, [model.get_weights()])
    kt.calibration.forget_calibration(model)
    assert kt.calibration.of(mean) is None
    assert kt.class_names(mean) == ["a", "b"]
    assert origin_of(mean) == Origin("MobileNet", "random")
