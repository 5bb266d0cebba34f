"""What importing the package imports, and what it doesn't; each in a process of its own."""

import subprocess
import sys

import keras
import pytest

import keras_transfer as kt

BACKENDS = {"tensorflow", "torch", "jax"}
EXTRAS = {"matplotlib", "PIL", "tensorflow_datasets"}
CORE = [
    "backbones",
    "freezing",
    "heads",
    "layer_groups",
    "data.loader",
    "data.sources",
    "data.directory",
    "data.datasets",
    "training.fine_tune",
]


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_package_alone_imports_nothing():
    loaded = python("import sys, keras_transfer; print(*sys.modules)").split()
    assert not {"keras", "numpy", "grain", *BACKENDS, *EXTRAS} & set(loaded)


def test_the_core_imports_what_keras_imports():
    # Keras itself tries TensorFlow and Pillow on every backend, where they are installed.
    by_keras = python("import sys, keras; print(*sys.modules)").split()
    modules = ", ".join(f"keras_transfer.{name}" for name in CORE)
    by_us = python(f"import sys, {modules}; print(*sys.modules)").split()
    heavy = BACKENDS | EXTRAS | {"grain", "sklearn"}
    assert (heavy & set(by_us)) <= (heavy & set(by_keras)) | {keras.backend.backend()}


@pytest.mark.parametrize(
    ("missing", "extra", "code"),
    [
        ("PIL", "data", "import keras_transfer.data.images"),
        ("PIL", "data", "kt.Loader((np.zeros((1, 4, 4, 3), 'uint8'), [0]), image_size=2)[0]"),
        ("matplotlib", "plots", "kt.plots"),
    ],
)
def test_a_missing_extra_is_named(missing, extra, code):
    python(
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "import numpy as np, keras_transfer as kt\n"
        "try:\n"
        f"    {code}\n"
        "except ImportError as error:\n"
        f"    assert \"pip install 'keras-transfer[{extra}]'\" in str(error), error\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )


def test_public_names():
    assert set(kt.__all__) <= set(dir(kt))
    for name in kt.__all__:
        assert getattr(kt, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'fine_tuning'"):
        _ = kt.fine_tuning
