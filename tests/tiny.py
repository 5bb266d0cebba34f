"""Small backbones and a task that they can learn.

Tests that need some network take these, so that JAX compiles their programs once in a run.
"""

import keras
import numpy as np


def tiny_backbone(name="tiny"):
    """Two convolutional blocks, the second with batch norm; 16-pixel images."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="block1_conv1")(x)
    x = keras.layers.MaxPooling2D(name="block1_pool")(x)
    x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="block2_conv1")(x)
    x = keras.layers.BatchNormalization(name="block2_bn")(x)
    x = keras.layers.ReLU(name="block2_relu")(x)
    return keras.Model(inputs, x, name=name)


def smooth_backbone(size=16):
    """Return a backbone in which rounding decides nothing, for comparing backends and devices.

    That is one without ReLU and maximum, which have ties, and without biases before batch norm, whose
    gradients are 0 but for rounding, of which Adam makes steps as long as all others.
    """
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(inputs)
    for block in (1, 2):
        x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"block{block}_conv1")(x)
        x = keras.layers.BatchNormalization(name=f"block{block}_bn")(x)
        x = keras.layers.Activation("tanh", name=f"block{block}_tanh")(x)
        x = keras.layers.AveragePooling2D(2, name=f"block{block}_pool")(x)
    return keras.Model(inputs, x, name="smooth")


def tiny_task(samples=48, seed=0):
    """Noise that is bright in one of three colours."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (samples, 16, 16, 3), dtype="uint8")
    labels = np.arange(samples, dtype="int32") % 3
    for image, label in zip(images, labels, strict=True):
        image[..., label] += 100
    return images, labels


def variables(model):
    """Return copies of all variables."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]


def same(first, second):
    """Whether two lists of arrays are equal bit for bit."""
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def tiny_transformer(multi_head=False, classes=3, name="transformer", blocks=2):
    """Blocks of width 16 on four patches; attention of Dense layers, or Keras' own."""
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, -1.0)(inputs)
    x = layers.Conv2D(16, 8, strides=8, name="stem_patches")(x)
    x = layers.Reshape((4, 16), name="stem_tokens_in_a_row")(x)
    places = keras.ops.cumsum(keras.ops.ones_like(x[:, :, 0], "int32"), axis=1) - 1
    x = layers.Add(name="stem_add")([x, layers.Embedding(4, 16, name="stem_positions")(places)])
    for block in (f"block{number + 1}" for number in range(blocks)):
        y = layers.LayerNormalization(name=f"{block}_norm1")(x)
        if multi_head:
            y = layers.MultiHeadAttention(2, 8, name=f"{block}_attention")(y, y)
        else:
            parts = ("query", "value", "key")
            y = [layers.Dense(16, name=f"{block}_attention_{part}")(y) for part in parts]
            y = layers.Attention(name=f"{block}_attention")(y)
            y = layers.Dense(16, name=f"{block}_attention_output")(y)
        x = layers.Add(name=f"{block}_add1")([x, y])
        y = layers.LayerNormalization(name=f"{block}_norm2")(x)
        y = layers.Dense(32, activation="gelu", name=f"{block}_dense1")(y)
        x = layers.Add(name=f"{block}_add2")([x, layers.Dense(16, name=f"{block}_dense2")(y)])
    x = layers.GlobalAveragePooling1D(name="pool")(layers.LayerNormalization(name="norm")(x))
    return keras.Model(inputs, layers.Dense(classes, "softmax", name="predictions")(x), name=name)
