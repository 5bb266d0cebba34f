"""The catalogue of backbones: what it says of each is so."""

import json
import sys
from dataclasses import asdict

import keras
import pytest
from families import of_each_family

import keras_transfer as kt
from keras_transfer.backbones.applications import backbone_names, find_backbone
from keras_transfer.models import catalogue

NAMES = backbone_names()
ROWS = {row.name: row for row in kt.list_backbones()}


@pytest.fixture(scope="module", autouse=True)
def _no_weights():
    """Let weights begin as zeros, as shapes are all that the catalogue tells of them."""

    def zeros(self, shape, dtype=None):
        return keras.ops.zeros(shape, dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.initializers.VarianceScaling, "__call__", zeros)
        yield


class TestList:
    def test_has_every_application(self):
        assert list(ROWS) == NAMES
        assert len(ROWS) >= 40
        facts = json.loads(catalogue._FACTS.read_text(encoding="utf-8"))
        assert sorted(NAMES) == list(facts), "run nox -s catalogue"

    def test_builds_nothing(self, monkeypatch):
        catalogue._application.cache_clear()
        monkeypatch.setattr(catalogue, "built_facts", None)
        assert kt.list_backbones() == tuple(ROWS.values())

    @pytest.mark.slow
    @pytest.mark.parametrize("name", of_each_family(NAMES))
    def test_facts_are_those_of_the_network(self, name):
        if (name, keras.backend.backend()) == ("NASNetMobile", "torch"):
            pytest.skip("Keras can't build it on torch")
        facts = catalogue.built_facts(find_backbone(name))
        assert facts == json.loads(catalogue._FACTS.read_text(encoding="utf-8"))[name]

    # Of Keras' documentation.
    @pytest.mark.parametrize(
        ("name", "parameters", "input_size"),
        [
            ("Xception", 22_910_480, 299),
            ("VGG16", 138_357_544, 224),
            ("ResNet50", 25_636_712, 224),
            ("InceptionResNetV2", 55_873_736, 299),
            ("MobileNetV2", 3_538_984, 224),
            ("NASNetLarge", 88_949_818, 331),
        ],
    )
    def test_in_numbers(self, name, parameters, input_size):
        row = ROWS[name]
        assert (row.parameters, row.input_size) == (parameters, input_size)
        assert row.megabytes == pytest.approx(4 * parameters / 1e6)
        assert row.backbone_parameters < parameters

    def test_depth_is_the_number_in_names(self):
        for name in ("VGG", "ResNet", "DenseNet"):
            found = {
                key.removeprefix(name): row.depth for key, row in ROWS.items() if key.startswith(name)
            }
            assert len(found) >= 2
            for number, depth in found.items():
                assert depth == int(number.removesuffix("V2")), (name, number)

    @pytest.mark.parametrize("name", NAMES)
    def test_nothing_smaller_can_be_built(self, name):
        size = ROWS[name].smallest_input_size - 1
        with pytest.raises(ValueError, match=f"{name} can't be built"):
            kt.classifier(name, 2, image_size=size, weights=None)

    @pytest.mark.parametrize(
        ("name", "preprocessing"),
        [
            ("VGG19", "BGR: pixel - (103.939, 116.779, 123.68)"),
            ("MobileNet", "(pixel - 127.5) / 127.5"),
            ("DenseNet121", "(pixel - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)"),
            ("EfficientNetB0", "none"),
        ],
    )
    def test_preprocessing_as_a_formula(self, name, preprocessing):
        assert str(ROWS[name].preprocessing) == preprocessing

    def test_head(self):
        assert ROWS["VGG16"].head == ("Flatten", "Dense 4096", "Dense 4096", "Dense 1000")
        assert ROWS["ResNet50"].head == ("GlobalAveragePooling2D", "Dense 1000")
        assert ROWS["ConvNeXtTiny"].head == (
            "GlobalAveragePooling2D",
            "LayerNormalization",
            "Dense 1000",
        )

    def test_prints_as_a_table(self):
        text = str(kt.list_backbones())
        assert repr(kt.list_backbones()) == text
        assert max(map(len, text.splitlines())) <= 100
        (line,) = (line for line in text.splitlines() if "VGG16" in line)
        assert line.split()[:6] == ["VGG16", "138,357,544", "553", "16", "224", "32"]

    def test_is_plain_data(self):
        data = json.loads(json.dumps([asdict(row) for row in kt.list_backbones()]))
        assert data[0].keys() >= {"name", "parameters", "depth", "head", "preprocessing"}

    @pytest.mark.parametrize("source", ["Hub", "", None, 3, "keras"])
    def test_no_such_source(self, source):
        with pytest.raises(
            ValueError,
            match=r"'cached', 'hub' or 'transformers'(\.|; did you mean hub\?) Received: source=",
        ):
            kt.list_backbones(source)


