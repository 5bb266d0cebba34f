"""Options that several commands share, the data they name, and text that is safe to print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import rich.console
import typer

if TYPE_CHECKING:
    import keras

    from keras_transfer.data.loader import Loader

DEFAULT_BACKBONE = "mobilenet_v2"
HELD_BACK = 0.2  # of a folder that isn't divided, to report on

Directory = Annotated[
    Path,
    typer.Argument(
        help="A folder with a folder of images for each class; or one with train/ and val/ of that kind."
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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]

out = rich.console.Console()


def loaders(
    directory: Path, image_size: int, batch_size: int, seed: int, skip_broken: bool, quiet: bool
) -> "tuple[Loader, Loader]":
    """Return the images for training and those to report on.

    These are the folders train and val, where there are such; otherwise a fifth of each class is held
    back.
    """
    from keras_transfer.data import from_directory
    from keras_transfer.data.directory import validation_folder

    arguments: dict[str, Any] = {
        "image_size": image_size,
        "batch_size": batch_size,
        "seed": seed,
        "on_error": "skip" if skip_broken else "raise",
        "verbose": 0 if quiet else "auto",
    }
    validation = validation_folder(directory)
    if validation is None:
        train, test = from_directory(directory, **arguments).split(HELD_BACK)
    else:
        train = from_directory(directory, part="train", **arguments)
        test = from_directory(directory, part=validation.name, **arguments)
    if len(train.class_names or ()) < 2:
        raise ValueError(
            f"directory must have at least two classes, a folder each. Received: {train.class_names} in "
            f"{str(directory)!r}"
        )
    for path, problem in train.skipped.items():
        out.print(
            f"Left out: {shown(path)} ({shown(problem)})", markup=False, highlight=False, soft_wrap=True
        )
    return train, test


def network(
    backbone: str, weights: str, image_size: int | None, class_names: list[str]
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


def listed(names: str) -> list[str]:
    """Return names that stand with commas between them."""
    return [name.strip() for name in names.split(",") if name.strip()]


def input_size(backbone: str) -> int:
    """Return the height and width that a backbone is made for, or raise if there is no such."""
    import keras_transfer as kt

    return kt.describe_backbone(backbone).input_size


def shown(text: object) -> str:
    """Return a text whose control characters, such as newlines, can do nothing to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
