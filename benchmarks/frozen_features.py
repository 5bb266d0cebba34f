"""Images a second of frozen features, in memory: this build beside an older one, each backend.

Each process builds a network, draws images as arrays, computes the features of a few, which compiles
what is to be compiled, and is then timed while `keras_transfer.FeatureCache` computes those of
others, in batches of 32. The processes take turns; medians and their ratio are printed. MobileNetV2 has
its ImageNet weights where Keras finds them; the others have random ones.

    git worktree add ../old 14fa648
    python benchmarks/frozen_features.py --old ../old
    python benchmarks/frozen_features.py --old ../old --networks efficientnet_b0 convnext_tiny --rounds 3

With `--distances`, how far features are from those of Keras in float64, in parts of their norm: those of
this build, and of Keras in float32 on each backend.

    python benchmarks/frozen_features.py --distances
"""

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BACKENDS = ("torch", "jax", "tensorflow")
SIZE, BATCH, FEW = 224, 32, 8
HERE = Path(__file__).resolve().parent.parent


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--old", type=Path, metavar="PATH", help="a checkout of the older build")
    parser.add_argument("--old-python", default=sys.executable, metavar="PYTHON", help="what runs it")
    parser.add_argument("--networks", nargs="+", default=("mobilenet_v2", "resnet50"))
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="about how long each is timed")
    parser.add_argument("--distances", action="store_true", help="measure these instead")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "OUTPUT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def network(name, weights="imagenet"):
    """Return a network of features, with random weights where there are no others."""
    import keras
    import numpy as np

    import keras_transfer as kt

    # What it was called in builds of before.
    older = "input_shape" in inspect.signature(kt.classifier).parameters
    size = {"input_shape": (SIZE, SIZE, 3)} if older else {"image_size": SIZE}
    try:
        model = kt.classifier(name, 2, weights=weights, **size)
    except ConnectionError:
        model = kt.classifier(name, 2, weights=None, **size)
        rng = np.random.default_rng(0)  # the same on each backend, with norms that do something
        for variable in model.weights:
            low, high = (
                (0.8, 1.2) if "variance" in variable.path or "gamma" in variable.path else (-0.1, 0.1)
            )
            scale = np.sqrt(2 / np.prod(variable.shape[:-1])) if len(variable.shape) > 1 else None
            shape = tuple(variable.shape)
            value = rng.uniform(low, high, shape) if scale is None else rng.normal(0, scale, shape)
            variable.assign(value)
    return keras.Model(model.inputs[0], model.get_layer("predictions").input)


def images(count):
    """Return images, the same in each process."""
    import numpy as np

    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), "uint8")


def measured(name, seconds):
    """Return the images a second of this process' build."""
    import numpy as np

    import keras_transfer as kt

    prefix = network(name)

    def build(count):
        x = images(count)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            start = time.perf_counter()
            kt.FeatureCache(prefix, folder).build((x, np.zeros(count, "int32")), BATCH, verbose=0)
            return time.perf_counter() - start

    build(BATCH)
    once = build(BATCH)
    count = BATCH * max(1, round(seconds / once))
    return count / build(count)


def features(name, output):
    """Write the features of some images, by Keras in float32 and by this build's first choice."""
    import keras
    import numpy as np

    import keras_transfer as kt

    if os.environ.get("KERAS_TRANSFER_FLOAT64"):
        keras.config.set_floatx("float64")
    model = network(name)
    x = images(FEW)
    np.save(f"{output}/keras.npy", keras.ops.convert_to_numpy(model.predict_on_batch(x)))
    if not os.environ.get("KERAS_TRANSFER_FLOAT64"):
        with tempfile.TemporaryDirectory() as folder:
            found = kt.FeatureCache(model, folder).build((x, np.zeros(FEW, "int32")), FEW, verbose=2)
            np.save(f"{output}/ours.npy", found.samples(0, FEW)[0])


def child(python, root, backend, *options, **variables):
    """Run this script in a process on a backend and a build; return what it printed last."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(root),
        **variables,
    }
    command = [python, __file__, *map(str, options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def compare(given):
    """Print images a second of both builds."""
    import rich.console
    import rich.table

    sides = {"new": (sys.executable, HERE)}
    if given.old:
        sides["old"] = (given.old_python, given.old.resolve())
    table = rich.table.Table("network", "backend", *(f"{side}, images/s" for side in sides), "new / old")
    for name in given.networks:
        for backend in given.backends:
            rates = {side: [] for side in sides}
            for _ in range(given.rounds):
                for side, (python, root) in sides.items():
                    options = ("--one", name, "-", "--seconds", given.seconds)
                    rates[side].append(json.loads(child(python, root, backend, *options)))
            found = {side: statistics.median(values) for side, values in rates.items()}
            cells = [
                f"{found[side]:.1f} ({min(values):.1f} to {max(values):.1f})"
                for side, values in rates.items()
            ]
            ratio = f"{found['new'] / found['old']:.2f}" if given.old else "-"
            table.add_row(name, backend, *cells, ratio)
    rich.console.Console(width=110).print(table)


def distances(given):
    """Print how far features are from those in float64."""
    import numpy as np
    import rich.console
    import rich.table

    table = rich.table.Table("network", "this build", *(f"Keras, {name}" for name in given.backends))
    for name in given.networks:
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            options = ("--distances", "--one", name, folder)
            child(sys.executable, HERE, "torch", *options, KERAS_TRANSFER_FLOAT64="1")
            reference = np.load(f"{folder}/keras.npy", allow_pickle=False)
            for backend in given.backends:
                child(sys.executable, HERE, backend, *options)
                found[backend] = np.load(f"{folder}/keras.npy", allow_pickle=False)
                ours = np.load(f"{folder}/ours.npy", allow_pickle=False)
                if not np.array_equal(found.setdefault("ours", ours), ours):
                    raise SystemExit(f"{name}: {backend} gives other features than {given.backends[0]}")
        norm = np.linalg.norm(reference)
        columns = [found["ours"], *(found[backend] for backend in given.backends)]
        table.add_row(name, *(f"{np.linalg.norm(each - reference) / norm:.1e}" for each in columns))
    rich.console.Console(width=110).print(table)


def main():
    """Measure, in this process or in others."""
    given = arguments()
    if given.one and given.distances:
        features(*given.one)
        print("done")
    elif given.one:
        print(json.dumps(measured(given.one[0], given.seconds)))
    elif given.distances:
        distances(given)
    else:
        compare(given)


if __name__ == "__main__":
    main()
