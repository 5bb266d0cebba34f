"""Every random generator of the process is as it was, whatever the block did."""

import contextlib
import random

import keras
import numpy as np
import pytest

from keras_transfer._lib.random_state import random_state_kept, seed_generators


def draw():
    """One number of each generator that every backend has."""
    keras_number = keras.ops.convert_to_numpy(keras.random.uniform(()))
    return random.random(), float(np.random.rand()), float(keras_number)  # noqa: NPY002


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_python_numpy_and_keras(used_before, error):
    def numbers(inside):
        keras.utils.set_random_seed(3)
        found = [draw()] if used_before else []
        with contextlib.suppress(RuntimeError, KeyboardInterrupt), random_state_kept():
            if inside:
                draw()
                draw()
            if error:
                raise error
        return [*found, draw(), draw()]

    assert numbers(inside=True) == numbers(inside=False)


def test_seeding_inside_changes_nothing():
    keras.utils.set_random_seed(3)
    draw()
    with random_state_kept():
        keras.utils.set_random_seed(9)
        draw()
    after = draw()
    keras.utils.set_random_seed(3)
    draw()
    assert after == draw()


def test_torch_and_the_generators_of_a_loader():
    torch = pytest.importorskip("torch")
    own, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    data = torch.utils.data.TensorDataset(torch.arange(6))
    sampler = torch.utils.data.RandomSampler(data, generator=other)
    loaders = [
        torch.utils.data.DataLoader(data, shuffle=True, generator=own),
        torch.utils.data.DataLoader(data, sampler=sampler),
        torch.utils.data.DataLoader(
            data, batch_sampler=torch.utils.data.BatchSampler(sampler, 2, drop_last=False)
        ),
    ]
    for loader in loaders:
        before = (torch.get_rng_state(), own.get_state(), other.get_state())
        with random_state_kept(loader):
            list(loader)
            torch.rand(3)
        after = (torch.get_rng_state(), own.get_state(), other.get_state())
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_tensorflow_that_was_never_seeded(monkeypatch):
    pytest.importorskip("tensorflow")
    from tensorflow.python.eager import context

    monkeypatch.delattr(context.context(), "_rng")
    with random_state_kept():
        draw()


def test_tensorflow():
    tf = pytest.importorskip("tensorflow")
    tf.random.set_seed(5)
    tf.random.set_global_generator(tf.random.Generator.from_seed(5))

    def numbers():
        # The seed of a shuffle is drawn when it is made.
        order = tf.data.Dataset.range(10).shuffle(10)
        return [int(i) for i in order], float(tf.random.get_global_generator().uniform(()))

    with random_state_kept():
        first = numbers()
        assert numbers() != first
    assert numbers() == first


@pytest.mark.parametrize("fitting", [False, True])
def test_seeding_reaches_python_and_numpy(fitting):
    def drawn(seed):
        seed_generators(seed, fitting)
        return random.random(), np.random.random()  # noqa: NPY002 - the global generator is meant

    assert drawn(5) == drawn(5)
    assert all(one != other for one, other in zip(drawn(5), drawn(6), strict=True))
