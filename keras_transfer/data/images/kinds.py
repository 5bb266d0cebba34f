"""What kind of image a file is: by its name where that says it, otherwise by its first bytes.

A file whose name ends as that of an image is taken for one, and decoding it tells whether it is. Of all
others some bytes are read: so a photo without an ending counts, and a list of labels doesn't.
"""

import contextlib
import functools
import importlib
import importlib.util
import io
import os
import re
import stat
import struct
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

# By Pillow's names, with its modules: what it reads without running another program, as it does for EPS,
# and without taking for images what are none.
FORMATS = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "GIF": "GifImagePlugin",
    "BMP": "BmpImagePlugin",
    "DIB": "BmpImagePlugin",
    "WEBP": "WebPImagePlugin",
    "TIFF": "TiffImagePlugin",
    "AVIF": "AvifImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
    "PPM": "PpmImagePlugin",
    "TGA": "TgaImagePlugin",
}


def _endings(*names: str) -> frozenset[str]:
    return frozenset(f".{name}" for line in names for name in line.split())


_HEIF, _AVIF = _endings("heic heif hif"), _endings("avif avifs")
SUFFIXES = (
    _HEIF
    | _AVIF
    | _endings(
        "jpg jpeg jpe jfif png apng gif bmp dib webp tif tiff",
        "jp2 j2k jpx jpf j2c jpc ppm pgm pbm pnm tga",
    )
)
# Images, too, but raw ones of cameras (of which Pillow would find a small preview), drawings, layers,
# icons and what no decoder here reads.
_NOT_READ = _endings(
    "dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 rwl raf pef ptx srw 3fr fff iiq cap eip erf kdc k25",
    "dcr dcs mrw mef mos x3f gpr bay pxn raw",
    "svg svgz eps ai psd psb xcf ico cur icns jxl jxr wdp hdp exr hdr dcm fits dds pcx sgi qoi wmf emf",
    "heics heifs avci avcs pam pfm xbm xpm",
)

NO_IMAGE = "not an image"
NOT_READ = "an image of a type that is not read; convert it to JPEG or PNG"
NEEDS_HEIF = "HEIC, which needs pillow-heif: pip install 'keras-transfer[heic]'"
NEEDS_AVIF = "AVIF, which this Pillow was built without: pip install --upgrade pillow"
NEEDS = frozenset({NEEDS_HEIF, NEEDS_AVIF})

_READ = 256  # bytes
_STARTS = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000
    b"\xff\x4f\xff\x51",
)
_WEBP = re.compile(rb"RIFF....WEBP", re.DOTALL)
# The size of the file, and the size of one of the headers that there are: text may begin with BM, too.
_BMP = re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL)
_PNM = re.compile(rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+(#[^\n]*\n\s*)*\d+\s")
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})


def why_not(path: str | os.PathLike[str]) -> str | None:
    """Return why a file is left out, or None of one that is to be decoded.

    Args:
        path: a file, and no pipe, which would wait.

    Returns:
        `NO_IMAGE`, `NOT_READ`, or what is to be installed (`NEEDS`).

    Raises:
        OSError: the file's first bytes are needed, and can't be read.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _HEIF:
        return _without_heif()
    if suffix in _AVIF:
        return _without_avif()
    if suffix in SUFFIXES:
        return None
    if suffix in _NOT_READ:
        return NOT_READ
    return _of_start(_start(path))


def identified(file: IO[bytes], path: str) -> "Image.Image":
    """Open an image with Pillow, or with pillow-heif where only that can read it.

    That is what `Image.open` does, but for its limit of pixels, which holds for the whole process.

    Args:
        file: an image of one of the `FORMATS`, or HEIC.
        path: what it is called.

    Returns:
        The image, of which nothing is decoded yet.

    Raises:
        OSError: it is none of these, or needs a package that is not installed.
    """
    from PIL import Image, UnidentifiedImageError

    file.seek(0)
    start = file.read(_READ)
    for name in _formats():
        factory, accepts = Image.OPEN[name]
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
            accepted = accepts is None or accepts(start[:16])
            if accepted and not isinstance(accepted, str):  # which says why it can't
                file.seek(0)
                return factory(file, path)
    reason = _of_start(start)
    if reason in NEEDS:
        raise OSError(reason)
    brands = _brands(start)
    if brands & _AVIF_BRANDS or not brands & _HEIF_BRANDS:
        raise UnidentifiedImageError
    import pillow_heif

    if isinstance(file, io.BytesIO):
        file.seek(0)
        return pillow_heif.HeifImageFile(file)
    return pillow_heif.HeifImageFile(path)  # it isn't registered, which would be for the whole process


@functools.cache
def _formats() -> tuple[str, ...]:
    """Return those of the formats for which this Pillow was built; others would make it load all."""
    from PIL import features

    there = []
    for name, module in FORMATS.items():
        if importlib.util.find_spec(f"PIL.{module}") is not None:
            importlib.import_module(f"PIL.{module}")
            there.append(name)
    # The module of AVIF may be there without the library that decodes.
    return tuple(name for name in there if name != "AVIF" or features.check("avif"))


def _of_start(start: bytes) -> str | None:
    """Return why a file is left out by its first bytes, or None."""
    if start.startswith(_STARTS) or any(each.match(start) for each in (_WEBP, _BMP, _PNM)):
        return None
    brands = _brands(start)
    if brands & _AVIF_BRANDS:  # first, as both may be called by the brand of all still images
        return _without_avif()
    return _without_heif() if brands & _HEIF_BRANDS else NO_IMAGE


def _start(path: str | os.PathLike[str]) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):
        return b""
    with Path(path).open("rb") as file:
        return file.read(_READ)


def _brands(start: bytes) -> set[bytes]:
    """Return all that an ISO media file says that it is."""
    if start[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(start[:4]), len(start))
    return {start[8:12], *(start[k : k + 4] for k in range(16, end, 4))}


def _without_heif() -> str | None:
    return None if importlib.util.find_spec("pillow_heif") is not None else NEEDS_HEIF


def _without_avif() -> str | None:
    return None if "AVIF" in _formats() else NEEDS_AVIF
