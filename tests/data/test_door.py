"""Every way a file can be no usable image: each made here, each named, none decoded first."""

from __future__ import annotations

import os
import socket
import stat
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from data.pictures import NOISE, chunk, png, saved, tiff
from PIL import Image

from tlx.data import images, safe_image
from tlx.data.safe_image import ImageLimits
from tlx.errors import TlxError


def half(data):
    return data[: len(data) // 2]


JPEG, PNG = saved(NOISE, "JPEG"), saved(NOISE, "PNG")
AT = PNG.index(b"IDAT")
BAD_CRC = PNG[: AT + 20] + bytes([PNG[AT + 20] ^ 1]) + PNG[AT + 21 :]
PROGRESSIVE = saved(NOISE, "JPEG", progressive=True)
PRECISION_12 = JPEG.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c")
TEXT_BOMB = chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(20 << 20)))
CATALOGUE = {  # what: (bytes, name, code, exit code, words in the message)
    "zero bytes": (b"", "a.jpg", "image-empty", 3, "empty file"),
    "text": (b"just words, no picture", "a.jpg", "not-an-image", 3, "not an image but text"),
    "html": (b"<!DOCTYPE html><html>", "a.jpg", "not-an-image", 3, "not an image but a web page"),
    "svg": (
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "a.jpg",
        "not-an-image",
        3,
        "XML or SVG text",
    ),
    "lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "a.jpg",
        "not-an-image",
        3,
        "git lfs pull",
    ),
    "half a jpeg": (JPEG[: len(JPEG) // 2], "a.jpg", "image-truncated", 3, "truncated JPEG"),
    "jpeg less two bytes": (JPEG[:-2], "a.jpg", "image-truncated", 3, "truncated JPEG"),
    "jpeg magic alone": (JPEG[:4], "a.jpg", "image-damaged", 3, "JPEG"),
    "half a progressive jpeg": (
        PROGRESSIVE[: len(PROGRESSIVE) // 2],
        "a.jpg",
        "image-truncated",
        3,
        "truncated JPEG",
    ),
    "half a png": (PNG[: len(PNG) // 2], "a.png", "image-truncated", 3, "truncated PNG"),
    "png without its end": (PNG[:-12], "a.png", "image-truncated", 3, "no end"),
    "png with a bad checksum": (BAD_CRC, "a.png", "image-damaged", 3, "damaged PNG"),
    "half a gif": (
        half(saved(NOISE, "GIF")),
        "a.gif",
        "image-truncated",
        3,
        "truncated",
    ),
    "half a webp": (
        half(saved(NOISE, "WEBP")),
        "a.webp",
        "image-truncated",
        3,
        "truncated",
    ),
    "half a bmp": (
        half(saved(NOISE, "BMP")),
        "a.bmp",
        "image-truncated",
        3,
        "truncated",
    ),
    "tiff less two bytes": (saved(NOISE, "TIFF")[:-2], "a.tif", "image-truncated", 3, "truncated"),
    "float range": (
        tiff(np.full((9, 9), 3.5e4, np.float32), bits=32, sample_format=3),
        "a.tif",
        "image-range",
        3,
        "35000",
    ),
    "float not a number": (
        tiff(np.full((9, 9), np.nan, np.float32), bits=32, sample_format=3),
        "a.tif",
        "image-range",
        3,
        "nan",
    ),
    "whole number range": (
        tiff(np.full((9, 9), -3, np.int32), bits=32, sample_format=2),
        "a.tif",
        "image-range",
        3,
        "-3",
    ),
    "bomb, warning zone": (
        png(13_000, 13_000, rows=b""),
        "a.png",
        "image-large",
        3,
        "13000 × 13000",
    ),
    "bomb": (png(20_000, 20_000, rows=b""), "a.png", "image-large", 3, "20000 × 20000"),
    "long": (png(30_000, 300, rows=b""), "a.png", "image-large", 3, "30000 × 300"),
    "gif bomb": (
        b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + saved(NOISE, "GIF")[10:],
        "a.gif",
        "image-large",
        3,
        "60000",
    ),
    "one pixel": (png(1, 1), "a.png", "image-small", 3, "1 × 1"),
    "a line": (png(1, 30_000), "a.png", "image-small", 3, "1 × 30000"),
    "a ribbon": (png(4, 900), "a.png", "image-aspect", 3, "4 × 900"),
    "text bomb": (png(9, 9, before=TEXT_BOMB), "a.png", "image-metadata", 3, "metadata too large"),
    "zero width": (png(0, 5), "a.png", "image-small", 3, "0 × 5"),
    "eps": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "a.jpg",
        "image-format",
        4,
        "EPS",
    ),
    "eps with a preview": (b"\xc5\xd0\xd3\xc6" + bytes(40), "a.jpg", "image-format", 4, "EPS"),
    "pdf": (b"%PDF-1.7\n", "a.jpg", "image-format", 4, "PDF"),
    "psd": (b"8BPS\0\1" + bytes(40), "a.jpg", "image-format", 4, "PSD"),
    "pickle": (b"\x80\x04\x95" + bytes(40), "a.jpg", "image-format", 4, "pickle"),
    "12-bit jpeg": (PRECISION_12, "a.jpg", "image-kind", 3, "12-bit"),
    "jpeg without its tables": (
        JPEG.replace(b"\xff\xdb", b"\xff\xef"),
        "a.jpg",
        "image-damaged",
        3,
        "broken data",
    ),
    "progressive jpeg without its tables": (
        PROGRESSIVE.replace(b"\xff\xc4", b"\xff\xef"),
        "a.jpg",
        "image-damaged",
        3,
        "broken data",
    ),
    "jpeg without a scan": (
        JPEG.replace(b"\xff\xda", b"\xff\xd9"),
        "a.jpg",
        "image-damaged",
        3,
        "damaged JPEG",
    ),
    "avif": (b"\0\0\0\x20ftypavif" + bytes(40), "a.avif", "image-format", 3, "AVIF"),
    "heic": (b"\0\0\0\x20ftypheic" + bytes(40), "a.jpg", "image-format", 3, "HEIC"),
    "lab tiff": (saved(Image.new("LAB", (9, 9)), "TIFF"), "a.tif", "image-mode", 3, "LAB"),
    "too many bytes": (
        b"\xff\xd8\xff" + bytes(safe_image.MAX_BYTES),
        "a.jpg",
        "image-bytes",
        3,
        "67,108,8",
    ),
}


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A canary named gs, first in PATH: the file it leaves when somebody starts it."""
    sung = tmp_path / "sung"
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("gs", "gswin32c", "ghostscript"):
        (folder / name).write_text(f"#!/bin/sh\ntouch {sung}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return sung


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("what", CATALOGUE)
def test_catalogue(what, put, ghostscript):
    data, name, code, exit_code, words = CATALOGUE[what]
    path = put(data, name)
    with pytest.raises(TlxError) as caught:
        images.read(path)
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
    assert str(path) == caught.value.where
    assert words in str(caught.value)
    assert not ghostscript.exists()
    assert images.inspect([path])[0][0].code == code


def test_every_broken_file_in_one_pass(put):
    good = put(PNG, "good.png")
    paths = [good] + [
        put(row[0], f"{i}-{row[1]}")
        for i, row in enumerate(CATALOGUE.values())
        if len(row[0]) < 1 << 20
    ]
    seen = []
    problems, counted = images.inspect([*paths, good], lambda done, of: seen.append((done, of)))
    assert [p.where for p in problems] == [str(path) for path in paths[1:]]  # all of them, in order
    assert counted == {"duplicates": 1}
    assert seen[-1] == (len(paths) + 1, len(paths) + 1)


def test_raised_limits_let_it_through(put):
    path = put(png(30_000, 310, rows=None))
    assert images.read(path, channels=1, limits=ImageLimits(side=40_000)).shape == (310, 30_000, 1)


def test_a_bomb_costs_no_memory(put):
    path = put(png(20_000, 20_000, rows=b""))
    tracemalloc.start()
    assert images.inspect([path])[0][0].code == "image-large"
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_pipes_sockets_devices_and_folders(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(
            os.path.relpath(tmp_path / "socket.jpg")
        )  # the full path would be too long for some systems
        for path, code, exit_code in (
            (tmp_path / "pipe.jpg", "not-a-file", 4),
            ("/dev/zero", "not-a-file", 4),
            (tmp_path / "socket.jpg", "not-a-file", 4),
            (tmp_path, "not-a-file", 3),
            (tmp_path / "none.jpg", "missing", 3),
            ("a\0b.jpg", "image-unopened", 3),
        ):
            (problem,), _ = images.inspect([path])
            assert (problem.code, problem.exit_code) == (code, exit_code), path


def test_a_link_to_a_picture_is_a_picture(put, tmp_path):
    (tmp_path / "link.png").symlink_to(put(PNG))
    assert np.array_equal(images.read(tmp_path / "link.png"), NOISE)


def test_unreadable_says_mode_and_owner(put, monkeypatch):
    path = put(PNG)
    path.chmod(stat.S_IWUSR)

    def refused(*_, **__):  # root may read everything, so the kernel's answer is played
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(safe_image.os, "open", refused)
    with pytest.raises(TlxError, match="mode 0200, owner") as caught:
        safe_image.read_bytes(path, ImageLimits())
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("change", [b"", PNG + b"more"])
def test_a_file_that_changes_while_it_is_read(put, monkeypatch, change):
    path, fstat = put(PNG), os.fstat

    def late(fd):
        found = fstat(fd)
        path.write_bytes(change)
        return found

    monkeypatch.setattr(safe_image.os, "fstat", late)
    with pytest.raises(TlxError) as caught:
        safe_image.read_bytes(path, ImageLimits())
    assert (caught.value.code, caught.value.exit_code) == ("file-changed", 9)


def test_half_a_picture_never_passes_for_a_whole(put, monkeypatch):
    monkeypatch.setattr(
        "PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True
    )  # as some packages do on import
    with pytest.raises(TlxError, match="truncated"):
        images.read(put(JPEG[: len(JPEG) // 2], "a.jpg"))
