"""Which backbones have their ImageNet weights in Keras' cache, as Keras itself would find them."""

import hashlib
import os
import urllib.request

import keras
import numpy as np
import pytest
from families import APPLICATIONS, of_each_family
from initial_weights import numpy_initial_weights
from test_backbones import legacy_weights

import keras_transfer as kt
from keras_transfer._lib.keras_private.downloads import Asked
from keras_transfer.backbones import applications
from keras_transfer.backbones.applications import cached_sizes, find_backbone, plain_name

OF_160, OF_224 = (
    f"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_{size}_no_top.h5" for size in (160, 224)
)


class NoNetwork:
    """Opens nothing."""

    def open(self, *arguments, **named):
        raise AssertionError("something was fetched")


@pytest.fixture
def models(monkeypatch, tmp_path):
    """Return the folder models/ of an empty home of Keras', without a network."""
    monkeypatch.setattr(urllib.request, "_opener", NoNetwork())
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def listed():
    return [(row.name, row.input_size) for row in kt.list_backbones("cached")]


def test_without_a_folder_there_are_none(models):
    models.rmdir()
    assert listed() == []
    assert not models.exists()


def test_each_size_that_has_weights_of_its_own_can_be_built(models):
    with numpy_initial_weights():
        plain = keras.applications.MobileNetV2(
            include_top=False, weights=None, input_shape=(160, 160, 3)
        )
    weights = plain.get_weights()
    for size, name in ((160, OF_160), (224, OF_224)):
        plain.set_weights([np.full_like(each, 1 / size) for each in weights])
        legacy_weights(plain, models / name)
    assert listed() == [("MobileNetV2", 160), ("MobileNetV2", 224)]
    assert [row.parameters for row in kt.list_backbones("cached")] == 2 * [3_538_984]
    for name, size in listed():
        model = kt.classifier(name, 2, image_size=size)
        kernel = model.get_layer("Conv1").get_weights()[0]
        assert (kernel == np.float32(1 / size)).all()


def test_only_files_without_classifier_and_of_the_width_of_the_name_count(models):
    for name in (OF_160.replace("_no_top", ""), OF_160.replace("1.0", "0.5")):
        (models / name).touch()
    (models / "mobilenet_2_5_224_tf_no_top.h5").touch()
    (models / "vgg16_of_mine.h5").touch()
    assert listed() == []
    (models / OF_160).touch()
    assert listed() == [("MobileNetV2", 160)]


def test_a_file_that_keras_would_fetch_again_is_none(models):
    name = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    (models / name).write_bytes(b"half a download")
    assert listed() == []
    assert (models / name).exists()


def test_a_file_for_all_sizes_counts_once(models, monkeypatch):
    name = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"  # 50 pixels would do
    (models / name).write_bytes(b"weights")
    digest = hashlib.md5(b"weights").hexdigest()
    monkeypatch.setattr(applications, "first_asked", lambda act: Asked(models / name, digest))
    assert listed() == [("ResNet50", 224)]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_of_a_home_that_can_not_be_written_keras_reads_nothing(models):
    (models / OF_160).touch()
    models.parent.chmod(0o500)
    try:
        assert listed() == []
    finally:
        models.parent.chmod(0o700)


@pytest.mark.slow
@pytest.mark.parametrize("name", of_each_family(APPLICATIONS))
def test_names_of_files_have_that_of_the_backbone(models, name):
    """So that the others need not be built to know that they aren't there."""
    if (name, keras.backend.backend()) == ("NASNetMobile", "torch"):
        pytest.skip("Keras can't build it on torch")
    (row,) = (row for row in kt.list_backbones() if row.name == name)
    asked = applications._file_for(find_backbone(name), row.input_size)
    assert plain_name(name) in plain_name(asked.path.name)
    assert asked.path.parent == models
    asked.path.touch()
    there = [row.input_size] if asked.digest is None else []
    assert cached_sizes(find_backbone(name), row.input_size, row.smallest_input_size) == there


@pytest.mark.real_data
def test_those_that_are_there_are_built_without_a_network(real_data, monkeypatch):
    monkeypatch.setattr(urllib.request, "_opener", NoNetwork())
    found = listed()
    assert ("MobileNetV2", 224) in found
    for name, size in found:
        kt.classifier(name, 2, image_size=size)
