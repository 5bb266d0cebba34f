"""Files that are fetched once and checked; archives of images that are unpacked whole or not at all."""

import hashlib
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import keras

from keras_transfer._lib.keras_private.process import home
from keras_transfer._lib.network import fetching

# Far above what the data sets have: a photograph of theirs has at most some hundred kilobytes.
MAX_FILE_BYTES = 2**24
MAX_BYTES = 2**30
_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_MOST_PACKED = 20  # how many times larger photos become that aren't compressed, such as BMP


@dataclass(frozen=True)
class Download:
    """A file on the network.

    Attributes:
        url: where it is; the last part is its name here.
        checksum: in hexadecimal digits: SHA-256; or, if there are 40 of them, SHA-1, where no other
            has been published.
        in_tfds: whether TFDS can prepare the data set, too.
    """

    url: str
    checksum: str
    in_tfds: bool = field(default=True, kw_only=True)

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.url.rpartition("/")[2]

    @property
    def algorithm(self) -> str:
        """The kind of checksum, as `hashlib` calls it."""
        return "sha1" if len(self.checksum) == 40 else "sha256"


@dataclass(frozen=True)
class ImageArchive(Download):
    """An archive (zip, or tar, compressed or not) of images.

    Attributes:
        root: the folder that everything inside is in.
        image: what the name of an image looks like, with the folders below `root`.
        num_images: how many images there are.
        notices: names of other files to unpack, such as the licence.
    """

    root: str
    image: re.Pattern[str]
    num_images: int
    notices: tuple[str, ...] = ()


def fetch(download: Download, folder: Path) -> Path:
    """Return the path of a file, which is fetched into the folder of the data set if it is not there.

    Raises:
        ValueError: the file that is there, or that was fetched, has another checksum. Nothing has
            changed then.
        ConnectionError: it could not be fetched.
    """
    path = folder / download.name
    if path.exists():
        _check(path, download, repr(str(path)), "remove it to have it fetched again")
    else:
        _make_once(path, lambda made: _download(download, folder, made))
    return path


def unpack(archive: ImageArchive, folder: Path) -> list[str]:
    """Return the names of the images of an archive, which is fetched and unpacked if need be.

    They are those below `archive.root`, with "/" between the parts, sorted.

    Raises:
        ValueError: the archive has another checksum or holds something else than it should (nothing
            is unpacked then), or images are missing from the folder that it was unpacked to.
        ConnectionError: it could not be fetched.
    """

    def wanted(member: _Member) -> bool:  # no folders, and not what nobody asked for
        root, _, name = member.name.removeprefix("./").partition("/")
        return root == archive.root and bool(archive.image.fullmatch(name) or name in archive.notices)

    def extract(made: Path) -> None:
        path = fetch(archive, folder)
        _extract(path, made, wanted, MAX_FILE_BYTES, MAX_BYTES)
        _images(archive, made, repr(str(path)), "nothing was unpacked")

    root = folder / archive.root
    if not root.exists():
        _make_once(root, extract)
    return _images(archive, folder, repr(str(root)), "remove the folder to have it unpacked again")


