"""A feature cache whose missing files workers of Ray compute and write."""

import contextlib
import logging
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.attributes import loggers_at, warnings_ignored
from keras_transfer._version import __version__
from keras_transfer.features.cache.cache import FeatureCache, Files, Span, Work, write_spans
from keras_transfer.features.cache.identity import given_functions
from keras_transfer.features.cache.shards import DTYPES, count_attempt, whole_shard
from keras_transfer.inference.runtimes import UnfitError, check_fit
from keras_transfer.layers.graph import leaf_layers

try:
    import ray
    import ray.data
except ImportError as error:  # pragma: no cover - the solo test runs this
    raise ImportError("engine='ray' needs Ray: pip install 'keras-transfer[ray]'") from error

_ATTEMPTS = 4  # at a file; Ray Data itself replaces workers that die without end
_KINDS = {
    kind.__name__: kind
    for kind in (
        FileNotFoundError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        UnfitError,
        ValueError,
    )
}


class RayCache(FeatureCache):
    """A `FeatureCache` that Ray Data fills: the same key, files and numbers.

    Attributes:
        num_workers: as in `keras_transfer.features.extract`.
    """

    num_workers: int | None = None

    def _write(self, work: Work, spans: list[Span], advance: Callable[[int], None]) -> Files:
        check_fit(work.network, work.runtime)  # before workers start
        with _quiet(), _connected():
            rows = ray.data.from_items(
                [{"start": start, "stop": stop} for start, stop in spans], override_num_blocks=len(spans)
            )
            workers, options = _resources(ray.cluster_resources(), self.num_workers, len(spans))
            written = rows.map_batches(
                _Worker,
                fn_constructor_args=(_sent(work), _setting(work)),
                batch_size=1,
                # As many as there is room for, when others use the cluster, too.
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
                **options,
            )
            written.context.enable_progress_bars = False
            written.context.print_on_execution_start = False
            with contextlib.closing(iter(written.iter_rows())) as done:
                for row in done:
                    _raise(row["error"], row["message"], row["traceback"])
                    advance(int(row["stop"] - row["start"]))
        return {}


class _Worker:
    """Computes features in a process of Ray's."""

    def __init__(self, sent: Work, setting: dict[str, str]) -> None:
        self._sent, self._setting = sent, setting
        self._ready: Work | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (start,), (stop,) = batch["start"].tolist(), batch["stop"].tolist()
        error, message, told = "", "", ""
        try:
            self._compute((start, stop))
        except Exception as raised:  # told in words: of what is raised Ray keeps nothing else either
            error, message, told = type(raised).__name__, str(raised), traceback.format_exc()
        words = {"error": error, "message": message, "traceback": told}
        return batch | {name: np.array([word]) for name, word in words.items()}

    def _compute(self, span: Span) -> None:
        work = self._ready = self._ready or self._received()
        attempt = count_attempt(work.folder, span)
        if attempt > 1 and whole_shard(work.folder, span, work.shape, DTYPES[work.dtype]):
            return  # by a worker that died before it told
        if attempt > _ATTEMPTS:
            raise RuntimeError(
                "data must be of images that a worker survives, and batch_size one that it has memory "
                f"for. Received: rows {span[0]} to {span[1] - 1}, at which {_ATTEMPTS} workers died"
            )
        write_spans(work, [span], lambda count: None)

    def _received(self) -> Work:
        """Return the work with network and loader, after a look at where they have got to."""
        own = _setting(self._sent)
        if own != self._setting:
            raise RuntimeError(
                f"Ray's workers must run what this process does, {self._setting}. Received: {own}"
            )
        if not self._sent.folder.is_dir():
            raise FileNotFoundError(
                "cache must be on a disk that all of Ray's workers share. "
                f"Received: cache={str(self._sent.folder.parent)!r}"
            )
        (data, own), loader = ray.get(self._sent.network), ray.get(self._sent.loader)
        with tempfile.TemporaryDirectory() as folder, _saving():
            path = Path(folder, "network.keras")
            path.write_bytes(data)
            network = keras.saving.load_model(path, custom_objects=own, compile=False)
        return replace(self._sent, network=network, loader=loader)


