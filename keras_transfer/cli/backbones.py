"""Which networks a command trains: one by name, several side by side, or the best of those at hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_transfer.cli.common import input_size, listed, out

if TYPE_CHECKING:
    from keras_transfer.data.loader import Loader

AUTO = "auto"
DEFAULT_SIZE = 224
_PART = 1 / 3  # of the minutes

Sized = tuple[str, int | tuple[int, int]]


def check(backbone: str, ensemble: int, image_size: int | None, weights: str) -> None:
    """Raise if options don't fit each other."""
    if backbone != AUTO and ensemble > 1:
        raise ValueError(
            "ensemble must be given with --backbone auto, which ranks the networks; or name those to "
            "put side by side, with commas between them, as --backbone mobilenet_v2,resnet50. "
            f"Received: ensemble={ensemble}, backbone={backbone!r}"
        )
    if backbone == AUTO and (image_size is not None or weights != "imagenet"):
        raise ValueError(
            "image-size and weights must not be given with --backbone auto, which takes each network "
            "with the ImageNet weights that are in Keras' cache, at their size. "
            f"Received: image_size={image_size}, weights={weights!r}"
        )


def size_of(backbone: str, image_size: int | None) -> int:
    """Return the height and width in which images are read, before a network is chosen."""
    if image_size is not None or backbone == AUTO:
        return image_size or DEFAULT_SIZE
    return max(input_size(name) for name in listed(backbone))


def named(backbone: str, image_size: Any) -> list[Sized]:
    """Return the networks that are named, with the size of their images."""
    names = listed(backbone)
    return [(name, image_size if len(names) == 1 else input_size(name)) for name in names]


def chosen(
    data: "Loader", count: int, checkpoint: Path | None, resume: bool, **options: Any
) -> list[Sized]:
    """Return the best networks of those whose weights are at hand, and show how all compare.

    Args:
        data: images for training.
        count: how many networks.
        checkpoint: the folder in which the choice is written down, or None.
        resume: whether the choice is taken that stands there.
        **options: `seed`, `cache` and `verbose` of `keras_transfer.rank_backbones`, and the `minutes`
            of the command, of which the ranking may take a third.
    """
    import keras_transfer as kt
    from keras_transfer._lib.files import write_json
    from keras_transfer.runs.journal import CHOICE

    note = None
    if checkpoint is not None:
        checkpoint.mkdir(parents=True, exist_ok=True)
        note = checkpoint / CHOICE
        options["cache"] = options["cache"] or checkpoint / "features"
    if resume and note is not None and note.exists():
        return _read(note)
    options["minutes"] *= _PART
    ranking = kt.rank_backbones("cached", data, method="ridge", batch_size=data.batch_size, **options)
    if options["verbose"] != 0:
        out.print(ranking)
    if count > len(ranking):
        raise ValueError(
            f"ensemble must be at most {len(ranking)}, as so many networks were ranked: fetch the "
            "weights of others with kt.classifier(name, num_classes), or allow more minutes. "
            f"Received: ensemble={count}"
        )
    best: list[Sized] = list(ranking.best(count))
    if note is not None:
        write_json(note, best)
    return best


def _read(note: Path) -> list[Sized]:
    """Return a choice that was written down."""
    try:
        return [
            (str(name), (int(rows), int(columns)))
            for name, (rows, columns) in json.loads(note.read_text("utf-8"))
        ]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"the run in {str(note.parent)!r} can't be resumed: {note.name} is damaged ({error}); begin "
            "anew with resume=False. Received: resume=True"
        ) from error


def largest(networks: Sequence[Sized]) -> tuple[int, int]:
    """Return the height and width in which images are read for networks."""
    sizes = [(size, size) if isinstance(size, int) else size for _, size in networks]
    return max(size[0] for size in sizes), max(size[1] for size in sizes)


def called(networks: Sequence[Sized]) -> str:
    """Return what networks are called in a title."""
    return ", ".join(name for name, _ in networks)
