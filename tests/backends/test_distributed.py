"""One device or several: the same weights."""

import keras
import numpy as np
import pytest
from processes import run_alone

DEVICES = {"tensorflow": 2, "jax": 4}
BACKEND = keras.backend.backend()


@pytest.mark.slow
@pytest.mark.skipif(BACKEND not in DEVICES, reason="Keras distributes no torch model (see its guide)")
def test_several_devices_equal_one(tmp_path):
    found = {}
    for count in (1, DEVICES[BACKEND]):
        run_alone(BACKEND, "distributed.py", count, tmp_path / f"{count}.npz")
        found[count] = dict(np.load(tmp_path / f"{count}.npz"))
    one, several = found.values()
    assert one.keys() == several.keys()
    for name in one:
        assert np.linalg.norm(several[name] - one[name]) <= 1e-6 * np.linalg.norm(one[name]), name
