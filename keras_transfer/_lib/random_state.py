"""The random generators of the process: seeded, or left as they were."""

import contextlib
import random
import sys
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.attributes import restored
from keras_transfer._lib.keras_private.process import global_seed_generator, set_global_seed_generator
from keras_transfer._lib.variables import assign_variables, copy_variables


def seed_generators(seed: int, fitting: bool) -> None:
    """Seed the generators of the process: those of Python, NumPy and the backend.

    While a `fit` is going on, TensorFlow's own generator stays as it is: seeding it throws away what is
    compiled, and Keras' layers don't draw from it.
    """
    if fitting and keras.backend.backend() == "tensorflow":
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  it is what Keras does
    else:
        keras.utils.set_random_seed(seed)


@contextlib.contextmanager
def random_state_kept(data: Any = None) -> Iterator[None]:
    """Put all random generators back at the end of the block, however it ends.

    That is those of Python, NumPy (the global one) and Keras, of torch and TensorFlow where they are
    loaded, and torch generators that belong to `data`, a torch `DataLoader`. Keras' layers have theirs
    in `model.variables`.
    """
    with contextlib.ExitStack() as stack:

        def keep(what: Hashable, read: Callable[[], Any], write: Callable[[Any], Any]) -> None:
            stack.enter_context(restored(("generator", what), read, write))

        keep("python", random.getstate, random.setstate)
        keep("numpy", np.random.get_state, np.random.set_state)
        _keep_keras(stack)
        torch = sys.modules.get("torch")
        if torch is not None:
            keep("torch", torch.get_rng_state, torch.set_rng_state)
            started = torch.cuda.is_initialized()  # asking for the state would start it
            for device in range(torch.cuda.device_count() if started else 0):
                read = partial(torch.cuda.get_rng_state, device)
                keep(("cuda", device), read, partial(torch.cuda.set_rng_state, device=device))
            for generator in _own_generators(data):
                keep(id(generator), generator.get_state, generator.set_state)
        if "tensorflow" in sys.modules:
            _keep_tensorflow(keep)
        yield


def _keep_keras(stack: contextlib.ExitStack) -> None:
    # Keras has one for each thread.
    generator = global_seed_generator()
    if generator is not None:
        stack.callback(assign_variables, [generator.state], copy_variables([generator.state]))
    stack.callback(set_global_seed_generator, generator)


def _own_generators(data: Any) -> list[Any]:
    """Return the torch generators of a `DataLoader` and its samplers."""
    batch_sampler = getattr(data, "batch_sampler", None)
    owners = (data, getattr(data, "sampler", None), getattr(batch_sampler, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    return [generator for generator in found if hasattr(generator, "set_state")]


def _keep_tensorflow(keep: Callable[..., None]) -> None:
    # What gives operations (a shuffle in tf.data) their seeds when they are made, and the global
    # tf.random.Generator. Neither has a public name that wouldn't make it, or change it.
    from tensorflow.python.eager import context
    from tensorflow.python.ops import stateful_random_ops

    seeds = getattr(context.context(), "_rng", None)  # only after tf.random.set_seed
    if seeds is not None:
        keep("seeds of tensorflow", seeds.getstate, seeds.setstate)
    generator = stateful_random_ops.global_generator
    if generator is not None:
        keep("tensorflow", generator.state.numpy, generator.state.assign)
