"""What a user waits for: `keras-transfer train` and `predict`, whole processes, beside an older build.

"train" is `keras-transfer train` on the photos of ants and bees (244 and 153 to report on; MobileNetV2,
224 px), with `--fast` where a build knows it, else with all its defaults; "predict" is
`keras-transfer predict` with the model that the same build has trained, on 70 of the photos. Each time
is that of a process, from its start to its end, Python and all imports included. The builds take turns;
the median of the rounds counts, and the ratio is that of the new build's median to the old one's, beside
that of the processor times of all threads, which other programs change less. One run of each build comes
first and doesn't count: it leaves Python's bytecode, which installers write, in a folder for all that
follow. JAX keeps nothing compiled from run to run.

    git worktree add ../old 14fa648
    python benchmarks/whole_process.py --old ../old
    python benchmarks/whole_process.py --old ../old --backends jax --old-python ../old/.venv/bin/python

Two others train on the same photos at the same size, whole processes too, with `--others`:

- "tutorial" is what the tutorials of Keras and TensorFlow do: `image_dataset_from_directory`, a frozen
  MobileNetV2 with a new `Dense` layer for 10 epochs, then all of it for 10 epochs at 1e-5.
- "fastai" is its `fine_tune(1)`, of torchvision's MobileNetV2, on the backend torch. Its weights are
  random, so that nothing is downloaded: its time tells something, its accuracy nothing. It needs an
  environment of its own; without `--fastai-python` it is left out:

      python -m venv fastai
      fastai/bin/pip install torch==2.14.1 torchvision==0.29.1 fastai
      python benchmarks/whole_process.py --old ../old --others --fastai-python fastai/bin/python

Needs the environment variables of "Real images and weights" in CONTRIBUTING.md.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BACKENDS = ("torch", "jax", "tensorflow")
COMMANDS = ("train", "predict")
SIZE, BATCH, PHOTOS = 224, 32, 70
# What the installed script does; an older build has no `run`.
COMMAND = "from keras_transfer import cli; getattr(cli, 'run', cli.main)()"
HERE = Path(__file__).resolve().parent.parent
FASTAI = f"""
import sys
from fastai.vision.all import ImageDataLoaders, Resize, accuracy, models, vision_learner
photos = ImageDataLoaders.from_folder(
    sys.argv[1], train="train", valid="val", item_tfms=Resize({SIZE}), bs={BATCH}
)
learner = vision_learner(photos, models.mobilenet_v2, pretrained=False, metrics=accuracy)
with learner.no_bar():
    learner.fine_tune(1)
print("accuracy", float(learner.validate()[1]))
"""


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--old", type=Path, metavar="PATH", help="a checkout of the older build")
    parser.add_argument("--old-python", default=sys.executable, metavar="PYTHON", help="what runs it")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--others", action="store_true", help="also the tutorial, and fastai")
    parser.add_argument("--other-rounds", type=int, default=1, help="they take minutes each")
    parser.add_argument("--fastai-python", metavar="PYTHON", help="the interpreter that has fastai")
    parser.add_argument("--tutorial", type=Path, help=argparse.SUPPRESS)  # it, in this process
    return parser.parse_args()


def timed(command, environment):
    """Run a process to its end; return its wall and processor seconds, and what it has printed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (wall, processor), done.stdout


