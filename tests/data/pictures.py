"""Pictures made for the tests, byte by byte where no library would write them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

RNG = np.random.default_rng(7)
NOISE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(64)[None] * 4, np.arange(48)[:, None] * 5, 60), -1).astype(np.uint8)


def saved(picture, kind, **settings):
    """The bytes of a picture in a format."""
    buffer = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, *, rows=None, bits=8, colour=0, before=b""):
    """A PNG written by hand; all zero unless its filtered rows are given."""
    channels = {0: 1, 2: 3}[colour]
    rows = bytes((1 + width * channels * bits // 8) * height) if rows is None else rows
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
            + before + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


def tiff(values, *, bits, sample_format, photometric=1, order="<"):
    """An uncompressed one-channel TIFF written by hand."""
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = [(256, 3, values.shape[1]), (257, 3, values.shape[0]), (258, 3, bits), (259, 3, 1), (262, 3, photometric),
            (273, 4, 8), (277, 3, 1), (278, 3, values.shape[0]), (279, 4, len(data)), (339, 3, sample_format)]
    entries = b"".join(struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(order + ("H2x" if kind == 3 else "I"), v)
                       for tag, kind, v in tags)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return start + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
