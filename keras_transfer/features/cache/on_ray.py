"""A feature cache whose missing files workers of Ray compute and write."""

import contextlib
import inspect
import logging
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.attributes import loggers_at, warnings_ignored
from keras_transfer._version import __version__
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache.cache import FeatureCache, FloatType, Span, write_spans
from keras_transfer.features.cache.shards import DTYPES, count_attempt, whole_shard
from keras_transfer.layers.graph import leaf_layers

try:
    import ray
    import ray.data
except ImportError as error:  # pragma: no cover - the solo test runs this
    raise ImportError("engine='ray' needs Ray: pip install 'keras-transfer[ray]'") from error

_ATTEMPTS = 4  # at a file; Ray Data itself replaces workers that die without end
_KINDS = {
    kind.__name__: kind
    for kind in (FileNotFoundError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
}


class RayCache(FeatureCache):
    """A `FeatureCache` that Ray Data fills: the same key, files and numbers.

    Attributes:
        num_workers: as in `keras_transfer.features.extract`.
    """

    num_workers: int | None = None

    def _write(
        self,
        network: keras.Model,
        loader: Loader,
        spans: list[Span],
        batch_size: int,
        folder: Path,
        advance: Callable[[int], None],
    ) -> dict[Span, Path]:
        with _quiet(), _connected():
            arguments = _sent(network, loader), batch_size, self.dtype, folder.resolve(), _setting()
            rows = ray.data.from_items(
                [{"start": start, "stop": stop} for start, stop in spans], override_num_blocks=len(spans)
            )
            workers, options = _resources(ray.cluster_resources(), self.num_workers, len(spans))
            written = rows.map_batches(
                _Worker,
                fn_constructor_args=arguments,
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

    def __init__(
        self,
        sent: tuple[Any, Any],
        batch_size: int,
        dtype: FloatType,
        folder: Path,
        setting: dict[str, str],
    ) -> None:
        self._sent, self._batch_size, self._dtype = sent, batch_size, dtype
        self._folder, self._setting = folder, setting
        self._ready: tuple[keras.Model, Loader] | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        (start,), (stop,) = batch["start"].tolist(), batch["stop"].tolist()
        told = "", "", ""
        try:
            self._compute((start, stop))
        except Exception as error:  # told in words: of what is raised Ray keeps nothing else either
            told = type(error).__name__, str(error), traceback.format_exc()
        names = ("error", "message", "traceback")
        return {**batch, **{name: np.array([word]) for name, word in zip(names, told, strict=True)}}

    def _compute(self, span: Span) -> None:
        network, loader = self._ready = self._ready or self._received()
        attempt = count_attempt(self._folder, span)
        shape, dtype = network.output_shape[1:], DTYPES[self._dtype]
        if attempt > 1 and whole_shard(self._folder, span, shape, dtype):
            return  # by a worker that died before it told
        if attempt > _ATTEMPTS:
            raise RuntimeError(
                "data must be of images that a worker survives, and batch_size one that it has memory "
                f"for. Received: rows {span[0]} to {span[1] - 1}, at which {_ATTEMPTS} workers died"
            )
        write_spans(
            network, loader, [span], self._batch_size, self._dtype, self._folder, lambda count: None
        )

    def _received(self) -> tuple[keras.Model, Loader]:
        """Return the network and the loader, after a look at where they have got to."""
        if _setting() != self._setting:
            raise RuntimeError(
                f"Ray's workers must run what this process does, {self._setting}. Received: {_setting()}"
            )
        if not self._folder.is_dir():
            raise FileNotFoundError(
                "cache must be on a disk that all of Ray's workers share. "
                f"Received: cache={str(self._folder.parent)!r}"
            )
        (data, own), loader = (ray.get(each) for each in self._sent)
        with tempfile.TemporaryDirectory() as folder, _saving():
            path = Path(folder, "network.keras")
            path.write_bytes(data)
            network = keras.saving.load_model(path, custom_objects=own, compile=False)
        return network, loader


def _sent(network: keras.Model, loader: Loader) -> tuple[Any, Any]:
    """Put a network and a loader where workers get them from."""
    own = {keras.saving.get_registered_name(each): each for each in _own_code(network)}
    with tempfile.TemporaryDirectory() as folder, _saving():
        path = Path(folder, "network.keras")
        network.save(path, include_optimizer=False)
        model = ray.put((path.read_bytes(), own))
    try:
        return model, ray.put(loader)
    except Exception as error:
        raise TypeError(
            "data must be of objects that other processes can be sent, such as arrays, paths of files "
            f"or a sequence that can be pickled, for engine='ray'. Received: {error}"
        ) from error


def _own_code(network: keras.Model) -> Iterator[Any]:
    """Yield the classes and functions of a network that are not Keras' own."""
    for layer in leaf_layers(network):
        kind = type(layer)
        functions = (
            value
            for name, value in vars(layer).items()
            if inspect.isfunction(value) and not hasattr(kind, name)
        )
        for each in (kind, *functions):
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


def _setting() -> dict[str, str]:
    """Return what must be the same in each process for the same numbers."""
    return {
        "keras": keras.__version__,
        "keras_transfer": __version__,
        "backend": keras.backend.backend(),
    }


def _resources(cluster: dict[str, float], workers: int | None, spans: int) -> tuple[int, dict[str, Any]]:
    """Return how many workers there are, and what each of them asks Ray for.

    Args:
        cluster: what Ray has.
        workers: how many the user wants; None: one for each GPU, or else for each machine.
        spans: how many files there are to write.
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
    """Use the Ray that the user has connected to, or else start one for as long as it takes.

    Args:
        **settings: what else the one that is started is to have.
    """
    if ray.is_initialized():
        yield
        return
    # JAX's of each fork; those processes turn into Ray's own programs at once.
    with warnings_ignored(r"os\.fork\(\) was called", RuntimeWarning):
        ray.init(
            "local",
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            **settings,
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
    if error in _KINDS:
        raised: Exception = _KINDS[error](message)
    else:
        raised = RuntimeError(f"{error}: {message}")
    raised.add_note(f"In a worker of Ray:\n{told}")
    raise raised
