r"""One recipe on one device, on the devices of a machine, or on several machines.

What changes is how the program is started, and a few lines before the model is made. `kt.fine_tune`
finds what they have set up: each batch is divided among the devices, each process reads its own part of
it, the features of the frozen part are computed by all together, one process writes the files, and all
end with the same weights, those of one device up to rounding.

**PyTorch** has one process for each device. `torchrun` starts them; the gradients go through
`DistributedDataParallel`:

    torchrun --nproc-per-node 2 examples/several_devices.py --backend torch

    # two machines with 8 GPUs each, on both:
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint first:29500 \
        examples/several_devices.py --backend torch --batch-size 512

**JAX** has one process for each machine, which uses all its devices, by `keras.distribution`:

    python examples/several_devices.py --backend jax

    # two machines; on the second with --process 1
    python examples/several_devices.py --backend jax --coordinator first:29500 --processes 2 --process 0

**TensorFlow** has one process for each machine, too. On one it is `MirroredStrategy`; where the variable
`TF_CONFIG` names several machines, `MultiWorkerMirroredStrategy`:

    python examples/several_devices.py --backend tensorflow

    # two machines; on the second with "index": 1
    TF_CONFIG='{"cluster": {"worker": ["first:29500", "second:29500"]},
                "task": {"type": "worker", "index": 0}}' \
        python examples/several_devices.py --backend tensorflow

On a machine without GPUs, `--devices 2` makes two devices of the processor for JAX and TensorFlow, to
see that it works; it is not faster. The images are drawn here, stripes of eight directions under noise;
`--folder` takes your own, a folder for each class, which every machine must see under the same name.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

CLASSES = 8


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--backend", choices=["tensorflow", "torch", "jax"], help="Keras' backend")
    parser.add_argument("--devices", type=int, help="of the processor, where there is no GPU")
    parser.add_argument("--coordinator", help="JAX: address and port of the first process")
    parser.add_argument("--processes", type=int, default=1, help="JAX: how many there are")
    parser.add_argument("--process", type=int, default=0, help="JAX: which one this is")
    parser.add_argument("--folder", type=Path, help="your own images, a folder for each class")
    parser.add_argument("--samples", type=int, default=1024, help="images to draw")
    parser.add_argument("--epochs", type=int, nargs=2, default=[2, 2], metavar=("HEAD", "ALL"))
    parser.add_argument("--batch-size", type=int, default=32, help="of all devices together")
    parser.add_argument("--output", type=Path, default=Path("several_run"), help="a folder")
    parser.add_argument("--quick", action="store_true", help="only see that it works: few images")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.samples, arguments.epochs = min(arguments.samples, 128), [1, 1]
    return arguments


# --- What is set up before the model ----------------------------------------------------------------


def on_torch() -> contextlib.AbstractContextManager[Any]:
    """Join the processes that torchrun has started, if it has."""
    import torch

    if "RANK" in os.environ:
        gpus = torch.cuda.is_available()
        if gpus:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl" if gpus else "gloo")
        atexit.register(torch.distributed.destroy_process_group)
    return contextlib.nullcontext()


def on_jax(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """Divide batches among all devices, those of other processes included."""
    if arguments.coordinator:
        keras.distribution.initialize(arguments.coordinator, arguments.processes, arguments.process)
    # Each process has its part of the data from the Loader, so Keras need not divide it.
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    return contextlib.nullcontext()


def on_tensorflow(arguments: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """Return the scope of a strategy over the devices of this machine, or of all in TF_CONFIG."""
    import tensorflow as tf

    if arguments.devices:
        processor = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * arguments.devices
        tf.config.set_logical_device_configuration(processor, parts)
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy().scope()
    kind = "CPU" if arguments.devices else "GPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    return tf.distribute.MirroredStrategy(devices or ["CPU:0"]).scope()


# --- The recipe, which knows nothing of it ----------------------------------------------------------


def draw(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of shape (samples, 32, 32, 3), stripes under noise, and their directions."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % CLASSES
    angles = labels * np.pi / CLASSES
    rows, columns = np.mgrid[:32, :32]
    along = np.cos(angles)[:, None, None] * columns + np.sin(angles)[:, None, None] * rows
    stripes = np.sin(along + rng.uniform(0, 2 * np.pi, (samples, 1, 1)))[..., None]
    noisy = 128 + 40 * (stripes + rng.normal(0, 0.5, (samples, 32, 32, 3)))
    return np.clip(noisy, 0, 255).astype("uint8"), labels


def load_images(arguments: argparse.Namespace) -> tuple[kt.Loader, kt.Loader]:
    """Return the images to train on and to validate with."""
    if arguments.folder:
        options = {"image_size": 96, "batch_size": arguments.batch_size}
        return kt.data.from_directory(arguments.folder, **options).split(0.2)
    train, validation = draw(arguments.samples, seed=0), draw(arguments.samples // 4, seed=1)
    batches = {"batch_size": arguments.batch_size}
    return kt.Loader(train, **batches), kt.Loader(validation, shuffle=False, **batches)


def build(images: kt.Loader) -> keras.Model:
    """Return a classifier: MobileNetV2 for photos, a small network for what is drawn here."""
    keras.utils.set_random_seed(0)
    if images.class_names:
        names, size = images.class_names, images.image_size
        return kt.classifier("mobilenet_v2", len(names), image_size=size, class_names=names)
    inputs = x = keras.Input((32, 32, 3))
    for block, filters in enumerate((16, 32, 32), start=1):
        x = keras.layers.Conv2D(
            filters, 3, padding="same", activation="relu", name=f"block{block}_conv"
        )(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)  # pixels 0-255 to -1 ... 1
    return kt.classifier(keras.Model(inputs, x, name="blocks"), CLASSES, preprocessing=scaled)


def phases(model: keras.Model, epochs: list[int]) -> list[kt.Phase]:
    """Return the recipe: the head, then everything, with lower rates further from the head."""
    rates = kt.multipliers.geometric(model, 3.0)
    return [
        kt.Phase("head", epochs[0], train="head", learning_rate=1e-3),
        kt.Phase("everything", epochs[1], train="all", learning_rate=1e-3, multipliers=rates),
    ]


def main(arguments: argparse.Namespace) -> None:
    """Train on whatever is set up."""
    if keras.backend.backend() == "torch":
        scope = on_torch()
    else:
        scope = {"jax": on_jax, "tensorflow": on_tensorflow}[keras.backend.backend()](arguments)
    train, validation = load_images(arguments)
    with scope:
        model = build(train)
    result = kt.fine_tune(
        model,
        train,
        validation,
        phases(model, arguments.epochs),
        batch_size=arguments.batch_size,
        output=arguments.output,
    )
    # Every process has the same result.
    print(f"accuracy {result.best.metrics['val_accuracy']:.3f} after epoch {result.best.epoch + 1}")


if __name__ == "__main__":
    arguments = parse_arguments()
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend
    if arguments.devices:
        devices = f"--xla_force_host_platform_device_count={arguments.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices}"
    import keras
    import numpy as np

    import keras_transfer as kt

    try:
        main(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
