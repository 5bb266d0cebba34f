#!/usr/bin/env bash
# One would expect that `fit` traces a training step once, as all layers are built when the model is.
# On TensorFlow Keras makes the variables of the optimizer and of the metrics inside the traced step, and
# tf.function traces a step that has made variables a second time, forward pass, gradients and update.
# On JAX and torch Keras makes them before. `optimizer.build(...)` alone does not help: the metrics have
# variables, too; where `evaluate` has made these, it does.
# It matters where a training has several phases, each compiled anew: each pays for two traces.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0

cat > "$folder/count.py" <<'PYTHON'
import keras
import numpy as np
import tensorflow as tf

print("keras", keras.__version__, "tensorflow", tf.__version__)


class Counts(keras.layers.Layer):
    """Passes on what comes in and counts how often Python runs it, which is when it is traced."""

    calls = 0

    def call(self, x):
        Counts.calls += 1
        return x


def traces(prepare):
    x, y = np.ones((8, 4), "float32"), np.arange(8) % 2
    outputs = keras.layers.Dense(2, activation="softmax")(Counts()(keras.Input((4,))))
    model = keras.Model(keras.utils.get_source_inputs(outputs), outputs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    prepare(model, x, y)
    Counts.calls = 0
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    return Counts.calls


def optimizer(model, x, y):
    model.optimizer.build(model.trainable_variables)


def both(model, x, y):
    optimizer(model, x, y)
    model.evaluate(x, y, verbose=0)


found = {
    "as compiled": traces(lambda *_: None),
    "optimizer built": traces(optimizer),
    "optimizer and metrics built": traces(both),
}
print(found)
assert found == {"as compiled": 2, "optimizer built": 2, "optimizer and metrics built": 1}
PYTHON
KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/count.py" 2>/dev/null
