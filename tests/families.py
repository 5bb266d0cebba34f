"""The models of `keras.applications`: one of each family at each push, all in the night."""

import inspect

import keras
import pytest

APPLICATIONS = sorted(
    name for name, made in vars(keras.applications).items() if inspect.isfunction(made)
)
# The smallest of each family.
FIRST = {
    *("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionV3"),
    *("MobileNet", "MobileNetV2", "MobileNetV3Small", "NASNetMobile"),
    *("ResNet50", "ResNet50V2", "VGG16", "Xception"),
}


def of_each_family(names):
    """Return names as parameters of a test; those that are not the first of their family are nightly."""
    return [pytest.param(name, marks=() if name in FIRST else pytest.mark.nightly) for name in names]
