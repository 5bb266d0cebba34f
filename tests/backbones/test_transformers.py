"""Vision transformers from checkpoints: numbers, files, groups, sizes, and what is refused."""

import json
import re
import sys
import threading

import keras
import ml_dtypes
import numpy as np
import pytest
from backbones.checkpoints import (
    CONFIGS,
    SIDE,
    WIDTH,
    reference,
    tensors_of,
    write_checkpoint,
    write_tensors,
)
from initial_weights import numpy_initial_weights
from processes import each_backend, require, run

import keras_transfer as kt
from keras_transfer._lib import network
from keras_transfer.backbones.transformers.huggingface import (
    add_checkpoint,
    find_checkpoint,
    load_preprocessing,
)
from keras_transfer.backbones.transformers.positions import resized
from keras_transfer.backbones.transformers.safetensors import Tensors
from keras_transfer.backbones.transformers.vit import VisionTransformer, vision_transformer
from keras_transfer.layers.about import Origin, origin_of

PREFIXES = {"deit": "deit.", "clip": "vision_model.", "swin": "swin.", "siglip": "vision_model."}
OTHER_SIZE = (36, 44)  # of which Swin's maps are odd, and no multiples of windows


@pytest.fixture(autouse=True)
def _quick_weights():
    with numpy_initial_weights():
        yield


def distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def built(folder, size, **how):
    inputs = keras.Input((*size, 3))
    found = add_checkpoint(find_checkpoint(folder), inputs, **how)
    return keras.Model(inputs, found.features), found


def classifying(kind, folder, size=(16, 16)):
    """Return a network with a head on its first token, its map or its vector."""
    write_checkpoint(folder / kind, kind)
    model, found = built(folder / kind, size)
    x = found.features
    if found.kind == "map":
        x = keras.layers.GlobalAveragePooling2D()(x)
    elif found.kind == "tokens":
        x = x[:, 0]
    return keras.Model(model.input, keras.layers.Dense(3, name="predictions")(x))


def images_of(size, count=2):
    return np.random.default_rng(1).normal(size=(count, *size, 3)).astype("float32")


def by_keras(model, images):
    model.run_eagerly = keras.backend.backend() != "jax"  # of which each operation is compiled alone
    return keras.ops.convert_to_numpy(model.predict_on_batch(images))


# Numbers


@pytest.mark.parametrize("kind", CONFIGS)
def test_it_gives_what_the_formulas_give(kind, tmp_path):
    tensors = write_checkpoint(tmp_path, kind, PREFIXES.get(kind, ""))
    own = (32, 32) if kind == "swin" else (16, 16)
    for size in (own, OTHER_SIZE) if kind in ("vit", "swin") else (OTHER_SIZE,):
        model, found = built(tmp_path, size)
        table = next((tensors[name] for name in tensors if "position_emb" in name), None)
        if table is not None:
            side = 8 if kind == "swin" else SIDE
            table = table.reshape(-1, table.shape[-1])[-(side**2) :].reshape(side, side, -1)
            grid = size[0] // 4, size[1] // 4
            table = resized(table, grid, antialias=kind == "dinov2_giant").reshape(grid[0] * grid[1], -1)
        images = images_of(size)
        expected = reference(kind, tensors, images, table)
        assert found.kind == {"swin": "map", "siglip": "vector"}.get(kind, "tokens")
        assert found.features.shape[1:] == expected.shape[1:]
        assert distance(by_keras(model, images), expected) < 2e-6


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("grid", [(5, 9), (3, 2), (1, 16), (7, 7)])
def test_positions_are_those_of_torch(grid, antialias):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).normal(size=(7, 7, 5)).astype("float32")
    expected = torch.nn.functional.interpolate(
        torch.tensor(table.transpose(2, 0, 1)[None]),
        size=grid,
        mode="bicubic",
        align_corners=False,
        antialias=antialias,
    )
    found = resized(table, grid, antialias=antialias)
    assert distance(found, expected[0].numpy().transpose(1, 2, 0)) < 1e-6


