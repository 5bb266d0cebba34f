"""Backbones of keras.applications: their names, their preprocessing, their weights."""

import re
import time
import urllib.error
import urllib.request

import h5py
import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights

import keras_transfer as kt
from keras_transfer._lib import network
from keras_transfer.backbones.applications import affine_preprocessing, find_backbone

APPLICATIONS = [name for name in vars(keras.applications) if name[0].isupper()]
SIZE = 32
SHAPE = (SIZE, SIZE, 3)
CACHED = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"


@pytest.fixture(scope="module", autouse=True)
def _quick_weights():
    with numpy_initial_weights():
        yield


class TestNames:
    def test_every_application_is_there(self):
        assert {"VGG16", "VGG19", "ResNet50", "ResNet152", "MobileNetV2"} <= set(APPLICATIONS)
        assert len(APPLICATIONS) >= 38

    @pytest.mark.parametrize("name", APPLICATIONS)
    def test_by_any_spelling(self, name):
        build = getattr(keras.applications, name)
        underscores = re.sub(r"(?<=[a-z])(?=[A-Z0-9])", "_", name)
        for spelling in (name, name.lower(), name.upper(), underscores, underscores.replace("_", "-")):
            backbone = find_backbone(spelling)
            assert (backbone.name, backbone.build) == (name, build)

    @pytest.mark.parametrize(
        ("name", "near"), [("vgg", "VGG16"), ("ResNet-18", "ResNet101"), ("mobilnet", "MobileNet")]
    )
    def test_near_misses_are_named(self, name, near):
        with pytest.raises(ValueError, match=rf"called '{name}'.*did you mean .*{near}.*\?") as caught:
            find_backbone(name)
        assert str(caught.value).endswith(f"Received: backbone={name!r}")

    @pytest.mark.parametrize("name", ["", "xyz", "preprocess_input", "keras", "vgg 16 "])
    def test_what_is_none(self, name):
        with pytest.raises(ValueError, match="no backbone called"):
            find_backbone(name)


class TestPreprocess:
    @pytest.mark.parametrize("name", APPLICATIONS)
    def test_is_that_of_the_application(self, name, rng):
        backbone = find_backbone(name)
        images = rng.uniform(0, 255, (4, 5, 6, 3)).astype("float32")
        images[0], images[1] = 0.0, 255.0
        # A copy, as it changes float arrays in place.
        expected = backbone.preprocess_input(images.copy())
        inputs = keras.Input((5, 6, 3))
        actual = keras.ops.convert_to_numpy(
            keras.Model(inputs, affine_preprocessing(backbone)(inputs) + 0.0)(images)
        )
        assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("vgg16", [-103.939 + 30, -116.779 + 20, -123.68 + 10]),  # BGR, less the mean
            ("resnet50", [-103.939 + 30, -116.779 + 20, -123.68 + 10]),
            ("mobilenet", [10 / 127.5 - 1, 20 / 127.5 - 1, 30 / 127.5 - 1]),
            ("resnet50_v2", [10 / 127.5 - 1, 20 / 127.5 - 1, 30 / 127.5 - 1]),
            (
                "densenet121",
                [(10 / 255 - 0.485) / 0.229, (20 / 255 - 0.456) / 0.224, (30 / 255 - 0.406) / 0.225],
            ),
            ("efficientnet_b0", [10, 20, 30]),
        ],
    )
    def test_in_numbers(self, name, expected):
        inputs = keras.Input((1, 1, 3))
        model = keras.Model(inputs, affine_preprocessing(find_backbone(name))(inputs) + 0.0)
        image = np.array([10, 20, 30], "float32").reshape(1, 1, 1, 3)
        actual = keras.ops.convert_to_numpy(model(image)).ravel()
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)

    def test_uses_stock_layers_under_a_name_that_tells(self):
        inputs = keras.Input((4, 4, 3))
        model = keras.Model(inputs, affine_preprocessing(find_backbone("vgg16"))(inputs))
        layer = model.get_layer("preprocessing")
        assert isinstance(layer, keras.layers.Rescaling)
        assert layer.scale == pytest.approx(1.0)
        loaded = keras.Model.from_config(model.get_config())
        image = np.arange(48, dtype="float32").reshape(1, 4, 4, 3)
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(m(image)) for m in (model, loaded)))

    def test_adds_nothing_where_there_is_nothing_to_do(self):
        inputs = keras.Input((4, 4, 3))
        assert affine_preprocessing(find_backbone("efficientnet_b0"))(inputs) is inputs


def plain_mobilenet():
    return keras.applications.MobileNet(include_top=False, weights=None, input_shape=SHAPE)


