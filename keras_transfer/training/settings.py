"""What a run was told, as plain data: what must be the same for another process to go on with it."""

import dataclasses
import functools
import inspect
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import keras
import numpy as np

from keras_transfer._version import __version__
from keras_transfer.data.loader import Loader
from keras_transfer.features.cache.identity import digest_of
from keras_transfer.layers.graph import leaf_layers
from keras_transfer.optimizers.layerwise_lr import plain_config
from keras_transfer.optimizers.patterns import resolve
from keras_transfer.training.job import Job
from keras_transfer.training.phase import Phase

# Settings of layers that don't change what a run does from given weights.
_NO_MATTER = ("name", "trainable", "seed")
_OF_BACKEND = "backend"  # what these may differ in, as a run may go on on another one


def run_settings(job: Job, **others: Any) -> dict[str, Any]:
    """Return all that decides what a run does, as JSON has it.

    Args:
        job: what the run is told; the weights of its model don't matter.
        **others: further settings, of any kind.
    """
    backend, cache = keras.backend.backend(), job.cache
    settings = {
        "keras_transfer": __version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        _OF_BACKEND: [backend, _version(backend)],
        "model": _architecture(job.model),
        "phases": [_phase(phase, job.model, job.steps) for phase in job.phases],
        "train": _data(job.train),
        "validation": None if job.validation is None else _data(job.validation),
        "cache": None if cache is None else dataclasses.astuple(cache)[1:],
        "seed": job.seed,
        "class_weight": job.class_weight,
        "callbacks": [type(callback).__name__ for callback in job.callbacks],
        **others,
    }
    return json.loads(json.dumps(plain(settings)))


def differences(before: Any, now: Any) -> list[str]:
    """Return in words where the settings of two runs differ, but for the backend if that is another."""
    if isinstance(before, dict) and isinstance(now, dict) and backend_of(before) != backend_of(now):
        before, now = before | {_OF_BACKEND: None}, now | {_OF_BACKEND: None}
    return list(_differences("", before, now))


def backend_of(settings: dict[str, Any]) -> str | None:
    """Return the name of the backend of a run."""
    found = settings.get(_OF_BACKEND)
    return found[0] if isinstance(found, list) and found and isinstance(found[0], str) else None


def _differences(place: str, before: Any, now: Any) -> Any:
    if isinstance(before, dict) and isinstance(now, dict) and before.keys() == now.keys():
        for key in before:
            yield from _differences(f"{place}.{key}" if place else str(key), before[key], now[key])
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _differences(f"{place}[{index}]", one, other)
    elif before != now and not (before != before and now != now):  # NaN is NaN here
        yield f"{place}: {_short(before)} then, {_short(now)} now"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: objects by their classes and settings, functions by name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, np.ndarray):
        return [value.dtype.name, *plain(value.tolist())] if value.ndim else plain(value.item())
    if inspect.isroutine(value) or inspect.isclass(value):
        return f"{value.__module__}.{value.__qualname__}"
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, functools.partial):
        return {kind: plain([value.func, value.args, value.keywords])}
    if dataclasses.is_dataclass(value):  # such as an augmentation put together by `data.Compose`
        return {
            kind: {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
        }
    try:
        return {kind: plain(value.get_config())}
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return kind


def _architecture(model: keras.Model) -> dict[str, Any]:
    layers = []
    for layer in leaf_layers(model):
        try:
            config = {k: v for k, v in layer.get_config().items() if k not in _NO_MATTER}
        except NotImplementedError:
            config = {}
        variables = [[list(v.shape), keras.backend.standardize_dtype(v.dtype)] for v in layer.variables]
        layers.append([type(layer).__name__, plain(config), variables])
    return {
        "input": list(model.input_shape),
        "output": list(model.output_shape),
        "layers": len(layers),
        "parameters": model.count_params(),
        "digest": digest_of(layers),
    }


def _phase(phase: Phase, model: keras.Model, steps: int) -> dict[str, Any]:
    optimizer = phase.make_optimizer(phase.rate(1.0, steps))
    config = {k: v for k, v in plain_config(optimizer).items() if k != "name"}
    given = getattr(optimizer, "multipliers", {})
    multipliers = resolve(
        given, [v for layer in leaf_layers(model) for v in layer.weights], strict=False
    )
    trains = phase.layers(model)
    return {
        **phase.describe(),
        # What a function chose, of which `describe` has no more than the name.
        "layers": [index for index, layer in enumerate(leaf_layers(model)) if layer in trains],
        "augmentation": phase.augmentation,
        "optimizer settings": config,
        "multipliers": {str(index): m for index, m in enumerate(multipliers) if m != 1.0},
        "callbacks": [type(callback).__name__ for callback in phase.callbacks],
    }


def _data(loader: Loader) -> dict[str, Any]:
    return {
        "images and labels": loader.fingerprint(),
        "batch_size": loader.batch_size,
        "shuffle": loader.shuffle,
        "seed": loader.seed,
        "augmentation": loader.augmentation,
        "one_hot": loader.one_hot,
        **({} if loader.sampling is None else {"sampling": loader.sampling}),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
