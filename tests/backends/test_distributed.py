"""One device or several: the same weights."""

import distributed
import keras
import numpy as np
import pytest
from processes import run_alone

DEVICES = {"tensorflow": 2, "jax": 4}
BACKEND = keras.backend.backend()


@pytest.mark.slow
@pytest.mark.skipif(BACKEND not in DEVICES, reason="Keras distributes no torch model (see its guide)")
def test_several_devices_equal_one(tmp_path):
    run_alone(BACKEND, "distributed.py", DEVICES[BACKEND], tmp_path / "several.npz")
    one, several = distributed.train(1), dict(np.load(tmp_path / "several.npz"))
    assert one.keys() == several.keys()
    for name in one:
        assert np.linalg.norm(several[name] - one[name]) <= 1e-6 * np.linalg.norm(one[name]), name
