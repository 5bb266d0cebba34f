"""Features of a data set, computed here or by the workers of a cluster."""

import os
from typing import Any

import keras

from keras_transfer._lib.checks import checked_choice, checked_integer
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache.cache import ComputeType, FeatureCache, FloatType
from keras_transfer.inference.runtimes import RuntimeName

_ENGINES = ("local", "ray")


def extract(
    prefix: keras.Model,
    data: Any,
    cache: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    views: int | None = None,
    dtype: FloatType = "float32",
    compute_dtype: ComputeType | None = None,
    runtime: RuntimeName = "auto",
    engine: str = "local",
    num_workers: int | None = None,
    verbose: str | int = "auto",
) -> Loader:
    """Return a loader of what `prefix` makes of all images, computed now or before.

    The features stand in files in `cache`, where `keras_transfer.FeatureCache`, and `fine_tune`
    with `CacheOptions(folder)`, find them, whichever engine computed them; and one engine goes on
    with what the other has begun.

    With `engine="ray"` (extra `ray`) workers of Ray Data compute the files that are missing. When a
    worker dies, Ray Data starts another, and the file that was being computed is computed anew; what was
    written stays. A file at which four workers have died is an error. If the program has called
    `ray.init`, that cluster is used, where all machines must have this package, Ray and Keras in the
    same versions; otherwise Ray is started on this machine for as long as it takes. `cache`, and the
    files of images that `data` reads, must be on a disk that all machines share; arrays are sent to
    each machine once. Ray sends the model as a `.keras` file, and `data` and classes of your own in
    its own way, which is that of pickle; nothing in `cache` is ever unpickled.

    On machines of one kind features are the same bit for bit, whatever the engine and the number of
    workers. For that each worker has as many threads as this process, as torch's numbers hang on them:
    several workers on one machine share its processors.

    Args:
        prefix: as in `keras_transfer.FeatureCache`. For "ray" also one that Keras loads from a file in
            its safe mode, so without `Lambda` layers.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`. For "ray" of objects that can be
            pickled.
        cache: a folder for caches alone, made if it doesn't exist.
        batch_size: as in `FeatureCache.build`.
        views: as in `FeatureCache.build`.
        dtype: as in `FeatureCache`.
        compute_dtype: as in `FeatureCache`.
        runtime: as in `FeatureCache`.
        engine: "local" computes in this process, "ray" in workers of Ray.
        num_workers: for "ray", how many there are at most; by default one for each GPU of the cluster,
            or, where there is none, for each machine. Each is a process with a copy of the model; it
            asks Ray for one processor and, where there are GPUs, for one of these or a share of it.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        A loader of (features, labels), as `FeatureCache.build` gives it.

    Raises:
        ImportError: Ray isn't installed.
        TypeError: `data` is of another kind, or can't be sent to other processes.
        ValueError: an argument has no sensible meaning; or as in `FeatureCache.build`.
        OSError: there is no room on the disk, or workers don't see `cache`; what was computed is
            kept.
        RuntimeError: workers have other versions than this process, or die again and again.

    Example:
        >>> import tempfile, numpy as np, keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> prefix, tail = kt.split_model(model, "block5_pool")
        >>> x, y = np.zeros((6, 32, 32, 3), "uint8"), np.arange(6) % 3
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     features = kt.features.extract(prefix, (x, y), folder, batch_size=4, verbose=0)
        ...     [batch.shape for batch, labels in features]
        [(4, 1, 1, 512), (2, 1, 1, 512)]
    """
    checked_choice("engine", engine, _ENGINES)
    how: dict[str, Any] = {"dtype": dtype, "compute_dtype": compute_dtype, "runtime": runtime}
    features: FeatureCache
    if engine == "local":
        if num_workers is not None:
            raise ValueError(
                f"num_workers must be None for engine='local'. Received: num_workers={num_workers!r}"
            )
        features = FeatureCache(prefix, cache, **how)
    else:
        from keras_transfer.features.cache.on_ray import RayCache

        features = RayCache(prefix, cache, **how)
        if num_workers is not None:
            features.num_workers = checked_integer("num_workers", num_workers, 1)
    return features.build(data, batch_size, views=views, verbose=verbose)