def test_tables_have_the_gradients_of_all_samples():
    """A table is made for the first sample alone, but belongs to each."""
    config = VisionTransformer((8, 8), (4, 4), 4, 0, 1, 4)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, vision_transformer(config, inputs)[:, 0])
    layer = model.get_layer("stem_tokens")
    layer.kernel.assign(np.array([[1.0, -2.0, 3.0, 0.5]]))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    before = layer.get_weights()[0]
    targets = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, 1.0]], "float32")

    def step(rows):
        layer.set_weights([before])
        model.get_layer("norm").set_weights([np.ones(4), np.zeros(4)])
        model.train_on_batch(images_of((8, 8), 2)[rows], targets[rows])
        return layer.get_weights()[0] - before

    together, alone = step([0, 1]), (step([0]) + step([1])) / 2
    assert distance(together, alone) < 1e-5


def test_stochastic_depth_grows_with_depth_and_is_for_training():
    config = VisionTransformer((8, 8), (4, 4), 8, 3, 2, 8, drop_path=0.5)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, vision_transformer(config, inputs))
    rates = {layer.name: layer.rate for layer in model.layers if "_drop" in layer.name}
    assert rates == {
        "block2_drop1": 0.25,
        "block2_drop2": 0.25,
        "block3_drop1": 0.5,
        "block3_drop2": 0.5,
    }
    images = images_of((8, 8), 8)
    np.testing.assert_array_equal(by_keras(model, images), by_keras(model, images))
    # A branch is left out of a sample as a whole: in training, each sample is one of a few.
    layer = model.get_layer("block3_drop1")
    found = keras.ops.convert_to_numpy(layer(np.ones((16, 5, 8), "float32"), training=True))
    assert {(0.0,), (2.0,)} == {tuple(np.unique(sample)) for sample in found}


# Files


@pytest.mark.parametrize("backend", each_backend())
def test_files_open_in_stock_keras(backend, tmp_path):
    require(backend)
    expected = {}
    for kind in ("dinov2_giant", "dinov3_gated", "siglip", "swin"):
        size = OTHER_SIZE if kind == "swin" else (20, 16)
        model, images = classifying(kind, tmp_path, size), images_of(size)
        model.save(tmp_path / f"{kind}.keras")
        np.save(tmp_path / f"{kind}.npy", images)
        expected[kind] = by_keras(model, images)
    run(backend, "open_models.py", tmp_path)
    for kind, numbers in expected.items():
        assert distance(np.load(tmp_path / f"{kind}.found.npy"), numbers) < 2e-6, kind


# Groups, cuts and the runtime


@pytest.mark.parametrize("kind", CONFIGS)
def test_each_block_is_a_group_and_a_place_to_cut(kind, tmp_path):
    size = OTHER_SIZE if kind == "swin" else (16, 16)
    model, images = classifying(kind, tmp_path, size), images_of(size)
    blocks = [f"block{number}" for number in range(1, 5 if kind == "swin" else 3)]
    assert [group.name for group in kt.layer_groups(model)] == ["stem", *blocks, "head"]
    kt.freeze_to(model, "block2")
    assert kt.frozen_prefix(model) == "block1_add2"
    expected = by_keras(model, images)
    for block in blocks:
        first, rest = kt.split_model(model, f"{block}_add2")
        assert distance(by_keras(rest, by_keras(first, images)), expected) < 1e-6


@pytest.mark.parametrize("kind", CONFIGS)
def test_onnx_runtime_gives_the_same(kind, tmp_path):
    onnx_runtime = pytest.importorskip("keras_transfer.inference.onnx_runtime", exc_type=ImportError)
    size = OTHER_SIZE if kind == "swin" else (16, 24)
    write_checkpoint(tmp_path, kind)
    model, _ = built(tmp_path, size)
    images = images_of(size, 3)
    compute = onnx_runtime.computing(model)
    assert distance(compute(images)[0], by_keras(model, images)) < 2e-6
    assert distance(compute(images[:1])[0], by_keras(model, images)[:1]) < 2e-6


# Checkpoints


def test_a_classifier(tmp_path):
    write_checkpoint(tmp_path / "small", "siglip")
    told = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2], "size": 20}
    (tmp_path / "small" / "preprocessor_config.json").write_text(json.dumps(told))
    model = kt.classifier(tmp_path / "small", 3)
    assert model.input_shape == (None, 20, 20, 3)
    rescaling = model.get_layer("preprocessing")
    np.testing.assert_allclose(rescaling.scale, 1 / 255 / np.array([0.5, 0.25, 0.2]))
    np.testing.assert_allclose(rescaling.offset, -np.array([0.5, 0.4, 0.3]) / [0.5, 0.25, 0.2])
    assert origin_of(model) == Origin("small", "preset")
    table = model.get_layer("stem_positions").get_weights()[0]
    assert table.shape == (1, 25 * WIDTH)
    path = tmp_path / "part.weights.h5"
    inputs = keras.Input((20, 20, 3))
    found = add_checkpoint(find_checkpoint(tmp_path / "small"), inputs, pretrained=False)
    keras.Model(inputs, found.features).save_weights(path)
    other = kt.classifier(tmp_path / "small", 3, weights=path, preprocessing=False)
    assert not np.array_equal(other.get_layer("stem_positions").get_weights()[0], table)
    random = kt.classifier(tmp_path / "small", 3, weights=None, image_size=(16, 24))
    assert random.input_shape == (None, 16, 24, 3)


def test_two_backbones(tmp_path):
    write_checkpoint(tmp_path / "one", "siglip")
    write_checkpoint(tmp_path / "other", "swin")
    model = kt.classifier((tmp_path / "one", (tmp_path / "other", 32)), 3)
    assert model.get_layer("features").output.shape == (None, 32)
    assert {"one_block1_add2", "other_block4_add2"} <= {layer.name for layer in model.layers}


@pytest.mark.parametrize("form", ["float16", "bfloat16", "several files", "with text"])
def test_other_forms_of_files(form, tmp_path):
    tensors = write_checkpoint(tmp_path, "siglip")
    expected, _ = built(tmp_path, (16, 16))
    path, tolerance = tmp_path / "model.safetensors", 0.0
    if form.endswith("float16"):
        kind = np.float16 if form == "float16" else ml_dtypes.bfloat16
        write_tensors(path, {name: array.astype(kind) for name, array in tensors.items()})
        tolerance = 0.05
    elif form == "several files":
        path.unlink()
        names = list(tensors)
        parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
        listed = {name: file for file, part in parts.items() for name in part}
        for file, part in parts.items():
            write_tensors(tmp_path / file, {name: tensors[name] for name in part})
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    else:
        inner = {name: value for name, value in CONFIGS["siglip"].items() if name != "model_type"}
        config = {"model_type": "siglip", "vision_config": inner, "text_config": {}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        both = {f"vision_model.{name}": array for name, array in tensors.items()}
        write_tensors(path, both | {"text_model.x": np.ones(2, "f"), "logit_scale": np.ones(1, "f")})
    found, _ = built(tmp_path, (16, 16))
    images = images_of((16, 16))
    assert distance(by_keras(found, images), by_keras(expected, images)) <= tolerance


def test_the_usual_preprocessing_and_size(tmp_path):
    write_checkpoint(tmp_path, "dinov2")
    preprocessing, size = load_preprocessing(find_checkpoint(tmp_path))
    assert str(preprocessing) == "(pixel - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)"
    assert size == (16, 16)
    told = {"do_center_crop": True, "crop_size": {"height": 24, "width": 20}, "size": 99}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(told | {"do_normalize": False}))
    preprocessing, size = load_preprocessing(find_checkpoint(tmp_path))
    assert str(preprocessing) == "pixel / 255"
    assert size == (24, 20)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 30}}))
    assert load_preprocessing(find_checkpoint(tmp_path))[1] == (16, 16)  # 30 is no multiple


def test_what_is_no_checkpoint(tmp_path):
    assert find_checkpoint("vgg16") is None
    assert find_checkpoint(tmp_path) is None
    (tmp_path / "config.json").write_text('{"module": "keras_hub", "class_name": "ViTBackbone"}')
    assert find_checkpoint(tmp_path) is None


# What is refused


