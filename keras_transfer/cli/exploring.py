"""Commands that look before anything is trained: backbones, their rank, learning rates, the cache."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from keras_transfer.cli.common import (
    DEFAULT_BACKBONE,
    Backbone,
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
    LevelOption,
    MaxPixels,
    Quiet,
    Reading,
    Seed,
    SkipBroken,
    SplitColumn,
    TestSplit,
    ValueRange,
    Weights,
    check_outside,
    input_size,
    listed,
    network,
    out,
    shown,
    training_images,
)
from keras_transfer.cli.starting import with_keras


class Method(StrEnum):
    """What orders backbones."""

    logme = "logme"
    probe = "probe"
    ridge = "ridge"


class Trained(StrEnum):
    """What trains in a range test."""

    head = "head"
    all = "all"


def backbones(
    name: Annotated[str | None, typer.Argument(help="Tell all about one of them.")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="List those of KerasHub.")] = False,
    transformers: Annotated[
        bool, typer.Option("--transformers", help="List vision transformers of the Hugging Face Hub.")
    ] = False,
) -> None:
    """List the pretrained networks there are: parameters, size, depth, input, preprocessing.

    keras-transfer backbones

    keras-transfer backbones resnet50
    """
    import keras_transfer as kt

    if name is None:
        out.print(
            kt.list_backbones("hub" if hub else "transformers" if transformers else "applications")
        )
    else:
        out.print(kt.describe_backbone(name))


def rank(
    context: typer.Context,
    directory: Directory,
    backbones: Annotated[
        str, typer.Option(help="Names of backbones, with commas between them.")
    ] = "mobilenet_v2,efficientnetb0,resnet50v2,densenet121",
    method: Annotated[
        Method,
        typer.Option(
            help="LogME (seconds); accuracy of logistic regression ('probe'); or log-loss of what "
            "`train` begins with ('ridge')."
        ),
    ] = Method.logme,
    weights: Weights = "imagenet",
    image_size: ImageSize = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
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
    test_split: TestSplit = None,
    quiet: Quiet = False,
) -> None:
    """Order backbones by how well they suit a folder of images, without training them.

    keras-transfer rank photos --backbones mobilenet_v2,resnet50
    """
    import keras_transfer as kt

    names = listed(backbones)
    size = image_size or max(input_size(name) for name in names)
    reading = Reading.of(context, size)
    loader = training_images(directory, reading)
    ranking = kt.rank_backbones(
        names,
        loader,
        method=method.value,
        weights=None if weights == "none" else weights,
        seed=seed,
        batch_size=batch_size,
        verbose=0 if quiet else "auto",
    )
    out.print(ranking)


def lr(
    context: typer.Context,
    directory: Directory,
    backbone: Backbone = DEFAULT_BACKBONE,
    train: Annotated[
        Trained, typer.Option(help="What trains: the new head, or everything.")
    ] = Trained.head,
    steps: Annotated[int, typer.Option(min=10, help="Steps of the test.")] = 100,
    min_lr: Annotated[float, typer.Option(help="The first rate of the test.")] = 1e-7,
    max_lr: Annotated[float, typer.Option(help="The last one.")] = 1.0,
    plot: Annotated[Path, typer.Option(help="Where to draw the curve.")] = Path("lr.png"),
    weights: Weights = "imagenet",
    image_size: ImageSize = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
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
    test_split: TestSplit = None,
    quiet: Quiet = False,
) -> None:
    """Find a learning rate for a folder of images by a range test, with Adam.

    keras-transfer lr photos --backbone resnet50 --plot lr.png
    """
    import keras

    import keras_transfer as kt
    from keras_transfer._lib.files import replacing
    from keras_transfer.rates.found import found_rate

    check_outside("plot", plot, directory)
    size = image_size or input_size(backbone)
    reading = Reading.of(context, size)
    loader = training_images(directory, reading)
    keras.utils.set_random_seed(seed)
    model = network(backbone, weights, size, loader.class_names or [])
    kt.Phase("range test", 1, train=train.value).set_trainable(model)
    model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy")
    result = kt.find_lr(
        model,
        loader,
        min_lr=min_lr,
        max_lr=max_lr,
        num_steps=steps,
        verbose=0 if quiet else "auto",
    )
    with replacing(plot) as temporary:
        kt.plots.lr_finder(result).savefig(temporary)
    out.print(f"The curve: {shown(plot)}", highlight=False, markup=False)
    rate, rule = found_rate(result, "range test")
    why = "where the loss falls" if rule == "valley" else "a tenth of where the loss begins to rise"
    out.print(f"Learning rate: {rate:.3g} ({why})", highlight=False)


cache = typer.Typer(help="Features that were kept on disk.", no_args_is_help=True)


@cache.command("list")
@with_keras
def list_caches(
    cache: Annotated[Path, typer.Argument(help="The folder of the caches.")],
) -> None:
    """List the caches in a folder, with what they are of and their size.

    keras-transfer cache list features
    """
    import rich.table

    from keras_transfer.features import caches

    table = rich.table.Table("key", "network", "samples", "views", "shape", "type", "MB")
    for info in caches(cache):
        about = (info.samples, info.views, info.shape, info.dtype, f"{info.megabytes:,.1f}")
        table.add_row(info.key, shown(info.prefix), *map(str, about))
    out.print(table)


@cache.command("clear")
@with_keras
def clear_caches(
    cache: Annotated[Path, typer.Argument(help="The folder of the caches.")],
    keys: Annotated[list[str] | None, typer.Argument(help="Which; all, if none is given.")] = None,
) -> None:
    """Remove caches from a folder.

    keras-transfer cache clear features
    """
    from keras_transfer.features import clear

    freed = sum(clear(cache, key) for key in keys) if keys else clear(cache)
    out.print(f"Freed: {freed / 1e6:,.1f} MB", highlight=False)