def _sent(work: Work) -> Work:
    """Put network and loader where workers get them from, and return the work with references."""
    own = {keras.saving.get_registered_name(each): each for each in _own_code(work.network)}
    with tempfile.TemporaryDirectory() as folder, _saving():
        path = Path(folder, "network.keras")
        work.network.save(path, include_optimizer=False)
        network = ray.put((path.read_bytes(), own))
    try:
        return replace(work, network=network, loader=ray.put(work.loader), folder=work.folder.resolve())
    except Exception as error:
        raise TypeError(
            "data must be of objects that other processes can be sent, such as arrays, paths of files "
            f"or a sequence that can be pickled, for engine='ray'. Received: {error}"
        ) from error


def _own_code(network: keras.Model) -> Iterator[Any]:
    """Yield the classes and functions of a network that are not Keras' own."""
    for layer in leaf_layers(network):
        for each in (type(layer), *given_functions(layer)):
            if not each.__module__.startswith("keras."):
                yield each


@contextlib.contextmanager
def _saving() -> Iterator[None]:
    """Say what is asked of a model that Keras can't save or load."""
    try:
        yield
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "prefix must be a model that Keras saves, and loads in its safe mode, for engine='ray'. "
            f"Received: {error}"
        ) from error


def _setting(work: Work) -> dict[str, str]:
    """Return what must be the same in each process for the same numbers."""
    backend = keras.backend.backend()
    found = {"keras": keras.__version__, "keras_transfer": __version__, "backend": backend}
    if work.runtime.name == "onnxruntime":
        from keras_transfer.inference import onnx_runtime

        found["runtime"] = onnx_runtime.identity()
    return found


def _resources(cluster: dict[str, float], workers: int | None, spans: int) -> tuple[int, dict[str, Any]]:
    """Return how many workers there are, and what each of them asks Ray for, with what the cluster has.

    The user may want a number; else there is one for each GPU, or else for each machine.
    """
    gpus = int(cluster.get("GPU", 0))
    machines = sum(name.startswith("node:") and name != "node:__internal_head__" for name in cluster)
    workers = min(workers or gpus or machines or 1, spans)
    variables = {"KERAS_BACKEND": keras.backend.backend(), "OMP_NUM_THREADS": str(_threads())}
    options: dict[str, Any] = {"num_cpus": 1, "runtime_env": {"env_vars": variables}}
    if gpus:
        options["num_gpus"] = 1 / -(-workers // gpus)
    return workers, options


def _threads() -> int:
    """Return how many threads this process computes with: torch's numbers hang on it.

    Ray itself would allow each worker one.
    """
    if keras.backend.backend() == "torch":
        import torch

        return torch.get_num_threads()
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


@contextlib.contextmanager
def _connected(**settings: Any) -> Iterator[None]:
    """Use the Ray that the user has connected to, or else start one for as long as it takes."""
    if ray.is_initialized():
        yield
        return
    # JAX's of each fork; those processes turn into Ray's own programs at once.
    with warnings_ignored(r"os\.fork\(\) was called", RuntimeWarning):
        ray.init(
            "local", include_dashboard=False, log_to_driver=False, configure_logging=False, **settings
        )
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from telling what it does; errors are raised."""
    with loggers_at(logging.CRITICAL, "ray", "ray.data"):
        # Of its own settings: it warns of them when it reads its defaults.
        with warnings_ignored(category=DeprecationWarning, module="ray.data.context"):
            ray.data.DataContext.get_current()
        yield


def _raise(error: str, message: str, told: str) -> None:
    """Raise what a worker raised, if it did."""
    if not error:
        return
    raised = _KINDS[error](message) if error in _KINDS else RuntimeError(f"{error}: {message}")
    raised.add_note(f"In a worker of Ray:\n{told}")
    raise raised
