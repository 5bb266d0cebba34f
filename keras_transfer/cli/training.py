"""Commands that train: one network, or several to compare."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import rich.box
import rich.table
import typer

from keras_transfer._lib.checks import checked_choice
from keras_transfer._lib.intervals import with_interval
from keras_transfer.cli.common import (
    DEFAULT_BACKBONE,
    Background,
    BatchSize,
    Directory,
    FollowLinks,
    GroupColumn,
    GroupPattern,
    ImageColumn,
    Images,
    ImageSize,
    LabelColumn,
    LabelSeparator,
    LevelOption,
    MaxPixels,
    Quiet,
    Seed,
    SkipBroken,
    Split,
    SplitColumn,
    TestSplit,
    ValueRange,
    Weights,
    listed,
    out,
    shown,
)
from keras_transfer.cli.result import (
    CHECKPOINT,
    FILES,
    check_output,
    default_output,
    is_over,
    write,
)
from keras_transfer.cli.way import AUTO, SEVERAL, Way
from keras_transfer.runs.known_recipes import RECIPES

if TYPE_CHECKING:
    import keras

    from keras_transfer.results.automatic import Trained
    from keras_transfer.results.evaluation import Evaluation

Coverage = Annotated[
    float,
    typer.Option(
        min=0.5, max=0.999, help="Share of images whose candidates shall include the true class."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the files of an earlier run.")]
Cache = Annotated[
    Path | None, typer.Option(help="Keep features in this folder, for other runs. [default: nowhere]")
]

ClassWeight = Annotated[
    str | None,
    typer.Option(
        help="What images of a class count: 'balanced' makes rare classes count as much as common ones; "
        "or some by name, as 'ants=2,bees=0.5', where others count 1.",
    ),
]

LogitAdjustment = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="How much common classes are held back in the end where rare ones count as much: 1 is best "
        "for the mean recall of the classes. With --recipe auto.",
    ),
]

Features = Annotated[
    str,
    typer.Option(
        help="What the head is given: 'several' lets cross-validation choose how many depths; 'last' is "
        "the backbone's end; or names of layers, with commas between them."
    ),
]

Backbone = Annotated[
    str,
    typer.Option(
        help="Pretrained network: a name from `keras-transfer backbones`; or several with commas "
        "between them, side by side; or 'auto' for the best of those whose weights are in Keras' cache."
    ),
]
Ensemble = Annotated[
    int,
    typer.Option(min=1, help="With --backbone auto: so many of the best, side by side."),
]
Mirrored = Annotated[
    bool | None,
    typer.Option(
        help="Try the mean over image and mirror image; where it is better, it is taken, and a "
        "prediction takes twice as long. [default: tried, but with --fast]"
    ),
]

Fast = Annotated[
    bool, typer.Option("--fast", help="Fit the linear head alone, by one pass over the images.")
]
Minutes = Annotated[
    float,
    typer.Option(
        min=0.01, help="What the command may take for a network; what doesn't fit is left out."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the same command was stopped.")]
EarlyStopping = Annotated[
    int | None,
    typer.Option(
        min=1, help="With a recipe: end after so many epochs without a better one. [default: never]"
    ),
]
CsvLog = Annotated[
    Path | None,
    typer.Option(help="Folder for a CSV file of the epochs of each training. [default: none]"),
]
TensorBoard = Annotated[
    Path | None, typer.Option(help="Folder for logs that TensorBoard shows. [default: none]")
]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan, and why; train nothing.")]


def _checked_recipe(name: str) -> str:
    try:
        return checked_choice("recipe", name, (AUTO, *RECIPES))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


Recipe = Annotated[
    str,
    typer.Option(
        callback=_checked_recipe,
        help=f"'auto' finds out how deep to train; or a known recipe: {', '.join(RECIPES)}.",
    ),
]


def train(
    context: typer.Context,
    directory: Directory,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the result. [default: DIRECTORY-model, here; from within DIRECTORY, beside "
            "it]",
        ),
    ] = None,
    backbone: Backbone = DEFAULT_BACKBONE,
    recipe: Recipe = AUTO,
    dry_run: DryRun = False,
    weights: Weights = "imagenet",
    image_size: ImageSize = None,
    features: Features = SEVERAL,
    ensemble: Ensemble = 1,
    mirrored: Mirrored = None,
    fast: Fast = False,
    minutes: Minutes = 10.0,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    coverage: Coverage = 0.9,
    class_weight: ClassWeight = None,
    logit_adjustment: LogitAdjustment = 0.0,
    cache: Cache = None,
    images: Images = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    label_separator: LabelSeparator = None,
    split_column: SplitColumn = None,
    group_column: GroupColumn = None,
    skip_broken: SkipBroken = False,
    follow_links: FollowLinks = False,
    background: Background = "white",
    value_range: ValueRange = None,
    max_pixels: MaxPixels = None,
    group_pattern: GroupPattern = None,
    level: LevelOption = "1",
    split: Split = None,
    test_split: TestSplit = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    early_stopping: EarlyStopping = None,
    csv_log: CsvLog = None,
    tensorboard: TensorBoard = None,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on a folder of images; write the model and a report on it.

    What is reported is measured on val/, or on a fifth of the images that is held back (--split);
    everything is chosen on the others. Photos of one thing stay together with --group-pattern.

        keras-transfer train photos

        keras-transfer train photos --backbone resnet50 --dry-run

    Stopped by Ctrl-C or a crash, it goes on with the same command and --resume.
    """
    output = output or default_output(directory)
    way = Way.of(context, backbone)
    way.check(directory)
    if not dry_run:
        if is_over(output, resume, sys.argv[1:]):
            out.print(f"The run is over: {shown(output)} has its result", highlight=False)
            return
        check_output(output, overwrite, directory, resume)
    _train(way, directory, output, dry_run)


