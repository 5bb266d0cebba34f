"""Small data sets, networks and plans for automatic training."""

from dataclasses import replace

import keras
import numpy as np
from keras import layers

import keras_transfer as kt
from keras_transfer.results.automatic import Depth
from keras_transfer.runs import automatic
from keras_transfer.runs.automatic import LAST_GROUP

SHAPE = (8, 8, 3)


def colours(count=40, noise=60, seed=0):
    """Images of two classes that the mean of a colour tells apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = rng.uniform(0, noise, (count, *SHAPE))
    x[np.arange(count), :, :, 2 * y] += 60
    return x.astype("uint8"), y


def stripes(count=120, seed=0):
    """Images of two classes of the same colours: stripes down or across."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    pattern = np.indices((8, 8))
    x = np.stack([255 * (pattern[k] % 2) for k in y])[..., None] * np.ones(3)
    return np.clip(x + rng.normal(0, 20, x.shape), 0, 255).astype("uint8"), y


def classifier(seed=1):
    """Return a small network in two blocks, in which only averages of colours get to the head."""
    inputs = keras.Input(SHAPE)
    x = layers.Rescaling(1 / 255)(inputs)
    for name, size in (("block1_conv", 1), ("block2_conv", 3)):
        layer = layers.Conv2D(8, size, activation="relu", name=name)
        x = layer(x)
        # The same on each backend; the larger kernel averages.
        rows, columns = layer.kernel.shape[2:]
        weights = np.random.default_rng(seed).normal(0, 1 / rows**0.5, (1, 1, rows, columns))
        layer.kernel.assign(np.broadcast_to(weights / size**2, layer.kernel.shape))
    base = keras.Model(inputs, x, name="base")
    return kt.classifier(base, 2, seed=0, class_names=["one", "two"])


def values(model):
    """Return copies of all weights."""
    return [keras.ops.convert_to_numpy(v).copy() for v in model.variables]


def plan_of(model, data, name=LAST_GROUP, epochs=6, find=False, tries=1):
    """Return a plan that tries one depth beside the linear head, in so many of three folds."""
    proposed = automatic.propose(model, data, verbose=0)
    at, factor, rate = ("block1_conv", 3.0, 0.1) if name == LAST_GROUP else (None, 1.0, 0.03)
    depths = (proposed.depths[0], Depth(name, at, epochs, rate, "to see", factor, find))
    return replace(proposed, depths=depths, folds=3, tries=tries)


def assert_equal(ones, others):
    """Assert that arrays are equal, one by one."""
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_array_equal(one, other)