def legacy_weights(model, path):
    """Write a file of weights as Keras 2 did, and as Keras' own releases of weights are."""
    full = path.with_name("full.h5")
    model.save(full)
    with h5py.File(full) as source, h5py.File(path, "w") as target:
        for name, group in source["model_weights"].items():
            source.copy(group, target, name)
        target.attrs.update(source["model_weights"].attrs)
    full.unlink()


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    """Return a plain MobileNet without top, and its weights in both formats and as a model."""
    folder = tmp_path_factory.mktemp("weights")
    model = plain_mobilenet()
    rng = np.random.default_rng(1)
    for variable in model.variables:  # no zeros and ones, so that every one shows
        variable.assign(rng.uniform(0.5, 1.5, variable.shape).astype("float32"))
    paths = {
        "v3": folder / "mobilenet.weights.h5",
        "legacy": folder / "mobilenet.h5",
        "model": folder / "mobilenet.keras",
    }
    model.save_weights(paths["v3"])
    legacy_weights(model, paths["legacy"])
    model.save(paths["model"])
    return model, paths


def classify(weights, name="mobilenet", **arguments):
    return kt.classifier(name, 2, image_size=SIZE, weights=weights, **arguments)


class TestWeightsFromAFile:
    @pytest.mark.parametrize("kind", ["v3", "legacy", "model"])
    @pytest.mark.parametrize("preprocessing", [True, False])
    def test_are_loaded(self, mobilenet, kind, preprocessing):
        plain, paths = mobilenet
        model = classify(paths[kind], preprocessing=preprocessing)
        for layer in plain.layers[1:]:
            for value, expected in zip(
                model.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True
            ):
                np.testing.assert_array_equal(value, expected, err_msg=layer.name)

    def test_from_a_path_as_text(self, mobilenet):
        _, paths = mobilenet
        kernel = classify(str(paths["v3"])).get_layer("conv1").get_weights()[0]
        assert kernel.min() >= 0.5

    @pytest.mark.parametrize("kind", ["v3", "legacy", "model"])
    @pytest.mark.parametrize("length", [0, 1, 5_000, 0.5, -1])
    def test_cut_off(self, mobilenet, tmp_path, kind, length):
        _, paths = mobilenet
        content = paths[kind].read_bytes()
        path = tmp_path / paths[kind].name
        path.write_bytes(content[: int(length * len(content)) if length == 0.5 else length])
        self.assert_refused(path, "is damaged or doesn't fit")

    @pytest.mark.parametrize("kind", ["v3", "legacy"])
    def test_with_changed_bytes(self, mobilenet, tmp_path, kind):
        _, paths = mobilenet
        content = np.frombuffer(paths[kind].read_bytes(), "uint8")
        path = tmp_path / paths[kind].name
        for seed in range(6):  # h5py has an error of another type for each kind of damage
            damage = np.random.default_rng(seed)
            changed = content.copy()
            changed[damage.integers(100, 200_000, 2_000)] = 255
            path.write_bytes(changed)
            self.assert_refused(path, "is damaged or doesn't fit")

    @pytest.mark.parametrize("name", ["no_hdf5.h5", "no_hdf5.weights.h5", "no.keras", "notes.txt"])
    def test_that_is_no_file_of_weights(self, tmp_path, name):
        path = tmp_path / name
        path.write_text("no weights in here")
        self.assert_refused(path, "is damaged or doesn't fit")

    @pytest.mark.parametrize("kind", ["v3", "legacy", "model"])
    def test_of_another_network(self, mobilenet, kind):
        _, paths = mobilenet
        self.assert_refused(paths[kind], "damaged or doesn't fit mobilenetv2", name="mobilenet_v2")

    def test_of_a_deeper_network_of_the_same_make(self, tmp_path):
        path = tmp_path / "vgg19.weights.h5"
        keras.applications.VGG19(include_top=False, weights=None, input_shape=SHAPE).save_weights(path)
        self.assert_refused(path, "is damaged or doesn't fit vgg16", name="vgg16")

    def test_that_is_not_there(self, mobilenet):
        _, paths = mobilenet
        for path, hint in (
            (paths["v3"].with_name("mobilenet.weigths.h5"), r"did you mean mobilenet.weights.h5"),
            (paths["v3"].with_name("MobileNet.hdf5"), r"did you mean .*mobilenet.h5"),
            (paths["v3"].with_name("xyz"), r"there is no file '.*xyz'\. "),
            (paths["v3"].parent / "no" / "folder.h5", r"there is no file '.*folder\.h5'\. "),
            (paths["v3"].parent, r"there is no file"),
        ):
            self.assert_refused(path, hint)

    def assert_refused(self, path, match, name="mobilenet"):
        with pytest.raises(ValueError, match=match) as caught:
            classify(path, name)
        assert str(path) in str(caught.value)
        assert re.search(r"Received: weights=.+$", str(caught.value))


class Opener:
    """Stands in for the network: raises, or never answers."""

    def __init__(self, error=None):
        self.error, self.urls = error, []

    def open(self, request, data=None, timeout=None):
        self.urls.append(getattr(request, "full_url", request))
        if self.error is None:
            time.sleep(2)
        raise self.error or AssertionError("nobody waits that long")


