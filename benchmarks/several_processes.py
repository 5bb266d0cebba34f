"""Training in two processes of one core each against one process of two cores: images a second.

On a machine with two cores both have the same processors, so that the best that can come out is 1. What
is missing to it is the price of several processes: gradients that are added up, and programs that wait
for each other. One process with one core stands beside them, as what a second core is worth at all.

The three ways take turns, several times; each time is that of the epochs after the first.

    python benchmarks/several_processes.py --backend torch
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS = {  # processes, and cores of each
    "two processes, one core each": (2, 1),
    "one process, two cores": (1, 2),
    "one process, one core": (1, 1),
}


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--backend", choices=["tensorflow", "torch", "jax"], default="torch")
    parser.add_argument("--backbone", default="mobilenet")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--images", type=int, default=256, help="an epoch")
    parser.add_argument("--batch-size", type=int, default=32, help="of all processes together")
    parser.add_argument("--epochs", type=int, default=4, help="the first isn't counted")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    parser.add_argument("--child", type=int, nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    """Let the ways take turns, and print their images a second and ratios."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds):
        for way, (processes, cores) in WAYS.items():
            found[way].append(images_a_second(arguments, processes, cores))
            print(f"round {number + 1}: {way}: {found[way][-1]:.1f} images/s", flush=True)
    two, one, _ = found.values()
    ratios = [a / b for a, b in zip(two, one, strict=True)]
    for way, values in found.items():
        print(f"{way}: median {statistics.median(values):.1f} images/s")
    print(
        f"two processes against one: median {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def images_a_second(arguments: argparse.Namespace, processes: int, cores: int) -> float:
    """Train in so many processes, each on cores of its own, and return their speed together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    available = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "seconds.json")
        started = []
        for index in range(processes):
            own = available[index * cores :][:cores]
            options = [*sys.argv[1:], "--child", str(processes), str(index), str(port), "--output", file]
            command = ["taskset", "-c", ",".join(map(str, own)), sys.executable, __file__, *options]
            variables = {"OMP_NUM_THREADS": str(cores), "KERAS_BACKEND": arguments.backend}
            started.append(subprocess.Popen(command, env={**os.environ, **variables}))
        codes = [process.wait() for process in started]
        if any(codes):
            sys.exit("a process failed")
        seconds = json.loads(file.read_text(encoding="utf-8"))
    return arguments.images * len(seconds) / sum(seconds)


def train(arguments: argparse.Namespace) -> None:
    """Train in one of the processes; the first writes the seconds of its epochs."""
    import contextlib
    import time

    import keras
    import numpy as np

    processes, index, port = arguments.child
    scope = contextlib.nullcontext()
    if processes > 1 and arguments.backend == "torch":
        import torch

        where = f"tcp://127.0.0.1:{port}"
        torch.distributed.init_process_group("gloo", init_method=where, rank=index, world_size=processes)
    elif processes > 1 and arguments.backend == "jax":
        keras.distribution.initialize(f"127.0.0.1:{port}", processes, index)
        keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    elif processes > 1:
        import tensorflow as tf

        workers = [f"127.0.0.1:{port + number}" for number in range(processes)]
        task = {"type": "worker", "index": index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
        scope = tf.distribute.MultiWorkerMirroredStrategy().scope()

    import keras_transfer as kt

    class Clock(keras.callbacks.Callback):
        """Notes the seconds of each epoch."""

        seconds: list[float]

        def on_train_begin(self, logs: object = None) -> None:
            self.seconds = []

        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            self._began = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            self.seconds.append(time.perf_counter() - self._began)

    size, rng = arguments.image_size, np.random.default_rng(0)
    x = rng.integers(0, 256, (arguments.images, size, size, 3), "uint8")
    y = np.arange(arguments.images) % 10
    with scope:
        model = kt.classifier(arguments.backbone, 10, image_size=size, weights=None)
    clock = Clock()
    phase = kt.Phase("everything", arguments.epochs, train="all", learning_rate=1e-4)
    batches = {"batch_size": arguments.batch_size, "verbose": 0}
    kt.fine_tune(model, (x, y), phases=[phase], callbacks=[clock], cache=False, **batches)
    if index == 0:
        arguments.output.write_text(json.dumps(clock.seconds[1:]), encoding="utf-8")


if __name__ == "__main__":
    options = parse_arguments()
    if options.child:
        train(options)
    else:
        main(options)
