"""The work of a forward pass, against counts by hand."""

import keras
from keras import layers

from keras_transfer.layers.graph import multiplications


def test_kernels_times_places():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)  # 8 x 8 places
    x = layers.BatchNormalization()(x)  # no kernel
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)  # 4 x 4 places
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(5)(x))
    assert multiplications(model) == 64 * 3 * 3 * 3 * 4 + 16 * 3 * 3 * 4 + 4 * 5


def test_nested_models_and_layers_that_are_called_twice():
    dense = layers.Dense(4)
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    inputs = keras.Input((4,))
    assert multiplications(keras.Model(inputs, dense(inner(dense(inputs))))) == 3 * 16


def test_unknown_sizes_count_once():
    inputs = keras.Input((None, None, 3))
    assert multiplications(keras.Model(inputs, layers.Conv2D(2, 1)(inputs))) == 6
