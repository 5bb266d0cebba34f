#!/usr/bin/env bash
# A PNG of grey values may name one of them as transparent (tRNS). One would expect that `convert("RGBA")`
# makes its pixels transparent whatever the number of bits, as it does for 1 and for 8. For 2 and 4 bits
# Pillow scales the pixels to 0..255 and leaves the transparent value as it stands in the file, so that no
# pixel matches: all stay opaque. For colours of 16 bits it keeps the upper byte of pixels and compares it
# with both bytes of the value, and nothing is transparent either.
# It matters for figures and scans, which are often saved with 4 or 16 shades: laid on a ground by their
# alpha, they show what was meant to be hidden. PNG specification, third edition, 11.3.1.1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0

cat > "$folder/look.py" <<'PYTHON'
import io
import struct
import zlib

import PIL
from PIL import Image

print("pillow", PIL.__version__)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def alphas(bits, kind, width, row, transparent):
    """Return the alpha of each pixel of a PNG of one row."""
    header = struct.pack(">IIBBBBB", width, 1, bits, kind, 0, 0, 0)
    parts = (b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row))
    file = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in (*parts, (b"IEND", b"")))
    with Image.open(io.BytesIO(file)) as image:
        return list(image.convert("RGBA").getchannel("A").tobytes())


GREY, COLOUR = 0, 2
one = struct.pack(">H", 1)  # the transparent grey
found = {  # of each file the second pixel is transparent
    "1 bit": alphas(1, GREY, 2, b"\x40", one),
    "2 bits": alphas(2, GREY, 4, b"\x1b", one),
    "4 bits": alphas(4, GREY, 4, b"\x01\x23", one),
    "8 bits": alphas(8, GREY, 4, b"\0\1\2\3", one),
    "16 bits, colour": alphas(16, COLOUR, 2, struct.pack(">6H", 0, 0, 0, 511, 0, 0), struct.pack(">3H", 511, 0, 0)),
}
print(found)
assert found == {
    "1 bit": [255, 0],
    "2 bits": [255, 255, 255, 255],
    "4 bits": [255, 255, 255, 255],
    "8 bits": [255, 0, 255, 255],
    "16 bits, colour": [255, 255],
}
PYTHON
"$folder/venv/bin/python" "$folder/look.py"
