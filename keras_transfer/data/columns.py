"""Which columns of a table have the images, the classes and the parts."""

import numbers
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_transfer._lib.checks import did_you_mean, one_of
from keras_transfer.data import layout
from keras_transfer.data.images.kinds import SUFFIXES
from keras_transfer.data.rows import Table, is_missing

# What people call them, without capitals, spaces, hyphens and underscores; of images the first counts.
_IMAGES = (
    *("filename", "file", "filepath", "path", "imagepath", "imagefile", "imagename", "image", "img"),
    *("imgpath", "imgname", "imgfile", "photo", "picture", "jpg", "jpeg", "png", "fname", "files"),
    *("images", "imageid", "imgid", "photoid", "id", "name"),
)
_CLASSES = (
    *("label", "labels", "class", "classname", "classes", "category", "species", "target", "breed"),
    *("categoryname", "labelname", "diagnosis", "dx", "tag", "kind", "classid", "categoryid", "labelid"),
    *("y",),
)
_SPLITS = ("split", "part", "subset", "set", "fold", "partition", "dataset")
_LOOKED_AT = 100  # cells


class Columns(NamedTuple):
    """The names of columns.

    Attributes:
        image: that of the images.
        label: that of the classes, or those of 0 and 1, one a class.
        split: that of the parts, or None.
        group: that of the groups, or None.
        guessed: whether somebody should be told, who didn't name them.
    """

    image: str
    label: str | tuple[str, ...]
    split: str | None
    group: str | None
    guessed: bool

    def __str__(self) -> str:
        others = {"parts": self.split, "groups": self.group}
        more = (f", {name} from column {each!r}" for name, each in others.items() if each is not None)
        several = f"s {', '.join(map(repr, self.label))}"
        label = f" {self.label!r}" if isinstance(self.label, str) else several
        return f"images from column {self.image!r}, classes from column{label}{''.join(more)}"


def chosen(
    table: Table,
    image: str | None,
    label: str | Sequence[str] | None,
    split: str | None,
    group: str | None = None,
) -> Columns:
    """Return the columns that were named, and guess the others by their names.

    Args:
        table: the table.
        image: the column of the images, or None.
        label: the column of the classes, or several, one a class, or None.
        split: the column of the parts, or None.
        group: the column of the groups; None: there is none.

    Raises:
        ValueError: there is no such column, or it isn't clear which is meant.
    """
    several = None if label is None or isinstance(label, str) else _several(label)
    one = label if isinstance(label, str) else None
    given = [("image_column", image), ("label_column", one), ("split_column", split)]
    given += [("group_column", group), *(("label_column", name) for name in several or ())]
    for argument, name in given:
        if name is not None and name not in table.columns:
            raise ValueError(
                f"{argument} must be a column of {table.name}, which has {one_of(table.columns)}"
                f"{did_you_mean(str(name), table.columns)} Received: {argument}={name!r}"
            )
    others = [name for name in table.columns if name not in [each for _, each in given]]
    split = split or next((name for name in others if _is_split(name, table.columns[name])), None)
    image = image or _image(table, [name for name in others if name != split])
    found = several or one or _label(table, [name for name in others if name not in (split, image)])
    if image in (found if several else [found]):
        raise ValueError(
            "image_column and label_column must be two columns. "
            f"Received: image_column={image!r}, label_column={found!r}"
        )
    return Columns(image, found, split, group, image != given[0][1] or found not in (one, several))


def _several(names: Any) -> tuple[str, ...]:
    """Return the names of several columns, or raise if they aren't such."""
    found = tuple(names) if isinstance(names, Sequence) else ()
    if len({*found}) < 2 or len({*found}) < len(found) or not all(isinstance(n, str) for n in found):
        raise ValueError(
            "label_column must be the name of a column, or at least two different names of columns of 0 "
            f"and 1, one a class. Received: label_column={names!r}"
        )
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _image(table: Table, names: Sequence[str]) -> str:
    """Return the column of the images: one whose cells end as images do, or that is called so."""
    ends = [name for name in names if _are_files(table.columns[name])]
    called = {_plain(name): name for name in reversed(names)}
    known = [called[name] for name in _IMAGES if name in called]
    likely = [name for name in known if name in ends] or known if len(ends) != 1 else ends
    if not likely:
        raise _unclear("image_column", table, ends or names)
    return likely[0]


def _are_files(cells: Sequence[Any]) -> bool:
    some = [str(cell) for cell in cells[:_LOOKED_AT] if not is_missing(cell)]
    return bool(some) and all(os.path.splitext(cell)[1].lower() in SUFFIXES for cell in some)


def _label(table: Table, names: Sequence[str]) -> str:
    """Return the column of the classes: the one that is called so, or that is left."""
    known = [name for name in names if _plain(name) in _CLASSES]
    likely = known or list(names)
    if len(likely) != 1:
        raise _unclear("label_column", table, likely)
    return likely[0]


def label_of(content: Mapping[str, Any], key: str | None) -> Any:
    """Return the class within an object of JSON, or None; by `key`, or by what it is called."""
    known = [name for name in content if _plain(name) in _CLASSES]
    if key is None and len(known) == 1:
        return content[known[0]]
    return None if key is None else content.get(key)


def _unclear(argument: str, table: Table, names: Sequence[str]) -> ValueError:
    which = f"; it may be {one_of(names)}" if names else ", and there is none left"
    return ValueError(
        f"{argument} must be told, as the names of the columns of {table.name} don't say it{which}. "
        f"Received: {argument}=None"
    )


def _is_split(name: str, cells: Sequence[Any]) -> bool:
    """Whether a column is called as one of parts is, and has the names of such and no others."""
    return _plain(name) in _SPLITS and all(layout.role_of(str(cell)) for cell in {*map(str, cells)})


def numbered(values: Sequence[Any], argument: str) -> tuple[list[str], list[Any]]:
    """Return the names of classes in their order, and the value of each.

    Text is in alphabetical order, and numbers are in theirs, written out in a file or not.

    Args:
        values: cells, none of which is missing.
        argument: what they are called in messages.

    Raises:
        ValueError: some are text and others are numbers, or a number is none of a class.
    """
    kinds: dict[str, Any] = {}
    for value in values:
        text = isinstance(value, str)
        if not text and not (isinstance(value, numbers.Real) and float(value).is_integer()):
            raise ValueError(
                f"{argument} must have classes, as text or integers. Received: {value!r:.100} of type "
                f"{type(value).__name__}"
            )
        kinds.setdefault("text" if text else "numbers", value)
    if len(kinds) > 1:
        raise ValueError(
            f"{argument} must have text or integers, and not both. "
            f"Received: {kinds['text']!r} and {kinds['numbers']!r}"
        )
    unique = {*values}
    if "text" in kinds and all(re.fullmatch("-?[0-9]{1,18}", value) for value in unique):
        ordered = sorted(unique, key=lambda value: (int(value), value))
    else:
        ordered = sorted(unique)
    return [value if isinstance(value, str) else str(value) for value in ordered], ordered


def as_label(value: Any) -> Any:
    """Return a cell as what a class is known by: accents as one character, whole numbers as integers."""
    if isinstance(value, str):
        return layout.composed(value.strip())
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    whole = isinstance(value, numbers.Real) and float(value).is_integer()
    return int(value) if whole else value  # pandas makes 1.0 of 1 where a cell is empty
