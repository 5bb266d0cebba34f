"""Options that several commands share, the data they name, and text that is safe to print."""

import logging
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import rich.console
import typer

from keras_transfer._lib.checks import check_counts, checked_number

if TYPE_CHECKING:
    import keras

    from keras_transfer.data.layout import Division
    from keras_transfer.data.loader import Loader
    from keras_transfer.data.recognising import Named

DEFAULT_BACKBONE = "mobilenet_v2"
HELD_BACK = 0.2  # of a folder that isn't divided, to report on

Directory = Annotated[
    Path,
    typer.Argument(
        help="A folder with a folder of images for each class; or one with train/ and val/ (or test/) "
        "of that kind; a zip or tar of one; or a CSV or TSV file with a row for each image."
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        help="With a table: the folder in which the names of images begin. [default: that of the table]"
    ),
]
ImageColumn = Annotated[
    str | None, typer.Option(help="With a table: the column of the images. [default: by its name]")
]
LabelColumn = Annotated[
    str | None, typer.Option(help="With a table: the column of the classes. [default: by its name]")
]
LabelSeparator = Annotated[
    str | None,
    typer.Option(help="With a table: what stands between several labels of an image, such as ';'."),
]
SplitColumn = Annotated[
    str | None,
    typer.Option(
        help="With a table: the column with train, val and test. [default: one that has them, if any]"
    ),
]
Backbone = Annotated[
    str, typer.Option(help="Pretrained network: a name from `keras-transfer backbones`.")
]
Weights = Annotated[
    str,
    typer.Option(help="'imagenet', 'none' for random ones, or a file of weights without classifier."),
]
ImageSize = Annotated[
    int | None,
    typer.Option(min=1, help="Height and width in pixels. [default: what the backbone is made for]"),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images a step.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides splits, order, augmentation and weights.")]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Leave damaged files out instead of stopping.")
]
FollowLinks = Annotated[
    bool, typer.Option("--follow-links", help="Follow links that lead out of the folder.")
]
Background = Annotated[
    str, typer.Option(help="On what transparent images are laid: white, grey, black or '#rrggbb'.")
]
ValueRange = Annotated[
    tuple[float, float] | None,
    typer.Option(help="Black and white in files of more than 8 bits that don't tell it, as 0 4095."),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(min=1, help="How many pixels may be decoded of an image. [default: about 89 million]"),
]
GroupColumn = Annotated[
    str | None,
    typer.Option(
        help="With a table: the column of what images belong to, such as a patient. A group is never "
        "trained on and judged by. [default: none]"
    ),
]
GroupPattern = Annotated[
    str | None,
    typer.Option(
        help=r"What files of one group have in common, such as photos of one object: a regular "
        r"expression with one part in brackets, as '(.*)_\d+\.jpg'. A group is never trained "
        "on and judged by.",
    ),
]
LevelOption = Annotated[
    str,
    typer.Option(
        "--level",
        help="Which folders around an image are its class: 1 is the first, 2 the first two, and so on; "
        "'leaf' is all.",
    ),
]
Split = Annotated[
    float | None,
    typer.Option(
        help="Part of each class that is held back to report on, of a folder that isn't divided. "
        f"[default: {HELD_BACK:g}]"
    ),
]
TestSplit = Annotated[
    float | None,
    typer.Option(
        help="Part of each class that is cut off for a test before all else, where there is no folder "
        "for it. With the same seed it is the same part in each command. [default: none]"
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]

# What messages call an argument, and what it is called here.
_OPTIONS = (
    (r"on_error='skip'", "--skip-broken"),
    (r"resume=False", "--overwrite"),
    (r"resume=True", "--resume"),
    (r"follow_links=True", "--follow-links"),
    (r"group_pattern=r('[^']*')", r"--group-pattern \1"),
    (r"\bgroup_pattern\b", "--group-pattern"),
    (r"\blevel=(?=\d|'leaf')", "--level "),
    (r"value_range=\(([^,)]+), ([^)]+)\)", r"--value-range \1 \2"),
    (r"with max_pixels", "with --max-pixels"),
    (r"\b(image|label|split|group)_column\b", r"--\1-column"),
    (r"\blabel_separator\b", "--label-separator"),
    (r"\bimages(?==| must be)", "--images"),
    (r" or with part='[^']*'", ""),
    (r" for phase 'range test'; give it a number instead of 'find'\.", ":"),
    (r"\b(min|max)_lr\b", r"--\1-lr"),
)

out = rich.console.Console()


class Reading(NamedTuple):
    """How a command reads images."""

    image_size: "int | tuple[int, int]"
    batch_size: int
    seed: int
    skip_broken: bool
    follow_links: bool
    quiet: bool
    background: str | tuple[int, int, int] = "white"
    value_range: tuple[float, float] | None = None
    max_pixels: int | None = None
    images: Path | None = None
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    label_separator: str | None = None
    group_column: str | None = None
    group_pattern: str | None = None
    level: str = "1"
    split: float | None = None
    test_split: float | None = None

    @classmethod
    def of(cls, context: typer.Context, image_size: "int | tuple[int, int]", **known: Any) -> "Reading":
        """Return what the options of a command say, for images of a size, and what is known besides."""
        given = {name: context.params[name] for name in cls._fields if name in context.params}
        return cls(**{**given, **known, "image_size": image_size})

    @property
    def named(self) -> "Named":
        """What was said of a table."""
        from keras_transfer.data.recognising import Named

        return Named(*(getattr(self, name) for name in Named._fields))

    def check(self, directory: Path, parts: "Division | None") -> None:
        """Raise a `ValueError` if options don't fit each other or what the images are divided into."""
        for name in ("split", "test_split"):
            value = getattr(self, name)
            if value is not None:
                checked_number(name.replace("_", "-"), value, high=1)
        if self.split is not None and parts is not None:
            raise ValueError(
                "split must not be given where the images are divided already; leave it out, or name "
                f"those for training. Received: split={self.split}, {str(directory)!r}"
            )
        if self.test_split is not None and parts is not None and parts.has_test:
            raise ValueError(
                "test-split must not be given where there is a part for testing; leave it out. "
                f"Received: test-split={self.test_split}, {str(directory)!r}"
            )


class Parts(NamedTuple):
    """What images are for.

    Attributes:
        training: those to train on.
        measured: those to report on.
        test: those that are cut off for a test, or None.
    """

    training: "Loader"
    measured: "Loader"
    test: "Loader | None" = None

    def of_size(self, image_size: "int | tuple[int, int]") -> "Parts":
        """Return the same images in another size."""
        test = None if self.test is None else self.test.replace(image_size=image_size)
        training, measured = (each.replace(image_size=image_size) for each in self[:2])
        return Parts(training, measured, test)


def loaders(directory: Path, reading: Reading) -> Parts:
    """Return the images for training and those to report on.

    These are the parts train and val, or train and test, where there are such; otherwise a part of
    each class is held back, a fifth by default. Those for a test are cut off before.
    """
    from keras_transfer.data.grouping import check_apart

    parts = _parts(directory, reading)
    if parts is None:
        left, cut_off = _without_test(read_images(directory, None, reading), directory, reading)
        _check_divisible(left, directory, 3, ", of which one is held back to report on")
        train, test = left.split(HELD_BACK if reading.split is None else reading.split)
    else:
        if not reading.quiet:
            unused = f"; not used: {', '.join(map(shown, parts.unused))}" if parts.unused else ""
            told = f"Trains on {shown(parts.training)}, reports on {shown(parts.measured)}{unused}"
            out.print(told, markup=False, highlight=False, soft_wrap=True)
        left = read_images(directory, parts.training, reading)
        test = read_images(directory, parts.measured, reading)
        check_apart(left, test, parts.training, parts.measured)
        train, cut_off = _without_test(left, directory, reading)
    if len(train.class_names or ()) < 2:
        hint = ", a folder each" if directory.is_dir() else ""
        raise ValueError(
            f"directory must have at least two classes{hint}. "
            f"Received: {train.class_names} in {str(directory)!r}"
        )
    tell_left_out({**train.skipped, **test.skipped})
    _tell_parts(train, cut_off, reading)
    return Parts(train, test, cut_off)


def _without_test(loader: "Loader", directory: Path, reading: Reading) -> "tuple[Loader, Loader | None]":
    """Return the images that stay where some are cut off for a test, and those."""
    if reading.test_split is None:
        return loader, None
    _check_divisible(loader, directory, 2, ", of which one is cut off for a test")
    return loader.split(reading.test_split)


def _check_divisible(loader: "Loader", directory: Path, least: int, why: str) -> None:
    """Raise a `ValueError` if a class has too few samples, or groups, to be divided."""
    from keras_transfer.data.grouping import divisible
    from keras_transfer.tasks.single_label import SINGLE_LABEL

    y, names = SINGLE_LABEL.targets(loader.known_labels()), loader.class_names
    of = "samples" if loader.groups is None else "groups"
    counts = divisible(y, loader.groups, loader.num_classes)
    remedy = "add some, or divide the images into the folders train and val yourself"
    check_counts(f"directory={str(directory)!r}", counts, names, least, why, remedy, of)


def _tell_parts(train: "Loader", test: "Loader | None", reading: Reading) -> None:
    """Print how many groups there are, and what is cut off for a test."""
    if reading.quiet:
        return
    if train.groups is not None:
        count = len({*train.groups.tolist()})
        out.print(f"{train.num_samples:,} images in {count:,} groups to train on", highlight=False)
    if test is not None:
        out.print(f"{test.num_samples:,} images are cut off for a test", highlight=False)


def training_images(directory: Path, reading: Reading) -> "Loader":
    """Return the images for training: those in train, or all there are, without those for a test."""
    parts = _parts(directory, reading)
    loader = read_images(directory, None if parts is None else parts.training, reading)
    tell_left_out(loader.skipped)
    return _without_test(loader, directory, reading)[0]


def _parts(directory: Path, reading: Reading) -> "Division | None":
    """Return the parts of images that are divided, after telling which columns a table is read by."""
    from keras_transfer.data.recognising import parts

    found, told = parts(directory, reading.named)
    if told is not None and not reading.quiet:
        out.print(f"Reads {shown(told)}", markup=False, highlight=False, soft_wrap=True)
    reading.check(directory, found)
    return found


def read_images(directory: Path, part: str | None, reading: Reading) -> "Loader":
    """Return the images of what a command was given, or of a part of it."""
    from keras_transfer.data.recognising import open_images

    return open_images(
        directory,
        part,
        reading.named,
        follow_links=reading.follow_links,
        image_size=reading.image_size,
        batch_size=reading.batch_size,
        seed=reading.seed,
        on_error="skip" if reading.skip_broken else "raise",
        background=reading.background,
        value_range=reading.value_range,
        max_pixels=reading.max_pixels,
        group_pattern=reading.group_pattern,
        level=int(reading.level) if reading.level.isdecimal() else cast("Any", reading.level),
        verbose=0 if reading.quiet else "auto",
    )


def tell_left_out(skipped: Mapping[str, str], *, beside: bool = False) -> None:
    """Print how many files are left out for each reason, and name those that may be missed.

    Args:
        skipped: files, with the reason for each.
        beside: whether to print to standard error, beside a result that programs read.
    """
    from keras_transfer.data.folders import counted, is_missed

    if not skipped:
        return
    lines = [f"Left out: {len(skipped):,} ({counted(skipped.values())})"]
    missed = {path: reason for path, reason in skipped.items() if is_missed(reason)}
    lines += [f"Left out: {shown(path)} ({by_option(shown(why))})" for path, why in missed.items()]
    for line in lines:
        if beside:
            typer.echo(line, err=True)
        else:
            out.print(line, markup=False, highlight=False, soft_wrap=True)


def network(
    backbone: str,
    weights: str,
    image_size: int | None,
    class_names: list[str],
) -> "keras.Model":
    """Return a classifier on a pretrained backbone."""
    import keras_transfer as kt

    return kt.classifier(
        backbone,
        len(class_names),
        image_size=image_size or input_size(backbone),
        weights=None if weights == "none" else weights,
        class_names=class_names,
    )


def by_option(message: str) -> str:
    """Return a message with the options of the command line in place of arguments."""
    for argument, option in _OPTIONS:
        message = re.sub(argument, option, message)
    return message


class ByOption(logging.Formatter):
    """Says what is logged with the options of the command line in place of arguments."""

    def format(self, record: logging.LogRecord) -> str:
        """Return what a record says."""
        return by_option(super().format(record))


def is_within(path: Path, folder: Path) -> bool:
    """Whether a path leads into a folder, or to it."""
    return path.resolve().is_relative_to(folder.resolve())


def check_outside(option: str, path: Path | None, directory: Path) -> None:
    """Raise a `ValueError` if something is to be written among the images, as if it were one of them."""
    if path is not None and is_within(path, directory):
        images = directory.resolve()
        name = f"{images.name}-{'model' if option == 'output' else option}{path.suffix}"
        raise ValueError(
            f"{option} must be outside of the images, among which it would be taken for one, or for a "
            f"class; say --{option} {shlex.quote(os.path.relpath(images.parent / name))}. "
            f"Received: {option}={str(path)!r}, in {str(directory)!r}"
        )


def stop_writing() -> None:
    """Write nothing more, as who reads, such as `head`, has enough.

    What is buffered can't be written when Python ends, either, which would be told on standard error.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def listed(names: str) -> list[str]:
    """Return names that stand with commas between them."""
    return [name.strip() for name in names.split(",") if name.strip()]


def input_size(backbone: str) -> int:
    """Return the height and width that a backbone is made for, or raise if there is no such."""
    from keras_transfer.models import catalogue

    return catalogue.input_size(backbone)


def shown(text: object) -> str:
    """Return a text whose control characters, such as newlines, can do nothing to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
