"""Which GPUs a backend sees; as a script it fails where there is none."""

import contextlib
import os
import sys

with contextlib.suppress(ImportError):
    import torch

import keras
import pytest

WANTED = "KERAS_TRANSFER_GPU"
# A process with these sees none. Two processes share one GPU only if none takes all of its memory.
WITHOUT_GPU = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", WANTED: "0"}


def gpus():
    """Return the names of the GPUs that this process' backend sees."""
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            return [device.name for device in tf.config.list_physical_devices("GPU")]
        case "torch":
            return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        case "jax":
            import jax

            return [str(device) for device in jax.devices() if device.platform == "gpu"]


def require_gpu():
    """Skip where no GPU is visible, but fail where one must be."""
    if gpus():
        return
    what = f"the backend {keras.backend.backend()} sees no GPU"
    if os.environ.get(WANTED) == "1":
        pytest.fail(f"{what}, but {WANTED}=1 says that there is one")
    pytest.skip(f"{what}; nox -s gpu_{keras.backend.backend()} makes an environment that does")


if __name__ == "__main__":
    found = gpus()
    if not found:
        sys.exit(
            f"{keras.backend.backend()} sees no GPU: either this machine has none (what does nvidia-smi "
            "say?), or its driver is too old for this build, or the build is one for CPUs"
        )
    sys.stdout.write(f"{keras.backend.backend()} sees {', '.join(found)}\n")