def environment(backend, folder, tree=None):
    """Return the environment of a process: as a user has it who has not set much."""
    dropped = ("PYTHONDONTWRITEBYTECODE", "JAX_COMPILATION_CACHE_DIR", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    # Not the folder in which this was started, which may hold a build, too.
    kept |= {"PYTHONSAFEPATH": "1", "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    kept |= {"KERAS_BACKEND": backend}
    return kept if tree is None else kept | {"PYTHONPATH": str(tree)}


class Build:
    """A build of keras_transfer, and the model that it has trained."""

    def __init__(self, name, tree, python, folder):
        self.name, self.tree, self.python, self.folder = name, tree, python, folder
        self.output = folder / f"{name} model"
        commands = Path(tree, "keras_transfer", "cli", "training.py")
        knows = commands.exists() and '"--fast"' in commands.read_text(encoding="utf-8")
        self.fast = ["--fast"] if knows else []
        code = "import keras_transfer; print(keras_transfer.__file__)"
        found = timed([python, "-c", code], environment("torch", folder, tree))[1].strip()
        if not Path(found).is_relative_to(tree):
            sys.exit(f"{python} must run the build in {tree}; it runs {found}")

    def run(self, command, backend, photos):
        """Run a command; return its seconds."""
        given = {
            "train": [
                *("train", str(photos), "--output", str(self.output), "--overwrite", "--quiet"),
                *self.fast,
            ],
            "predict": ["predict", str(self.output / "model.keras"), str(self.folder / "photos")],
        }[command]
        ours = environment(backend, self.folder, self.tree)
        return timed([self.python, "-c", COMMAND, *given], ours)[0]

    def accuracy(self):
        """Return the accuracy on the images to report on, of the last training."""
        return json.loads((self.output / "metrics.json").read_text())["test"]["accuracy"]


def tutorial(photos):
    """Train as the tutorials do; print the accuracy."""
    import keras

    data = {
        part: keras.utils.image_dataset_from_directory(
            photos / part, image_size=(SIZE, SIZE), batch_size=BATCH, seed=0, verbose=False
        )
        for part in ("train", "val")
    }
    base = keras.applications.MobileNetV2(include_top=False, input_shape=(SIZE, SIZE, 3))
    base.trainable = False
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    for trainable, rate in ((False, 1e-3), (True, 1e-5)):
        base.trainable = trainable
        model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])
        model.fit(data["train"], validation_data=data["val"], epochs=10, verbose=0)
    print("accuracy", model.evaluate(data["val"], verbose=0)[1])


def beside(given, backend, photos, folder):
    """Yield the name, the seconds and the accuracy of each of the others."""
    ways = {
        "tutorial": [sys.executable, __file__, "--tutorial", str(photos)],
        "fastai": [given.fastai_python, "-c", FASTAI, str(photos)],
    }
    for name, command in ways.items():
        if name == "fastai" and (given.fastai_python is None or backend != "torch"):
            continue
        runs = [timed(command, environment(backend, folder)) for _ in range(given.other_rounds)]
        said = [float(text.rpartition("accuracy")[2]) for _, text in runs]
        yield name, statistics.median(wall for (wall, _), _ in runs), statistics.median(said)


def ratio(new, old, which):
    """Return the ratio of the medians of wall (0) or processor times (1)."""
    return statistics.median(t[which] for t in new) / statistics.median(t[which] for t in old)


def described(times):
    """Return the median of wall times, and their range."""
    walls = [wall for wall, _ in times]
    return f"{statistics.median(walls):.1f} ({min(walls):.1f} to {max(walls):.1f})"


def main():
    """Measure and print a table for each backend."""
    import rich.console
    import rich.table

    console = rich.console.Console(width=110)
    if given.fastai_python is None:
        console.print("fastai is left out: --fastai-python names an interpreter that has it")
    photos = Path(os.environ["KERAS_TRANSFER_REAL_DATA"], "hymenoptera")
    for backend in given.backends:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "photos").mkdir()
            for path in sorted(photos.glob("val/*/*.jpg"))[::2][:PHOTOS]:
                shutil.copy(path, folder / "photos" / f"{path.parent.name} {path.name}")
            builds = [Build("new", HERE, sys.executable, folder)]
            if given.old is not None:
                builds.append(Build("old", given.old.resolve(), given.old_python, folder))
            for build in builds:
                for command in COMMANDS:
                    build.run(command, backend, photos)
            title = f"{backend}: seconds, median of {given.rounds} (lowest to highest)"
            table = rich.table.Table("", *(build.name for build in builds), "ratio", "CPU", title=title)
            for command in given.commands:
                times = {build.name: [] for build in builds}
                for turn in range(given.rounds):
                    for build in builds if turn % 2 else builds[::-1]:
                        times[build.name].append(build.run(command, backend, photos))
                known = "old" in times
                ratios = [
                    f"{ratio(times['new'], times['old'], k):.2f}" if known else "-" for k in (0, 1)
                ]
                table.add_row(command, *map(described, times.values()), *ratios)
            console.print(table)
            console.print({f"accuracy, {build.name}": round(build.accuracy(), 4) for build in builds})
            if given.others:
                for name, seconds, accuracy in beside(given, backend, photos, folder):
                    console.print(f"{name}: {seconds:.1f} s, accuracy {accuracy:.4f}")


if __name__ == "__main__":
    given = arguments()
    tutorial(given.tutorial) if given.tutorial else main()
