"""Features by Ray: the files that this process would write, bit for bit, whatever workers suffer."""

import contextlib
import gc
import os
import pickle
import shutil
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt
from keras_transfer.features.cache import cache as cache_module
from keras_transfer.inference.runtimes import runtimes

ray = pytest.importorskip("ray")
from keras_transfer.features.cache import on_ray  # noqa: E402

SIZE, SAMPLES, BATCH = 24, 44, 5
FILE = 8  # samples a file: two batches, of five and three


@keras.saving.register_keras_serializable("tests")
def bent(x):
    return keras.ops.where(x > 0, x, 0.1 * x)


@keras.saving.register_keras_serializable("tests")
class Scale(layers.Layer):
    """A layer of the user's own."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        return x * self.scale


def network():
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    for filters in (16, 32, 64):
        x = layers.Conv2D(filters, 3, padding="same", activation=bent)(x)
    x = layers.GlobalAveragePooling2D()(Scale()(x))
    model = keras.Model(inputs, layers.Dense(16)(x), name="prefix")
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=w.shape, scale=0.1) for w in model.get_weights()])
    return model


class Images:
    """Images that tell which process reads them, slowly in Ray's, where one of them may be no good."""

    def __init__(self, folder=None, pause=0.0, bad=None):
        self.folder, self.pause, self.bad, self.of_the_test = folder, pause, bad, os.getpid()

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        if os.getpid() != self.of_the_test:
            if self.folder is not None:
                Path(self.folder, str(os.getpid())).touch()
            time.sleep(self.pause)
            if index == self.bad:
                raise ValueError(f"image {index} is no good")
        image = np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3), dtype="uint8")
        return image, index % 3


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    monkeypatch.setattr(cache_module, "_SHARD_BYTES", FILE * 16 * 4)


@pytest.fixture(autouse=True)
def _collected():
    """Collect what Ray leaves open here, not in the middle of whatever test comes later."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def started():
    """Return what ends the Ray that a test has started."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def cluster(started):
    """Start Ray for the tests that need it, as users do who have a cluster; it stays for the next."""
    if not ray.is_initialized():
        started.enter_context(on_ray._quiet())
        started.enter_context(on_ray._connected(num_cpus=2, object_store_memory=100 * 2**20))


@pytest.fixture
def no_cluster(started):
    """End the Ray that another test has started."""
    started.close()
    assert not ray.is_initialized()


@pytest.fixture(scope="module", autouse=True)
def _by_value():
    """Send this file's classes by value: workers can't import it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def passes(monkeypatch):
    """Count the images that this process computes."""
    counted = []
    predict = cache_module._predict

    def counting(compute, images):
        counted.append(len(images))
        return predict(compute, images)

    monkeypatch.setattr(cache_module, "_predict", counting)
    return counted


def files(folder):
    """Return the cache's files of features: their names tell rows and bytes."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*/[0-9]*.bin")}


def extract(folder, source, model=None, batch_size=BATCH, **arguments):
    model = model or network()
    data = kt.Loader(source, batch_size) if isinstance(source, Images) else source
    return kt.features.extract(model, data, folder, batch_size=batch_size, **{"verbose": 0, **arguments})


def assert_same(one, other, views=1):
    for view in range(views):
        for found, expected in zip(
            one.samples(0, SAMPLES, view), other.samples(0, SAMPLES, view), strict=True
        ):
            np.testing.assert_array_equal(found, expected)


@contextlib.contextmanager
def threads(number):
    """Have torch compute with a number of threads."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.usefixtures("no_cluster")
def test_the_same_bits_of_augmented_images(tmp_path, passes):
    """With augmentation, and with two threads, as torch's last digits hang on that."""
    x, y = (np.stack(each) for each in zip(*(Images()[i] for i in range(SAMPLES)), strict=True))
    loader = kt.Loader((x, y), 4, seed=3, augmentation="light")
    loader.epoch = 2
    settings = {"views": 2}
    with threads(2):
        local = extract(tmp_path / "local", loader, **settings)
        computed = sum(passes)
        by_ray = extract(tmp_path / "ray", loader, engine="ray", **settings)
    assert not ray.is_initialized()
    assert len(files(tmp_path / "ray")) == 12
    assert files(tmp_path / "ray").keys() == files(tmp_path / "local").keys()
    assert_same(by_ray, local, views=2)
    assert (by_ray.epoch, by_ray.seed, by_ray.batch_size) == (2, 3, 4)
    # What reads it does not compute it, by either engine.
    cache = kt.FeatureCache(network(), tmp_path / "ray")
    assert_same(cache.build(loader, BATCH, views=2, verbose=0), local, views=2)
    assert_same(extract(tmp_path / "local", loader, engine="ray", **settings), local, views=2)
    assert sum(passes) == computed == 2 * SAMPLES


