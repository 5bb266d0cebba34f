"""Backbones of KerasHub, from presets that the tests write themselves: ResNet-18 and small ones."""

import json
import re
import shutil
import subprocess
import sys
import time
import zipfile

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights

import keras_transfer as kt
from keras_transfer._lib import network
from keras_transfer.backbones import hub
from keras_transfer.backbones.hub import last_map

keras_hub = pytest.importorskip("keras_hub")

# The configuration of KerasHub's preset resnet_18_imagenet.
RESNET_18 = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 128, 256, 512],
    "stackwise_num_blocks": [2, 2, 2, 2],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "basic_block",
}
SMALL = RESNET_18 | {
    "stackwise_num_filters": [64, 8],
    "stackwise_num_blocks": [1, 1],
    "stackwise_num_strides": [1, 2],
}
TRANSFORMERS = "ViT", "DeiT", "DINOV2 with registers", "DINOV3, gated", "CLIP", "SigLIP", "Swin"
FURTHER = "DINOV2", "DINOV3"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module", autouse=True)
def _quick_weights():
    with numpy_initial_weights():
        yield


def save_preset(folder, backbone, image_size=(40, 48)):
    """Write a preset whose weights are no zeros and ones, so that every one shows."""
    rng = np.random.default_rng(0)
    for variable in backbone.variables:
        if len(variable.shape) < 2:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape).astype("float32"))
    backbone.save_to_preset(folder)
    if image_size is not None:
        name = type(backbone).__name__.replace("Backbone", "ImageConverter")
        scale, offset = (1 / 255 / STD).tolist(), (-MEAN / STD).tolist()
        converter = getattr(keras_hub.layers, name)(image_size=image_size, scale=scale, offset=offset)
        converter.save_to_preset(folder)
    return folder


def transformer_of_keras_hub(kind):
    """Return a small transformer of KerasHub, with other weights than zeros and ones everywhere."""
    models, family = keras_hub.models, kind.partition(" ")[0].rstrip(",")
    shape = {"image_shape": (32, 32, 3), "num_layers": 2, "num_heads": 2, "hidden_dim": 8}
    if kind == "Swin":
        made = swin_of_keras_hub()
    elif family == "DINOV2":
        registers = 3 if "registers" in kind else 0
        more = {"patch_size": 16, "intermediate_dim": 16, "num_register_tokens": registers}
        made = models.DINOV2Backbone(**shape, **more, position_embedding_shape=(32, 32, 3))
    elif family == "DINOV3":
        more = {"use_gated_mlp": True, "hidden_activation": "silu"} if "gated" in kind else {}
        more["use_key_bias"] = False
        made = models.DINOV3Backbone(patch_size=16, intermediate_dim=12, **shape, **more)
    elif kind in ("CLIP", "SigLIP"):
        encoder = getattr(models, f"{kind}VisionEncoder")
        images = encoder(patch_size=16, intermediate_dim=12, **shape)
        texts = dict(zip(("vocabulary_size", "embedding_dim", "hidden_dim"), (9, 8, 8), strict=True))
        texts |= {"num_layers": 1, "num_heads": 1, "intermediate_dim": 8}
        if kind == "CLIP":
            text = models.CLIPTextEncoder(max_sequence_length=4, **texts)
            made = models.CLIPBackbone(images, text, projection_dim=8)
        else:
            text = models.SigLIPTextEncoder(max_sequence_length=4, projection_dim=8, **texts)
            made = models.SigLIPBackbone(images, text)
    else:
        wide = {"mlp_dim" if kind == "ViT" else "intermediate_dim": 12}
        made = getattr(models, f"{kind}Backbone")(patch_size=(16, 16), **shape, **wide)
    rng = np.random.default_rng(0)
    for variable in made.variables:
        if "position_ids" in variable.path:  # all 0 in a CLIP that is built, as no file has set them
            variable.assign(np.arange(variable.shape[1])[None])
        elif "seed" not in variable.path:
            variable.assign(0.3 * rng.standard_normal(variable.shape))
    return made


