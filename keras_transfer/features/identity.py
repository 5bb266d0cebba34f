"""What a cache of features is known by: a digest of all that they hang on."""

import hashlib
import inspect
import json
import uuid
import weakref
from typing import Any

import keras

from keras_transfer._keras_private import call_arguments, graph_nodes
from keras_transfer.groups import is_graph

_PROCESS = uuid.uuid4().hex  # where something can't be known again in another process
_functions: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_OF_KERAS = ("keras.", "keras_hub.")
_NAMES = ("name", "trainable")  # what tells nothing of the features


def model_digest(model: keras.Model) -> str:
    """Return a digest of the architecture, dtypes and weights of `model`, and of Keras and its backend.

    Names don't count, so that the same network made a second time has the same digest.

    Args:
        model: a functional model.
    """
    backend = keras.backend.backend()
    graph = [keras.__version__, backend, keras.config.image_data_format(), _described(model)]
    digest = hashlib.sha256(json.dumps(graph, sort_keys=True, default=_text).encode())
    for variable in model.variables:
        if variable.name != "seed_generator_state":
            value = keras.ops.convert_to_numpy(variable)
            digest.update(f"{value.dtype}{value.shape}".encode())
            digest.update(value.tobytes())
    return digest.hexdigest()


def augmentation_digest(augmentation: Any) -> str:
    """Return what an augmentation is known by: its name, or for a function a name of this process only.

    What a function does may hang on more than can be seen of it.
    """
    if isinstance(augmentation, str):
        return augmentation
    try:
        return _functions.setdefault(augmentation, uuid.uuid4().hex)
    except TypeError:  # it can't be remembered
        return uuid.uuid4().hex


def digest_of(parts: list[Any]) -> str:
    """Return the digest of plain data: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, default=_text).encode()).hexdigest()[:32]


def _described(model: keras.Model) -> list[Any]:
    """Return the calls of a graph in order: what is called, with which settings, on which results."""
    place: dict[int, tuple[int, int]] = {}
    calls = []
    for index, node in enumerate(graph_nodes(model) or []):
        place.update({id(tensor): (index, k) for k, tensor in enumerate(node.outputs)})
        operation = node.operation
        arguments = keras.tree.map_structure(
            lambda value: list(place.get(id(value), ())) or value, call_arguments(node)
        )
        calls.append([_operation(operation), arguments])
    ends = [place.get(id(tensor)) for tensor in model.outputs]
    return [calls, ends]


def _operation(operation: keras.Operation) -> list[Any]:
    if is_graph(operation):
        return _described(operation)
    kind = type(operation)
    try:
        config = {key: value for key, value in operation.get_config().items() if key not in _NAMES}
    except NotImplementedError:
        config = {"unknown": _PROCESS}
    config = keras.saving.serialize_keras_object(config)
    found = [kind.__module__, kind.__qualname__, config]
    return found if kind.__module__.startswith(_OF_KERAS) else [*found, _code(kind)]


def _code(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return _PROCESS


def _text(value: Any) -> str:
    return f"{type(value).__qualname__}: {value}"
