"""Shards of a WebDataset: tars whose members belong together by their names."""

import json
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transfer._lib.checks import checked_choice, did_you_mean, one_of
from keras_transfer.data.columns import as_label, label_of, numbered
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.data.images.kinds import NO_IMAGE, SUFFIXES
from keras_transfer.data.images.stored import Member
from keras_transfer.data.loader import Loader
from keras_transfer.data.taking import OnError, Taking, check_each, take

LABELS = ("cls", "json", "txt")  # the first that a sample has counts
_MOST_BYTES = 2**20  # of a label
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
Shard = str | os.PathLike[str]


def from_webdataset(
    shards: Shard | Sequence[Shard],
    *,
    label: str | None = None,
    label_key: str | None = None,
    class_names: Sequence[str] | None = None,
    image_size: int | tuple[int, int],
    batch_size: int = 32,
    seed: int = 0,
    augmentation: str | Augmentation | None = None,
    shuffle: bool = True,
    on_error: OnError = "raise",
    background: str | tuple[int, int, int] = "white",
    value_range: tuple[float, float] | None = None,
    max_pixels: int | None = None,
    num_threads: int | None = None,
    verbose: str | int = "auto",
) -> Loader:
    """Load images from the shards of a WebDataset, which are read where they are.

    Members of a tar that have the same name up to the first dot are a sample: an image ("17.jpg") and
    its class, as text or a number ("17.cls" or "17.txt") or within an object ("17.json"). Nothing is
    unpacked: an image is read where it begins in its tar, so each can be asked for. Classes and samples
    are in the order that `from_directory` gives the same images.

    Args:
        shards: the paths of tars without compression; one path; one with a range of numbers in braces,
            "train-{000..007}.tar"; or a folder, of which all tars are taken.
        label: the ending of the members with the classes, "cls", "json" or "txt"; None: the first of
            these that a sample has.
        label_key: what the class is called in the objects of JSON; None: guessed as in `from_table`.
        class_names: the names of the classes, if the members have their numbers, from 0.
        image_size: see `from_directory`, as for all arguments below.
        batch_size: images a batch.
        seed: decides order and augmentation.
        augmentation: for training images only.
        shuffle: whether each epoch has an order of its own.
        on_error: what happens if images are damaged or have no class; "skip" leaves them out.
        background: the colour on which transparent images are laid.
        value_range: what is black and white in files of more than 8 bits that don't tell it.
        max_pixels: how many pixels may be decoded of an image.
        num_threads: see `Loader`.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        A `Loader` with `class_names`.

    Raises:
        ValueError: a shard is not there, compressed, damaged or without samples; a sample has two
            images, or images are no good (see `on_error`); classes are of two types, or none of
            `class_names`.

    Example:
        >>> import io, tarfile, tempfile, keras_transfer as kt
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> shard = Path(folder.name, "train-000.tar")
        >>> with tarfile.open(shard, "w") as tar:
        ...     for name in ("ant", "bee"):
        ...         image = io.BytesIO()
        ...         Image.new("RGB", (20, 10)).save(image, "PNG")
        ...         for ending, content in (("png", image.getvalue()), ("cls", name.encode())):
        ...             member = tarfile.TarInfo(f"{name}.{ending}")
        ...             member.size = len(content)
        ...             tar.addfile(member, io.BytesIO(content))
        >>> loader = kt.data.from_webdataset(shard, image_size=8, verbose=0)
        >>> loader.class_names, loader.num_samples
        (['ant', 'bee'], 2)
        >>> folder.cleanup()

    References:
        - https://github.com/webdataset/webdataset#the-webdataset-format
    """
    checked_choice("label", label, (*LABELS, None))
    rules = {"background": background, "value_range": value_range, "max_pixels": max_pixels}
    taking = Taking.of(image_size, augmentation, verbose, on_error=on_error, **rules)
    paths = _paths(shards)
    received = f"shards={[*map(str, paths)]}"
    samples = [sample for path in paths for sample in _samples(path, label, label_key)]
    if not any(sample.image for sample in samples):
        raise ValueError(f"shards must have samples with an image. Received: {received}")
    labelled = [
        as_label(sample.label) for sample in samples if sample.image and sample.label is not None
    ]
    names, numbers = _classes(labelled, class_names, received)
    rows = sorted(
        (-1 if sample.label is None else numbers[as_label(sample.label)], sample.key, place)
        for place, sample in enumerate(samples)
        if sample.image
    )
    images = [image for *_, place in rows if (image := samples[place].image)]
    problems = {
        image: "no label" for image, (number, *_) in zip(images, rows, strict=True) if number < 0
    }
    left_out = {name: NO_IMAGE for sample in samples if not sample.image for name in sample.others}
    labels = np.array([number for number, *_ in rows], "int32")
    source = take(images, labels, taking, received, left_out=left_out, problems=problems)
    check_each(names, source.labels, class_names is None, source.skipped, received)
    return Loader(
        source,
        batch_size,
        shuffle=shuffle,
        seed=seed,
        augmentation=augmentation,
        image_size=image_size,
        class_names=names,
        num_threads=num_threads,
    )


class _Sample(NamedTuple):
    """What has one name in a shard.

    Attributes:
        image: its image, or None.
        label: its class, or None.
        key: what it is sorted by: the names on the way to the image.
        others: the members of it, as messages call them.
    """

    image: Member | None
    label: Any
    key: tuple[str, ...]
    others: list[str]


