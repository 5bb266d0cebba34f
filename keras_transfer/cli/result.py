"""The files that a command that trains writes, and the folder in which they stand."""

import json
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_transfer.cli.common import Parts, check_outside, is_within

if TYPE_CHECKING:
    from keras_transfer.data.loader import Loader
    from keras_transfer.results.automatic import Trained
    from keras_transfer.results.evaluation import Evaluation

FILES = ("model.keras", "metrics.json", "curves.png", "report.html")
# With which a run begins, goes on or talks; its result is the same.
_OF_THE_START = {"--resume", "--overwrite", "--quiet", "-q"}
CHECKPOINT = "checkpoint"  # a folder for what a run needs to go on, as long as it isn't over


def default_output(directory: Path) -> Path:
    """Return DIRECTORY-model, here; where here is within the images, beside them."""
    images = directory.resolve()
    bare = images.name if images.is_dir() else images.stem.removesuffix(".tar")
    name = f"{bare}-model"
    return Path(os.path.relpath(images.parent / name) if is_within(Path(name), images) else name)


def is_over(output: Path, resume: bool, command: Sequence[str]) -> bool:
    """Whether a run that is to go on has come to its end.

    Args:
        output: its folder.
        resume: whether it is to go on.
        command: the command and its options.

    Raises:
        ValueError: it has, and was begun with other options.
    """
    there = all((output / name).exists() for name in FILES)
    if not (resume and there) or (output / CHECKPOINT).exists():
        return False
    try:
        before = list(map(str, json.loads((output / FILES[1]).read_text("utf-8"))["command"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(output / FILES[1])!r} must tell how its run was begun ({error!r}); say --overwrite "
            f"to begin anew. Received: output={str(output)!r}, --resume"
        ) from error
    if _asked_for(before) != _asked_for(command):
        raise ValueError(
            f"the run in {str(output)!r} is over, and was begun with other options; say --overwrite to "
            "begin anew, or choose another folder with --output. "
            f"Received: {shlex.join(command)!r}, where it was {shlex.join(before)!r}"
        )
    return True


def _asked_for(command: Sequence[str]) -> list[str]:
    """Return what makes a command's result what it is, in one order."""
    return sorted(word for word in command if word not in _OF_THE_START)


def check_output(output: Path, overwrite: bool, directory: Path, resume: bool) -> None:
    """Raise a `ValueError` before hours of work whose result could not be written."""
    from keras_transfer._lib.files import check_writable

    check_outside("output", output, directory)
    there = [name for name in (*FILES, CHECKPOINT) if (output / name).exists()]
    if CHECKPOINT in there and not (overwrite or resume):
        raise ValueError(
            f"{str(output)!r} has a run that was stopped; say --resume to go on with it, or --overwrite "
            f"to begin anew. Received: output={str(output)!r}"
        )
    if there and not overwrite and CHECKPOINT not in there:
        raise ValueError(
            f"{str(output)!r} has {', '.join(there)} already; say --overwrite to replace them, or "
            f"choose another folder with --output. Received: output={str(output)!r}"
        )
    check_writable(output, "output")
    if output.exists() and not output.is_dir():
        raise ValueError(f"output must be a folder. Received: output={str(output)!r}, a file")


def write(
    output: Path,
    trained: "Trained",
    evaluation: "Evaluation",
    data: Parts,
    about: dict[str, Any],
    tested: "Evaluation | None" = None,
) -> None:
    """Write the files, each whole or not at all; what the run needed to go on goes away.

    Args:
        output: the folder.
        trained: the model, and how it came about.
        evaluation: what it reaches on the images to report on.
        data: all images.
        about: what was asked for.
        tested: what it reaches on those that were cut off for a test.
    """
    from keras_transfer import report
    from keras_transfer._lib.files import replacing, writable_directory, write_json
    from keras_transfer.data.folders import by_reason
    from keras_transfer.reports import plots
    from keras_transfer.runs.journal import forget

    writable_directory(output, "output")
    needed = 4 * trained.model.count_params()
    free = shutil.disk_usage(output).free
    if free < needed:
        raise OSError(
            f"the model needs {needed / 1e6:,.0f} MB in {str(output)!r}, where {free / 1e6:,.0f} MB are "
            "free; make room or choose another folder with --output"
        )
    model, metrics, curves, page = (output / name for name in FILES)
    with replacing(model) as temporary:
        trained.model.save(temporary)
    images, measured = data.training, data.measured
    skipped = {**images.skipped, **measured.skipped}
    counts = dict(zip(images.class_names or [], map(int, images.class_counts()), strict=True))
    write_json(
        metrics,
        {
            **about,
            "training_images": counts,
            "skipped_by_reason": by_reason(skipped.values()),
            "skipped": skipped,
            "noted": {**images.noted, **measured.noted},
            **trained.to_dict(),
            "test": evaluation.to_dict(),
            **_test_part(data.test, tested),
        },
    )
    with replacing(curves) as temporary:
        plots.training(trained).savefig(temporary, dpi=120)
    title = f"{about['images']}: {about['backbone']}"
    command = shlex.join(["keras-transfer", *about["command"]])
    report(trained, measured, page, train=images, evaluation=evaluation, title=title, command=command)
    forget(output / CHECKPOINT)


def _test_part(test: "Loader | None", tested: "Evaluation | None") -> dict[str, Any]:
    """Return what is written of the images that were cut off for a test, and which these are."""
    if test is None or tested is None:
        return {}
    files = [str(test.file(index)) for index in range(test.num_samples)]
    return {"test_part": {**tested.to_dict(), "files": files}}
