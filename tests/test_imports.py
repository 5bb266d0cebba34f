"""What importing the package imports, and what it doesn't; each in a process of its own."""

import json
import subprocess
import sys

import keras
import pytest

import keras_transfer as kt

BACKENDS = {"tensorflow", "torch", "jax"}
EXTRAS = {
    "datasets",
    "huggingface_hub",
    *("cv2", "jinja2", "keras_hub", "matplotlib", "onnx", "onnxruntime", "PIL", "ray", "simplejpeg"),
    "sklearn",
    "tensorflow_datasets",
    "typer",
}
COMMAND_LINE = ("app", "backbones", "common", "exploring", "result", "training", "using", "way")
CORE = {"keras", "keras_transfer", "numpy", "rich", *sys.stdlib_module_names, "filelock", "ml_dtypes"}
# Imports every module where nothing optional is installed; prints who asks for what, and who fails.
ALL_MODULES = """
import builtins, importlib, json, pkgutil, sys
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name in {missing} else find_spec(name, *rest)
asked, failed, plain = {{}}, {{}}, builtins.__import__
def spy(name, globals=None, *positional, **named):
    module = (globals or {{}}).get("__name__") or ""
    if module.partition(".")[0] == "keras_transfer":
        asked.setdefault(module, []).append(name.partition(".")[0])
    return plain(name, globals, *positional, **named)
builtins.__import__ = spy
import keras_transfer
for module in pkgutil.walk_packages(keras_transfer.__path__, "keras_transfer."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        failed[module.name] = str(error)
print(json.dumps([asked, failed]))
"""


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=1000, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_package_alone_imports_nothing():
    loaded = python("import sys, keras_transfer; print(*sys.modules)").split()
    assert not {"keras", "numpy", *BACKENDS, *EXTRAS} & set(loaded)


def test_every_module_asks_for_what_is_its_own():
    # Keras tries the other backends and some extras itself, so what is loaded at the end says nothing.
    missing = sorted(BACKENDS - {keras.backend.backend()} | EXTRAS)
    asked, failed = json.loads(python(ALL_MODULES.format(missing=missing)).splitlines()[-1])
    assert len(asked) >= 15
    extras = {
        "keras_transfer.data.images.jpeg": "simplejpeg",
        "keras_transfer.data.images.pixels": "PIL",
        "keras_transfer.data.images.reading": "PIL",
        "keras_transfer.data.images.transforms": "cv2",
        "keras_transfer.data.looking": "PIL",
        "keras_transfer.features.probe.head_choice": "sklearn",
        "keras_transfer.features.probe.linear_fit": "sklearn",
        "keras_transfer.inference.onnx_file": "onnx",
        "keras_transfer.inference.onnx_runtime": "onnxruntime",
        "keras_transfer.features.cache.on_ray": "ray",
        "keras_transfer.reports.plots": "matplotlib",
        **{f"keras_transfer.cli.{name}": "typer" for name in COMMAND_LINE},
    }
    backends = {
        "keras_transfer._lib.jax_convolutions": "jax",
        "keras_transfer.optimizers._torch_lists": "torch",
        "keras_transfer.optimizers._torch_rates": "torch",
        **{f"keras_transfer._distribution.{backend}": backend for backend in BACKENDS},
    }
    brought = {"sklearn": {"scipy"}}  # which requires it
    for module, names in asked.items():
        own = (extras | backends).get(module)
        assert set(names) <= CORE | {own} | brought.get(own, set()), module
    of_others = {name for name, backend in backends.items() if backend != keras.backend.backend()}
    assert failed.keys() == extras.keys() | of_others


# What is missing, the extra that brings it, and what asks for it.
MISSING = [
    ("PIL", "data", "import keras_transfer.data.images.reading"),
    ("PIL", "data", "kt.Loader((np.zeros((1, 4, 4, 3), 'uint8'), [0]), image_size=2)[0]"),
    ("cv2", "data", "kt.Loader((np.zeros((1, 4, 4, 3), 'uint8'), [0]), augmentation='standard')"),
    (
        "cv2",
        "data",
        "kt.data.random_rotation(np.zeros((4, 4, 3), 'uint8'), np.random.default_rng())",
    ),
    ("matplotlib", "plots", "kt.plots"),
    ("matplotlib", "report", "kt.report(None, None, 'report.html')"),
    ("jinja2", "report", "kt.report(None, None, 'report.html')"),
    ("sklearn", "probe", "kt.fit_linear_head(None, None)"),
    ("sklearn", "probe", "kt.features.cross_validate_head(None, None)"),
    ("sklearn", "probe", "kt.rank_backbones(['vgg16'], None, method='probe')"),
    ("huggingface_hub", "hf", "kt.classifier('hf://owner/name', 2)"),
    ("datasets", "datasets", "kt.data.from_huggingface('hf://owner/name', image_size=8)"),
    ("ray", "ray", "kt.features.extract(None, None, 'features', engine='ray')"),
    ("scipy.optimize", "probe", "kt.calibration.fit_temperature([[0.0, 1.0]], [0])"),
]
# Runs each with its package missing, in one process, as starting one takes longer than all of them.
WITHOUT = """
import json, sys
import numpy as np, keras_transfer as kt
said = []
for missing, code in {cases}:
    there = {{name for name in sys.modules if name == missing or name.startswith(missing + ".")}}
    kept = {{name: sys.modules.pop(name) for name in there}}
    ours = set(sys.modules)
    sys.modules[missing] = None
    try:
        exec(code)
    except ImportError as error:
        said.append(str(error))
    else:
        said.append("no error")
    for name in set(sys.modules) - ours:  # what was imported without it
        if name.startswith("keras_transfer."):
            del sys.modules[name]
    sys.modules.update(kept)
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said_without():
    cases = [(missing, code) for missing, _, code in MISSING]
    answers = json.loads(python(WITHOUT.format(cases=cases)).splitlines()[-1])
    return dict(zip(MISSING, answers, strict=True))


@pytest.mark.parametrize("case", MISSING, ids=lambda case: f"{case[0]}-{case[2]}")
def test_a_missing_extra_is_named(case, said_without):
    assert f"pip install 'keras-transfer[{case[1]}]'" in said_without[case]


def test_missing_tfds_is_named(monkeypatch, tmp_path):
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    (folder / "cifar10-train.array_record-00000-of-00001").touch()
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"needs TFDS: pip install 'keras-transfer\[data\]'"):
        kt.data.load("cifar10", "train", image_size=8, directory=tmp_path)


def test_dir_shows_what_is_public_at_any_time():
    used = "kt.layer_groups; import keras_transfer.data.order"
    shown = python(f"import keras_transfer as kt; print(*dir(kt)); {used}; print(*dir(kt))")
    before, after = (line.split() for line in shown.strip().splitlines())
    assert before == after == dir(kt)
    assert all(hasattr(kt, name) for name in before)


def test_public_names():
    assert set(dir(kt)) == {*kt.__all__, "plots", "__version__"}
    for name in kt.__all__:
        assert getattr(kt, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'fine_tuning'"):
        _ = kt.fine_tuning
