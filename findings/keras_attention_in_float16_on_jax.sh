#!/usr/bin/env bash
# Attention of Keras in mixed_float16 raises on JAX on a processor, where dense layers and convolutions don't.
#
# Expected: a policy works for all layers on a device, or for none. On a processor, JAX computes dense layers and
# convolutions in float16, slowly; so do TensorFlow and PyTorch with attention.
# What happens (Keras 3.15.1, JAX 0.10.2): `MultiHeadAttention` asks `jax.nn.dot_product_attention`, which wants
# products of float16 summed in float32, and XLA's runtime for processors has no such product: predict raises.
# With mixed_bfloat16 the same call works.
# Where it matters: tests on a laptop of what runs on GPUs in mixed_float16; use mixed_bfloat16 there, or float32.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2 numpy==2.4.6
export KERAS_HOME=$folder/keras KERAS_BACKEND=jax JAX_PLATFORMS=cpu
"$folder/venv/bin/python" - <<'PYTHON'
import jax
import keras
import numpy as np

print("Keras", keras.__version__, "JAX", jax.__version__)
x = np.random.default_rng(0).normal(size=(2, 4, 8)).astype("float32")


def outcome(policy, build):
    """Return what predict does with a layer in a policy."""
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((4, 8))
    try:
        keras.Model(inputs, build(inputs)).predict_on_batch(x)
    except Exception as error:
        return f"raises {type(error).__name__}: {str(error)[:90]}"
    return "works"


def attention(inputs):
    return keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)


found = {
    (policy, name): outcome(policy, build)
    for policy in ("mixed_float16", "mixed_bfloat16")
    for name, build in (("dense", keras.layers.Dense(4)), ("attention", attention))
    if not (name == "dense" and policy == "mixed_bfloat16")
}
for (policy, name), what in found.items():
    print(f"{name} in {policy} {what}")
assert found["mixed_float16", "dense"] == "works"
assert "F16_F16_F32" in found["mixed_float16", "attention"]
assert found["mixed_bfloat16", "attention"] == "works"
PYTHON
