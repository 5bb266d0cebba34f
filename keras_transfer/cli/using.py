"""Commands that use a trained model: predict, evaluate, export."""

import csv
import io
import json
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import rich.box
import rich.table
import rich.text
import typer

from keras_transfer.cli.common import (
    BatchSize,
    FollowLinks,
    ImageColumn,
    Images,
    LabelColumn,
    LabelSeparator,
    LevelOption,
    MaxPixels,
    Quiet,
    Reading,
    SkipBroken,
    SplitColumn,
    ValueRange,
    by_option,
    out,
    read_images,
    shown,
    tell_left_out,
)

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_transfer.data.folders import Found
    from keras_transfer.data.images.kept import Kept
    from keras_transfer.data.images.rules import Rules

ModelFile = Annotated[
    Path, typer.Argument(help="A model.keras that `keras-transfer train` has written.")
]


AsTrained = Annotated[
    str | None,
    typer.Option(help="On what transparent images are laid. [default: as those of training]"),
]


class Output(StrEnum):
    """How predictions are printed."""

    table = "table"
    csv = "csv"
    json = "json"


class ExportFormat(StrEnum):
    """Formats of `model.export`."""

    tf_saved_model = "tf_saved_model"
    onnx = "onnx"
    openvino = "openvino"
    litert = "litert"
    torch = "torch"


