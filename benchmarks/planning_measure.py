"""What `planning.py` measures; to be imported after `KERAS_BACKEND` is set."""

import itertools
import math
import os
import platform
import statistics
import time
from functools import partial
from pathlib import Path

import keras
import numpy as np
from PIL import Image

import keras_transfer as kt
from keras_transfer.features.cache.shards import DTYPES, open_shard, write_shard
from keras_transfer.features.cache.stored import Features
from keras_transfer.layers.graph import multiplications
from keras_transfer.layers.precision import in_precision
from keras_transfer.layers.splitting import places

CLASSES, SIZE, LONGEST = 1000, 224, 500
NOISE, QUALITY = 10, 95  # of the photos
MEGA = 1e6
SHARD = 32 * 2**20  # bytes
# The first layer that trains in "the last stage"; of other networks it is the first of the last group.
FIRST = {"resnet50": "conv5_block1_1_conv", "mobilenet_v2": "block_13_expand"}


def seconds(action, at_least):
    """Return the median time of an action that is repeated for some seconds, and twice at least."""
    action()
    times = []
    while len(times) < 2 or sum(times) < at_least:
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def machine():
    """Return what computes here: {what: value}; `accelerators` counts GPUs and the like."""
    backend = keras.backend.backend()
    names = {"torch": _torch_devices, "jax": _jax_devices, "tensorflow": _tensorflow_devices}[backend]()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "backend": backend,
        "device": names[0] if names else _processor(),
        "accelerators": len(names),
        "cores": cores,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "keras": keras.__version__,
    }


def _torch_devices():
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _jax_devices():
    import jax

    return [each.device_kind for each in jax.local_devices() if each.platform != "cpu"]


def _tensorflow_devices():
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(each) for each in found]
    return [each.get("device_name", "GPU") for each in details]


def _processor():
    """Return the name of the processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def put_photos(folder, count):
    """Put JPEG files into a folder for each of two classes; return where they are from, and facts.

    They are real photos, enlarged to the size that is usual in ImageNet, or drawn ones. Noise and
    quality make them take about as many bytes as those of ImageNet, which are 115 kB on average.
    """
    real = os.environ.get("KERAS_TRANSFER_REAL_DATA")
    found = sorted(Path(real).rglob("*.jpg")) if real else []
    if real and not found:
        raise ValueError(f"KERAS_TRANSFER_REAL_DATA must hold photos (*.jpg). Received: {real!r}")
    paths = itertools.cycle(found)
    facts = []
    for number in range(count):
        path = Path(folder, f"class {number % 2}", f"{number}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(number)
        image = np.asarray(_enlarged(next(paths)) if found else _drawn(rng), "float32")
        image = image + rng.normal(0, NOISE, (*image.shape[:2], 1))
        Image.fromarray(image.clip(0, 255).astype("uint8")).save(path, quality=QUALITY)
        facts.append((image.shape[1], image.shape[0], path.stat().st_size))
    width, height, size = (sum(values) / count for values in zip(*facts, strict=True))
    origin = "enlarged photos" if found else "drawn images"
    return {"origin": origin, "width": width, "height": height, "bytes": size}


def _enlarged(path):
    with Image.open(path) as image:
        scale = LONGEST / max(image.size)
        return image.convert("RGB").resize([round(scale * side) for side in image.size])


def _drawn(rng):
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), "uint8"))
    return coarse.resize((LONGEST, LONGEST * 3 // 4), Image.Resampling.BICUBIC)


def input_rates(folder, cores, batch_size, at_least):
    """Return images a second that a `Loader` decodes: {augmentation: {"1 thread", "all threads"}}."""
    rates = {}
    for augmentation in (None, "standard"):
        rates[augmentation or "none"] = found = {}
        for name, threads in (("1 thread", 1), ("all threads", cores)):
            loader = kt.data.from_directory(
                folder,
                image_size=SIZE,
                batch_size=batch_size,
                augmentation=augmentation,
                on_error="defer",
                num_threads=threads,
            )
            endless = itertools.chain.from_iterable(itertools.repeat(loader))
            count = loader.num_batches
            once = seconds(
                lambda endless=endless, count=count: [next(endless) for _ in range(count)], at_least
            )
            found[name] = loader.num_samples / once
    return rates


def evict(paths):
    """Drop files from the page cache, where the system can; return whether it could."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in paths:
        with Path(path).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def file_rates(folder):
    """Return how JPEG files are read that are not in memory: MB/s, and digests of them a second."""
    paths = sorted(Path(folder).rglob("*.jpg"))
    loader = kt.data.from_directory(folder, image_size=SIZE, on_error="defer")
    times = []
    for action in (lambda: [path.read_bytes() for path in paths], loader.fingerprint):
        cold = evict(paths)
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    size = sum(path.stat().st_size for path in paths)
    return {"read": size / times[0] / MEGA, "digests": len(paths) / times[1], "cold": cold}


