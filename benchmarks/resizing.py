"""Ways to make a JPEG small: how long each takes, what it changes, and what that does to accuracy.

A photo is read as `from_directory` reads it, to the centre in `--size`. Beside this, in its place:

- "4 bytes a pixel": Pillow works on the array that the decoder has filled, without a copy;
- "reducing_gap": Pillow first averages blocks, as many as leave 1.1 times the size;
- "OpenCV, smoothed": three pixels are weighted, then interpolated, as it is done for random crops;
- "OpenCV, area": each pixel is the mean of the area that it covers;
- "decoded nearer": at a half, a quarter or an eighth that is no smaller than the size, where otherwise
  it is no smaller than twice the size.

Milliseconds are those of the processor, for a whole photo; changes are levels of 255 against what
`from_directory` gives. `--accuracy` fits a linear head on MobileNetV2's features of the images of each
way that changes any, in five folds of each data set.

    python benchmarks/resizing.py
    python benchmarks/resizing.py --size 96
    KERAS_BACKEND=tensorflow python benchmarks/resizing.py --accuracy

Photos are those of "Real images and weights" in CONTRIBUTING.md.
"""

import argparse
import os
import time
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import rich.console
import rich.table
import simplejpeg
from PIL import Image

from keras_transfer.data.images import reading, transforms

SETS = ("hymenoptera", "flowers", "flowers44")
WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
BILINEAR = Image.Resampling.BILINEAR
ROUNDS = 3
FOLDS = 5


def with_resize(resize):
    """Return a way that resizes the centre otherwise: a function of (pixels, size, part)."""

    def read(path, size):
        with mock.patch.object(reading, "_resized", lambda *given, exactly: resize(*given)):
            return reading.read_image(path, size)

    return read


def box_of(image, part):
    """Return (left, top, right, bottom) of a part within an image of Pillow."""
    top, left, height, width = part
    return left, top, min(left + width, image.width), min(top + height, image.height)


def gapped(pixels, size, part):
    """Resize by Pillow, after averaging blocks."""
    image = Image.fromarray(pixels)
    box = box_of(image, part)
    return np.asarray(image.resize(size[::-1], BILINEAR, box=box, reducing_gap=1.1))


def smoothed(pixels, size, part):
    """Resize by OpenCV, after weighting three pixels."""
    top, left, height, width = map(round, part)
    return transforms.resize(pixels[top : top + height, left : left + width], size)


def area(pixels, size, part):
    """Resize by OpenCV, by the means of areas."""
    top, left, height, width = map(round, part)
    pixels = pixels[top : top + height, left : left + width]
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA)


def mapped(path, size):
    """Read with 4 bytes a pixel; for photos that are decoded whole."""
    content = Path(path).read_bytes()
    pixels = simplejpeg.decode_jpeg(content, "RGBX")
    height, width = pixels.shape[:2]
    image = Image.frombuffer("RGBX", (width, height), pixels, "raw", "RGBX", 0, 1)
    box = box_of(image, reading._part(height, width, size, None))
    return np.asarray(image.resize(size[::-1], BILINEAR, box=box))[..., :3]


def nearer(path, size):
    """Read with a JPEG decoded no smaller than the size."""
    with mock.patch.object(reading, "_SPARE", 1):
        return reading.read_image(path, size)


USUAL = "from_directory"
WAYS = {
    USUAL: reading.read_image,
    "4 bytes a pixel": mapped,
    "reducing_gap": with_resize(gapped),
    "OpenCV, smoothed": with_resize(smoothed),
    "OpenCV, area": with_resize(area),
    "decoded nearer": nearer,
}


def photos(name):
    """Return the photos of a data set and the class of each."""
    paths = sorted(Path(os.environ["KERAS_TRANSFER_REAL_DATA"], name).rglob("*.jpg"))
    classes = sorted({path.parent.name for path in paths})
    return paths, np.array([classes.index(path.parent.name) for path in paths])


def timed(way, paths, size):
    """Return images, and the milliseconds of one: of several rounds the least."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        images = [way(path, size) for path in paths]
        seconds.append(time.process_time() - start)
    return np.stack(images), 1000 * min(seconds) / len(paths)


def accuracies(images, labels):
    """Return the accuracy of a linear head in each fold."""
    import keras_transfer as kt

    weights = Path(os.environ["KERAS_HOME"], "models", WEIGHTS)  # "imagenet" has others for each size
    model = kt.classifier("MobileNetV2", labels.max() + 1, image_size=images.shape[1], weights=weights)
    return np.array(
        kt.features.cross_validate_head(model, (images, labels), folds=FOLDS, verbose=0).accuracies
    )


def main(given):
    """Measure and print a table for each data set."""
    cv2.setNumThreads(1)
    size = given.size, given.size
    for name in given.sets:
        paths, labels = photos(name)
        columns = ("way", "ms", "images changed", "most", "mean", "more than 2, %")
        columns += ("accuracy", "difference") * given.accuracy
        table = rich.table.Table(*columns, title=f"{name}: {len(paths)} photos to {size[0]} px")
        for way, read in WAYS.items():
            images, milliseconds = timed(read, paths, size)
            if way == USUAL:
                usual = images.astype(int)
            levels = np.abs(images - usual)
            changed = int(levels.any(axis=(1, 2, 3)).sum())
            row = [f"{milliseconds:.2f}", str(changed), str(levels.max()), f"{levels.mean():.2f}"]
            row.append(f"{100 * (levels > 2).mean():.1f}")
            if given.accuracy and (changed or way == USUAL):
                found = 100 * accuracies(images, labels)
                if way == USUAL:
                    first = found
                error = (found - first).std(ddof=1) / np.sqrt(FOLDS)
                row += [f"{found.mean():.2f}", f"{(found - first).mean():+.2f} +- {error:.2f}"]
            table.add_row(way, *row)
        rich.console.Console(width=110).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="px")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--accuracy", action="store_true")
    main(parser.parse_args())
