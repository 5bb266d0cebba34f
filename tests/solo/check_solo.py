"""Use the package where one backend and no extra is installed; run by `nox -s solo`, without pytest."""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

BACKENDS = {"tensorflow", "torch", "jax"}
EXTRAS = {
    "cv2",
    "keras_hub",
    "matplotlib",
    "PIL",
    "ray",
    "simplejpeg",
    "sklearn",
    "tensorflow_datasets",
    "typer",
}

backend = os.environ["KERAS_BACKEND"]
present = {name for name in BACKENDS | EXTRAS if find_spec(name) is not None}
assert present == {backend}, f"this environment should have {backend} only, but has {present}"

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_transfer as kt  # noqa: E402

assert keras.backend.backend() == backend


def import_error(call):
    """Return what the ImportError of `call` says, or "" if there is none."""
    try:
        call()
    except ImportError as error:
        return str(error)
    return ""


keras.utils.set_random_seed(0)
inputs = keras.Input((16, 16, 3))
x = keras.layers.Conv2D(4, 3, activation="relu", name="block1_conv1")(inputs)
x = keras.layers.Conv2D(8, 3, activation="relu", name="block2_conv1")(x)
backbone = keras.Model(inputs, x)
rng = np.random.default_rng(0)
images = rng.integers(0, 100, (48, 16, 16, 3), dtype="uint8")
labels = np.arange(48) % 3
for image, label in zip(images, labels, strict=True):
    image[..., label] += 100

model = kt.classifier(backbone, 3, preprocessing=keras.layers.Rescaling(1 / 255), seed=0)
before = model.get_weights()
phases = [
    kt.Phase("head", 12, learning_rate=0.03),
    kt.Phase("block2", 8, train="from:block2_conv1", learning_rate=0.01),
]
data = (images, labels)
message = import_error(lambda: kt.fine_tune(model, data, phases=phases, output="never", verbose=0))
assert "pip install 'keras-transfer[plots]'" in message, message
assert not Path("never").exists()
assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
message = import_error(lambda: kt.Loader(data, image_size=8)[0])
assert "pip install 'keras-transfer[data]'" in message, message
message = import_error(lambda: kt.Loader(data, augmentation="standard"))
assert "pip install 'keras-transfer[data]'" in message, message
message = import_error(lambda: kt.features.extract(backbone, data, "never", engine="ray"))
assert "pip install 'keras-transfer[ray]'" in message, message
message = import_error(lambda: kt.fit_linear_head(model, data))
assert "pip install 'keras-transfer[probe]'" in message, message

result = kt.fine_tune(model, data, data, phases, batch_size=8, augmentation="light", verbose=2)
scores = model.evaluate(images, labels, verbose=0, return_dict=True)
assert scores["accuracy"] > 0.8, scores
with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder, "model.keras"))
    loaded = keras.models.load_model(Path(folder, "model.keras"))
difference = np.abs(loaded.predict(images, verbose=0) - model.predict(images, verbose=0)).max()
assert difference < 1e-6, difference
print(f"solo {backend}: ok, 1 job passed, accuracy {scores['accuracy']:.2f}")
