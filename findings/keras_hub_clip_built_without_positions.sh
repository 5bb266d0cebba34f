#!/usr/bin/env bash
# KerasHub's CLIP for images, built and not loaded, gives each patch the position of the first.
#
# Expected: an encoder that is built with random weights, to be trained, knows where its patches are, as that of
# SigLIP in the same package does: exchanging two patches changes more than the order of its tokens.
# What happens (keras-hub 0.32.0): `CLIPVisionEncoder` keeps the numbers of the positions in a weight, `position_ids`,
# which doesn't train, begins at 0 and is filled by the files of presets alone. Without a file each patch looks up
# position 0: exchanged patches give exchanged tokens, whatever the table of positions holds or learns.
# Where it matters: CLIP trained from scratch, small ones in tests, and weights that are copied by hand: write
# 0, 1, 2, ... into `position_ids` first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras-hub==0.32.0 keras==3.15.1 tensorflow==2.21.0 tensorflow-text==2.21.1 numpy==2.4.6
export KERAS_HOME=$folder/keras KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import keras
import keras_hub
import numpy as np

print("Keras", keras.__version__, "KerasHub", keras_hub.__version__)
rng = np.random.default_rng(0)
images = rng.normal(size=(1, 32, 32, 3)).astype("float32")
exchanged = images.copy()  # the first two of four patches
exchanged[:, :16, :16], exchanged[:, :16, 16:] = images[:, :16, 16:], images[:, :16, :16]


def encoder(kind):
    """Return a small encoder of images whose weights that train are random."""
    made = getattr(keras_hub.models, f"{kind}VisionEncoder")(
        patch_size=16, hidden_dim=8, num_layers=2, num_heads=2, intermediate_dim=16, image_shape=(32, 32, 3)
    )
    for weight in made.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    return made


def moved(model):
    """Return by how much exchanging two patches changes what stays in place, as a part of it."""
    found = [keras.ops.convert_to_numpy(model({"images": each}, training=False)) for each in (images, exchanged)]
    one, other = (each[:, -2:] if each.ndim == 3 else each for each in found)  # SigLIP gives one vector
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


clip, siglip = encoder("CLIP"), encoder("SigLIP")
(numbers,) = (w for w in clip.weights if w.path.endswith("position_ids"))
print("CLIP's position_ids:", keras.ops.convert_to_numpy(numbers).tolist(), "trainable:", numbers.trainable)
before = moved(clip)
numbers.assign(np.arange(numbers.shape[1])[None])
after = moved(clip)
print(f"CLIP as it is built: {before:.1e}, with positions: {after:.1e}, SigLIP: {moved(siglip):.1e}")
assert not numbers.trainable
assert before < 1e-6 < 1e-3 < after
assert moved(siglip) > 1e-3
PYTHON
