"""Commands that train: one network, or several to compare."""

import inspect
import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import rich.box
import rich.table
import typer

from keras_transfer._lib.checks import checked_choice
from keras_transfer._lib.intervals import with_interval
from keras_transfer.cli.common import (
    DEFAULT_BACKBONE,
    Backbone,
    Background,
    BatchSize,
    Directory,
    FollowLinks,
    ImageSize,
    MaxPixels,
    Quiet,
    Reading,
    Seed,
    SkipBroken,
    ValueRange,
    Weights,
    check_outside,
    input_size,
    is_within,
    listed,
    loaders,
    network,
    out,
    shown,
)
from keras_transfer.runs.known_recipes import RECIPES

if TYPE_CHECKING:
    import keras

    from keras_transfer.data.loader import Loader
    from keras_transfer.results.automatic import Trained
    from keras_transfer.results.evaluation import Evaluation

FILES = ("model.keras", "metrics.json", "curves.png", "report.html")

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

Features = Annotated[
    str,
    typer.Option(
        help="What the head is given: 'several' lets cross-validation choose how many depths; 'last' is "
        "the backbone's end; or names of layers, with commas between them."
    ),
]

Fast = Annotated[
    bool, typer.Option("--fast", help="Fit the linear head alone, by one pass over the images.")
]
Minutes = Annotated[
    float,
    typer.Option(min=0.01, help="What training a network may take; what doesn't fit is left out."),
]

AUTO = "auto"  # instead of a recipe
SEVERAL = "several"  # features


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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, and why; train nothing.")
    ] = False,
    weights: Weights = "imagenet",
    image_size: ImageSize = None,
    features: Features = SEVERAL,
    fast: Fast = False,
    minutes: Minutes = 10.0,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    coverage: Coverage = 0.9,
    class_weight: ClassWeight = None,
    cache: Cache = None,
    skip_broken: SkipBroken = False,
    follow_links: FollowLinks = False,
    background: Background = "white",
    value_range: ValueRange = None,
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a classifier on a folder of images; write the model and a report on it.

    What is reported is measured on val/, or on a fifth of the images that is held back; everything is
    chosen on the others.

        keras-transfer train photos

        keras-transfer train photos --backbone resnet50 --dry-run
    """
    output = output or _default_output(directory)
    size = image_size or input_size(backbone)
    _check_cache(cache, recipe, directory)
    given = _class_weights(class_weight)
    if not dry_run:
        _check_output(output, overwrite, directory)
    reading = Reading(
        size, batch_size, seed, skip_broken, follow_links, quiet, background, value_range, max_pixels
    )
    train_data, test_data = loaders(directory, reading)
    model = _seeded_network(backbone, weights, size, train_data, seed, features)
    if dry_run:
        _show_plan(model, train_data, recipe, cache, quiet)
        return
    limits = {"fast": fast, "minutes": minutes}
    trained = _trained(model, train_data, recipe, seed, coverage, cache, quiet, given, limits)
    evaluation = _evaluated(model, test_data, quiet)
    about = _settings(directory, backbone, recipe, size, seed, given, features)
    _write(output, trained, evaluation, (train_data, test_data), about)
    _show(trained, evaluation, test_data)
    for line in (
        f"Files: {', '.join(FILES)} in {shown(output)}",
        f"Next: keras-transfer predict {shown(output / FILES[0])} FILES",
    ):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def compare(
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
    cache: Cache = None,
    skip_broken: SkipBroken = False,
    follow_links: FollowLinks = False,
    background: Background = "white",
    value_range: ValueRange = None,
    max_pixels: MaxPixels = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train several backbones on the same images and show what each reaches.

    keras-transfer compare photos --backbones mobilenet_v2,resnet50
    """
    names = list(dict.fromkeys(listed(backbones)))
    sizes = {name: image_size or input_size(name) for name in names}
    if len(names) < 2:
        raise ValueError(f"backbones must be at least two names. Received: {backbones!r}")
    given, limits = _class_weights(class_weight), {"fast": fast, "minutes": minutes}
    _check_cache(cache, recipe, directory)
    if output is not None:
        for name in names:
            _check_output(output / name, overwrite, directory)
    table = _comparison()
    for name, size in sizes.items():
        start = time.perf_counter()
        reading = Reading(
            size, batch_size, seed, skip_broken, follow_links, quiet, background, value_range, max_pixels
        )
        train_data, test_data = loaders(directory, reading)
        model = _seeded_network(name, weights, size, train_data, seed)
        trained = _trained(model, train_data, recipe, seed, coverage, cache, quiet, given, limits)
        evaluation = _evaluated(model, test_data, quiet)
        if output is not None:
            about = _settings(directory, name, recipe, size, seed, given)
            _write(output / name, trained, evaluation, (train_data, test_data), about)
        table.add_row(
            name,
            f"{trained.scores[0].accuracy:.1%}" if trained.scores else "-",
            trained.chosen,
            with_interval(evaluation.accuracy, evaluation.interval),
            f"{model.count_params():,}",
            f"{(time.perf_counter() - start) / 60:.1f}",
        )
    out.print(table)
    note = "linear head: by cross-validation; accuracy, with its 95% interval: on images on which"
    out.print(f"{note} nothing was chosen.", highlight=False)


