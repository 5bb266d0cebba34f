"""Images that are no files of their own: members of a tar, rows of a data set."""

import os
import time
from pathlib import Path
from typing import TypeAlias

# A file that was written so many nanoseconds ago or less has no version: the clocks of file systems take
# steps of up to two seconds, and it may be written again in the same step.
_UNSETTLED = 2 * 10**9

Version: TypeAlias = tuple[int, ...]


class Stored:
    """The bytes of an image file that stand within something else.

    Wherever image files are read, such an object may take the place of a path. Its text, `str`, is what
    messages call it; no two of a data set have the same.
    """

    def read(self) -> bytes:
        """Return the bytes of the image file, or raise an `OSError` if they can't be read."""
        raise NotImplementedError

    def version(self) -> Version | None:
        """Return numbers that change with the bytes, or None if these may change unnoticed."""
        raise NotImplementedError

    def file(self) -> Path:
        """Return the path by which somebody finds the image, whether or not it can be opened."""
        return Path(str(self))

    def __str__(self) -> str:
        raise NotImplementedError


ImageFile: TypeAlias = str | os.PathLike[str] | Stored


def content(image: ImageFile) -> bytes:
    """Return the bytes of an image file, wherever it is."""
    return image.read() if isinstance(image, Stored) else Path(image).read_bytes()


def version(path: ImageFile) -> Version | None:
    """Return numbers that change with a file, or None if it isn't there or may change unnoticed."""
    if isinstance(path, Stored):
        return path.version()
    try:
        about = os.stat(path)
    except OSError:
        return None
    if time.time_ns() - about.st_mtime_ns <= _UNSETTLED:
        return None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


class Member(Stored):
    """A file within an archive that has it as it is, without compression.

    Args:
        archive: the path of the archive.
        offset: where the file's bytes begin.
        size: how many they are.
        name: what it is called there.
    """

    __slots__ = ("archive", "name", "offset", "size")  # there may be millions

    def __init__(self, archive: str, offset: int, size: int, name: str) -> None:
        self.archive, self.offset, self.size, self.name = archive, offset, size, name

    def read(self) -> bytes:
        with Path(self.archive).open("rb") as file:
            file.seek(self.offset)
            found = file.read(self.size)
        if len(found) < self.size:
            raise OSError("the archive is shorter than it was")
        return found

    def version(self) -> Version | None:
        found = version(self.archive)
        return None if found is None else (*found, self.offset)

    def __str__(self) -> str:
        return os.path.join(self.archive, self.name)