class TestDescribe:
    @pytest.mark.parametrize(
        ("name", "groups"),
        [
            ("vgg16", ("block1", "block2", "block3", "block4", "block5")),
            ("ResNet_50", ("conv1", "conv2", "conv3", "conv4", "conv5")),
            ("convnext-tiny", ("stem", "stage_0", "stage_1", "stage_2", "stage_3")),
        ],
    )
    def test_has_the_groups(self, name, groups):
        description = kt.describe_backbone(name)
        assert description.groups == groups
        row = asdict(ROWS[description.name])
        assert asdict(description).items() >= row.items()

    def test_prints_as_a_table(self):
        text = str(kt.describe_backbone("mobilenet_v2"))
        for part in ("MobileNetV2", "3,538,984", "(pixel - 127.5) / 127.5", "GlobalAveragePooling2D"):
            assert part in text

    @pytest.mark.parametrize(
        ("name", "stated"),
        [("vgg16", "Creative Commons"), ("mobilenet", "Apache"), ("convnexttiny", "")],
    )
    def test_licence(self, name, stated):
        licence = kt.describe_backbone(name).licence
        assert stated in licence
        assert ("Keras 2" in licence) == bool(stated)
        assert "non-commercial" in licence
        assert "ImageNet" in licence

    def test_of_a_newer_keras(self, monkeypatch, tmp_path):
        path = tmp_path / "backbones.json"
        path.write_text("{}")
        monkeypatch.setattr(catalogue, "_FACTS", path)
        catalogue._application.cache_clear()
        try:
            description = kt.describe_backbone("mobilenet")
        finally:
            catalogue._application.cache_clear()
        assert asdict(description).items() >= asdict(ROWS["MobileNet"]).items()

    @pytest.mark.parametrize(
        ("name", "near"), [("vgg", "VGG16"), ("ResNet-5", "ResNet50"), ("mobilnet", "MobileNet")]
    )
    def test_near_misses_are_named(self, name, near):
        with pytest.raises(
            ValueError, match=f"no backbone called '{name}'.*did you mean .*{near}"
        ) as caught:
            kt.describe_backbone(name)
        assert str(caught.value).endswith(f"Received: backbone={name!r}")

    @pytest.mark.parametrize("name", [None, 3, keras.applications.VGG16])
    def test_what_is_no_name(self, name):
        with pytest.raises(TypeError, match="name must be .*Received: name="):
            kt.describe_backbone(name)


class TestWithoutKerasHub:
    COMMAND = r"pip install 'keras-transfer\[hub\]'"

    @pytest.fixture(autouse=True)
    def _no_keras_hub(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "keras_hub", None)

    def test_its_list_says_how_to_get_it(self):
        with pytest.raises(ImportError, match=self.COMMAND):
            kt.list_backbones("hub")

    def test_a_folder_says_how_to_get_it(self, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        for make in (kt.describe_backbone, lambda path: kt.classifier(path, 2)):
            with pytest.raises(ImportError, match=self.COMMAND):
                make(tmp_path)

    def test_an_unknown_name_says_how_to_get_it(self):
        with pytest.raises(ValueError, match=self.COMMAND) as caught:
            kt.classifier("resnet_18_imagenet", 2)
        assert str(caught.value).endswith("Received: backbone='resnet_18_imagenet'")

    def test_applications_do_without(self):
        assert kt.describe_backbone("mobilenet").depth == 28
