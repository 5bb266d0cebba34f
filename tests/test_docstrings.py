"""The examples in docstrings run, and public names are documented."""

import doctest
import importlib.util
import inspect
import pkgutil

import keras
import pytest

import keras_transfer as kt

# Modules that import a backend or an extra, or show one.
EXPORTS = "onnxscript" if keras.backend.backend() == "torch" else "tensorflow"
NEEDS = {
    "keras_transfer._distribution.jax": "jax",
    "keras_transfer._distribution.tensorflow": "tensorflow",
    "keras_transfer._distribution.torch": "torch",
    "keras_transfer._lib.jax_convolutions": "jax",
    "keras_transfer.optimizers._torch_lists": "torch",
    "keras_transfer.optimizers._torch_rates": "torch",
    "keras_transfer.features.cache.on_ray": "ray",
    "keras_transfer.inference.onnx_file": "onnx",
    "keras_transfer.inference.onnx_runtime": "onnxruntime",
    "keras_transfer.saving.exporting": EXPORTS,
}
MODULES = [
    module.name
    for module in pkgutil.walk_packages(kt.__path__, "keras_transfer.")
    if importlib.util.find_spec(NEEDS.get(module.name, "keras"))
]
PUBLIC = {f"kt.{name}": getattr(kt, name) for name in kt.__all__} | {
    f"kt.{module.__name__.rpartition('.')[2]}.{name}": getattr(module, name)
    for module in (kt.calibration, kt.callbacks, kt.data)
    for name in module.__all__
}


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    count = sum(
        bool(test.examples) for name in MODULES for test in finder.find(importlib.import_module(name))
    )
    assert count >= 12


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if not inspect.ismodule(value)])
def test_public_names_are_documented(name):
    text = inspect.getdoc(PUBLIC[name])
    if inspect.isfunction(PUBLIC[name]):
        gives = inspect.signature(PUBLIC[name]).return_annotation is not None
        assert all(f"\n{part}:\n" in text for part in ("Args", *["Returns"] * gives))
        assert "Example" in text or name == "kt.load_model"
    else:
        assert "\nArgs:\n" in text or "\nAttributes:\n" in text
