#!/usr/bin/env bash
# A Resizing layer in a Keras model makes a plain call of the model train.
#
# Expected: `model(x)` is inference unless training=True is said: batch norm gives what `predict` gives, and its
# statistics stay. Resizing has no weights and does the same in both modes, so it should change nothing of that.
# What happens (Keras 3.15.1): `Resizing.call` has training=True as its default, where other layers have None. In a
# functional model nobody has said anything, the default is taken, and it becomes the mode of all calls behind
# it: batch norm behind a Resizing normalises by the batch and moves its statistics. `predict` says training=False
# and is right, as is a model that begins with Rescaling.
# Where it matters: your own evaluation loops, explanations of predictions, and exporters that trace `model(x)`,
# of any model that resizes images inside.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 torch==2.13.0 numpy==2.4.6
export KERAS_HOME=$folder/keras KERAS_BACKEND=torch
"$folder/venv/bin/python" - <<'PYTHON'
import keras
import numpy as np

print("Keras", keras.__version__)
x = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype("float32")


def looked_at(first, **options):
    """Return how far a call is from `predict`, and how far it moves the statistics of batch norm."""
    inputs = keras.Input((8, 8, 3))
    norm = keras.layers.BatchNormalization()
    model = keras.Model(inputs, norm(first(inputs, **options)))
    predicted, before = model.predict(x, verbose=0), keras.ops.convert_to_numpy(norm.moving_mean).copy()
    called = keras.ops.convert_to_numpy(model(x))
    after = keras.ops.convert_to_numpy(norm.moving_mean)
    return float(np.abs(called - predicted).max()), float(np.abs(after - before).max())


found = {
    "Rescaling": looked_at(keras.layers.Rescaling(1.0)),
    "Resizing": looked_at(keras.layers.Resizing(4, 4)),
    "Resizing, training=False": looked_at(keras.layers.Resizing(4, 4), training=False),
}
for name, (off, moved) in found.items():
    print(f"{name}: off by {off:.3g}, statistics moved by {moved:.3g}")
assert found["Rescaling"] == (0.0, 0.0)
assert found["Resizing, training=False"] == (0.0, 0.0)
off, moved = found["Resizing"]
assert off > 10 and moved > 0.1, "a Resizing no longer makes a call a training"
PYTHON
