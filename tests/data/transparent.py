"""Black figures on transparent ground, as each kind of file that can have one."""

import io
import struct
import zlib

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")
features = pytest.importorskip("PIL.features")

SIDE = 24


def figure(kind, number):
    """Return where a circle or a square is, of 24 by 24: a size and a place for each number."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    y, x, radius = y - number % 3, x - number // 3 % 2, 5 + number // 6
    return np.maximum(abs(x), abs(y)) <= radius if kind == "square" else x**2 + y**2 <= radius**2


def png(mask, bits, colours, key):
    """Return a PNG in which one value is transparent: 0 is the figure, `key` the ground."""
    values = np.where(mask, 0, key)
    if colours == 3:
        values = np.repeat(values[..., None], 3, axis=2)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in values]
    else:
        flat = [np.unpackbits(row.astype("uint8").reshape(-1, 1), axis=1)[:, -bits:] for row in values]
        rows = [np.packbits(row).tobytes() for row in flat]
    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, 2 if colours == 3 else 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))

    def chunk(name, content):
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    chunks = (
        (b"IHDR", header),
        (b"tRNS", struct.pack(">H", key) * colours),
        (b"IDAT", data),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def saved(image, format, **options):
    """Return the file of an image."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def with_alpha(mask, mode="RGBA"):
    """Return an image of black, which is opaque where the figure is."""
    image = Image.new("L", (SIDE, SIDE)).convert(mode)
    image.putalpha(Image.fromarray(mask.astype("uint8") * 255))
    return image


def palette(mask):
    """Return an image whose colours are both black."""
    image = Image.fromarray(mask.astype("uint8")).convert("P")
    image.putpalette([0, 0, 0] * 2)
    return image


def associated(mask):
    """Return a TIFF whose colours are multiplied by their opacity, which Pillow doesn't write."""
    content = saved(with_alpha(mask), "TIFF")
    entry = struct.pack("<HHI", 338, 3, 1)  # ExtraSamples, one short number
    assert content.count(entry + b"\2\0") == 1
    return content.replace(entry + b"\2\0", entry + b"\1\0")


KINDS = {
    "RGBA.png": lambda mask: saved(with_alpha(mask), "PNG"),
    "LA.png": lambda mask: saved(with_alpha(mask, "LA"), "PNG"),
    "palette.png": lambda mask: saved(palette(mask), "PNG", transparency=b"\0\xff"),
    "palette_index.png": lambda mask: saved(palette(mask), "PNG", transparency=0),
    **{
        f"{'RGB' if colours == 3 else 'L'}{bits}.png": lambda mask, bits=bits, colours=colours: png(
            mask,
            bits,
            colours,
            0xFF00 if bits == 16 else 2**bits - 1,  # bytes that differ
        )
        for bits, colours in ((1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3))
    },
    "palette.gif": lambda mask: saved(palette(mask), "GIF", transparency=0),
    "RGBA.webp": lambda mask: saved(with_alpha(mask), "WEBP", lossless=True),
    "RGBA.tif": lambda mask: saved(with_alpha(mask), "TIFF"),
    "LA.tif": lambda mask: saved(with_alpha(mask, "LA"), "TIFF"),
    "associated.tif": associated,
    "RGBA.tga": lambda mask: saved(with_alpha(mask), "TGA"),
    "RGBA.jp2": lambda mask: saved(with_alpha(mask), "JPEG2000"),
}
if features.check("avif"):
    KINDS["RGBA.avif"] = lambda mask: saved(with_alpha(mask), "AVIF", quality=100, subsampling="4:4:4")
