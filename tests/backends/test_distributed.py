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
def test_several_devices_equal_one(tmp_path, request):
    # With state of each variable and of all together.
    names = list(distributed.OPTIMIZERS) if request.config.getoption("nightly") else ["nadam"]
    run_alone(BACKEND, "distributed.py", DEVICES[BACKEND], tmp_path / "several.npz", *names)
    one, several = distributed.train(1, names), dict(np.load(tmp_path / "several.npz"))
    assert one.keys() == several.keys()
    for name in one:
        assert np.linalg.norm(several[name] - one[name]) <= 1e-6 * np.linalg.norm(one[name]), name
