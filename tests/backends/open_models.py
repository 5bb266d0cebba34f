"""Open models in stock Keras on another backend: open_models.py FOLDER with NAME.keras and NAME.npy."""

import sys
from pathlib import Path

import keras
import numpy as np

for path in sorted(Path(sys.argv[1]).glob("*.keras")):
    model = keras.saving.load_model(path, safe_mode=True)
    images = np.load(path.with_suffix(".npy"), allow_pickle=False)
    found = keras.ops.convert_to_numpy(model.predict_on_batch(images))
    np.save(path.with_suffix(".found.npy"), found)