def _comparison() -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("backbone", no_wrap=True)
    for column in ("linear head", "trained", "accuracy", "parameters", "minutes"):
        table.add_column(column)
    return table


def _class_weights(text: str | None) -> Any:
    """Return weights as `fine_tune` takes them; whether there are such classes shows with the images."""
    if text is None or text == "balanced":
        return text
    pair = r"([^=]+)=([0-9]*[.]?[0-9]+)"  # a name may have commas
    if not re.fullmatch(rf"{pair}(,{pair})*", text):
        raise ValueError(
            "class-weight must be 'balanced', or names of classes with numbers, such as "
            f"'ants=2,bees=0.5'. Received: {text!r}"
        )
    found = [(name.strip(), float(number)) for name, number in re.findall(rf"{pair}(?:,|$)", text)]
    if len(dict(found)) < len(found):
        raise ValueError(f"class-weight must have each class once. Received: {text!r}")
    return dict(found)


def _settings(
    directory: Path,
    backbone: str,
    recipe: str,
    size: int,
    seed: int,
    class_weight: Any,
    features: str = SEVERAL,
) -> dict[str, Any]:
    return {
        "command": sys.argv[1:],
        "images": directory.resolve().name,
        "backbone": backbone,
        "recipe": recipe,
        "image_size": size,
        "features": listed(features),
        "seed": seed,
        "class_weight": class_weight,
    }


def _default_output(directory: Path) -> Path:
    """Return DIRECTORY-model, here; where here is within the images, beside them."""
    name, images = f"{directory.resolve().name}-model", directory.resolve()
    return Path(os.path.relpath(images.parent / name) if is_within(Path(name), images) else name)


def _check_cache(cache: Path | None, recipe: str, directory: Path) -> None:
    """Raise a `ValueError` if features can't be kept in a folder, or would not be."""
    check_outside("cache", cache, directory)
    if cache is not None and recipe != AUTO:
        raise ValueError(
            f"cache must not be given with a recipe, which keeps no features for other runs. "
            f"Received: cache={str(cache)!r}, recipe={recipe!r}"
        )


def _check_output(output: Path, overwrite: bool, directory: Path) -> None:
    """Raise a `ValueError` before hours of work whose result could not be written."""
    from keras_transfer._lib.files import check_writable

    check_outside("output", output, directory)
    there = [name for name in FILES if (output / name).exists()]
    if there and not overwrite:
        raise ValueError(
            f"{str(output)!r} has {', '.join(there)} already; say --overwrite to replace them, or "
            f"choose another folder with --output. Received: output={str(output)!r}"
        )
    check_writable(output, "output")
    if output.exists() and not output.is_dir():
        raise ValueError(f"output must be a folder. Received: output={str(output)!r}, a file")


def _seeded_network(
    backbone: str, weights: str, size: int, data: "Loader", seed: int, features: str = SEVERAL
) -> "keras.Model":
    import keras

    keras.utils.set_random_seed(seed)
    return network(backbone, weights, size, data.class_names or [], features)


