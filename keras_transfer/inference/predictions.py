"""What a model gives for all samples of a loader."""

import contextlib

import keras
import numpy as np

from keras_transfer._lib.messages import progress
from keras_transfer.data.loader import Loader
from keras_transfer.data.reading_ahead import made_ahead
from keras_transfer.inference.runtimes import Runtime, by_the_first, started


def predictions(model: keras.Model, loader: Loader, verbose: int) -> np.ndarray:
    """Return what a model with one output gives for each sample, in the order of the source.

    ONNX Runtime computes it where it can, as in `keras_transfer.FeatureCache`.

    Args:
        model: a functional or any other model; it runs in inference mode.
        loader: not augmented.
        verbose: as `verbosity` returns it.

    Returns:
        An array of shape (samples, *output shape).
    """

    def predicted(runtime: Runtime) -> np.ndarray:
        return _predicted(model, loader, runtime, verbose)

    return by_the_first(model, "auto", predicted, verbose)


def _predicted(model: keras.Model, loader: Loader, runtime: Runtime, verbose: int) -> np.ndarray:
    if runtime.name == "keras":
        return model.predict(loader.replace(shuffle=False), verbose=verbose)
    size, count = loader.batch_size, loader.num_samples

    def read(first: int) -> np.ndarray:
        return loader.samples(first, min(first + size, count))[0]

    found = []
    with contextlib.ExitStack() as stack:
        ahead = made_ahead(read, range(0, count, size), loader.num_threads)
        batches = stack.enter_context(contextlib.closing(ahead))
        some = next(batches)
        compute = started(model, runtime, some, size)
        advance = stack.enter_context(
            progress(verbose, f"Predicting: {count:,} samples", count, "sample")
        )
        for batch in (images for part in ([some], batches) for images in part):
            found.append(compute(batch)[0])
            advance(len(batch))
    return np.concatenate(found)
