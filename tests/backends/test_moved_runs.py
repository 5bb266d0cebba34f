"""A run that goes on on another backend ends as one that stayed, but for rounding."""

import keras
import numpy as np
import pytest
from processes import require, run

pytest.importorskip("matplotlib")


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="it runs on all three from any of them")
def test_a_run_that_moved_twice(tmp_path):
    moves = [
        ("torch", 2),
        ("jax", 4),
        ("tensorflow", 99),
    ]  # where it goes on, and before which epoch it stops
    for backend, _ in moves:
        require(backend)
    for backend, epoch in moves:
        run(backend, "resume.py", tmp_path / "moved", epoch, tmp_path / "moved.npz")
        assert (tmp_path / "moved.npz").exists() == (epoch == 99)
    run(keras.backend.backend(), "resume.py", tmp_path / "stayed", 99, tmp_path / "stayed.npz")
    stayed, moved = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("stayed", "moved"))
    assert stayed.keys() == moved.keys()
    distances = {
        key: np.linalg.norm(stayed[key] - moved[key]) / np.linalg.norm(stayed[key]) for key in stayed
    }
    print(f"\nlargest distance of a variable, as a part of its norm: {max(distances.values()):.1e}")  # noqa: T201
    assert max(distances.values()) < 1e-5, distances
