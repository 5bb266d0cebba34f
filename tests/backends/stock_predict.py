"""Load models in stock Keras and write their predictions: stock_predict.py PACKAGES IMAGES MODEL...

To be run with -I -S, so that no installed package is found but those in the folder PACKAGES, and what is
installed in editable mode is not found at all.
"""

import contextlib
import sys
from importlib.util import find_spec

packages, images, *models = sys.argv[1:]
sys.path.append(packages)
if find_spec("keras_transfer") is not None:
    sys.modules["keras_transfer"] = None  # installed in full: importing it shall fail

with contextlib.suppress(ImportError):
    import torch  # noqa: F401  before TensorFlow

import keras  # noqa: E402
import numpy as np  # noqa: E402

for path in models:
    model = keras.models.load_model(path, safe_mode=True)
    predictions = model.predict(np.load(images, allow_pickle=False), verbose=0)
    np.save(path.replace(".keras", f".{keras.backend.backend()}.npy"), predictions)
assert not any(name.startswith("keras_transfer.") for name in sys.modules)