def is_shard(path: Path) -> bool:
    """Whether a tar is one of a WebDataset: an image and its class have the same name."""
    try:
        with tarfile.open(path, "r:") as tar:
            endings: dict[str, set[str]] = {}
            for member, _ in zip(tar, range(_LOOKED_AT), strict=False):
                key, ending = _split(member.name)
                found = endings.setdefault(key, set())
                found.add(ending)
                if found & {*LABELS} and any(_is_image(each) for each in found):
                    return True
    except (tarfile.TarError, OSError):
        pass
    return False


_LOOKED_AT = 20  # members


def _paths(shards: Any) -> list[Path]:
    """Return the shards that were named."""
    several = [shards] if isinstance(shards, (str, os.PathLike)) else shards
    paths = [path for each in several for path in _of_name(os.fspath(each))]
    missing = next((path for path in paths if not path.is_file()), None)
    if missing is not None or not paths:
        beside = missing.parent.glob("*.tar") if missing is not None and missing.parent.is_dir() else ()
        hint = "; there are none."
        if missing is not None:
            near = did_you_mean(missing.name, [path.name for path in beside])
            hint = f"; there is no file {str(missing)!r}{near}"
        raise ValueError(f"shards must be tars{hint} Received: shards={[*map(str, several)]}")
    return paths


def _of_name(name: str) -> list[Path]:
    if Path(name).is_dir():
        return sorted(Path(name).glob("*.tar"))
    found = _BRACES.search(name)
    if found is None:
        return [Path(name)]
    first, last = found.groups()
    numbers = (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))
    return [Path(name[: found.start()] + number + name[found.end() :]) for number in numbers]


def _split(name: str) -> tuple[str, str]:
    """Return a member's name up to the first dot of its last part, and what is behind that dot."""
    folder, base = os.path.split(name)
    stem, _, ending = base.partition(".")
    return os.path.join(folder, stem), ending.lower()


def _is_image(ending: str) -> bool:
    return f".{ending.rpartition('.')[2]}" in SUFFIXES


def _samples(path: Path, label: str | None, label_key: str | None) -> list[_Sample]:
    """Return the samples of a shard, without reading its images."""
    members: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with tarfile.open(path, "r:") as tar, path.open("rb") as file:
            for member in tar:
                if member.isreg() and not member.issparse() and not _hidden(member.name):
                    key, ending = _split(member.name)
                    members.setdefault(key, {})[ending] = member
            return [_sample(path, *each, file, label, label_key) for each in members.items()]
    except tarfile.TarError as error:
        raise ValueError(
            f"shards must be tars that are whole and not compressed ({error}); uncompress them, so that "
            f"each image can be read where it stands. Received: {str(path)!r}"
        ) from error


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part != "." for part in name.split("/"))


def _sample(
    path: Path,
    key: str,
    members: dict[str, tarfile.TarInfo],
    file: Any,
    label: str | None,
    label_key: str | None,
) -> _Sample:
    images = [ending for ending in members if _is_image(ending)]
    if len(images) > 1:
        raise ValueError(
            "shards must have one image in each sample. "
            f"Received: {key!r} with {one_of(images)} in {str(path)!r}"
        )
    of_label = next((each for each in LABELS if each in members and label in (None, each)), None)
    found = None
    if of_label is not None:
        found = _label(path, members[of_label], of_label, label_key, file)
    names = [os.path.join(path, member.name) for member in members.values()]
    if not images:
        return _Sample(None, found, (), names)
    member = members[images[0]]
    image = Member(os.fspath(path), member.offset_data, member.size, member.name)
    return _Sample(image, found, Path(member.name).parts, names)


def _label(path: Path, member: tarfile.TarInfo, ending: str, key: str | None, file: Any) -> Any:
    """Return the class that a member has, or None if it is empty."""
    file.seek(member.offset_data)
    try:
        text = file.read(min(member.size, _MOST_BYTES)).decode().strip()
        found = label_of(json.loads(text), key) if ending == "json" else text
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"a member .{ending} must have the class of an image as text in UTF-8"
            f"{', in an object' if ending == 'json' else ''}. "
            f"Received: {member.name!r} in {str(path)!r}"
        ) from error
    return found if found != "" else None


def _classes(
    labels: list[Any], class_names: Sequence[str] | None, received: str
) -> tuple[list[str], dict[Any, int]]:
    """Return the names of the classes in their order, and the number of each label."""
    if not labels:
        raise ValueError(
            f"shards must have the class of each image, in members that end in {one_of(LABELS)}. "
            f"Received: {received}"
        )
    names, values = numbered(labels, "shards")
    if class_names is None:
        return names, {value: number for number, value in enumerate(values)}
    chosen = list(class_names)
    if set(values) <= set(chosen):
        return chosen, {value: chosen.index(value) for value in values}
    wrong = next(
        (each for each in map(str, values) if not each.isdecimal() or int(each) >= len(chosen)), ""
    )
    if not wrong:
        return chosen, {value: int(value) for value in values}
    raise ValueError(
        f"class_names must be those of the labels, or of numbers from 0 to {len(chosen) - 1}"
        f"{did_you_mean(wrong, chosen)} Received: the label {wrong!r} in {received}"
    )
