"""Small images that were made to look at files, kept for whoever reads these files next."""

import threading

import numpy as np

from keras_transfer.data.images.stored import ImageFile, Version, version
from keras_transfer.data.types import Size

MOST_BYTES = 2**28  # of the images of a folder


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

    def put(self, path: ImageFile, version: Version, image: np.ndarray) -> None:
        """Keep the image of a file, if there is room.

        Args:
            path: the file.
            version: what `version` returned before the file was read.
            image: an array of uint8 of shape (*size, 3), which nobody may write into any more.
        """
        image.flags.writeable = False
        with self._lock:
            if self.has_room():
                self._images[str(path)] = version, image

    def get(self, path: ImageFile) -> np.ndarray | None:
        """Return the image of a file, or None if it isn't kept or the file is another one by now."""
        found = self._images.get(str(path))
        return found[1] if found is not None and found[0] == version(path) else None

    def clear(self) -> None:
        """Let go of all images."""
        self._images.clear()