def test_sizes_that_are_no_multiples(tmp_path):
    write_checkpoint(tmp_path, "vit")
    with pytest.raises(
        ValueError, match=re.escape("the nearest are '16' or '20'. Received: image_size=(18,")
    ):
        built(tmp_path, (18, 16))
    write_checkpoint(tmp_path, "swin")
    with pytest.raises(ValueError, match="at least 20 on each side"):
        built(tmp_path, (16, 32))
    # Of its own size the pixels left over go unseen, as in training.
    config = CONFIGS["vit"] | {"image_size": 19}
    write_checkpoint(tmp_path, "vit", config=config)
    model, _ = built(tmp_path, (19, 19))
    images = images_of((19, 19))
    cut, _ = built(tmp_path, (16, 16))
    assert distance(by_keras(model, images), by_keras(cut, images[:, :16, :16])) < 1e-6
    with pytest.raises(ValueError, match="or 19; the nearest are '19' or '20'"):
        built(tmp_path, (21, 21))


CONFIGURED = {
    "an unknown family": ({"model_type": "vitt"}, r"did you mean vit"),
    "a text": ({"model_type": "clip_text_model"}, "for texts alone"),
    "an activation": ({"hidden_act": "mish"}, "hidden_act must be 'gelu'"),
    "grey images": ({"num_channels": 1}, "num_channels must be 3"),
    "heads": ({"num_attention_heads": 3}, "multiple of num_attention_heads"),
    "no number": ({"hidden_size": "768"}, "hidden_size must be a positive integer"),
    "a negative number": ({"layer_norm_eps": -1}, "layer_norm_eps must be a number of at least 0"),
    "a size": ({"image_size": [16, 16, 16]}, "image_size must be a positive integer, or two"),
    "no truth": ({"qkv_bias": 1}, "qkv_bias must be true or false"),
}


@pytest.mark.parametrize("case", CONFIGURED)
def test_configurations(case, tmp_path):
    change, words = CONFIGURED[case]
    write_checkpoint(tmp_path, "vit", config=CONFIGS["vit"] | change)
    with pytest.raises(ValueError, match=words):
        find_checkpoint(tmp_path)


def without(name):
    return lambda tensors: tensors.pop(name) is not None and tensors


WEIGHTS = {
    "missing": (without("encoder.layer.1.norm2.bias"), "a tensor 'encoder.layer.1.norm2.bias'"),
    "no patches": (
        without("embeddings.patch_embeddings.projection.weight"),
        "that behind dinov2. or dinov2_with_registers.",
    ),
    "left over": (
        lambda tensors: tensors | {"encoder.layer.2.norm1.bias": np.ones(WIDTH, "f")},
        "Received: 'encoder.layer.2.norm1.bias', which has none",
    ),
    "another shape": (
        lambda tensors: tensors | {"layernorm.weight": np.ones(WIDTH + 1, "f")},
        r"'layernorm.weight' and 'layernorm.bias' must fit the layer 'norm'.*Received: \[\(17,\)",
    ),
    "other positions": (
        lambda tensors: tensors | {"embeddings.position_embeddings": np.ones((1, 10, WIDTH), "f")},
        r"'embeddings.position_embeddings' must have shape \(17, 16\)",
    ),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_of_another_network(case, tmp_path):
    change, words = WEIGHTS[case]
    write_checkpoint(tmp_path, "dinov2", tensors=change(tensors_of("dinov2")))
    with pytest.raises(ValueError, match=words):
        built(tmp_path, (16, 16))


def test_no_weights_that_could_run_code(tmp_path):
    write_checkpoint(tmp_path, "vit")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="other formats can run code"):
        built(tmp_path, (16, 16))


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "a/b.safetensors", "a.bin", "c:\\b.safetensors"]
)
def test_files_elsewhere(name, tmp_path):
    write_checkpoint(tmp_path / "inner", "vit")
    (tmp_path / "inner" / "model.safetensors").rename(tmp_path / "model.safetensors")
    index = tmp_path / "inner" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(ValueError, match="must list files of safetensors beside it"):
        built(tmp_path / "inner", (16, 16))


