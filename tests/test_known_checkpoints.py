"""Vision transformers that are known by name."""

import pytest

import keras_transfer as kt
from keras_transfer._lib.keras_private.variables import undrawn
from keras_transfer.backbones.transformers import huggingface
from keras_transfer.backbones.transformers.known import known_checkpoint, list_checkpoints
from keras_transfer.models.catalogue import input_size, weights_licence

FAMILIES = {"vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "siglip", "clip", "swin"}


def test_are_of_all_families_and_tell_their_terms():
    rows = kt.list_backbones("transformers")
    assert {row.family for row in rows} == FAMILIES
    gated = {row.name for row in rows if row.gated}
    assert gated == {row.name for row in rows if row.name.startswith("dinov3") or "medsig" in row.name}
    for row in rows:
        own = huggingface.find_checkpoint(row.name)
        assert huggingface.load_preprocessing(own)[1] == (row.input_size, row.input_size)
    assert "accepted" in str(rows)


@pytest.mark.parametrize(
    "name", ["dinov2-small", "DINOv2_small", "hf://facebook/dinov2-small", "facebook/dinov2-small"]
)
def test_are_found_in_any_spelling(name):
    assert known_checkpoint(name).repository == "facebook/dinov2-small"
    checkpoint = huggingface.find_checkpoint(name)
    assert checkpoint.source == "hf://facebook/dinov2-small"
    assert checkpoint.config.image_size == (518, 518)  # of its table of positions
    assert input_size(name) == 224
    assert weights_licence(name) == "Apache-2.0; see https://huggingface.co/facebook/dinov2-small."


def test_satellite_images_have_statistics_of_their_own():
    photos, satellites = (
        huggingface.load_preprocessing(huggingface.find_checkpoint(f"dinov3-vitl16-pretrain-{kind}"))[0]
        for kind in ("lvd1689m", "sat493m")
    )
    assert str(photos) == "(pixel - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)"
    assert str(satellites) == "(pixel - (109.65, 104.805, 75.48)) / (54.315, 39.78, 36.465)"
    assert "accept it at https://huggingface.co/facebook/dinov3-vitl16-pretrain-sat493m first" in (
        weights_licence("dinov3_vitl16_pretrain_sat493m")
    )


def test_parameters_are_those_of_the_network():
    (row,) = (row for row in list_checkpoints() if row.parameters < 7_000_000)
    with undrawn():
        model = kt.classifier(row.name, 2, weights=None)
    head = model.get_layer("predictions")
    assert model.count_params() - head.count_params() == row.parameters
    assert head.kernel.shape[0] == 2 * 192  # both tokens of the class
    assert kt.layer_groups(model)[-2].name == "block12"


def test_near_names_are_proposed():
    with pytest.raises(
        ValueError, match=r"no backbone called 'dinov2_smal' .*did you mean dinov2-small"
    ):
        kt.classifier("dinov2_smal", 2)
