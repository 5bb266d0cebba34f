"""What a cache of features is known by: a digest of all that they hang on."""

import hashlib
import inspect
import json
import uuid
import weakref
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.arrays import array_digest
from keras_transfer._lib.keras_private.graph import call_arguments, graph_nodes
from keras_transfer.layers.graph import is_graph

# Names in this process of what can't be known again in another one.
_names: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_OF_KERAS = ("keras.", "keras_hub.")
_NOT_OF_THE_USER = (*_OF_KERAS, "builtins", "torch.", "tensorflow.", "jax.")
_NO_MATTER = ("name", "trainable")  # settings that tell nothing of the features


def model_digest(model: keras.Model) -> str:
    """Return a digest of the architecture, dtypes and weights of `model`, and of Keras.

    Names don't count, so that the same network made a second time has the same digest.
    """
    return digest_of([keras.__version__, keras.config.image_data_format(), _described(model)])


def augmentation_digest(augmentation: Any) -> str:
    """Return what an augmentation is known by: its name, or for a function a name of this process only.

    What a function does may hang on more than can be seen of it.
    """
    return augmentation if isinstance(augmentation, str) else _name(augmentation)


def digest_of(parts: list[Any]) -> str:
    """Return the digest of plain data and arrays: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_text).encode()).hexdigest()[:32]


def given_functions(operation: keras.Operation) -> list[Any]:
    """Return the functions that an operation was given, such as an activation."""
    of_class = type(operation)
    own = vars(operation).items()
    return [value for name, value in own if inspect.isfunction(value) and not hasattr(of_class, name)]


def _described(model: keras.Model) -> list[Any]:
    """Return the calls of a graph in order: what is called, with which settings, on which results."""
    # No `walk`: which results a call is given shows only inside the graph that it is in.
    place: dict[int, list[Any]] = {}
    calls = []
    for index, node in enumerate(graph_nodes(model) or []):
        place.update({id(tensor): ["result", index, k] for k, tensor in enumerate(node.outputs)})
        arguments = keras.tree.map_structure(
            lambda value: place.get(id(value), value), call_arguments(node)
        )
        calls.append([_operation(node.operation), arguments])
    return [calls, [place.get(id(tensor)) for tensor in model.outputs]]


def _operation(operation: keras.Operation) -> list[Any]:
    """Return the class of an operation, its settings and its weights."""
    if is_graph(operation):
        return _described(operation)
    kind = type(operation)
    try:
        config = {k: value for k, value in operation.get_config().items() if k not in _NO_MATTER}
        found = [kind.__module__, kind.__qualname__, keras.saving.serialize_keras_object(config)]
    except (NotImplementedError, TypeError, ValueError):
        found = [kind.__module__, kind.__qualname__, _name(operation)]
    found += [_code(each) for each in kind.__mro__ if not each.__module__.startswith(_NOT_OF_THE_USER)]
    # Of a function Keras' settings have no more than its name.
    found += [_name(f) for f in given_functions(operation) if not f.__module__.startswith(_OF_KERAS)]
    variables = operation.variables if isinstance(operation, keras.Layer) else []
    return found + [_array_digest(v) for v in variables if v.name != "seed_generator_state"]


def _code(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # as of one defined at a prompt
        return _name(kind)


def _name(thing: Any) -> str:
    """Return a name of an object that no other has, good in this process."""
    try:
        return _names.setdefault(thing, uuid.uuid4().hex)
    except TypeError:  # it can't be remembered
        return uuid.uuid4().hex


def _text(value: Any) -> str:
    """Return what stands in a digest for what JSON has no words for."""
    if isinstance(value, (np.ndarray, np.generic)) or keras.ops.is_tensor(value):
        return _array_digest(value)
    return f"{type(value).__qualname__}: {value}"


def _array_digest(value: Any) -> str:
    return array_digest(keras.ops.convert_to_numpy(value))