def shard_rates(folder, shape, dtype, total, batch_size):
    """Return how features are written and read, in MB/s of their bytes on disk.

    Written as caches are: with checksums, each file synchronised with the disk. Read as in training, in
    batches of rows from anywhere: "disk" is the time that it takes longer with files that are not in
    memory, "copy" is what it takes with files that are.
    """
    rng, kind = np.random.default_rng(0), DTYPES[dtype]
    count = max(batch_size, SHARD // (math.prod(shape) * kind.itemsize))
    rows = rng.random((count, *shape), "float32").astype(kind)
    shards, times = {}, []
    while len(shards) < 2 or sum(path.stat().st_size for path in shards.values()) < total:
        span = len(shards) * count, (len(shards) + 1) * count
        start = time.perf_counter()
        shards[span] = write_shard(Path(folder), span[0], rows)
        times.append(time.perf_counter() - start)
    order = rng.permutation(len(shards) * count)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def read():
        openers = {span: partial(open_shard, path, kind) for span, path in shards.items()}
        features = Features(openers, np.zeros(len(order), "int32"), views=1, key="")
        start = time.perf_counter()
        for batch in batches:
            features.gather(batch)
        return time.perf_counter() - start

    evict(shards.values())
    cold, warm = read(), min(read(), read())
    nbytes = rows.nbytes * len(shards) / MEGA
    for path in shards.values():
        path.unlink()
    return {
        "write": rows.nbytes / MEGA / statistics.median(times),
        "disk": nbytes / max(cold - warm, 1e-3 * warm),
        "copy": nbytes / warm,
    }


def network_figures(name, folder, cores, batch_size, at_least, total):
    """Return what a network does in a second on one device, and how large its features are.

    Args:
        name: of the backbone.
        folder: for features; its folder "photos" has JPEG files in folders of classes.
        cores: of the machine.
        batch_size: images of a step.
        at_least: seconds for each measurement.
        total: bytes of features that are written and read.
    """
    model = kt.classifier(name, CLASSES, input_shape=(SIZE, SIZE, 3), weights=None)
    first = FIRST.get(name) or kt.layer_groups(model)[-2].layers[0].name
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (batch_size, SIZE, SIZE, 3), "uint8")
    y = rng.integers(0, CLASSES, batch_size)

    def rate(action):
        return batch_size / seconds(action, at_least)

    found = {"name": name, "first": first, "cuts": cuts(model), "parts": {}}
    for part, freeze in (
        ("head", kt.freeze_backbone),
        ("last stage", lambda model: kt.unfreeze_from(model, first)),
    ):
        freeze(model)
        at = kt.frozen_prefix(model)
        prefix, tail = kt.split_model(model, at)
        compile_model(tail)
        half = in_precision(prefix, "bfloat16")
        forward = {
            "float32": rate(lambda network=prefix: network.predict_on_batch(x)),
            "bfloat16": rate(lambda network=half: network.predict_on_batch(x)),
        }
        if part == "head":
            found["together"] = rates_together(prefix, folder, cores, batch_size)
        shape = prefix.output_shape[1:]
        features = rng.random((batch_size, *shape), "float32")
        found["parts"][part] = {
            "cut": at,
            "shape": shape,
            "forward": forward,
            "step": rate(lambda tail=tail, x=features: tail.train_on_batch(x, y)),
            "gradients": _bytes(tail),
            "disk": {
                dtype: shard_rates(folder, shape, dtype, total, batch_size)
                for dtype in ("float32", "bfloat16")
            },
        }
    kt.unfreeze(model)
    compile_model(model)
    found["parts"]["everything"] = {
        "step": rate(lambda: model.train_on_batch(x, y)),
        "gradients": _bytes(model),
    }
    keras.utils.clear_session()
    return found


def rates_together(prefix, folder, cores, batch_size):
    """Return images a second of a whole pass, from files to features on disk, and of its parts alone.

    They take turns, so that a busy machine slows all of them; the medians of two rounds count.
    """
    photos = Path(folder, "photos")
    loader = kt.data.from_directory(
        photos, image_size=SIZE, batch_size=batch_size, on_error="defer", num_threads=cores
    )
    few = loader.subset(range(min(loader.num_samples, 4 * batch_size)))
    batches = [images for images, _ in few if len(images) == batch_size]
    times = {"compute": [], "decode": [], "digest": [], "together": []}
    for turn in range(2):
        cache = kt.FeatureCache(prefix, Path(folder, f"cache {prefix.name} {turn}"))
        actions = {
            "compute": lambda: [prefix.predict_on_batch(images) for images in batches],
            "decode": lambda: list(few),
            "digest": few.fingerprint,
            "together": lambda cache=cache: cache.build(few, batch_size, verbose=0),
        }
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - start)
    rates = {name: few.num_samples / statistics.median(found) for name, found in times.items()}
    return {"images": few.num_samples, **rates}


def compile_model(model):
    """Compile a model."""
    model.compile("adam", "sparse_categorical_crossentropy")


def _bytes(model):
    return 4 * sum(math.prod(variable.shape) for variable in model.trainable_variables)


def cuts(model):
    """Return places for a cut: of each group its end, and where its features are smallest.

    Of the head it is the first place, behind the pooling.
    """
    possible, whole = set(places(model)), multiplications(model)
    chosen = []
    for group in kt.layer_groups(model):
        ends = [layer for layer in group.layers if layer.name in possible]
        if group.name == "head":
            chosen += ends[:1]
        else:
            smallest = min(reversed(ends), key=lambda layer: math.prod(layer.output.shape[1:]))
            chosen += [layer for layer in ends if layer in (smallest, ends[-1])]
    found = []
    for layer in chosen:
        prefix, _ = kt.split_model(model, layer.name)
        shape = prefix.output_shape[1:]
        part = multiplications(prefix) / whole
        if part > 0:  # not the preprocessing
            found.append({"at": layer.name, "shape": shape, "part": part})
    return found
