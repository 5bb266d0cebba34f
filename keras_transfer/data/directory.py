"""Folders of images, a class a folder."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from keras_transfer._lib.checks import did_you_mean
from keras_transfer.data import folders, hierarchy, layout, series
from keras_transfer.data.folders import Found
from keras_transfer.data.images.augmentation import Augmentation
from keras_transfer.data.label_rows import of_folders
from keras_transfer.data.loader import Loader
from keras_transfer.data.sets.archives import is_archive, unpacked
from keras_transfer.data.sources import FileSource
from keras_transfer.data.taking import OnError, Taking, take

Directory: TypeAlias = str | os.PathLike[str]
Level: TypeAlias = int | Literal["leaf"]
_log = logging.getLogger(__name__)


def from_directory(
    directory: Directory | Sequence[Directory],
    *,
    part: str | None = None,
    image_size: int | tuple[int, int],
    batch_size: int = 32,
    seed: int = 0,
    augmentation: str | Augmentation | None = None,
    shuffle: bool | None = None,
    on_error: OnError = "raise",
    follow_links: bool = False,
    background: str | tuple[int, int, int] = "white",
    value_range: tuple[float, float] | None = None,
    multi_label: bool = False,
    max_pixels: int | None = None,
    num_threads: int | None = None,
    group_pattern: str | None = None,
    level: Level = 1,
    verbose: str | int = "auto",
) -> Loader:
    r"""Load images from folders, one folder a class; its name is the class's name.

    A folder that isn't divided into images for training and others is divided by `Loader.split`, as in
    `train, validation = kt.data.from_directory("photos", image_size=224).split(0.2)`.

    Classes are numbered in the alphabetical order of their folders, and samples in the order of class
    and file name, so that a folder means the same on every machine. A class has the images of its folder
    and of all folders within it; `level` makes classes of these. A file is an image if its name ends as
    that of one or, whatever it is called, its first bytes are those of one. Hidden files, those that are
    no images, and folders that a run has written don't count; `Loader.skipped` has each of them with the
    reason, and the log how many there are. HEIC is read where pillow-heif is installed (extra `heic`).

    All images are looked at beforehand, so that a damaged one is known now and not in the third epoch:
    each is decoded once, by several threads. Up to 256 MB of them, in `image_size`, stay in memory for
    the loader and those made of it, until it is closed or let go of, so that these aren't decoded again;
    a file that changes is. None stay where `augmentation` takes a part of each original image.

    Args:
        directory: a folder with one folder for each class; or one that is divided, into folders such as
            "train" and "val" that each have these. A zip or tar of such a folder is unpacked once, into
            the folder datasets/ of Keras' home. A list of these gives each class the images of all.
        part: which folder of a divided one to take, such as "train"; None where it isn't divided.
            "train", "val" and "test" also find "Training", "validation" and the like.
        image_size: height and width in pixels, one number for both. Images are cropped around the
            centre to this shape and resized by interpolation.
        batch_size: images a batch.
        seed: decides order and augmentation.
        augmentation: see `Loader`; for training images only.
        shuffle: whether each epoch has an order of its own; by default, unless `part` is another one
            than "train".
        on_error: what happens if files are damaged, no images, too large
            (`max_pixels`) or links out of the folder. "raise": an error names them.
            "skip": the others are used; the log counts and `Loader.skipped` lists them. "defer": only
            links are looked at beforehand, and an image that can't be read raises when its turn comes.
        follow_links: whether links that lead out of the folder are good. The folder of a part may be a
            link in any case, as its images are those that you ask for.
        background: the colour on which transparent images are laid: "white", "grey", "black",
            "#rrggbb" or (red, green, blue).
        value_range: what is black and white in files of more than 8 bits a value that don't tell it,
            such as (0, 4095) where 12 bits stand in 16; None: all that 16 bits can be.
        multi_label: whether an image may have several classes, and stands in the folder of each: files
            of one name and the same bytes are one image.
        max_pixels: how many pixels may be decoded of an image, so that none fills the memory; None:
            `PIL.Image.MAX_IMAGE_PIXELS`, about 89 million. Of most JPEGs that is a 64th of their pixels,
            of those that are stored progressively all.
        num_threads: see `Loader`.
        group_pattern: a regular expression with one part in brackets, which is searched for in the name
            of each file: what that part finds is the file's group (`Loader.groups`). With
            `r"(.*)_\d+\.jpg"`, heron_7_1.jpg and heron_7_2.jpg are of one group, "heron_7", and never
            on two sides of a division. None: no groups; where names look like bursts, the log says so.
        level: which folders on the way to an image are its class. 1: the first, so that animals/birds/
            heron/1.jpg is of "animals". 2: the first two, "animals/birds", and so on. "leaf": all,
            "animals/birds/heron", however many there are.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        A `Loader` with `class_names`. Its `noted` has the files that are used although something is odd
        about them: images of one colour, 16 bits of which few are used, and what a decoder warns of;
        the log has the first of them. A model that trains on it carries `background` and `value_range`
        in its file, for `keras-transfer predict` and `evaluate`; other data given to it is checked.

    Raises:
        ValueError: the folder is not there or has no images, a class is empty, files are no good images
            (see `on_error`), the folder is divided and `part` doesn't say which of its folders is
            meant, the part has other classes than "train", the name of a class is no text, or
            `group_pattern` is no such expression, finds nothing in any name or the same in all, or an
            image has fewer folders around it than `level`.

    Example:
        >>> import tempfile, numpy as np, keras_transfer as kt
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> for name in ("ant", "bee"):
        ...     Path(folder.name, name).mkdir()
        ...     Image.new("RGB", (20, 10)).save(Path(folder.name, name, "1.png"))
        >>> loader = kt.data.from_directory(folder.name, image_size=8, verbose=0)
        >>> loader.class_names, loader.num_samples
        (['ant', 'bee'], 2)
        >>> folder.cleanup()
    """
    hierarchy.check_level(level)
    rules = {"background": background, "value_range": value_range, "max_pixels": max_pixels}
    taking = Taking.of(image_size, augmentation, verbose, on_error=on_error, **rules)
    roots = _folders(directory)
    parts = [layout.part_of(root, part) for root in roots]
    for_training = parts[0][1]
    places = [_Place(root, folder) for root, (folder, _) in zip(roots, parts, strict=True)]
    received = f"directory={_shown(directory)!r}"
    source, names = _read(places, received, taking, follow_links, level, multi_label)
    if level != 1 and not for_training:
        _check_as_in_training(places, names, level, follow_links)
    groups = series.groups_asked(group_pattern, source, for_training)
    return Loader(
        source,
        batch_size,
        shuffle=for_training if shuffle is None else shuffle,
        seed=seed,
        augmentation=augmentation,
        image_size=image_size,
        class_names=names,
        multi_label=multi_label,
        num_threads=num_threads,
        groups=groups,
    )


class _Place(NamedTuple):
    """A folder with a folder for each class, and what the user named, of which it may be a part."""

    root: Path
    folder: Path


def folder_of(path: Path, argument: str = "directory") -> Path:
    """Return the folder that somebody's path stands for: itself, or what an archive was unpacked to.

    Args:
        path: what was given.
        argument: what it is called in messages.

    Raises:
        ValueError: it is none of these.
    """
    if path.is_dir():
        return path
    if path.is_file() and is_archive(path):
        folder = unpacked(path)
        # People pack a folder as often as what is in it.
        while len(inner := layout.folders_in(folder)) == 1 and layout.holds_folders(inner[0]):
            folder = inner[0]
        return folder
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    hint = did_you_mean(path.name, [each.name for each in beside if each.is_dir()])
    if path.is_file():
        hint = ", but a file; unpack it first, if it is an archive, and no zip or tar."
    raise ValueError(
        f"{argument} must be a folder of images; there is no folder {str(path)!r}{hint} "
        f"Received: {argument}={str(path)!r}"
    )


def _folders(directory: Directory | Sequence[Directory]) -> list[Path]:
    """Return the folders that the user named, or what was unpacked of archives."""
    several = [directory] if isinstance(directory, (str, os.PathLike)) else directory
    if not several:
        raise ValueError(f"directory must be at least one folder. Received: directory={directory!r}")
    return [folder_of(Path(each)) for each in several]


def _shown(directory: Any) -> Any:
    """Return what the user named as text."""
    several = isinstance(directory, (list, tuple))
    return [*map(str, directory)] if several else str(directory)


def _read(
    places: list[_Place],
    received: str,
    taking: Taking,
    follow_links: bool,
    level: Level,
    multi_label: bool,
) -> tuple[FileSource, list[str]]:
    """Return the images in the folders of the classes and the names of these."""
    by_class, every = _by_class(places, follow_links, level)
    counts = [len(paths) for paths in by_class.values()]
    labels = np.repeat(np.arange(len(by_class), dtype="int32"), counts)
    images = [path for paths in by_class.values() for path in paths]
    if multi_label:
        images, labels = of_folders([*by_class.values()])
    reasons = {"left_out": every.left_out, "problems": every.problems}
    source = take(images, labels, taking, received, **reasons)
    several = source.labels.ndim == 2
    used = source.labels.sum(axis=0) if several else np.bincount(source.labels, minlength=len(by_class))
    empty = next((name for name, count in zip(by_class, used, strict=True) if not count), None)
    if empty is not None:
        others = [name for name, count in zip(by_class, used, strict=True) if count]
        raise _empty(places, empty, others, source.skipped, received)
    return source, [*by_class]


def _by_class(
    places: list[_Place], follow_links: bool, level: Level
) -> tuple[dict[str, list[Path]], Found]:
    """Return the images of each class in their order, and all that was found."""
    every, found = Found([], {}, {}), []
    for place in places:
        every.add(_beside(place.folder))
        found.append(_classes(place, follow_links, level))
    classes = {name: Found([], {}, {}) for name in sorted({name for each in found for name in each})}
    for each in found:
        for name, of_class in each.items():
            classes[name].add(of_class)
    if len(places) > 1:
        for name, of_class in classes.items():
            of_class.images.sort(key=_within([place.folder / name for place in places]))
    for of_class in classes.values():
        every.add(of_class)
    taken = {name: each for name, each in classes.items() if not _is_output(each)} or classes
    by_class = {name: each.images for name, each in taken.items()}
    if level != 1:
        by_class = hierarchy.at_level(_within([place.folder for place in places]), by_class, level)
    return by_class, every


def _within(folders: list[Path]) -> Callable[[Path], tuple[str, ...]]:
    """Return what gives the names on the way to an image from the one of some folders that it is in."""
    lengths = [len(folder.parts) for folder in folders]

    def key(path: Path) -> tuple[str, ...]:
        for folder, length in zip(folders, lengths, strict=True):
            if path.is_relative_to(folder):
                return path.parts[length:]
        return path.parts

    return key


def _classes(place: _Place, follow_links: bool, level: Level = 1) -> dict[str, Found]:
    """Return what is in each of the first folders."""
    root, folder = place
    named = layout.class_folders(folder)
    if level == 1 or not named:  # else one folder may have all classes
        layout.check_classes(folder, named, is_part=folder != root)
    if level == 1 and (within := layout.folders_in_each(named)):
        _log.warning(
            "the classes are %s, though each has the folders %s and no images; if these are the "
            "classes, name one of the others as the directory, or say level=2 for both together",
            ", ".join(named),
            ", ".join(within),
        )
    # A part that is a link is how people share data: its images are within what was asked for.
    inside = (os.path.realpath(root), os.path.realpath(folder))
    classes = {}
    for name, paths in named.items():
        classes[name] = Found([], {}, {})
        for path in paths:
            classes[name].add(folders.images_in(path, inside, follow_links))
    return classes


def _check_as_in_training(
    places: list[_Place], names: list[str], level: Level, follow_links: bool
) -> None:
    """Raise a `ValueError` if a part has other classes at a level than the one for training."""
    found = ((root, layout.training_folder(root)) for root, _ in places)
    training = [_Place(root, folder) for root, folder in found if folder is not None]
    if len(training) < len(places):
        return
    others = [*_by_class(training, follow_links, level)[0]]
    if others != names:
        raise ValueError(
            f"the parts of {str(places[0].root)!r} must have the same classes; only one of them has "
            f"{sorted({*names} ^ {*others})}. "
            f"Received: directory={str(places[0].root)!r}, level={level!r}"
        )


def _is_output(found: Found) -> bool:
    """Whether a folder holds nothing but folders that runs have written: then it is no class."""
    return not found.images and not found.problems and {*found.left_out.values()} == {folders.OWN}


def _beside(folder: Path) -> Found:
    """Return what stands beside the folders of the classes."""
    found = Found([], {}, {})
    for entry in sorted(folders.entries(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if os.path.isdir(path):
            reason = folders.passed_over(path)
        elif entry.is_symlink() and not os.path.exists(path) and not entry.name.startswith("."):
            # What may have been a class, and would be missed by nobody.
            found.problems[path] = "a link to nowhere"
            continue
        else:
            reason = folders.left_out(entry) or folders.NO_CLASS
        if reason is not None:
            found.left_out[path] = reason
    return found


def _empty(
    places: list[_Place], empty: str, others: list[str], skipped: dict[str, str], received: str
) -> ValueError:
    """Return the error of a class without images."""
    named: dict[str, list[Path]] = {}
    for place in places:
        for name, paths in layout.class_folders(place.folder).items():
            named.setdefault(name, []).extend(paths)
    (first, *_) = named.get(empty) or [places[0].folder / empty]  # of classes within classes
    of_it = [reason for path, reason in skipped.items() if Path(path).is_relative_to(first)]
    if len(others) == 1 and others[0] in named and layout.holds_folders(named[others[0]][0]):
        hint = f"; did you mean {str(named[others[0]][0])!r}?"
    else:
        hint = "; add some, or move the folder elsewhere."
    return ValueError(
        f"each class must have images; {str(first)!r} has none that can be used"
        f"{f' ({folders.counted(of_it)})' if of_it else ''}{hint} Received: {received}"
    )
