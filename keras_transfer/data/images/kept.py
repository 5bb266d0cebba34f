"""Small images that were made to look at files, kept for whoever reads these files next."""

import os
import threading
import time
from typing import TypeAlias

import numpy as np

from keras_transfer.data.types import Size

MOST_BYTES = 2**28  # of the images of a folder
# A file that was written so many nanoseconds ago or less isn't kept: the clocks of file systems take
# steps of up to two seconds, and it may be written again in the same step.
_UNSETTLED = 2 * 10**9

Version: TypeAlias = tuple[int, ...]


class Kept:
    """What `read_image` gave of whole files at one size, as long as these don't change.

    Several threads may put and get.

    Args:
        size: (height, width) of the images.
        most_bytes: how much memory they take at most.
    """

    def __init__(self, size: Size, most_bytes: int = MOST_BYTES) -> None:
        self.size = size
        self._most = most_bytes // (size[0] * size[1] * 3)
        self._images: dict[str, tuple[Version, np.ndarray]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._images)

    def has_room(self) -> bool:
        """Whether another image would be kept."""
        return len(self._images) < self._most

    def put(self, path: str | os.PathLike[str], version: Version, image: np.ndarray) -> None:
        """Keep the image of a file, if there is room.

        Args:
            path: the file.
            version: what `version` returned before the file was read.
            image: an array of uint8 of shape (*size, 3), which nobody may write into any more.
        """
        image.flags.writeable = False
        with self._lock:
            if self.has_room():
                self._images[os.fspath(path)] = version, image

    def get(self, path: str | os.PathLike[str]) -> np.ndarray | None:
        """Return the image of a file, or None if it isn't kept or the file is another one by now."""
        found = self._images.get(os.fspath(path))
        return found[1] if found is not None and found[0] == version(path) else None

    def clear(self) -> None:
        """Let go of all images."""
        self._images.clear()


def version(path: str | os.PathLike[str]) -> Version | None:
    """Return numbers that change with a file, or None if it isn't there or may change unnoticed."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    if time.time_ns() - about.st_mtime_ns <= _UNSETTLED:
        return None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns
