"""Compute by ONNX Runtime on another backend: runtime.py FOLDER with model.keras and images.npy."""

import sys
from pathlib import Path

import keras
import numpy as np

import keras_transfer as kt
from keras_transfer.inference import onnx_runtime

folder = Path(sys.argv[1])
images = np.load(folder / "images.npy", allow_pickle=False)
model = keras.saving.load_model(folder / "model.keras")
np.save(folder / "found.npy", onnx_runtime.computing(model)(images)[0])
prefix, _ = kt.split_model(model, "block_3_expand")
kt.FeatureCache(prefix, folder / "cache").build(kt.Loader((images, np.arange(2)), 2), 2, verbose=0)
