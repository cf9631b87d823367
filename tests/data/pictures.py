"""Pictures made for the tests, byte by byte where no library would write them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

RNG = np.random.default_rng(7)
NOISE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
SMOOTH = np.stack(
    np.broadcast_arrays(np.arange(64)[None] * 4, np.arange(48)[:, None] * 5, 60), -1
).astype(np.uint8)


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
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
        + before
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def tiff(values, *, bits, sample_format, photometric=1, order="<"):
    """An uncompressed one-channel TIFF written by hand."""
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = [
        (256, 3, values.shape[1]),
        (257, 3, values.shape[0]),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 3, values.shape[0]),
        (279, 4, len(data)),
        (339, 3, sample_format),
    ]
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1)
        + struct.pack(order + ("H2x" if kind == 3 else "I"), v)
        for tag, kind, v in tags
    )
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return start + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def bands_tiff(values, *, photometric=1, extra=None):
    """An uncompressed little-endian TIFF of (h, w, bands) of any number type; extra: its
    ExtraSamples, or none.
    """
    height, width, bands = values.shape
    bits, kind = 8 * values.itemsize, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.tobytes()
    tags = [
        (256, [width]),
        (257, [height]),
        (258, [bits] * bands),
        (259, [1]),
        (262, [photometric]),
        (273, None),
        (277, [bands]),
        (278, [height]),
        (279, [len(data)]),
        (284, [1]),
    ]
    tags += ([(338, extra)] if extra else []) + [(339, [kind] * bands)]
    end = 8 + 2 + 12 * len(tags) + 4
    long = [2 * len(v) for _, v in tags if v and len(v) > 2]
    at_data, entries, further = end + sum(long), b"", b""
    for tag, given in tags:
        values_of = [at_data] if given is None else given
        if len(values_of) <= 2 and max(values_of) < 1 << 16:
            entries += struct.pack("<HHI", tag, 3, len(values_of)) + struct.pack(
                f"<{len(values_of)}H", *values_of
            ).ljust(4, b"\0")
        elif len(values_of) == 1:
            entries += struct.pack("<HHII", tag, 4, 1, values_of[0])
        else:
            entries += struct.pack("<HHII", tag, 3, len(values_of), end + len(further))
            further += struct.pack(f"<{len(values_of)}H", *values_of)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + further + data
