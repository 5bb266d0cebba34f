"""Folders of images, a class a folder."""

import logging
import os
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from keras_transfer._lib.checks import checked_choice, checked_image_size, did_you_mean
from keras_transfer._lib.messages import verbosity
from keras_transfer.data import folders, hierarchy, layout, series
from keras_transfer.data.folders import Found
from keras_transfer.data.images.augmentation import Augmentation, crops
from keras_transfer.data.images.kept import Kept
from keras_transfer.data.images.kinds import NEEDS
from keras_transfer.data.images.rules import Rules, checked_rules
from keras_transfer.data.loader import Loader
from keras_transfer.data.sources import FileSource

OnError: TypeAlias = Literal["raise", "skip", "defer"]
Level: TypeAlias = int | Literal["leaf"]
_ON_ERROR = ("raise", "skip", "defer")
_log = logging.getLogger(__name__)


def from_directory(
    directory: str | os.PathLike[str],
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
            "train" and "val" that each have these.
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
    checked_choice("on_error", on_error, _ON_ERROR)
    hierarchy.check_level(level)
    rules, verbose = checked_rules(background, value_range, max_pixels), verbosity(verbose)
    unkept = image_size is None or crops(augmentation)
    kept = None if unkept else Kept(checked_image_size(image_size))
    root = _folder(Path(directory))
    folder, for_training = layout.part_of(root, part)
    source, names = _read(folder, root, on_error, follow_links, rules, verbose, kept, level)
    if level != 1 and not for_training:
        _check_as_in_training(root, names, level, follow_links)
    groups = None
    if group_pattern is not None:
        groups = series.groups_of(group_pattern, source.paths)
    elif for_training:
        series.tell_series(source.paths, source.labels)
    return Loader(
        source,
        batch_size,
        shuffle=for_training if shuffle is None else shuffle,
        seed=seed,
        augmentation=augmentation,
        image_size=image_size,
        class_names=names,
        num_threads=num_threads,
        groups=groups,
    )


def _folder(path: Path) -> Path:
    if not path.is_dir():
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        hint = did_you_mean(path.name, [each.name for each in beside if each.is_dir()])
        if path.is_file():
            hint = ", but a file; unpack it first, if it is an archive."
        raise ValueError(
            f"directory must be a folder of images; there is no folder {str(path)!r}{hint} "
            f"Received: directory={str(path)!r}"
        )
    return path


def _read(
    folder: Path,
    root: Path,
    on_error: OnError,
    follow_links: bool,
    rules: Rules,
    verbose: int,
    kept: Kept | None,
    level: Level,
) -> tuple[FileSource, list[str]]:
    """Return the images in the folders of `folder` and the names of these; `root` is the user's."""
    classes = _classes(folder, root, follow_links, level)
    every = _beside(folder)
    for found in classes.values():
        every.add(found)
    classes = {name: found for name, found in classes.items() if not _is_output(found)} or classes
    count = len(every.images) + len(every.problems)
    notes: dict[Path, str] = {}
    if on_error != "defer":
        from keras_transfer.data.looking import looked_at

        damaged, notes = looked_at(every.images, verbose, rules, kept)
        for path, problem in damaged.items():
            (every.left_out if problem in NEEDS else every.problems)[path] = problem
    if every.problems and on_error != "skip":
        raise ValueError(
            f"{len(every.problems)} of {count} files can't be used; mend or remove them, or leave them "
            f"out with on_error='skip'{_ways(every.problems)}: {folders.listed(every.problems)}. "
            f"Received: directory={str(root)!r}"
        )
    _tell(every, count)
    if notes:
        told = folders.listed(notes)
        _log.warning("something is odd about %d of %d files: %s", len(notes), count, told)
    skipped = {**every.left_out, **every.problems}
    taken = {
        name: [path for path in found.images if path not in skipped] for name, found in classes.items()
    }
    _check_each(folder, root, taken, skipped)
    if level != 1:
        taken = hierarchy.at_level(folder, taken, level)
        hierarchy.check_complete(folder, classes, taken, level)
    labels = np.repeat(np.arange(len(taken), dtype="int32"), [len(paths) for paths in taken.values()])
    reasons, noted = ({str(path): why for path, why in told.items()} for told in (skipped, notes))
    paths = [path for paths in taken.values() for path in paths]
    return FileSource(paths, labels, rules, skipped=reasons, noted=noted, kept=kept), [*taken]


def _classes(folder: Path, root: Path, follow_links: bool, level: Level = 1) -> dict[str, Found]:
    """Return what is in each of the first folders."""
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


def _check_as_in_training(root: Path, names: list[str], level: Level, follow_links: bool) -> None:
    """Raise a `ValueError` if a part has other classes at a level than the one for training."""
    training = layout.training_folder(root)
    if training is None:
        return
    found = _classes(training, root, follow_links, level)
    images = {name: each.images for name, each in found.items() if not _is_output(each)}
    others = [*hierarchy.at_level(training, images, level)]
    if others != names:
        raise ValueError(
            f"the parts of {str(root)!r} must have the same classes; only one of them has "
            f"{sorted({*names} ^ {*others})}. Received: directory={str(root)!r}, level={level!r}"
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


def _ways(problems: dict[Path, str]) -> str:
    """Return what a message says of links, if they are what is wrong."""
    out = any(problem.endswith("out of the folder") for problem in problems.values())
    return ", or follow links with follow_links=True" if out else ""


def _tell(every: Found, count: int) -> None:
    """Say in the log what is left out, and louder where that may be an image."""
    if every.problems:
        problems = folders.listed(every.problems)
        _log.warning("left out %d of %d files: %s", len(every.problems), count, problems)
    if every.left_out:
        lost = {path: why for path, why in every.left_out.items() if folders.is_missed(why)}
        level = logging.WARNING if lost else logging.INFO
        named = f" - {folders.listed(lost)}" if lost else ""
        reasons = folders.counted(every.left_out.values())
        _log.log(level, "passed over %d files: %s%s", len(every.left_out), reasons, named)


def _check_each(
    folder: Path, root: Path, taken: dict[str, list[Path]], skipped: dict[Path, str]
) -> None:
    """Raise a `ValueError` if a class has no images."""
    empty = next((name for name, paths in taken.items() if not paths), None)
    if empty is None:
        return
    named = layout.class_folders(folder)
    (first, *_) = named[empty]
    of_it = [reason for path, reason in skipped.items() if path.is_relative_to(first)]
    others = [named[name][0] for name, paths in taken.items() if paths]
    if len(others) == 1 and layout.holds_folders(others[0]):
        hint = f"; did you mean {str(others[0])!r}?"
    else:
        hint = "; add some, or move the folder elsewhere."
    raise ValueError(
        f"each class must have images; {str(first)!r} has none that can be used"
        f"{f' ({folders.counted(of_it)})' if of_it else ''}{hint} Received: directory={str(root)!r}"
    )