@pytest.mark.slow
@pytest.mark.usefixtures("no_cluster")
def test_a_ray_of_its_own_whose_workers_are_killed_loses_nothing(tmp_path, passes):
    """Of a cache half of which this process has made."""
    readers = tmp_path / "readers"
    readers.mkdir()
    source, folder = Images(readers, pause=0.04), tmp_path / "ray"
    local = extract(tmp_path / "local", source)
    made = files(half(folder, tmp_path / "local"))
    kept = {}

    def kill():
        """Kill the first process that reads images once it has written a file."""
        until = time.monotonic() + 600.0
        while len(files(folder)) <= len(made) and time.monotonic() < until:
            time.sleep(0.01)
        kept.update(files(folder))
        os.kill(int(next(readers.iterdir()).name), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    by_ray = extract(folder, source, engine="ray", num_workers=1)
    killer.join()
    assert len(list(readers.iterdir())) == 2  # the one that was killed, and another
    assert files(folder).keys() == files(tmp_path / "local").keys()
    assert len(kept) == len(made) + 1
    assert kept.items() <= files(folder).items()  # not written anew
    assert not list(folder.glob("*/.*"))  # nothing unfinished is left, nor notes of attempts
    assert_same(by_ray, local)
    assert sum(passes) == SAMPLES  # by this process, of the other cache
    assert not ray.is_initialized()


def half(folder, finished):
    """Make of a finished cache one of which every other file is missing; return its folder."""
    shutil.copytree(finished, folder)
    for path in sorted(folder.glob("*/*.bin"))[::2]:
        path.unlink()
    return folder


@pytest.mark.usefixtures("cluster")
def test_what_a_worker_raises_and_this_process_goes_on(tmp_path, passes):
    source = Images(bad=27)
    with pytest.raises(ValueError, match=r"^image 27 is no good") as raised:
        extract(tmp_path / "ray", source, engine="ray", num_workers=1)
    assert "In a worker of Ray" in raised.value.__notes__[0]
    assert ray.is_initialized()  # the user's own
    there = files(tmp_path / "ray")
    assert len(there) >= 3
    assert not passes
    finished = extract(tmp_path / "ray", source)
    assert there.items() <= files(tmp_path / "ray").items()
    missing = [name for name in files(tmp_path / "ray") if name not in there]
    assert sum(passes) == sum(int(name[11:21]) - int(name[:10]) for name in missing)
    assert_same(finished, extract(tmp_path / "local", source))


# What a worker says, in this process


def worker(folder, model=None, setting=None):
    folder.mkdir(exist_ok=True)
    model = model or network()
    (runtime,), _ = runtimes(model, "keras")
    work = on_ray.Work(model, kt.Loader(Images(), 4), BATCH, "float32", folder, runtime)
    return on_ray._Worker(on_ray._sent(work), on_ray._setting(work) | (setting or {}))


def asked(worker, start=8, stop=16):
    told = worker({"start": np.array([start]), "stop": np.array([stop])})
    on_ray._raise(*(told[name][0] for name in ("error", "message", "traceback")))


@pytest.mark.usefixtures("cluster")
def test_a_worker_writes_the_file_of_its_rows(tmp_path):
    asked(worker(tmp_path / "cache"))
    (path,) = (tmp_path / "cache").glob("[0-9]*.bin")
    assert path.name.startswith("0000000008-0000000016.")


@pytest.mark.usefixtures("cluster")
def test_images_that_kill_every_worker(tmp_path):
    for _ in range(on_ray._ATTEMPTS):
        on_ray.count_attempt(tmp_path, (8, 16))
    with pytest.raises(RuntimeError, match=r"batch_size .* Received: rows 8 to 15, at which 4 workers"):
        asked(worker(tmp_path))
    asked(worker(tmp_path), 16, 24)


@pytest.mark.usefixtures("cluster")
def test_a_worker_of_another_version(tmp_path):
    setting = {"keras": "3.0.0"}
    with pytest.raises(RuntimeError, match=r"must run what this process does, .*3\.0\.0.* Received: {"):
        asked(worker(tmp_path, setting=setting))


@pytest.mark.usefixtures("cluster")
def test_a_folder_that_a_worker_does_not_see(tmp_path):
    there = worker(tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    with pytest.raises(FileNotFoundError, match=r"cache must be on a disk .* Received: cache="):
        asked(there)


@pytest.mark.usefixtures("cluster")
def test_a_network_that_keras_does_not_load(tmp_path):
    inputs = keras.Input((SIZE, SIZE, 3))
    unsafe = keras.Model(inputs, layers.Lambda(lambda x: 2 * x, output_shape=(SIZE, SIZE, 3))(inputs))
    with pytest.raises(ValueError, match=r"^prefix must be a model that Keras saves.*Received: "):
        asked(worker(tmp_path, unsafe))


def test_errors_of_other_kinds():
    on_ray._raise("", "", "")
    with pytest.raises(RuntimeError, match=r"^DecodeError: what was wrong"):
        on_ray._raise("DecodeError", "what was wrong", "")


# What this process says


@pytest.mark.usefixtures("cluster")
def test_a_source_that_can_t_be_sent(tmp_path):
    class Locked(Images):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

    with pytest.raises(TypeError, match=r"^data must be of objects .* engine='ray'\. Received: "):
        extract(tmp_path, Locked(), engine="ray")
    assert not files(tmp_path)


def test_files_that_are_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(kt.FeatureCache, "_write", lambda *arguments: {})
    with pytest.raises(OSError, match=r"disk that they share; 6 of 6 files.*Received: cache='"):
        extract(tmp_path, Images())


def test_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"'local' or 'ray'; did you mean ray\? Received: engine='rya'"):
        extract(tmp_path, Images(), engine="rya")
    with pytest.raises(ValueError, match=r"num_workers .*Received: num_workers=2"):
        extract(tmp_path, Images(), num_workers=2)
    with pytest.raises(ValueError, match=r"num_workers .*Received: num_workers=0"):
        extract(tmp_path, Images(), engine="ray", num_workers=0)


@pytest.mark.parametrize(
    ("cluster_has", "asked_for", "workers", "gpus"),
    [
        ({"CPU": 8, "node:1": 1, "node:__internal_head__": 1}, None, 1, None),
        ({"CPU": 8, "node:1": 1, "node:2": 1}, None, 2, None),
        ({"CPU": 8, "node:1": 1}, 3, 3, None),
        ({"CPU": 8, "node:1": 1}, 30, 10, None),
        ({"CPU": 8, "GPU": 4, "node:1": 1}, None, 4, 1),
        ({"CPU": 8, "GPU": 2, "node:1": 1}, 3, 3, 1 / 2),
        ({"CPU": 8, "GPU": 2, "node:1": 1}, 1, 1, 1),
    ],
)
def test_what_workers_ask_for(cluster_has, asked_for, workers, gpus):
    found, options = on_ray._resources(cluster_has, asked_for, spans=10)
    assert (found, options["num_cpus"], options.get("num_gpus")) == (workers, 1, gpus)


def test_threads_are_those_of_this_process(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with threads(3):
        variables = on_ray._resources({"CPU": 8}, None, 10)[1]["runtime_env"]["env_vars"]
    assert variables == {"KERAS_BACKEND": keras.backend.backend(), "OMP_NUM_THREADS": "3"}


def test_loaders_can_be_pickled():
    loader = kt.Loader(Images(), 4, seed=5, augmentation="light", num_classes=3)
    loader.epoch, fingerprint = 7, loader.fingerprint()
    other = pickle.loads(pickle.dumps(loader))
    assert (other.epoch, other.seed, other.fingerprint()) == (7, 5, fingerprint)
    np.testing.assert_array_equal(other.labels, loader.labels)
    for found, expected in zip(other.batch(7, 3), loader.batch(7, 3), strict=True):
        np.testing.assert_array_equal(found, expected)
