"""Small archives in the form of the large ones that data sets are published in."""

import dataclasses
import hashlib
import io
import tarfile
import zipfile

import keras
import numpy as np
import scipy.io
from PIL import Image

from keras_transfer.data.sets import flowers
from keras_transfer.data.sets.flowers import class_names

# tf_flowers in small: photograph n is `jpeg(n)`.
PHOTOS = [f"{name}/{n}_ab.jpg" for n, name in enumerate(sorted(class_names("tf_flowers")) * 4)]
# oxford_flowers102 in small: the kinds of the images from number 1 on, and the numbers in each split.
KINDS = np.random.default_rng(5).integers(1, 103, 30)
NUMBERS = dict(zip(["trnid", "valid", "tstid"], np.split(np.arange(1, 31), [6, 14]), strict=True))


def publish_flowers(monkeypatch, tmp_path):
    """Publish both data sets in small, in a folder that is returned; Keras' home is an empty one."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path / "home"))
    write_tar(
        folder / "flower_photos.tgz",
        {f"flower_photos/{name}": jpeg(n) for n, name in enumerate(PHOTOS)}
        | {"flower_photos/LICENSE.txt": b"CC BY"},
    )
    write_tar(folder / "102flowers.tgz", {f"jpg/image_{n:05d}.jpg": jpeg(n) for n in range(1, 31)})
    # As the originals: rows, of the smallest integers that suffice.
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": KINDS[None].astype("uint8")})
    scipy.io.savemat(
        folder / "setid.mat", {name: numbers[None].astype("uint16") for name, numbers in NUMBERS.items()}
    )
    for name, count in [("_PHOTOS", 20), ("_IMAGES", 30), ("_LABELS", None), ("_SPLITS", None)]:
        download = getattr(flowers, name)
        path = folder / download.name
        changes = {"url": path.as_uri(), "checksum": sha256(path)}
        changes |= {"num_images": count} if count else {}
        monkeypatch.setattr(flowers, name, dataclasses.replace(download, **changes))
    return folder


def jpeg(number):
    """A grey photograph that `number_of` tells from the others, for numbers from 0 to 31."""
    file = io.BytesIO()
    Image.new("RGB", (12, 10), (8 * number,) * 3).save(file, "JPEG", quality=95)
    return file.getvalue()


def number_of(image):
    return round(np.mean(image) / 8)


def member(name, kind=tarfile.REGTYPE, link="", size=0):
    """The head of a member of an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def write_tar(path, contents, extra=(), mode="w:gz"):
    """Write an archive of files, with its folders; members of `extra` without content come first."""
    with tarfile.open(path, mode) as tar:
        for folder in sorted({name.rpartition("/")[0] for name in contents}):
            tar.addfile(member(folder, tarfile.DIRTYPE))
        for info in extra:
            tar.addfile(info)
        for name, content in contents.items():
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))


def write_zip(path, contents, kinds=()):
    """Write a zip of files, with its folders; `kinds` has the mode of what is no plain file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in sorted({name.rpartition("/")[0] for name in contents}):
            archive.writestr(f"{folder}/", b"")
        for name, content in contents.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = dict(kinds).get(name, 0o100644) << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(folder):
    """The names of all files below a folder, but for locks, which stay."""
    paths = (path for path in folder.rglob("*") if not path.is_dir() and path.suffix != ".lock")
    return sorted(path.relative_to(folder).as_posix() for path in paths)
