"""Parts of a loader's batches, for processes that train together."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_transfer as kt


def images(samples, size=4):
    """Images that tell their index, and as labels that index."""
    x = np.arange(samples, dtype="uint8")[:, None, None, None] * np.ones((1, size, size, 3), "uint8")
    return x, np.arange(samples)


def joined(lists):
    return [item for each in lists for item in each]


def labels(loader, epoch=0):
    return [loader.batch(epoch, index)[1].tolist() for index in range(len(loader))]


@given(
    samples=st.integers(1, 40),
    count=st.integers(1, 4),
    local=st.integers(1, 3),
    batches=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_parts_make_up_the_batches(samples, count, local, batches, epoch):
    multiple = count * local
    loader = kt.Loader(images(samples), multiple * batches, seed=5)
    whole = labels(loader, epoch)
    rest = samples % multiple
    for remainder in ("drop", "uneven", "whole"):
        needed = {"drop": multiple, "uneven": count, "whole": 1}[remainder]
        if samples < needed:
            continue
        parts = [
            loader.shard(index, count, multiple=multiple, remainder=remainder) for index in range(count)
        ]
        found = [labels(part, epoch) for part in parts]
        together = [joined(part[i] for part in found if i < len(part)) for i in range(len(whole))]
        if remainder == "drop":
            assert {len(part) for part in parts} == {len(parts[0])}
            assert all(len(batch) % local == 0 for part in found for batch in part)
            assert joined(together) == joined(whole)[: samples - rest]
        elif remainder == "uneven":
            assert together == whole
            assert max(map(len, found[0])) - min(len(part[0]) for part in found) <= 1
        else:
            assert together[:-1] == whole[:-1]
            assert together[-1] == whole[-1] * (count if rest else 1)


def test_samples_are_augmented_as_in_the_whole():
    loader = kt.Loader(images(12, size=16), 4, seed=2, augmentation=lambda x, rng: rng.permuted(x))
    for epoch in (0, 3):
        for index in range(3):
            whole = loader.batch(epoch, index)[0]
            parts = [loader.shard(number, 2).batch(epoch, index)[0] for number in range(2)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_only_the_part_is_read():
    read = []

    class Source:
        def __len__(self):
            return 8

        def __getitem__(self, index):
            read.append(index)
            return np.zeros((2, 2, 3), "uint8"), 0

    part = kt.Loader(Source(), 4, shuffle=False, num_threads=0).shard(1, 2)
    read.clear()
    assert len(part[1][1]) == 2
    assert read == [6, 7]


def test_a_pass_reads_ahead_in_parts():
    loader = kt.Loader(images(10), 4, augmentation=lambda x, rng: x, num_threads=2)
    part = loader.shard(1, 2)
    first, second = [y.tolist() for _, y in part], [y.tolist() for _, y in part]
    assert first == labels(part, 0)
    assert second == labels(part, 1)
    assert part.epoch == 2


def test_copies_are_of_the_same_part():
    part = kt.Loader(images(8), 4, seed=1).shard(1, 2)
    for other in (
        part.replace(augmentation=None),
        copy.deepcopy(part),
        pickle.loads(pickle.dumps(part)),
    ):
        assert labels(other, 2) == labels(part, 2)


def test_the_epoch_is_kept_and_the_loader_untouched():
    loader = kt.Loader(images(8), 4)
    loader.epoch = 3
    before = labels(loader)
    assert loader.shard(0, 2).epoch == 3
    assert labels(loader) == before
    assert len(loader) == 2


def test_all_but_the_batches_is_of_all_samples():
    part = kt.Loader(images(8), 4).shard(0, 2)
    assert part.num_samples == 8
    assert sorted(part.order(0)) == list(range(8))
    assert part.labels.tolist() == list(range(8))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"index": 2, "count": 2}, "index must be from 0"),
        ({"index": -1, "count": 2}, "index must be from 0"),
        ({"index": 0, "count": 2, "multiple": 3}, "a multiple of count"),
        (
            {"index": 0, "count": 3},
            "batch_size must be a multiple of 3.*such as 3. Received: batch_size=4",
        ),
        ({"index": 0, "count": 2, "remainder": "cut"}, "'drop', 'uneven' or 'whole'"),
    ],
)
def test_arguments_without_sense(arguments, match):
    with pytest.raises(ValueError, match=match):
        kt.Loader(images(8), 4).shard(**arguments)


@pytest.mark.parametrize(("remainder", "needed"), [("drop", 4), ("uneven", 2)])
def test_too_few_samples_for_some_part(remainder, needed):
    # Each part is refused, also one that would have samples: the others would wait for it.
    loader = kt.Loader(images(needed - 1), 4)
    for index in range(2):
        with pytest.raises(ValueError, match=f"at least {needed} samples.* Received: {needed - 1}"):
            loader.shard(index, 2, multiple=4, remainder=remainder)