def _train(way: Way, directory: Path, output: Path, dry_run: bool) -> None:
    """Train and write what came of it, or show what would be trained."""
    from keras_transfer.tasks.imbalance import imbalance_of

    checkpoint = None if dry_run else output / CHECKPOINT
    way, model, data = way.prepared(directory, checkpoint)
    if dry_run:
        out.print(way.plan(model, data.training))
        return
    uneven = imbalance_of(data.training.class_counts(), data.training.class_names)
    if uneven and not way.quiet:
        _tell(uneven)
    trained = way.train(model, data, checkpoint)
    evaluation = way.evaluate(trained.model, data.measured)
    tested = way.tested(trained.model, data)
    write(output, trained, evaluation, data, way.settings(directory), tested)
    _show(trained, evaluation)
    if tested is not None:
        out.print("On the images that were cut off for a test:", highlight=False)
        out.print(tested)
    _tell(f"Files: {', '.join(FILES)} in {shown(output)}")
    _tell(f"Next: keras-transfer predict {shown(output / FILES[0])} FILES")


def compare(
    context: typer.Context,
    directory: Directory,
    backbones: Annotated[str, typer.Option(help="Names of backbones, with commas between them.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the models. [default: none is kept]"),
    ] = None,
    recipe: Recipe = AUTO,
    weights: Weights = "imagenet",
    image_size: ImageSize = None,
    fast: Fast = False,
    minutes: Minutes = 10.0,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    coverage: Coverage = 0.9,
    class_weight: ClassWeight = None,
    logit_adjustment: LogitAdjustment = 0.0,
    cache: Cache = None,
    images: Images = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    group_column: GroupColumn = None,
    skip_broken: SkipBroken = False,
    follow_links: FollowLinks = False,
    background: Background = "white",
    value_range: ValueRange = None,
    max_pixels: MaxPixels = None,
    group_pattern: GroupPattern = None,
    level: LevelOption = "1",
    split: Split = None,
    test_split: TestSplit = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train several backbones on the same images and show what each reaches.

    keras-transfer compare photos --backbones mobilenet_v2,resnet50
    """
    names = list(dict.fromkeys(listed(backbones)))
    if len(names) < 2:
        raise ValueError(f"backbones must be at least two names. Received: {backbones!r}")
    ways = [Way.of(context, name) for name in names]
    for way in ways:
        way.check(directory)
        if output is not None:
            check_output(output / way.backbone, overwrite, directory, resume=False)
    table = _comparison()
    for way in ways:
        way = replace(way, started=time.perf_counter())
        way, model, data = way.prepared(directory)
        trained = way.train(model, data)
        evaluation = way.evaluate(trained.model, data.measured)
        if output is not None:
            tested = way.tested(trained.model, data)
            write(output / way.backbone, trained, evaluation, data, way.settings(directory), tested)
        table.add_row(*_cells(way, model, trained, evaluation))
    out.print(table)
    note = "linear head: by cross-validation; accuracy, with its 95% interval: on images on which"
    out.print(f"{note} nothing was chosen;", highlight=False)
    out.print("macro: mean recall of the classes; rarest: that of the class with the fewest images.")


def _cells(
    way: Way, model: "keras.Model", trained: "Trained", evaluation: "Evaluation"
) -> tuple[str, ...]:
    """Return the row of a backbone in the table of a comparison."""
    return (
        way.backbone,
        f"{trained.scores[0].accuracy:.1%}" if trained.scores else "-",
        trained.chosen,
        with_interval(evaluation.accuracy, evaluation.interval),
        f"{evaluation.macro_accuracy:.1%}",
        f"{evaluation.rarest.recall:.1%}",
        f"{model.count_params():,}",
        f"{(time.perf_counter() - way.started) / 60:.1f}",
    )


def _comparison() -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("backbone", no_wrap=True)
    for column in ("linear head", "trained", "accuracy", "macro", "rarest", "parameters", "minutes"):
        table.add_column(column)
    return table


def _tell(line: str) -> None:
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def _show(trained: "Trained", evaluation: "Evaluation") -> None:
    from keras_transfer.runs.linear import MIRRORED

    if trained.scores:
        table = rich.table.Table("depth", "accuracy on held-back training images", "gain", "time", "")
        for number, score in enumerate(trained.scores):
            gain = "-" if number == 0 else "0 (same images)"
            if score.error:
                gain = f"{score.gain:+.1%} +- {score.error:.1%}"
            mark = "taken" if score.name == trained.chosen else ""
            if score.name == MIRRORED and trained.views > 1:
                mark = "taken: a prediction takes two passes"
            if number and mark and score.share < 1:
                mark = f"taken, by {score.share:.0%} of its change"
            accuracy = with_interval(score.accuracy, score.interval)
            name = f"{score.name}, {score.epochs} epochs" if score.epochs else score.name
            took = f"{score.seconds:.0f} s" if score.seconds else ""
            table.add_row(name, f"{accuracy} of {score.samples:,}", gain, took, mark)
        for each in trained.left_out:
            table.add_row(each.name, f"left out: --minutes {each.seconds / 60:.1f} tries it", "", "", "")
        out.print(table)
    out.print(evaluation)
    out.print(f"{trained.seconds / 60:.1f} minutes", highlight=False)
