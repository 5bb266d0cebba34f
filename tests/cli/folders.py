"""Folders of small images, and options for a small network."""

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

SMALL = ("--backbone", "mobilenet", "--weights", "none", "--image-size", "32", "--batch-size", "8")


def write_images(folder, shade, count, first=0):
    """Write noise whose brightness tells a class."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        noise = np.random.default_rng(number).integers(0, 60, (36, 40, 3)) + shade
        Image.fromarray(noise.astype("uint8")).save(folder / f"{number:03}.png")