def _show_plan(
    model: "keras.Model", data: "Loader", recipe: str, cache: Path | None, quiet: bool
) -> None:
    if recipe == AUTO:
        from keras_transfer.runs import automatic

        out.print(automatic.propose(model, data, cache=cache, verbose=0 if quiet else "auto"))
        return
    table = rich.table.Table("phase", "epochs", "trains", "learning rate", "optimizer")
    for phase in _phases(recipe, model, data.batch_size):
        about = phase.describe()
        row = [about[name] for name in ("name", "epochs", "train", "learning_rate", "optimizer")]
        table.add_row(*map(str, row))
    out.print(table)


def _trained(
    model: "keras.Model",
    data: "Loader",
    recipe: str,
    seed: int,
    coverage: float,
    cache: Path | None,
    quiet: bool,
    class_weight: Any,
    limits: dict[str, Any],
) -> "Trained":
    from keras_transfer.runs import automatic

    shared: dict[str, Any] = {
        "class_weight": class_weight,
        "seed": seed,
        "coverage": coverage,
        "verbose": 0 if quiet else "auto",
    }
    if recipe == AUTO:
        return automatic.train(model, data, cache=cache, **limits, **shared)
    return automatic.follow(model, data, _phases(recipe, model, data.batch_size), **shared)


def _phases(recipe: str, model: "keras.Model", batch_size: int) -> list[Any]:
    from keras_transfer.runs import recipes

    function = getattr(recipes, recipe)
    given = {"model": model, "batch_size": batch_size}
    asked = inspect.signature(function).parameters
    return function(**{name: value for name, value in given.items() if name in asked})


def _evaluated(model: "keras.Model", data: "Loader", quiet: bool) -> "Evaluation":
    from keras_transfer.probabilities.evaluation import evaluate

    return evaluate(model, data, verbose=0 if quiet else "auto")


def _write(
    output: Path,
    trained: "Trained",
    evaluation: "Evaluation",
    data: "tuple[Loader, Loader]",
    about: dict[str, Any],
) -> None:
    """Write the files, each whole or not at all."""
    from keras_transfer import report
    from keras_transfer._lib.files import replacing, writable_directory, write_json
    from keras_transfer.data.folders import by_reason
    from keras_transfer.reports import plots

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
    images = data[0]
    skipped = {**images.skipped, **data[1].skipped}
    counts = dict(zip(images.class_names or [], map(int, images.class_counts()), strict=True))
    write_json(
        metrics,
        {
            **about,
            "training_images": counts,
            "skipped_by_reason": by_reason(skipped.values()),
            "skipped": skipped,
            "noted": {**images.noted, **data[1].noted},
            **trained.to_dict(),
            "test": evaluation.to_dict(),
        },
    )
    with replacing(curves) as temporary:
        plots.training(trained).savefig(temporary, dpi=120)
    title = f"{about['images']}: {about['backbone']}"
    command = shlex.join(["keras-transfer", *about["command"]])
    report(trained, data[1], page, train=data[0], evaluation=evaluation, title=title, command=command)


def _show(trained: "Trained", evaluation: "Evaluation", test: "Loader") -> None:
    if trained.scores:
        table = rich.table.Table("depth", "accuracy on held-back training images", "gain", "")
        for number, score in enumerate(trained.scores):
            gain = "-" if number == 0 else "0 (same images)"
            if score.error:
                gain = f"{score.gain:+.1%} +- {score.error:.1%}"
            mark = "taken" if score.name == trained.chosen else ""
            if number and mark and score.share < 1:
                mark = f"taken, by {score.share:.0%} of its change"
            accuracy = with_interval(score.accuracy, score.interval)
            table.add_row(score.name, f"{accuracy} of {score.samples:,}", gain, mark)
        for each in trained.left_out:
            table.add_row(each.name, f"left out: --minutes {each.seconds / 60:.1f} tries it", "", "")
        out.print(table)
    out.print(evaluation)
    out.print(f"{trained.seconds / 60:.1f} minutes", highlight=False)