def predict(
    model: ModelFile,
    files: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    format: Annotated[Output, typer.Option(help="How to print.")] = Output.table,
    batch_size: BatchSize = 32,
    follow_links: FollowLinks = False,
    background: AsTrained = None,
    value_range: ValueRange = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Tell the class of images, how probable it is, and where the model is unsure.

    Of folders, all images are taken that training would take, in the folders within them, too.

    The model is unsure where the classes that are probable enough to keep its promise (of coverage, see
    train) are not exactly one; they are listed then. Of a model of several labels an image, all are told
    that are probable enough. Files that can't be read are told at the end, and
    the exit status is 1.

        keras-transfer predict photos-model/model.keras holiday/*.jpg

        keras-transfer predict photos-model/model.keras holiday --format csv > holiday.csv
    """
    from keras_transfer.data.images.kept import Kept
    from keras_transfer.layers.task import task_of
    from keras_transfer.tasks.multi_label import MULTI_LABEL

    loaded, size = _classifier(model)
    found, rules = _images(files, follow_links), _rules(loaded, background, value_range, max_pixels)
    kept = Kept(size)
    damaged, notes = _looked_at(found.images, rules, kept, silent=format is not Output.table)
    problems = found.problems | damaged
    good = [path for path in found.images if path not in problems]
    several = task_of(loaded) is MULTI_LABEL
    predicted = _label_rows if several else _rows
    rows = predicted(loaded, good, rules, kept, batch_size) if good else iter(())
    if format is Output.json:
        write_text(json.dumps(list(rows), indent=2))
    elif format is Output.csv:
        write_text((_labels_as_csv if several else _as_csv)(rows))
    else:
        out.print((_labels_as_table if several else _as_table)(rows))
    tell_left_out({str(path): why for path, why in found.left_out.items()}, beside=True)
    for path, note in notes.items():
        typer.echo(f"Odd: {shown(path)} ({by_option(shown(note))})", err=True)
    for path, problem in problems.items():
        typer.echo(f"Can't be read: {shown(path)} ({by_option(shown(problem))})", err=True)
    if problems:
        raise typer.Exit(1)


def evaluate(
    context: typer.Context,
    model: ModelFile,
    directory: Annotated[
        Path,
        typer.Argument(help="A folder with a folder of images for each class, a zip or tar, a CSV."),
    ],
    part: Annotated[
        str | None, typer.Option(help="Which part of a table that is divided, such as test.")
    ] = None,
    images: Images = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    label_separator: LabelSeparator = None,
    split_column: SplitColumn = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    batch_size: BatchSize = 32,
    skip_broken: SkipBroken = False,
    follow_links: FollowLinks = False,
    background: AsTrained = None,
    value_range: ValueRange = None,
    max_pixels: MaxPixels = None,
    level: LevelOption = "1",
    quiet: Quiet = False,
) -> None:
    """Measure a model on images whose classes are known: accuracy, by class, calibration, coverage.

    keras-transfer evaluate photos-model/model.keras photos/val
    """
    import keras_transfer as kt
    from keras_transfer.data.inputs import same_names
    from keras_transfer.probabilities import evaluation

    loaded, size = _classifier(model)
    silent, rules = quiet or json_output, _rules(loaded, background, value_range, max_pixels)
    known = {"background": rules.background, "value_range": rules.value_range, "seed": 0}
    known |= {"max_pixels": rules.max_pixels, "quiet": silent}
    reading = Reading.of(context, size, **known)
    loader = read_images(directory, part, reading)
    tell_left_out(loader.skipped, beside=json_output)
    names = kt.class_names(loaded)
    if names is not None and not same_names(names, loader.class_names or []):
        raise ValueError(
            f"directory must have the {'folders' if directory.is_dir() else 'classes'} "
            f"{', '.join(names)}, as the model has these classes. "
            f"Received: {', '.join(loader.class_names or [])} in {str(directory)!r}"
        )
    found = evaluation.evaluate(loaded, loader, verbose=0 if silent else "auto")
    if json_output:
        write_text(json.dumps(found.to_dict(), indent=2))
    else:
        out.print(found)


def export(
    model: ModelFile,
    format: Annotated[ExportFormat, typer.Option(help="What to write.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to. [default: beside the model]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write a model in a format for use without Keras, by Keras' own `model.export`.

    keras-transfer export photos-model/model.keras --format onnx
    """
    from keras_transfer.saving.exporting import FORMATS
    from keras_transfer.saving.exporting import export as write

    loaded, _ = _classifier(model)
    path = output or model.with_suffix(FORMATS[format.value].suffix)
    write(loaded, path, format.value, overwrite=overwrite)
    out.print(f"Written: {shown(path)}", markup=False, highlight=False, soft_wrap=True)


def _classifier(path: Path) -> "tuple[keras.Model, tuple[int, int]]":
    """Return the model in a file and the size of the images that it takes."""
    import keras_transfer as kt

    if not path.exists():
        raise ValueError(f"model must be a .keras file; there is none. Received: {str(path)!r}")
    model = kt.load_model(path)
    shapes = [getattr(model, name, None) for name in ("input_shape", "output_shape")]
    image, classes = (shape if isinstance(shape, tuple) else () for shape in shapes)
    if len(image) != 4 or None in image[1:] or image[3] != 3 or len(classes) != 2:
        raise ValueError(
            "model must take RGB images of one size and give a number for each class. "
            f"Received: {str(path)!r}, from {shapes[0]} to {shapes[1]}"
        )
    return model, image[1:3]


def write_text(text: str) -> None:
    """Write what programs read to standard output, as UTF-8 whatever the terminal has."""
    typer.echo(text.encode("utf-8", "backslashreplace"))


def _as_csv(rows: Iterator[dict[str, Any]]) -> str:
    with io.StringIO(newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "class", "probability", "unsure", "candidates"))
        for row in rows:
            candidates = " | ".join(row["candidates"])
            writer.writerow(
                (row["file"], row["class"], f"{row['probability']:.4f}", row["unsure"], candidates)
            )
        return file.getvalue().removesuffix("\n")


def _as_table(rows: Iterator[dict[str, Any]]) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for column in ("file", "class", "probability", ""):
        table.add_column(column, overflow="fold")
    for row in rows:
        candidates = ", ".join(map(shown, row["candidates"])) or "none is probable enough"
        note = f"unsure: {candidates}" if row["unsure"] else ""
        cells = (shown(row["file"]), shown(row["class"]), f"{row['probability']:.1%}", note)
        table.add_row(*map(rich.text.Text, cells))
    return table


def _labels_as_csv(rows: Iterator[dict[str, Any]]) -> str:
    with io.StringIO(newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "labels", "probabilities"))
        for row in rows:
            probabilities = (f"{row['probabilities'][name]:.4f}" for name in row["labels"])
            writer.writerow((row["file"], " | ".join(row["labels"]), " | ".join(probabilities)))
        return file.getvalue().removesuffix("\n")


def _labels_as_table(rows: Iterator[dict[str, Any]]) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for column in ("file", "labels"):
        table.add_column(column, overflow="fold")
    for row in rows:
        told = (f"{shown(name)} {row['probabilities'][name]:.1%}" for name in row["labels"])
        table.add_row(*map(rich.text.Text, (shown(row["file"]), ", ".join(told) or "none")))
    return table


def _images(files: list[Path], follow_links: bool) -> "Found":
    """Return the given files, and what is in the given folders."""
    from keras_transfer.data.folders import Found, counted, images_in

    found = Found([], {}, {})
    for path in files:
        if not path.is_dir():
            found.images.append(path)
            continue
        inside = images_in(path, (os.path.realpath(path),), follow_links)
        if not inside.images and not inside.problems:
            others = f"; left out: {counted(inside.left_out.values())}" if inside.left_out else ""
            inside.problems[path] = f"a folder without images{others}"
        found.add(inside)
    return found


def _rules(
    model: "keras.Model",
    background: str | None,
    value_range: tuple[float, float] | None,
    max_pixels: int | None,
) -> "Rules":
    """Return how images are read: as those were on which the model trained, unless options say it."""
    from keras_transfer.data.carried_rules import rules_of
    from keras_transfer.data.images.rules import USUAL, checked_rules

    known = rules_of(model) or USUAL
    return checked_rules(background or known.background, value_range or known.value_range, max_pixels)


def _looked_at(
    paths: list[Path], rules: "Rules", kept: "Kept", silent: bool
) -> tuple[dict[Path, str], dict[Path, str]]:
    from keras_transfer._lib.messages import verbosity
    from keras_transfer.data.looking import looked_at

    return looked_at(paths, verbosity(0 if silent else "auto"), rules, kept)


def _rows(
    model: "keras.Model", paths: list[Path], rules: "Rules", kept: "Kept", batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yield what is predicted for each image."""
    import keras_transfer as kt

    probabilities = _probabilities(model, paths, rules, kept, batch_size)
    names = kt.class_names(model) or [str(index) for index in range(probabilities.shape[1])]
    found = kt.calibration.of(model)
    for path, row in zip(paths, probabilities, strict=True):
        best = int(row.argmax())
        candidates = (
            [] if found is None else [names[k] for k in (-row).argsort() if row[k] >= found.threshold]
        )
        yield {
            "file": str(path),
            "class": names[best],
            "probability": float(row[best]),
            "unsure": found is not None and len(candidates) != 1,
            "candidates": candidates,
            "probabilities": dict(zip(names, map(float, row), strict=True)),
        }


def _label_rows(
    model: "keras.Model", paths: list[Path], rules: "Rules", kept: "Kept", batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yield which labels each image has, the most probable first."""
    import keras_transfer as kt
    from keras_transfer.probabilities.thresholds import said

    probabilities = _probabilities(model, paths, rules, kept, batch_size)
    names = kt.class_names(model) or [str(index) for index in range(probabilities.shape[1])]
    there, thresholds = said(model, probabilities)
    for path, row, found in zip(paths, probabilities, there, strict=True):
        yield {
            "file": str(path),
            "labels": [names[k] for k in (-row).argsort() if found[k]],
            "probabilities": dict(zip(names, map(float, row), strict=True)),
            "thresholds": dict(zip(names, map(float, thresholds), strict=True)),
        }


def _probabilities(
    model: "keras.Model", paths: list[Path], rules: "Rules", kept: "Kept", batch_size: int
) -> "np.ndarray":
    import numpy as np

    from keras_transfer._lib.messages import SILENT
    from keras_transfer.data.loader import Loader
    from keras_transfer.data.sources import FileSource
    from keras_transfer.inference.predictions import predictions

    source = FileSource(paths, np.zeros(len(paths), "int32"), rules, kept=kept)
    loader = Loader(source, batch_size, shuffle=False, image_size=kept.size)
    return predictions(model, loader, SILENT)
