"""How a folder of images is laid out: a folder for each class, or parts that each have these."""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from keras_transfer._lib.checks import did_you_mean
from keras_transfer.data.folders import entries, passed_over
from keras_transfer.data.images.kinds import why_not

TRAINING, _VALIDATION, _TEST = "train", "val", "test"
# What people call the parts, in any case, also as a word among others ("Training Set", "seg_test"); of
# several names for one part the first counts.
_PARTS = {
    "train": TRAINING,
    "training": TRAINING,
    "val": _VALIDATION,
    "valid": _VALIDATION,
    "validation": _VALIDATION,
    "dev": _VALIDATION,
    "eval": _VALIDATION,
    "test": _TEST,
    "testing": _TEST,
}
_ORDER = list(_PARTS)


class Division(NamedTuple):
    """The parts of a folder that is divided.

    Attributes:
        training: the name of the folder to train on.
        measured: the name of the folder to report on: that for validation, or else for testing.
        unused: the names of all other folders.
    """

    training: str
    measured: str
    unused: list[str]

    @property
    def has_test(self) -> bool:
        """Whether one of them is for testing."""
        return any(role_of(name) == _TEST for name in (self.measured, *self.unused))


def division_of(names: Sequence[str]) -> Division | None:
    """Return the parts of what has parts of these names, or None as `division` does."""
    known = sorted(
        (name for name in names if role_of(name)), key=lambda name: _ORDER.index(name.lower())
    )
    by_role: dict[str | None, str] = {}
    for name in known:
        by_role.setdefault(role_of(name), name)
    return _division(by_role, names)


def _division(by_role: Mapping[str | None, str], names: Sequence[str]) -> Division | None:
    training, measured = by_role.get(TRAINING), by_role.get(_VALIDATION) or by_role.get(_TEST)
    if training is None or measured is None:
        return None
    return Division(training, measured, [name for name in names if name not in (training, measured)])


def division(root: Path) -> Division | None:
    """Return the parts of a folder that has one for training and another, or None."""
    by_role = _by_role(root) if root.is_dir() else {}
    if len(by_role) < 2:
        return None
    named: dict[str | None, str] = {role: folder.name for role, folder in by_role.items()}
    return _division(named, [each.name for each in folders_in(root)])


def training_folder(root: Path) -> Path | None:
    """Return the folder for training of one that is divided, or None."""
    return _by_role(root).get(TRAINING)


def part_of(root: Path, part: str | None) -> tuple[Path, bool]:
    """Return the folder with a folder for each class, and whether it is for training.

    Args:
        root: the folder that the user named.
        part: the name of one of its folders, or "train", "val" or "test", whatever the folder of this
            part is called; None where it isn't divided.

    Raises:
        ValueError: it isn't clear which folder that is, or it has other classes than that for training.
    """
    by_role = _by_role(root)
    if part is None:
        _check_undivided(root, by_role)
        return root, True
    names = [folder.name for folder in folders_in(root)]
    role = role_of(part) if isinstance(part, str) else None
    here = root / part if part in names else by_role.get(role or "")
    if here is None:
        hint = did_you_mean(str(part), names) if role is None else f"; {_found(root, str(part))}."
        raise ValueError(
            f"part must be the name of a folder in {str(root)!r}{hint} Received: part={part!r}"
        )
    training = by_role.get(TRAINING, here)
    if here != training:
        classes, others = ({*class_folders(each)} for each in (here, training))
        if classes != others:
            bare = "" if classes else f"; {here.name!r} has no folders of classes"
            raise ValueError(
                f"{str(training)!r} and {str(here)!r} must have the same classes; only one of them has "
                f"{sorted(classes ^ others)}{bare}. To do without {here.name!r}, take "
                f"{str(training)!r} alone. Received: directory={str(root)!r}, part={part!r}"
            )
    return here, _role(here) == TRAINING


def role_of(name: str) -> str | None:
    """Return which part is called so: "train", "val" or "test", or None."""
    return _PARTS.get(name.lower())


