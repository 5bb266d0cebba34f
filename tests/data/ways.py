"""The same photos as people have them: class folders, tables, archives, data sets."""

import csv
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from keras_transfer.data import from_directory, from_huggingface, from_table, from_webdataset

COUNTS = {"ant": 6, "bee": 4, "crab": 5}


def write_photos(folder):
    """Write class folders of noise, with names that sort otherwise than classes do, as PNG and JPEG."""
    rng = np.random.default_rng(0)
    for name, count in COUNTS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            ending = ("png", "jpg")[number % 2]
            image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), "uint8"))
            image.save(folder / name / f"{9 - number}{name}.{ending}")
    return folder


def photos_of(folder):
    """Return (path, class) of all photos, as no way has them in order."""
    paths = sorted(folder.glob("*/*"), key=lambda path: path.name, reverse=True)
    return [(path, path.parent.name) for path in paths]


def as_csv(folder, made):
    """A flat folder, and a table beside it."""
    (made / "flat").mkdir()
    for path, _ in photos_of(folder):
        shutil.copy2(path, made / "flat")
    with (made / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "width", "species"])
        writer.writerows([path.stem, 16, name] for path, name in photos_of(folder))
    return from_table, (made / "labels.csv", made / "flat")


def as_frame(folder, made):
    """A frame whose index isn't 0 ... n - 1."""
    import pandas as pd

    rows = [(str(path.relative_to(folder)), name) for path, name in photos_of(folder)]
    frame = pd.DataFrame(rows, columns=["file", "label"], index=range(50, 50 + len(rows)))
    return from_table, (frame.sample(frac=1.0, random_state=1), folder)


def as_pairs(folder, made):
    return from_table, (photos_of(folder),)


def as_several_folders(folder, made):
    """Two folders with the photos of all classes, by turns."""
    for number, (path, name) in enumerate(photos_of(folder)):
        part = made / f"part {number % 2}" / name
        part.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, part)
    return from_directory, ([made / "part 1", made / "part 0"],)


def as_zip(folder, made):
    return from_directory, (
        shutil.make_archive(str(made / "photos"), "zip", folder.parent, folder.name),
    )


def as_data_set(folder, made):
    import datasets

    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=sorted(COUNTS)))
    photos = photos_of(folder)
    columns = {
        "image": [{"bytes": path.read_bytes(), "path": path.name} for path, _ in photos],
        "label": [name for _, name in photos],
    }
    return from_huggingface, (datasets.Dataset.from_dict(columns, features),)


def as_shards(folder, made):
    photos = photos_of(folder)
    for number in range(2):
        members = {}
        for path, name in photos[number::2]:
            members |= {path.name: path.read_bytes(), f"{path.stem}.cls": name.encode()}
        write_shard(made / f"photos-{number:03}.tar", members)
    return from_webdataset, (made / "photos-{000..001}.tar",)


def write_shard(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return Path(path)


WAYS = {
    "csv": as_csv,
    "frame": as_frame,
    "pairs": as_pairs,
    "several folders": as_several_folders,
    "zip": as_zip,
    "datasets": as_data_set,
    "webdataset": as_shards,
}
NEEDS = {"frame": "pandas", "datasets": "datasets"}