def swin_of_keras_hub(**other):
    settings = {"image_shape": (32, 32, 3), "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 4)}
    return keras_hub.models.SwinTransformerBackbone(**settings | {"window_size": 4} | other)


@pytest.fixture(scope="module")
def resnet_18(tmp_path_factory):
    """Return ResNet-18 and the folder of its preset."""
    backbone = keras_hub.models.ResNetBackbone(**RESNET_18)
    return backbone, save_preset(tmp_path_factory.mktemp("presets") / "resnet_18", backbone, (32, 32))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a small ResNet and the folder of its preset."""
    backbone = keras_hub.models.ResNetBackbone(**SMALL)
    return backbone, save_preset(tmp_path_factory.mktemp("presets") / "small", backbone, (32, 32))


@pytest.fixture
def preset(small, tmp_path):
    """Return a copy of the small preset to do damage to."""
    return shutil.copytree(small[1], tmp_path / "preset")


def features(model, images):
    outputs = keras.Model(model.input, model.get_layer("avg_pool").output)
    return keras.ops.convert_to_numpy(outputs(images))


def expected_features(backbone, images):
    return keras.ops.convert_to_numpy(backbone(images)).mean(axis=(1, 2))


def assert_close(actual, expected):
    assert np.linalg.norm(actual - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.fixture
def images(rng):
    return rng.uniform(0, 255, (2, 32, 32, 3)).astype("float32")


def normalised(images):
    return ((images / 255 - MEAN) / STD).astype("float32")


class TestResNet18:
    def test_sees_what_kerashub_sees(self, resnet_18, images):
        backbone, folder = resnet_18
        model = kt.classifier(folder, 3)
        assert (model.name, model.input_shape) == ("resnet_18_classifier", (None, 32, 32, 3))
        assert_close(features(model, images), expected_features(backbone, normalised(images)))
        converter = keras_hub.layers.ImageConverter.from_preset(str(folder))
        converted = keras.ops.convert_to_numpy(converter(images))
        assert_close(normalised(images), converted)

    def test_is_flat(self, resnet_18):
        model = kt.classifier(str(resnet_18[1]), 3)
        names = [layer.name for layer in model.layers]
        assert names[:4] == ["image", "preprocessing", "conv1_pad", "conv1_conv"]
        assert names[-3:] == ["avg_pool", "predictions", "softmax"]
        assert [layer.name for layer in resnet_18[0].layers[1:]] == names[2:-3]
        groups = [group.name for group in kt.layer_groups(model)]
        assert groups == ["conv1", "stack0", "stack1", "stack2", "stack3", "head"]
        kt.unfreeze_from(model, "stack3_block1_2_conv")
        trained = [row.layer for row in kt.trainable_table(model) if row.trainable]
        assert trained == ["stack3_block1_2_conv", "predictions"]

    def test_its_description(self, resnet_18):
        description = kt.describe_backbone(resnet_18[1])
        assert (description.name, description.depth, description.input_size) == ("resnet_18", 18, 32)
        assert description.backbone_parameters == 11_186_112
        assert description.groups == ("conv1", "stack0", "stack1", "stack2", "stack3")
        assert str(description.preprocessing) == (
            "(pixel - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)"
        )
        assert "11,186,112" in str(description)

    def test_is_the_one_that_kerashub_lists(self):
        (row,) = (row for row in kt.list_backbones("hub") if row.name == "resnet_18_imagenet")
        assert (row.family, row.parameters) == ("resnet", 11_186_112)
        assert "18-layer ResNet" in row.description

    @pytest.mark.slow
    def test_stock_keras_opens_it_without_kerashub(self, resnet_18, images, tmp_path):
        model = kt.classifier(resnet_18[1], 3)
        path = tmp_path / "model.keras"
        model.save(path)
        assert b"keras_hub" not in zipfile.ZipFile(path).read("config.json")
        np.save(tmp_path / "images.npy", images)
        code = (
            "import sys; sys.modules.update(keras_hub=None, keras_transfer=None)\n"
            "import keras, numpy as np\n"
            f"model = keras.models.load_model({str(path)!r})\n"
            f"images = np.load({str(tmp_path / 'images.npy')!r})\n"
            f"np.save({str(tmp_path / 'outputs.npy')!r}, model.predict(images, verbose=0))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert_close(np.load(tmp_path / "outputs.npy"), model.predict(images, verbose=0))


class TestOtherBackbones:
    @pytest.mark.parametrize(
        ("name", "config"),
        [
            ("ResNetBackbone", SMALL | {"use_pre_activation": True}),  # with an operation, no layer: pad
            ("VGGBackbone", {"stackwise_num_repeats": [1, 2], "stackwise_num_filters": [4, 8]}),
            ("DenseNetBackbone", {"stackwise_num_repeats": [2, 2]}),
        ],
    )
    def test_of_stock_layers_are_flat(self, name, config, images, tmp_path):
        backbone = getattr(keras_hub.models, name)(**config)
        model = kt.classifier(save_preset(tmp_path / "preset", backbone), 2, image_size=32)
        assert not any(isinstance(layer, keras.Model) for layer in model.layers)
        assert_close(features(model, images), expected_features(backbone, normalised(images)))

    def test_with_layers_of_kerashub_s_own_stay_one_layer(self, images, tmp_path):
        backbone = keras_hub.models.MiTBackbone(
            image_shape=(32, 32, 3),
            layerwise_depths=[1, 1],
            num_layers=2,
            layerwise_num_heads=[1, 2],
            layerwise_sr_ratios=[2, 1],
            max_drop_path_rate=0.0,
            layerwise_patch_sizes=[7, 3],
            layerwise_strides=[4, 2],
            hidden_dims=[8, 16],
        )
        model = kt.classifier(save_preset(tmp_path / "preset", backbone), 2)
        assert backbone.name in [layer.name for layer in model.layers]
        assert_close(features(model, images), expected_features(backbone, normalised(images)))

    @pytest.mark.filterwarnings("ignore:.* was passed an input with a mask:UserWarning")
    @pytest.mark.parametrize(
        ("kind", "given"),
        [*((kind, "preset") for kind in TRANSFORMERS), ("Swin", "object")]
        + [pytest.param(kind, "preset", marks=pytest.mark.nightly) for kind in FURTHER],
    )
    def test_transformers_become_stock_layers(self, tmp_path, images, kind, given):
        made = transformer_of_keras_hub(kind)
        if given == "preset":
            folder = save_preset(tmp_path / "preset", made)
            # As it is when loaded: KerasHub's DINOv2 makes the table of positions for a size anew.
            made = keras_hub.models.Backbone.from_preset(str(folder))
            model, seen = kt.classifier(folder, 2), normalised(images)
        else:
            model, seen = kt.classifier(made, 2), images
        theirs = getattr(made, "vision_encoder", made)
        groups = [
            "stem",
            *(f"block{number + 1}" for number in range(4 if kind == "Swin" else 2)),
            "head",
        ]
        assert [group.name for group in kt.layer_groups(model)] == groups
        end = model.get_layer("pool_vector" if kind == "SigLIP" else "norm")
        expected = theirs.predict(keras.tree.pack_sequence_as(theirs.input, [seen]), verbose=0)
        found = keras.Model(model.input, end.output).predict(images, verbose=0)
        assert_close(found.reshape(expected.shape), expected)
        to_head = keras.Model(model.input, model.get_layer("predictions").input)
        if kind == "Swin":
            expected = expected.mean(axis=1)
        elif kind != "SigLIP":
            expected = expected[:, : 2 if kind == "DeiT" else 1].reshape(len(images), -1)
        assert_close(to_head.predict(images, verbose=0), expected)
        path = tmp_path / "model.keras"
        model.save(path)
        assert b"keras_hub" not in zipfile.ZipFile(path).read("config.json")
        again = keras.models.load_model(path)
        np.testing.assert_array_equal(again.predict(images, verbose=0), model.predict(images, verbose=0))

    @pytest.mark.filterwarnings("ignore:.* was passed an input with a mask:UserWarning")
    def test_swin_is_refused_where_kerashub_computes_something_else(self):
        odd = swin_of_keras_hub(image_shape=(40, 32, 3))  # a map of 10 by 8
        with pytest.raises(ValueError, match=r"whole windows of 4 .*'swin-tiny.*\(40, 32, 3\)$"):
            kt.classifier(odd, 2)
        with pytest.raises(ValueError, match=r"patch_norm must be True.*'swin-tiny.*patch_norm=False$"):
            kt.classifier(swin_of_keras_hub(patch_norm=False), 2)

    def test_transformers_whose_settings_are_unknown(self):
        vit = keras_hub.models.ViTBackbone(
            image_shape=(32, 32, 3),
            patch_size=(16, 16),
            num_layers=1,
            num_heads=1,
            hidden_dim=4,
            mlp_dim=4,
            use_mha_bias=False,
        )
        with pytest.raises(ValueError, match="use_mha_bias must be true.*'vit-base-patch16-224'"):
            kt.classifier(vit, 2)

    def test_a_classifier_of_kerashub_is_no_backbone(self, small):
        theirs = keras_hub.models.ResNetImageClassifier(backbone=small[0], num_classes=2)
        with pytest.raises(ValueError, match="pass model.backbone"):
            kt.classifier(theirs, 2)

    def test_transformers_take_images_of_other_sizes(self, tmp_path):
        folder = save_preset(tmp_path / "preset", transformer_of_keras_hub("ViT"))
        model = kt.classifier(folder, 2, image_size=(48, 64))
        assert model.get_layer("norm").output.shape == (None, 13, 8)
        with pytest.raises(ValueError, match="multiple"):
            kt.classifier(folder, 2, image_size=40)

    def test_of_a_dict_of_maps_the_smallest_counts(self):
        assert last_map({"stage1": np.zeros((1, 4, 4, 2)), "stage0": np.zeros((1, 8, 8, 2))}).shape == (
            *(1, 4, 4, 2),
        )

    def test_one_of_a_dict_of_maps_given_as_an_object(self):
        maps = {
            "big": keras.layers.Conv2D(2, 3, strides=2),
            "small": keras.layers.Conv2D(3, 3, strides=4),
        }
        inputs = keras.Input((32, 32, 3))
        given = keras.Model(inputs, {name: layer(inputs) for name, layer in maps.items()}, name="maps")
        model = kt.classifier(given, 2, preprocessing=False)
        assert model.get_layer("predictions").input.shape == (None, 3)

    def test_of_text_are_refused(self, tmp_path):
        backbone = keras_hub.models.BertBackbone(
            vocabulary_size=8, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4
        )
        folder = save_preset(tmp_path / "preset", backbone, None)
        with pytest.raises(ValueError, match="can't be loaded as ImageConverter.*Received: backbone="):
            kt.classifier(folder, 2)

    def test_an_object_is_shared_as_one_layer(self, small, images):
        backbone, _ = small
        rescaling = keras.layers.Rescaling((1 / 255 / STD).tolist(), (-MEAN / STD).tolist())
        model = kt.classifier(backbone, 2, preprocessing=rescaling, image_size=32)
        assert model.get_layer(backbone.name) is backbone
        assert_close(features(model, images), expected_features(backbone, normalised(images)))


class TestArguments:
    def test_weights(self, small, preset, tmp_path):
        kernel = small[0].get_layer("conv1_conv").get_weights()[0]
        path = tmp_path / "other.weights.h5"
        other = keras_hub.models.ResNetBackbone(**SMALL)
        other.save_weights(path)
        for weights, expected in (
            ("imagenet", kernel),
            (path, other.get_layer("conv1_conv").get_weights()[0]),
        ):
            model = kt.classifier(preset, 2, weights=weights)
            np.testing.assert_array_equal(model.get_layer("conv1_conv").get_weights()[0], expected)
        (preset / "model.weights.h5").unlink()  # not looked at
        drawn = kt.classifier(preset, 2, weights=None).get_layer("conv1_conv").get_weights()[0]
        assert np.abs(drawn - kernel).max() > 0.01

    def test_weights_that_are_not_there(self, preset):
        with pytest.raises(ValueError, match="there is no file 'xyz.h5'"):
            kt.classifier(preset, 2, weights="xyz.h5")

    def test_preprocessing(self, small, preset, images):
        backbone, _ = small
        for preprocessing, seen in (
            (True, normalised(images)),
            (False, images),
            (keras.layers.Rescaling(0.5), images * 0.5),
        ):
            model = kt.classifier(preset, 2, preprocessing=preprocessing)
            assert_close(features(model, images), expected_features(backbone, seen))

    def test_unknown_preprocessing(self, preset):
        (preset / "image_converter.json").unlink()
        with pytest.raises(ValueError, match="has no image_converter.json; pass .*preprocessing=True"):
            kt.classifier(preset, 2)
        assert kt.classifier(preset, 2, preprocessing=False).input_shape == (None, 224, 224, 3)
        assert kt.describe_backbone(preset).preprocessing is None

    @pytest.mark.parametrize(
        "change", [{"scale": None}, {"offset": None}, {"scale": 0.5, "offset": None}]
    )
    def test_plain_preprocessing(self, preset, images, change):
        path = preset / "image_converter.json"
        config = json.loads(path.read_text())
        config["config"] |= change
        path.write_text(json.dumps(config))
        converter = keras_hub.layers.ImageConverter.from_preset(str(preset))
        known, size = hub.load_preprocessing(hub.find_preset(preset))
        inputs = keras.Input((32, 32, 3))
        actual = keras.ops.convert_to_numpy(keras.Model(inputs, known(inputs) + 0.0)(images))
        assert_close(actual, keras.ops.convert_to_numpy(converter(images)))
        assert size == 32

    @pytest.mark.parametrize("size", [(48, 40), (33, 32)])
    def test_image_size(self, preset, size):
        assert kt.classifier(preset, 2, image_size=size).input_shape == (None, *size, 3)

    @pytest.mark.parametrize("size", [(32, 32, 3), (32,), 0])
    def test_an_image_size_that_makes_no_sense(self, preset, size):
        with pytest.raises(ValueError, match="image_size must be a number of pixels"):
            kt.classifier(preset, 2, image_size=size)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("resnet_18", "resnet_18_imagenet"),
            ("ResNet-18", "resnet_18_imagenet"),
            ("vgg_11", "vgg_11_imagenet"),
            ("resnet_18_imagenett", "resnet_18_imagenet"),
            ("dinov2_with_registers_bass", "dinov2-with-registers-base"),
            ("dinov3_vit_smal", "dinov3_vit_small_lvd1689m"),
            ("siglip2_base_patch16", "siglip2"),
            ("mobilnet", "MobileNet"),
        ],
    )
    def test_near_misses_are_named(self, name, near):
        for call in (kt.describe_backbone, lambda name: kt.classifier(name, 2)):
            with pytest.raises(ValueError, match=f"called '{name}' .*did you mean {near}") as caught:
                call(name)
            assert str(caught.value).endswith(f"Received: backbone={name!r}")

    @pytest.mark.parametrize("name", ["", "xyz", "no/folder", "bert_base_en"])
    def test_what_is_none(self, name):
        with pytest.raises(
            ValueError, match="in keras.applications or KerasHub, and no preset's folder"
        ):
            kt.classifier(name, 2)

    def test_any_spelling(self):
        preset = hub.find_preset("ResNet-18_imagenet")
        assert preset.name == "resnet_18_imagenet"
        assert re.fullmatch(r"keras/.*/resnet_18_imagenet/\d+", preset.handle)

    def test_the_list(self):
        rows = kt.list_backbones("hub")
        names = [row.name for row in rows]
        assert names == sorted(names)
        assert len(names) > 80
        assert all(row.parameters > 100_000 and row.description for row in rows)
        assert "resnet_18_imagenet" in str(rows)


class TestDamage:
    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"registered_name": "xyz"}', "null"])
    def test_of_the_configuration(self, preset, content):
        (preset / "config.json").write_text(content)
        with pytest.raises(ValueError, match="(?s)can't be loaded as .*Received: backbone=") as caught:
            kt.classifier(preset, 2)
        assert str(preset) in str(caught.value)

    @pytest.mark.parametrize("length", [0, 1000, -1000])
    def test_of_the_weights(self, preset, length):
        path = preset / "model.weights.h5"
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match="(?s)can't be loaded as Backbone.*Received: backbone="):
            kt.classifier(preset, 2)

    def test_no_weights(self, preset):
        (preset / "model.weights.h5").unlink()
        with pytest.raises(ValueError, match="(?s)can't be loaded as Backbone.*Received: backbone="):
            kt.classifier(preset, 2)

    def attacks(self, marker):
        """Objects that would run code if Keras made them."""
        layer = keras.layers.Lambda(eval(f"lambda x: open({str(marker)!r}, 'w') and x"))
        yield keras.saving.serialize_keras_object(layer)
        for module, name, command in (
            ("builtins", "eval", f"open({str(marker)!r}, 'w')"),
            ("posix", "system", f"touch {marker}"),
        ):
            yield {
                "module": module,
                "class_name": name,
                "config": {"args": [command]},
                "registered_name": None,
            }

    @pytest.mark.parametrize("place", ["object", "argument"])
    def test_nothing_of_a_preset_is_executed(self, preset, tmp_path, place):
        marker = tmp_path / "executed"
        original = (preset / "config.json").read_text()
        for attack in self.attacks(marker):
            config = json.loads(original)
            if place == "object":
                config = {"class_name": "Sequential", "registered_name": "Sequential", "module": "keras"}
                config["config"] = {"name": "model", "layers": [attack]}
            else:
                config["config"]["image_shape"] = attack
            (preset / "config.json").write_text(json.dumps(config))
            with pytest.raises(ValueError, match="can't be loaded as"):
                kt.classifier(preset, 2)
        assert not marker.exists()


class TestNetwork:
    @pytest.fixture
    def kaggle(self, monkeypatch):
        """Let every download end as the function says that the test hands over."""

        def replace(download):
            import kagglehub

            monkeypatch.setattr(kagglehub, "model_download", download)

        return replace

    def assert_fails_soon(self, call):
        with pytest.raises(ConnectionError, match="preset resnet_18_imagenet from Kaggle") as caught:
            call("resnet_18_imagenet")
        assert "save_to_preset" in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize("call", [kt.describe_backbone, lambda name: kt.classifier(name, 2)])
    def test_none(self, kaggle, call):
        import requests

        def download(handle, path):
            raise requests.ConnectionError("no route to host")

        kaggle(download)
        assert self.assert_fails_soon(call).endswith("Received: no route to host")

    def test_one_that_never_answers(self, kaggle, monkeypatch):
        monkeypatch.setattr(network, "TIMEOUT_SECONDS", 0.2)
        kaggle(lambda handle, path: time.sleep(2))
        message = self.assert_fails_soon(lambda name: kt.classifier(name, 2))
        assert message.endswith("Received: timed out")

    def test_one_that_works(self, kaggle, resnet_18, images):
        backbone, folder = resnet_18
        asked = []

        def download(handle, path):
            asked.append((handle, path))
            return str(folder / path)

        kaggle(download)
        model = kt.classifier("resnet_18_imagenet", 3)
        assert model.name == "resnet_18_imagenet_classifier"
        assert_close(features(model, images), expected_features(backbone, normalised(images)))
        assert {path for _, path in asked} >= {"config.json", "image_converter.json", "model.weights.h5"}
        (handle,) = {handle for handle, _ in asked}
        assert re.fullmatch(r"keras/resnetv1/keras/resnet_18_imagenet/\d+", handle)
        assert handle in kt.describe_backbone("resnet_18_imagenet").licence
