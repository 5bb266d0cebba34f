"""`kt.export`: what each format predicts, from each backend it can be written from."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt
from keras_transfer.saving import exporting
from keras_transfer.saving.exporting import FORMATS

BACKEND = keras.backend.backend()
POSSIBLE = [name for name, each in FORMATS.items() if BACKEND in each.packages]


@pytest.fixture
def model():
    """Return a classifier whose predictions differ from image to image."""
    keras.utils.set_random_seed(0)
    image = keras.Input((64, 64, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(image)
    x = layers.ReLU(max_value=6.0)(layers.BatchNormalization()(x))
    x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same", activation="swish")(x)])
    base = keras.Model(image, layers.Conv2D(16, 1, activation="relu")(x))
    model = kt.classifier(base, 3, preprocessing=layers.Rescaling(1 / 127.5, -1.0))
    kernel, bias = model.get_layer("predictions").get_weights()
    model.get_layer("predictions").set_weights([10 * kernel, bias])
    return model


@pytest.fixture
def images(rng):
    brightness = np.array([0.1, 0.4, 0.7, 1.0])[:, None, None, None]
    return (brightness * rng.integers(0, 256, (4, 64, 64, 3))).astype("float32")


def predicted(path, format, images):
    """Return the predictions of a file, by what runs it without Keras."""
    match format:
        case "tf_saved_model":
            loaded = pytest.importorskip("tensorflow").saved_model.load(str(path))
            return np.asarray(loaded.serve(images))
        case "onnx":
            session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
            return session.run(None, {session.get_inputs()[0].name: images})[0]
        case "openvino":
            core = pytest.importorskip("openvino").Core()
            exactly = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors have bfloat16
            return core.compile_model(str(path), "CPU", exactly)(images)[0]
        case "litert":
            lite = pytest.importorskip("tensorflow").lite.Interpreter(str(path))
            given, made = lite.get_input_details()[0]["index"], lite.get_output_details()[0]["index"]
            lite.resize_tensor_input(given, images.shape)
            lite.allocate_tensors()
            lite.set_tensor(given, images)
            lite.invoke()
            return lite.get_tensor(made)
        case "torch":
            torch = pytest.importorskip("torch")
            return torch.export.load(path).module()(torch.tensor(images)).detach().numpy()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what runs the files
@pytest.mark.parametrize("format", POSSIBLE)
def test_what_is_written_predicts_the_same(format, model, images, tmp_path, monkeypatch):
    for package in FORMATS[format].packages[BACKEND]:
        pytest.importorskip(package)
    monkeypatch.setattr(exporting, "_own_onnx", lambda model: None)  # Keras' own
    path = kt.export(model, tmp_path / f"model{FORMATS[format].suffix}", format)
    wanted = model.predict(images, verbose=0)
    assert np.ptp(wanted, axis=0).max() > 0.01
    for number in (4, 1):
        np.testing.assert_allclose(predicted(path, format, images[:number]), wanted[:number], atol=1e-5)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what runs the files
def test_a_layer_that_trains_by_default_makes_no_training_of_it(images, tmp_path):
    """Keras' `Resizing` does, of all that comes after it; see findings/."""
    format = "torch" if BACKEND == "torch" else "tf_saved_model"
    for package in FORMATS[format].packages[BACKEND]:
        pytest.importorskip(package)
    image = keras.Input((64, 64, 3))
    x = layers.Conv2D(8, 3)(layers.Rescaling(1 / 127.5, -1.0)(layers.Resizing(32, 32)(image)))
    model = kt.classifier(keras.Model(image, layers.BatchNormalization()(x)), 3)
    path = kt.export(model, tmp_path / f"model{FORMATS[format].suffix}", format)
    wanted = model.predict(images, verbose=0)
    assert np.ptp(wanted, axis=0).max() > 0.01
    np.testing.assert_allclose(predicted(path, format, images), wanted, atol=1e-4)


@pytest.mark.parametrize("format", sorted(FORMATS.keys() - set(POSSIBLE)))
def test_another_backend_is_named(format, model, tmp_path):
    with pytest.raises(ValueError, match=rf"from the backend '{BACKEND}'.*set KERAS_BACKEND="):
        kt.export(model, tmp_path / "model", format)
    assert not list(tmp_path.iterdir())


def test_onnx_is_written_from_known_layers_on_each_backend(model, images, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    monkeypatch.setattr(keras.Model, "export", None)  # Keras has no part in it
    path = kt.export(model, tmp_path / "model.onnx", "onnx")
    wanted = model.predict(images, verbose=0)
    for number in (4, 1):
        np.testing.assert_allclose(predicted(path, "onnx", images[:number]), wanted[:number], atol=1e-5)
    graph = onnx.load(path).graph
    onnx.checker.check_model(str(path))
    assert [each.name for each in (*graph.input, *graph.output)] == ["image", "softmax"]
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_onnx_that_computes_something_else_is_not_written(model, monkeypatch):
    runtime = pytest.importorskip("keras_transfer.inference.onnx_runtime")
    assert exporting._own_onnx(model) is not None
    monkeypatch.setattr(runtime, "TOLERANCE", 1e-12)
    assert exporting._own_onnx(model) is None


def test_a_package_that_is_missing_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_own_onnx", lambda model: None)
    monkeypatch.setitem(FORMATS, "onnx", exporting.Format(".onnx", {BACKEND: ("no_such_package",)}))
    with pytest.raises(ImportError, match=r"no_such_package: pip install 'keras-transfer\[export\]'"):
        kt.export(model, tmp_path / "model.onnx", "onnx")


def test_a_package_of_no_extra_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_own_onnx", lambda model: None)
    monkeypatch.setitem(FORMATS, "onnx", exporting.Format(".onnx", {BACKEND: ("jax2onnx",)}))
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnx needs jax2onnx: pip install jax2onnx$"):
        kt.export(model, tmp_path / "model.onnx", "onnx")


def test_what_keras_cannot_export_leaves_nothing(model, tmp_path, monkeypatch):
    def export(self, path, **options):
        with open(path, "w") as file:
            file.write("half")
        raise RuntimeError("no such operation")

    monkeypatch.setattr(keras.Model, "export", export)
    monkeypatch.setitem(FORMATS, "torch", exporting.Format(".pt2", {BACKEND: ()}))
    monkeypatch.setattr(exporting, "_options", lambda format: {})
    with pytest.raises(ValueError, match="no such operation"):
        kt.export(model, tmp_path / "model.pt2", "torch")
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_replaced_unless_that_is_forbidden(model, tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    path.write_text("mine")
    monkeypatch.setattr(keras.Model, "export", lambda self, path, **options: open(path, "w").close())
    monkeypatch.setitem(FORMATS, "torch", exporting.Format(".pt2", {BACKEND: ()}))
    monkeypatch.setattr(exporting, "_options", lambda format: {})
    with pytest.raises(ValueError, match="must be free"):
        kt.export(model, path, "torch", overwrite=False)
    assert path.read_text() == "mine"
    assert kt.export(model, path, "torch") == path
    assert path.read_text() == ""


def test_a_format_that_does_not_exist(model, tmp_path):
    with pytest.raises(ValueError, match="did you mean onnx"):
        kt.export(model, tmp_path / "model.onnx", "onyx")
