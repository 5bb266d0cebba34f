"""Which of the image files that were found are used, and how: one rule, wherever they come from."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from keras_transfer._lib.checks import checked_choice, checked_image_size
from keras_transfer._lib.messages import verbosity
from keras_transfer.data import folders
from keras_transfer.data.images.augmentation import crops
from keras_transfer.data.images.kept import Kept
from keras_transfer.data.images.kinds import NEEDS
from keras_transfer.data.images.rules import Rules, checked_rules
from keras_transfer.data.images.stored import ImageFile
from keras_transfer.data.sources import FileSource

OnError: TypeAlias = Literal["raise", "skip", "defer"]
_ON_ERROR = ("raise", "skip", "defer")
_log = logging.getLogger(__name__)


class Taking(NamedTuple):
    """How image files are taken.

    Attributes:
        on_error: what happens to those that can't be used, as `from_directory` has it.
        rules: how they are read.
        verbose: as `verbosity` returns it.
        kept: is given the images that were looked at, as long as it has room, or None.
    """

    on_error: OnError
    rules: Rules
    verbose: int
    kept: Kept | None

    @classmethod
    def of(cls, image_size: Any, augmentation: Any, verbose: str | int, **given: Any) -> "Taking":
        """Return what the arguments of a function such as `from_directory` come to, or raise."""
        on_error = checked_choice("on_error", given.pop("on_error"), _ON_ERROR)
        rules, level = checked_rules(**given), verbosity(verbose)
        unkept = image_size is None or crops(augmentation)
        kept = None if unkept else Kept(checked_image_size(image_size))
        return cls(on_error, rules, level, kept)


def take(
    images: Sequence[ImageFile],
    labels: np.ndarray,
    taking: Taking,
    received: str,
    *,
    left_out: Mapping[Any, str],
    problems: Mapping[Any, str],
) -> FileSource:
    """Return those of the found images that can be used, in their order.

    Args:
        images: what was found.
        labels: theirs, of shape (images,) or (images, classes).
        taking: how.
        received: what the user gave, for messages.
        left_out: what doesn't count, with the reason.
        problems: what can't be used, with what is wrong; it may be among `images`, too.

    Raises:
        ValueError: images can't be used, and `taking` doesn't say to leave them out.
    """
    left_out, problems = dict(left_out), dict(problems)
    count = len({*images, *problems})
    notes: dict[Any, str] = {}
    if taking.on_error != "defer":
        from keras_transfer.data.looking import looked_at

        whole = [image for image in images if image not in problems]
        damaged, notes = looked_at(whole, taking.verbose, taking.rules, taking.kept)
        for path, problem in damaged.items():
            (left_out if problem in NEEDS else problems)[path] = problem
    if problems and taking.on_error != "skip":
        raise ValueError(
            f"{len(problems)} of {count} files can't be used; mend or remove them, or leave them "
            f"out with on_error='skip'{_ways(problems)}: {folders.listed(problems)}. "
            f"Received: {received}"
        )
    _tell(left_out, problems, count)
    if notes:
        told = folders.listed(notes)
        _log.warning("something is odd about %d of %d files: %s", len(notes), count, told)
    skipped = {**left_out, **problems}
    used = np.array([image not in skipped for image in images], bool)
    reasons, noted = ({str(path): why for path, why in told.items()} for told in (skipped, notes))
    good = [image for image in images if image not in skipped]
    return FileSource(good, labels[used], taking.rules, skipped=reasons, noted=noted, kept=taking.kept)


def _ways(problems: Mapping[Any, str]) -> str:
    """Return what a message says of links, if they are what is wrong."""
    out = any(problem.endswith("out of the folder") for problem in problems.values())
    return ", or follow links with follow_links=True" if out else ""


def _tell(left_out: dict[Any, str], problems: dict[Any, str], count: int) -> None:
    """Say in the log what is left out, and louder where that may be an image."""
    if problems:
        told = folders.listed(problems)
        _log.warning("left out %d of %d files: %s", len(problems), count, told)
    if left_out:
        lost = {path: why for path, why in left_out.items() if folders.is_missed(why)}
        level = logging.WARNING if lost else logging.INFO
        named = f" - {folders.listed(lost)}" if lost else ""
        reasons = folders.counted(left_out.values())
        _log.log(level, "passed over %d files: %s%s", len(left_out), reasons, named)


def check_each(
    names: list[str], labels: np.ndarray, needed: bool, skipped: dict[str, str], received: str
) -> None:
    """Raise a `ValueError` if a class has no images, though it is to be trained on, or none has any.

    Args:
        names: the names of the classes.
        labels: integers of shape (samples,), or rows of 0 and 1.
        needed: whether each must have images; otherwise the log says which have none.
        skipped: files that were left out, with the reason for each.
        received: what the user gave, for messages.
    """
    several = labels.ndim == 2
    counts = labels.sum(axis=0) if several else np.bincount(labels, minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if len(empty) == len(names) or (empty and needed):
        others = f", as {len(skipped)} files can't be used" if skipped else ""
        raise ValueError(
            f"each class must have images; {empty[0]!r} has none{others}. Received: {received}"
        )
    if empty:
        _log.warning("this part has no images of %d classes: %s", len(empty), ", ".join(empty))
