"""By which rule ONNX Runtime computes, and that nothing is lost where it can't."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt
from keras_transfer import _distribution
from keras_transfer.inference import runtimes as module
from keras_transfer.inference.predictions import predictions
from keras_transfer.inference.runtimes import UnfitError, runtimes

onnx_runtime = pytest.importorskip("keras_transfer.inference.onnx_runtime", exc_type=ImportError)


@pytest.fixture
def model():
    ends = [
        layers.Conv2D(4, 3, name="conv"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3, "softmax"),
    ]
    return keras.Sequential([keras.Input((8, 8, 3)), *ends])


@pytest.fixture
def data():
    return np.random.default_rng(0).uniform(0, 1, (10, 8, 8, 3)).astype("float32"), np.arange(10) % 3


def names(model, wanted="auto"):
    return [runtime.name for runtime in runtimes(model, wanted)[0]]


def cached(model, data, folder, **options):
    prefix, _ = kt.split_model(model, "conv")
    return kt.FeatureCache(prefix, folder, **options).build(kt.Loader(data, 4, shuffle=False), 4)


def test_the_rule(model, monkeypatch):
    assert names(model) == ["onnxruntime", "folded", "keras"]
    assert names(model, "folded") == ["folded"]
    assert names(model, "keras") == ["keras"]
    assert names(model, "onnxruntime") == ["onnxruntime"]
    assert runtimes(model)[1] is None
    monkeypatch.setattr(_distribution, "accelerated", lambda model: True)
    by_a_compiler = keras.backend.backend() == "jax"
    assert names(model) == (["keras"] if by_a_compiler else ["folded", "keras"])
    assert runtimes(model)[1] == "the backend has a GPU"
    with pytest.raises(ValueError, match=r"must be .* or .auto. here, as the backend has a GPU"):
        runtimes(model, "onnxruntime")
    with pytest.raises(ValueError, match=r"runtime must be .*'onnxruntime'.*Received: runtime='onnx'"):
        runtimes(model, "onnx")


def test_several_devices(model, monkeypatch):
    monkeypatch.setattr(_distribution, "placement", lambda model: _distribution.Placement(devices=2))
    assert names(model) == ["onnxruntime", "keras"]  # a copy would be on one


def test_what_it_is_known_by_tells_version_and_instructions():
    import onnxruntime

    assert onnx_runtime.identity().startswith(f"onnxruntime {onnxruntime.__version__}, ")
    assert len(onnx_runtime.identity().split()) > 2


def fails(model):
    raise RuntimeError("no room")


def wrong(model):
    compute = computing(model)
    return lambda batch: [1.0001 * found for found in compute(batch)]


def fails_later(model):
    compute, calls = computing(model), []

    def failing(batch):
        calls.append(1)
        if len(calls) > 2:
            raise RuntimeError("it is gone")
        return compute(batch)

    return failing


computing = onnx_runtime.computing
BROKEN = {
    fails: r"as ONNX Runtime failed \(no room\)",
    wrong: r"as what ONNX Runtime makes of 2 images differs .* by 1\.0e-04 of the norm",
    fails_later: r"as ONNX Runtime failed \(it is gone\)",
}


@pytest.mark.parametrize("broken", BROKEN)
def test_keras_computes_where_it_fails_and_a_line_says_why(
    broken, model, data, tmp_path, monkeypatch, capsys
):
    expected = cached(model, data, tmp_path / "keras", runtime="keras")
    probabilities = model.predict(data[0], verbose=0)
    monkeypatch.setattr(onnx_runtime, "computing", broken)
    capsys.readouterr()
    found = cached(model, data, tmp_path / "cache")
    assert f"Keras computes '{model.name}_prefix', {'as'}" in (told := capsys.readouterr().out)
    import re

    assert re.search(BROKEN[broken], told)
    np.testing.assert_array_equal(found.samples(0, 10)[0], expected.samples(0, 10)[0])  # no norm folds
    assert len(kt.features.caches(tmp_path / "cache")) == 1
    assert sum(path.is_dir() for path in (tmp_path / "cache").iterdir()) == 1
    given = predictions(model, kt.Loader(data, 4), 0)
    np.testing.assert_allclose(given, probabilities, rtol=1e-6)


def test_only_it_if_it_is_asked_for(model, data, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_runtime, "computing", wrong)
    with pytest.raises(UnfitError, match="differs from what Keras makes"):
        cached(model, data, tmp_path / "cache", runtime="onnxruntime")
    for name in ("onnxruntime", "folded"):
        with pytest.raises(ValueError, match=rf"runtime must be .* with a compute_dtype.*'{name}'"):
            kt.FeatureCache(model, tmp_path / "other", runtime=name, compute_dtype="bfloat16")


def test_what_is_not_installed_says_so_and_keras_computes(model, data, tmp_path, monkeypatch, capsys):
    why = "ONNX Runtime and onnx aren't installed: pip install 'keras-transfer[fast]'"
    monkeypatch.setattr(module, "_obstacle", lambda model: why)
    cached(model, data, tmp_path)
    assert f"as {why}" in capsys.readouterr().out


def test_each_runtime_has_a_cache_of_its_own(model, data, tmp_path):
    fast, slow = (cached(model, data, tmp_path, runtime=name) for name in ("auto", "keras"))
    assert len(kt.features.caches(tmp_path)) == 2
    np.testing.assert_allclose(fast.samples(0, 10)[0], slow.samples(0, 10)[0], rtol=1e-5, atol=1e-6)
    again = cached(model, data, tmp_path, runtime="onnxruntime")
    np.testing.assert_array_equal(again.samples(0, 10)[0], fast.samples(0, 10)[0])
    assert len(kt.features.caches(tmp_path)) == 2


def test_predictions_are_those_of_all_samples_in_order(model, data):
    loader = kt.Loader(data, 4, shuffle=True, seed=3)
    found = predictions(model, loader, 0)
    np.testing.assert_allclose(found, model.predict(data[0], verbose=0), rtol=1e-5)


def test_weights_that_changed_are_seen(model, data):
    before = predictions(model, kt.Loader(data, 4), 0)
    model.set_weights([weight + 0.5 for weight in model.get_weights()])
    found = predictions(model, kt.Loader(data, 4), 0)
    assert not np.allclose(found, before, atol=1e-3)
    np.testing.assert_allclose(found, model.predict(data[0], verbose=0), rtol=1e-5)


def test_a_model_of_its_own_class(data):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(keras.ops.mean(x, axis=(1, 2)))

    model = Own()
    model(data[0])
    found = predictions(model, kt.Loader(data, 4), 0)
    np.testing.assert_allclose(found, model.predict(data[0], verbose=0), rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="XLA folds by itself")
def test_a_copy_of_the_network_computes_where_it_folds(data, tmp_path, monkeypatch, capsys):
    """And the network itself, where the copy gives something else."""
    inputs = keras.Input((8, 8, 3))
    norm = layers.BatchNormalization(moving_mean_initializer="ones")
    model = keras.Model(inputs, norm(layers.Conv2D(4, 3, name="conv")(inputs)))
    monkeypatch.setattr(module, "_obstacle", lambda model: "it has no room")
    loader, built = kt.Loader(data, 4, shuffle=False), {}
    for name in ("auto", "folded", "keras"):
        cache = kt.FeatureCache(model, tmp_path / "first", runtime=name)
        built[name] = cache.build(loader, 4, verbose=2).samples(0, 10)[0]
    assert capsys.readouterr().out.count("as it has no room") == 1
    np.testing.assert_array_equal(built["auto"], built["folded"])
    assert 0 < np.abs(built["folded"] - built["keras"]).max() < 1e-5
    copied = module.folded

    def wrong(model):
        copy = copied(model)
        copy.set_weights([1.001 * weight for weight in copy.get_weights()])
        return copy

    monkeypatch.setattr(module, "folded", wrong)
    cache = kt.FeatureCache(model, tmp_path / "second")
    found = cache.build(loader, 4, verbose=2).samples(0, 10)[0]
    assert "as what folding makes of 2 images differs from what Keras" in capsys.readouterr().out
    np.testing.assert_array_equal(found, built["keras"])
