"""Files with a LayerwiseLR go from each backend to each, and training goes on."""

import keras
import layerwise
import numpy as np
import pytest
from processes import each_backend, require, run

import keras_transfer as kt


@pytest.fixture(scope="module", params=each_backend())
def saved(request, tmp_path_factory):
    """The folder of files that a backend has written."""
    require(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == keras.backend.backend():
        layerwise.main(folder)
    else:
        run(request.param, "layerwise.py", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", layerwise.SLOTS)
def test_slots_are_restored_and_training_goes_on(saved, name):
    model = kt.load_model(saved / f"{name}.keras")
    before, after = (dict(np.load(saved / f"{name}_{when}.npz")) for when in ("saved", "gone_on"))
    found = layerwise.state(model)
    assert len(found) == len(before) >= 10
    # By order: backends give the variables of an optimizer other names.
    for mine, theirs in zip(found.values(), before.values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    layerwise.step(model, layerwise.AFTER)
    gone_on = layerwise.state(model)
    for variable in model.variables:
        theirs = after[variable.path]
        assert np.linalg.norm(gone_on[variable.path] - theirs) <= 2e-7 * np.linalg.norm(theirs)
    x = np.ones((4, 4), "float32")
    assert np.isfinite(model.train_on_batch(x, np.ones((4, 2), "float32")))


@pytest.mark.slow
def test_a_plain_optimizer_trains_on(saved):
    """Which a file from torch can't in stock Keras on the others."""
    model = kt.load_model(saved / "plain.keras")
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    assert int(model.optimizer.iterations) == 2


@pytest.mark.parametrize("saved", [keras.backend.backend()], indirect=True)
@pytest.mark.parametrize("name", layerwise.SLOTS)
def test_on_the_same_backend_bit_for_bit(saved, name):
    model = kt.load_model(saved / f"{name}.keras")
    layerwise.step(model, layerwise.AFTER)
    after = dict(np.load(saved / f"{name}_gone_on.npz"))
    for mine, theirs in zip(layerwise.state(model).values(), after.values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