@pytest.fixture
def no_network(monkeypatch):
    """Let every download fail at once; what it returns knows what was asked for."""
    opener = Opener(urllib.error.URLError("no route to host"))
    monkeypatch.setattr(urllib.request, "_opener", opener)
    return opener


@pytest.fixture
def keras_home(monkeypatch, tmp_path):
    """Return an empty folder that Keras takes for its home, which it looks up when imported."""
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))
    return tmp_path


class TestImageNetWeights:
    @pytest.mark.parametrize("name", ["VGG16", "ResNet50", "MobileNetV2"])
    def test_without_a_network(self, no_network, keras_home, name):
        with pytest.raises(ConnectionError) as caught:
            kt.classifier(name, 2, image_size=SIZE)
        (url,) = no_network.urls
        assert url.startswith("https://")
        message = str(caught.value)
        for part in (f"the ImageNet weights of {name} from {url}", "$KERAS_HOME", "models/"):
            assert part in message
        assert "weights=None" in message
        assert re.search("Received: .*no route to host", message)
        assert urllib.request._opener is no_network
        assert not [path for path in keras_home.rglob("*") if path.is_file()]

    def test_with_a_network_that_never_answers(self, monkeypatch, keras_home):
        monkeypatch.setattr(network, "TIMEOUT_SECONDS", 0.2)
        monkeypatch.setattr(urllib.request, "_opener", Opener())
        with pytest.raises(ConnectionError, match=r"within 0.2 s.*Received: .*timed out"):
            kt.classifier("MobileNetV2", 2, image_size=SIZE)

    def test_from_keras_home_whatever_the_size(self, no_network, keras_home):
        build = keras.applications.MobileNetV2
        plain = build(include_top=False, weights=None, input_shape=SHAPE)
        (keras_home / "models").mkdir()
        legacy_weights(plain, keras_home / "models" / CACHED)
        # Not one of the sizes that Keras has weights for: it takes those of 224, which it warns of.
        model = kt.classifier("mobilenet_v2", 2, image_size=(40, 32))
        assert no_network.urls == []
        for layer in plain.layers[1:]:
            for value, expected in zip(
                model.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True
            ):
                np.testing.assert_array_equal(value, expected)

    def test_a_damaged_file_in_keras_home(self, no_network, keras_home):
        path = keras_home / "models" / CACHED
        path.parent.mkdir()
        path.write_bytes(b"half a download")
        with pytest.raises(ValueError, match="remove the damaged file") as caught:
            kt.classifier("mobilenet_v2", 2, image_size=SIZE)
        assert str(caught.value).endswith("Received: weights='imagenet'")
        assert no_network.urls == []
        assert path.exists()


@pytest.mark.real_data
@pytest.mark.usefixtures("no_network")
class TestRealWeights:
    @pytest.fixture
    def photos(self, real_data):
        paths = sorted((real_data / "hymenoptera" / "val").rglob("*.jpg"))[::40]
        photos = [keras.utils.load_img(path, target_size=(224, 224)) for path in paths]
        return np.stack([keras.utils.img_to_array(photo) for photo in photos])

    def test_mobilenet_v2_sees_what_plain_keras_sees(self, photos):
        model = kt.classifier("mobilenet_v2", 2)
        assert model.input_shape == (None, 224, 224, 3)
        features = keras.Model(model.input, model.get_layer("avg_pool").output)
        prepared = keras.applications.mobilenet_v2.preprocess_input(photos.copy())
        plain = keras.applications.MobileNetV2(
            include_top=False, input_shape=(224, 224, 3), pooling="avg"
        )
        actual, expected = features.predict(photos, verbose=0), plain.predict(prepared, verbose=0)
        assert np.linalg.norm(actual - expected) <= 1e-4 * np.linalg.norm(expected)
        assert len({tuple(np.argsort(row)[-5:]) for row in actual}) > 1

    def test_mobilenet_v2_at_other_sizes(self, real_data):
        plain = keras.applications.MobileNetV2(include_top=False, input_shape=(224, 224, 3))
        for size in (64, (48, 80)):
            model = kt.classifier("mobilenet_v2", 2, image_size=size)
            for name in ("Conv1", "block_8_depthwise", "Conv_1_bn"):
                expected = plain.get_layer(name).get_weights()
                for value, other in zip(model.get_layer(name).get_weights(), expected, strict=True):
                    np.testing.assert_array_equal(value, other)

    def test_a_mobilenet_of_the_user_s_own_width(self, photos):
        base = keras.applications.MobileNet(include_top=False, alpha=0.25, input_shape=(224, 224, 3))
        model = kt.classifier(base, 2, preprocessing=keras.layers.Rescaling(1 / 127.5, -1.0))
        features = keras.Model(model.input, model.get_layer("avg_pool").output)
        prepared = keras.applications.mobilenet.preprocess_input(photos.copy())
        expected = base.predict(prepared, verbose=0).mean(axis=(1, 2))
        actual = features.predict(photos, verbose=0)
        assert np.linalg.norm(actual - expected) <= 1e-4 * np.linalg.norm(expected)