def named_part(part: str, names: Sequence[str]) -> str | None:
    """Return the one of some parts that is called so, or whose name means the same, or None."""
    if part in names:
        return part
    role = role_of(part) if isinstance(part, str) else None
    meant = [name for name in names if role is not None and role_of(name) == role]
    return meant[0] if len(meant) == 1 else None


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the folders of each class, by its name, in the order of the names.

    macOS writes an accented letter as two characters, others as one: such names are of one class, whose
    images may stand in two folders.

    Raises:
        ValueError: a name is no text, so that no file could be written with it.
    """
    found: dict[str, list[Path]] = {}
    for each in folders_in(folder):
        try:
            each.name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                "the folders of classes must have names in UTF-8, as they are the names of the classes; "
                f"rename this one. Received: {each.name!r} in {str(folder)!r}"
            ) from error
        found.setdefault(composed(each.name), []).append(each)
    return dict(sorted(found.items()))


def composed(name: str) -> str:
    """Return a name with each accented letter as one character, as far as there is one."""
    return unicodedata.normalize("NFC", name)


def check_classes(folder: Path, classes: dict[str, list[Path]], *, is_part: bool = False) -> None:
    """Raise a `ValueError` if the folders of a folder can't be those of classes.

    Args:
        folder: the folder.
        classes: its `class_folders`.
        is_part: whether it is a part of what the user named, who can't name what is within it.
    """
    if not classes:
        images = sum(1 for entry in entries(folder) if _is_image(Path(entry.path)))
        hint = f", but {images} images: put those of each class into a folder of its own"
        raise ValueError(
            f"directory must have a folder for each class; {str(folder)!r} has no folders"
            f"{hint if images else ''}. Received: directory={str(folder)!r}"
        )
    paths = [path for each in classes.values() for path in each]
    if len(paths) == 1 and holds_folders(paths[0]):
        meant = paths[0]
        while len(inner := folders_in(meant)) == 1 and holds_folders(inner[0]):
            meant = inner[0]
        remedy = f"; move these into {str(folder)!r}." if is_part else f"; did you mean {str(meant)!r}?"
        raise ValueError(
            f"directory must have a folder for each class; {str(folder)!r} has one folder alone, "
            f"{paths[0].name!r}, which has folders and no images{remedy} "
            f"Received: directory={str(folder)!r}"
        )


def folders_in_each(classes: Mapping[str, Sequence[Path]]) -> list[str]:
    """Return the names of the folders within each class, if all have the same ones and no images.

    So do the classes look in folders that are parts: fold1/ant, fold1/bee, fold2/ant, fold2/bee.

    Args:
        classes: `class_folders`.
    """
    paths = [path for each in classes.values() for path in each]
    if len(paths) < 2 or not all(map(holds_folders, paths)):
        return []
    first, *others = ([folder.name for folder in folders_in(path)] for path in paths)
    return first if len(first) > 1 and all(names == first for names in others) else []


def holds_folders(folder: Path) -> bool:
    """Whether there are folders in a folder, but no images beside them."""
    return not any(_is_image(Path(e.path)) for e in entries(folder)) and bool(folders_in(folder))


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder that may have images, in the order of their names."""
    found = [Path(entry.path) for entry in entries(folder)]
    return sorted(
        (each for each in found if os.path.isdir(each) and passed_over(each) is None),
        key=lambda each: each.name,
    )


def _is_image(path: Path) -> bool:
    try:
        return not path.name.startswith(".") and os.path.isfile(path) and why_not(path) is None
    except OSError:
        return False


def _role(folder: Path) -> str | None:
    """Return which part a folder is by its name or, if it has folders and no images, a word of that."""
    if folder.name.lower() in _PARTS:
        return _PARTS[folder.name.lower()]
    words = re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", folder.name).lower())
    roles = {_PARTS[word] for word in words if word in _PARTS}
    return roles.pop() if len(roles) == 1 and holds_folders(folder) else None


def _by_role(root: Path) -> dict[str, Path]:
    """Return the folder of each part that there is: train, val, test."""
    roles = {each: role for each in folders_in(root) if (role := _role(each)) is not None}
    found: dict[str, Path] = {}
    for each in sorted(roles, key=_rank):
        found.setdefault(roles[each], each)
    return dict(sorted(found.items(), key=lambda item: _ORDER.index(item[0])))


def _rank(folder: Path) -> tuple[int, str]:
    name = folder.name.lower()
    return _ORDER.index(name) if name in _ORDER else len(_ORDER), folder.name


def _check_undivided(root: Path, by_role: dict[str, Path]) -> None:
    """Raise a `ValueError` if the folders of a folder are parts and no classes."""
    parts = list(by_role.values())
    if len(parts) < 2:
        return
    way = f"{str(parts[-1])!r} or with part={parts[-1].name!r}"
    received = f"Received: directory={str(root)!r}, part=None"
    if TRAINING in by_role:
        raise ValueError(
            f"directory must have a folder for each class; {str(root)!r} is divided into "
            f"{', '.join(each.name for each in parts)}: take one of these, as {way}. {received}"
        )
    if len(parts) == len(folders_in(root)) and all(map(holds_folders, parts)):
        raise ValueError(
            "directory must have a folder for each class, or be divided into train and val with these; "
            f"{_found(root, TRAINING)}: take one of these, as {way}, or name the folder for training "
            f"'train'. {received}"
        )


def _found(root: Path, missing: str) -> str:
    """Return which parts there are in words, and which is missing."""
    names = [each.name for each in _by_role(root).values()] or [each.name for each in folders_in(root)]
    there = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "no folders"
    return f"found {there}, no {missing}"
