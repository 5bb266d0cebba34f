"""Samples that belong together: in loaders, in what is divided, by the names of files."""

import copy
import pickle

import numpy as np
import pytest

from keras_transfer.data import Loader


def images(count):
    return np.zeros((count, 2, 2, 3), "uint8"), np.arange(count) % 2


class TestTheGroupsOfALoader:
    def test_go_with_the_samples(self):
        loader = Loader(images(6), 2, groups=[*"aabbcc"])
        assert loader.subset([5, 0]).groups.tolist() == ["c", "a"]
        for other in (
            loader.replace(seed=3),
            loader.shard(0, 2),
            copy.deepcopy(loader),
            pickle.loads(pickle.dumps(loader)),
        ):
            assert other.groups.tolist() == [*"aabbcc"]
        assert Loader(images(6)).groups is None

    def test_may_be_numbers_texts_or_objects_of_one_kind(self):
        for groups in ([1, 1, 2], np.array([1.5, 1.5, 2]), np.array(["x", "x", "yy"], object)):
            found = Loader(images(3), groups=groups).groups
            assert found.tolist() == [*groups]
            assert found.dtype != object

    @pytest.mark.parametrize(
        ("groups", "received"),
        [
            ([1, 2], r"3 numbers or texts.*shape \(2,\)"),
            (5, r"shape \(\)"),
            ([[1], [2], [3]], r"shape \(3, 1\)"),
            (np.array(["a", None, "b"], object), "none for 1 samples, the first of them 1"),
            ([1.0, np.nan, np.nan], "none for 2 samples, the first of them 1"),
        ],
    )
    def test_must_be_one_a_sample(self, groups, received):
        with pytest.raises(ValueError, match=received):
            Loader(images(3), groups=groups)