def header(**entry):
    usual = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    text = json.dumps({"x": usual | entry}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


DAMAGED = {
    "empty": (b"", "ends behind"),
    "short": (bytes([200]) + bytes(20), "ends behind"),
    "no JSON": ((4).to_bytes(8, "little") + b"{{{{", "can't be read"),
    "a list": ((2).to_bytes(8, "little") + b"[]", "can't be read"),
    "behind the end": (header(data_offsets=[4, 12]), "isn't where"),
    "another length": (header(shape=[3]), "isn't where"),
    "a negative size": (header(shape=[-2]), "can't be read"),
    "a fraction": (header(data_offsets=[0.0, 8.0]), "can't be read"),
    "an unknown type": (header(dtype="F4"), "of type 'F4'"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files(case, tmp_path):
    content, words = DAMAGED[case]
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        Tensors([tmp_path / "x.safetensors"])


# The Hub


class TestHub:
    @pytest.fixture
    def hub(self, monkeypatch):
        """Return the package, and let downloads be what a test says."""
        hub = pytest.importorskip("huggingface_hub")
        found = {}

        def download(repository, wanted, etag_timeout):
            found.setdefault("asked", []).append((repository, wanted))
            answer = found["answer"](wanted)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(hub, "hf_hub_download", download)
        return hub, found

    def test_files_are_fetched_when_they_are_needed(self, hub, tmp_path):
        errors, found = hub[0].errors, hub[1]
        write_checkpoint(tmp_path, "siglip")

        def answer(wanted):
            path = tmp_path / wanted
            return str(path) if path.is_file() else missing(errors.RemoteEntryNotFoundError)

        found["answer"] = answer
        model = kt.classifier("hf://owner/name", 3)
        assert model.input_shape == (None, 16, 16, 3)
        wanted = ["config.json", "preprocessor_config.json", "model.safetensors"]
        assert found["asked"] == [("owner/name", each) for each in wanted]

    @pytest.mark.parametrize(
        ("error", "kind", "words"),
        [
            ("GatedRepoError", ValueError, "accept it at https://huggingface.co/owner/name"),
            ("RepositoryNotFoundError", ValueError, "or it is private"),
            ("HfHubHTTPError", ConnectionError, "could not fetch config.json"),
            ("RemoteEntryNotFoundError", ValueError, "must have a config.json of transformers"),
        ],
    )
    def test_errors(self, hub, error, kind, words):
        package, found = hub
        found["answer"] = lambda wanted: missing(getattr(package.errors, error))
        with pytest.raises(kind, match=words):
            find_checkpoint("hf://owner/name")

    def test_no_network(self, hub, monkeypatch):
        package, found = hub
        found["answer"] = lambda wanted: package.errors.LocalEntryNotFoundError("offline")
        with pytest.raises(ConnectionError, match="pass the path of a folder"):
            find_checkpoint("hf://owner/name")

    def test_a_network_that_swallows_packets(self, hub, monkeypatch):
        over = threading.Event()
        hub[1]["answer"] = lambda wanted: over.wait(60) and OSError("late")
        monkeypatch.setattr(network, "TIMEOUT_SECONDS", 0.05)
        with pytest.raises(ConnectionError, match="within 0.05 s"):
            find_checkpoint("hf://owner/name")
        over.set()

    @pytest.mark.parametrize("name", ["hf://name", "hf://", "hf://owner/name/file", "hf:///name"])
    def test_names(self, name):
        with pytest.raises(ValueError, match="must be 'hf://owner/name'"):
            find_checkpoint(name)

    def test_the_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(ImportError, match=re.escape("pip install 'keras-transfer[hf]'")):
            find_checkpoint("hf://owner/name")


def missing(kind):
    """Return an error of the Hub, past its `__init__`, which wants a response of a server."""
    error = kind.__new__(kind)
    Exception.__init__(error, "no")
    return error


@pytest.mark.parametrize(
    ("kind", "before", "ending"),
    [
        ("deit", ["stem_add", "block1_add2"], "token"),
        ("siglip", ["stem_add", "block1_add2", "block2_add2"], "avg_pool"),
        ("swin", ["block1_add2", "block2_add2", "block3_add2"], "avg_pool"),
    ],
)
def test_several_depths_are_those_of_the_last_blocks(tmp_path, rng, kind, before, ending):
    write_checkpoint(tmp_path / "net", kind)
    model = kt.classifier(tmp_path / "net", 2, features="several")
    depths = model.get_layer("several_features").input
    names = [tensor._keras_history.operation.name for tensor in depths]
    assert names[:-1] == [f"{name}_{ending}" for name in before]
    images = rng.uniform(0, 255, (8, *model.input_shape[1:])).astype("uint8")
    trained = kt.automatic.train(model, (images, np.arange(8) % 2), fast=True, verbose=0)
    assert trained.linear.of == len(depths)