def _make_once(path: Path, make: Callable[[Path], None]) -> None:
    """Have `path` made in an empty folder beside it, by one process, and put in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.partial")
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():  # another process was first
            return
        try:
            shutil.rmtree(made, ignore_errors=True)  # what a process that was killed has left
            made.mkdir()
            make(made)
            os.replace(made / path.name, path)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def _download(download: Download, folder: Path, made: Path) -> None:
    advice = f"Check the network, or put that file into the folder {str(folder)!r}"
    if download.in_tfds:
        advice += ", or set TFDS_DATA_DIR to a folder where TFDS has prepared the data set"
    advice += "."
    with fetching(f"{download.name} of the data set {folder.name}", advice):
        # Keras is not given the checksum: its error doesn't say which one it found.
        keras.utils.get_file(download.name, download.url, cache_subdir=str(made))
    _check(made / download.name, download, download.url, "what was fetched was not kept")


def _check(path: Path, download: Download, place: str, advice: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, download.algorithm).hexdigest()
    if found != download.checksum:
        kind = {"sha1": "SHA-1", "sha256": "SHA-256"}[download.algorithm]
        raise ValueError(
            f"the file {place} must have the {kind} checksum {download.checksum}; {advice}. "
            f"Received: {path.stat().st_size:,} bytes with the checksum {found}"
        )


def unpacked(path: Path) -> Path:
    """Return the folder with all files of an archive, which is unpacked once, whole or not at all.

    It stands in the folder datasets/ of Keras' home, by the digest of the archive.

    Args:
        path: a zip, or a tar, compressed or not.

    Raises:
        ValueError: it is no such archive or is damaged; it has files that would come to stand elsewhere,
            links or devices, or, as such archives do that are meant to fill a disk, far more bytes than
            images can be packed into so few.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = home() / "datasets" / "archives" / digest[:32]

    def extract(made: Path) -> None:
        (made / folder.name).mkdir()
        most = min(max(_MOST_PACKED * path.stat().st_size, MAX_BYTES), shutil.disk_usage(made).free)
        try:
            _extract(path, made / folder.name, _is_file_within(path), most, most)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, lzma.LZMAError) as error:
            raise ValueError(
                f"an archive must be a whole zip or tar ({error or type(error).__name__}). "
                f"Received: {str(path)!r}"
            ) from error

    if not folder.exists():
        _make_once(folder, extract)
    return folder


def is_archive(path: Path) -> bool:
    """Whether a file is called as archives are that can be unpacked."""
    return path.name.lower().endswith(_ENDINGS)


def _is_file_within(path: Path) -> "Callable[[_Member], bool]":
    """Return what tells files from folders, and raises for a name that leads out of the archive."""

    def is_file(member: _Member) -> bool:
        parts = member.name.replace("\\", "/").split("/")
        if ".." in parts or not parts[0] or re.match("[A-Za-z]:", parts[0]):
            raise ValueError(
                "an archive must have files that come to stand within its folder; this one may be meant "
                f"to write over others. Received: {member.name!r} in {str(path)!r}"
            )
        return not member.is_folder

    return is_file


def _extract(
    path: Path, folder: Path, wanted: "Callable[[_Member], bool]", most_each: int, most: int
) -> None:
    """Unpack what is wanted of an archive, or raise a `ValueError` if it is too much or no files."""
    total = 0
    members = _zip_members if zipfile.is_zipfile(path) else _tar_members
    for member in members(path):
        if not wanted(member):
            continue
        total += member.size
        if not member.is_file or member.size > most_each or total > most:
            raise ValueError(
                f"{str(path)!r} must hold plain files of at most {most_each:,} bytes, "
                f"{most:,} in all. Received: {member.name!r} of type {member.kind}, "
                f"{member.size:,} bytes, {total:,} in all"
            )
        member.extract(folder)


@dataclass(frozen=True)
class _Member:
    """What is in an archive under one name."""

    name: str
    size: int
    is_file: bool
    is_folder: bool
    kind: str
    extract: Callable[[Path], Any]  # into a folder


def _tar_members(path: Path) -> Iterator[_Member]:
    with tarfile.open(path) as tar:
        for member in tar:
            extract = partial(tar.extract, member, filter="data")
            kind = repr(member.type)
            yield _Member(member.name, member.size, member.isreg(), member.isdir(), kind, extract)


def _zip_members(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # A zip from Unix tells the kind of file as the file system does, one from elsewhere tells
            # nothing. No more is unpacked of a member than the size that it tells.
            kind = stat.S_IFMT(info.external_attr >> 16)
            is_file = kind in (0, stat.S_IFREG) and not info.is_dir()
            extract = partial(archive.extract, info)
            yield _Member(info.filename, info.file_size, is_file, info.is_dir(), oct(kind), extract)


def _images(archive: ImageArchive, folder: Path, place: str, advice: str) -> list[str]:
    root = folder / archive.root
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*"))
    names = sorted(name for name in paths if archive.image.fullmatch(name))
    if len(names) != archive.num_images:
        raise ValueError(
            f"{place} must hold {archive.num_images:,} images; {advice}. Received: {len(names):,} images"
        )
    return names
