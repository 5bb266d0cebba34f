"""The photographs of hot dogs of "Dive into Deep Learning", in its own split."""

import re
from collections.abc import Sequence

from keras_transfer.data.sets.archives import ImageArchive, unpack
from keras_transfer.data.sets.flowers import class_names, data_set_folder, in_tfds_order
from keras_transfer.data.sources import FileSource

# The book publishes a SHA-1 checksum only. Nobody can make another file with a given one; what can be
# made is two files with the same, by whoever makes both.
_PHOTOS = ImageArchive(
    url="http://d2l-data.s3-accelerate.amazonaws.com/hotdog.zip",
    checksum="fba480ffa8aa7e0febbb511d181409f899b9baa5",
    root="hotdog",
    image=re.compile(r"(?:train|test)/(?:hotdog|not-hotdog)/[^/\\:]+\.(?:png|jpe?g)"),
    num_images=2_800,
    in_tfds=False,
)


def hotdog(splits: Sequence[str]) -> tuple[FileSource, dict[str, int]]:
    """Return photographs with hot dogs and of other food, in the book's own "train" and "test".

    Returns:
        The images, one split after another, and how many each has.

    Raises:
        ValueError, ConnectionError: as `unpack`.

    Source:
        Zhang et al., "Dive into Deep Learning", section 14.2; https://d2l.ai
    """
    folder, classes = data_set_folder("hotdog"), class_names("hotdog")
    labels = {name: classes.index(name.split("/")[1]) for name in unpack(_PHOTOS, folder)}
    members = {split: [name for name in labels if name.startswith(f"{split}/")] for split in splits}
    return in_tfds_order(folder / _PHOTOS.root, labels, members)
