"""A cache that gives up where its first batches tell that it would take too long."""

from itertools import count
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt
from keras_transfer.features.cache import limited
from keras_transfer.features.cache.cache import features_of
from keras_transfer.features.cache.limited import Limit, TooLongError


@pytest.fixture
def network():
    inputs = keras.Input((4, 4, 3))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(inputs), name="colour")


@pytest.fixture
def data():
    return np.random.default_rng(0).uniform(0, 1, (40, 4, 4, 3)).astype("float32"), np.arange(40)


@pytest.fixture
def clock(monkeypatch):
    """Let half a second pass between two looks at the clock."""
    fake = SimpleNamespace(perf_counter=count(step=0.5).__next__)
    monkeypatch.setattr(limited, "time", fake)


def built(network, data, folder, most):
    """Return features, and what the limit has found."""
    limit = Limit(most)
    loader, features = features_of(kt.FeatureCache(network, folder), data, 4, None, 0, limit)
    features.close()
    return limit, loader.num_samples


@pytest.mark.usefixtures("clock")
def test_it_ends_after_the_first_batches(network, data, tmp_path):
    with pytest.raises(TooLongError, match="would take 5 s, and may take 5 s") as caught:
        built(network, data, tmp_path, 4.9)
    assert caught.value.seconds == pytest.approx(5.0)  # ten batches
    assert caught.value.images == 40
    assert kt.features.caches(tmp_path) == []
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.usefixtures("clock")
def test_what_fits_is_computed_and_then_takes_no_time(network, data, tmp_path):
    limit, samples = built(network, data, tmp_path, 5.0)
    assert samples == 40
    assert limit.an_image == pytest.approx(0.5 / 4)
    built(network, data, tmp_path, 0.0)
    assert len(kt.features.caches(tmp_path)) == 1


@pytest.mark.usefixtures("clock")
def test_a_few_batches_are_computed_in_any_case(network, data, tmp_path):
    built(network, (data[0][:8], data[1][:8]), tmp_path, 0.0)


@pytest.mark.usefixtures("clock")
def test_short_batches_are_looked_at_longer(network, data, tmp_path):
    """A fiftieth of what the pass may take: of 80 s these are four batches."""
    limit = Limit(80.0)
    for done in (4, 8, 12, 16):
        limit(done, 4000)
    with pytest.raises(TooLongError):
        limit(20, 4000)


@pytest.mark.usefixtures("clock")
def test_another_way_to_compute_begins_anew(network, data, tmp_path):
    limit = Limit(10.0)
    for done in (8, 16, 4, 8, 12):
        limit(done, 40)
    assert limit.an_image == pytest.approx(0.5 / 4)
