"""Safe reader of image files: their bytes, checked before anything decodes them.

Only regular files are opened, and only six formats, identified by the first bytes, never by the
name. Formats that Pillow would hand to another program or that are documents (EPS, PDF, PSD…) are
refused as unsafe. The header is read and held against the limits before a pixel is decoded.
"""

from __future__ import annotations

import errno
import io
import os
import pwd
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import COMPRESSION_INFO, ImageFileDirectory_v2, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import (
    BadDataError,
    IntegrityError,
    MissingError,
    ResourceError,
    TlxError,
    UnsafeError,
)

MAX_BYTES = 64 << 20
MAX_PIXELS = 50_000_000
MAX_SIDE = 20_000
MIN_SIDE = 2
MAX_ASPECT = 100  # long side over short side


@dataclass(frozen=True)
class ImageLimits:
    """Limits of an image.

    strict_frames refuses an image with more than one frame.
    """

    bytes: int = MAX_BYTES
    pixels: int = MAX_PIXELS
    side: int = MAX_SIDE
    min_side: int = MIN_SIDE
    aspect: float = MAX_ASPECT
    strict_frames: bool = False


DEFAULT = ImageLimits()


@dataclass(frozen=True)
class Format:
    """Accepted image format: its first bytes, Pillow's reader and the usual ends of a file name."""

    starts: tuple[bytes, ...]
    reader: Callable[[io.BytesIO], ImageFile.ImageFile]
    extensions: tuple[str, ...]
    inner: bytes = b""  # bytes 8 to 12, where the first ones do not decide


# Pillow's classes and not Image.open: no other plugin can come into play, no process-wide pixel
# limit, and a
# JPEG with pictures appended (MPO, as phones write) is read as the JPEG that it begins with.
FORMATS = {
    "JPEG": Format((b"\xff\xd8\xff",), JpegImageFile, (".jpg", ".jpeg", ".jpe", ".jfif")),
    "PNG": Format((b"\x89PNG\r\n\x1a\n",), PngImageFile, (".png", ".apng")),
    "BMP": Format((b"BM",), BmpImageFile, (".bmp", ".dib")),
    "GIF": Format((b"GIF87a", b"GIF89a"), GifImageFile, (".gif",)),
    "WEBP": Format((b"RIFF",), WebPImageFile, (".webp",), inner=b"WEBP"),
    "TIFF": Format((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile, (".tif", ".tiff")),
}
REFUSED = {  # documents and drawings: programs of a kind, or formats whose readers start programs
    "EPS": (b"%!", b"\xc5\xd0\xd3\xc6"),
    "PDF": (b"%PDF",),
    "PSD": (b"8BPS",),
    "WMF": (b"\xd7\xcd\xc6\x9a",),
    "OLE/FPX": (b"\xd0\xcf\x11\xe0",),
    "executable": (b"\x7fELF", b"MZ"),
    "ZIP": (b"PK\x03\x04",),
    "pickle": (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
}
UNREAD = {  # images, yet none of ours
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "ICO": (b"\0\0\1\0",),
    "NetPBM": (b"P1\n", b"P2\n", b"P3\n", b"P4\n", b"P5\n", b"P6\n"),
    "DDS": (b"DDS ",),
    "NumPy array": (b"\x93NUMPY",),
    "gzip": (b"\x1f\x8b",),
}
OTHER_KINDS = {  # no images: only for the words of an error
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n",),
    "an SQLite database": (b"SQLite format 3\0",),
    "a RAR archive": (b"Rar!",),
    "a 7-Zip archive": (b"7z\xbc\xaf\x27\x1c",),
    "an XZ archive": (b"\xfd7zXZ\0",),
    "a bzip2 archive": (b"BZh",),
    "a macOS resource fork": (b"\0\5\x16\7",),
    "audio or video": (b"ID3", b"OggS", b"RIFF", b"\x1a\x45\xdf\xa3"),
}
ALLOWED = ", ".join(FORMATS)


# ---------------------------------------------------------------- bytes


def read_bytes(path: Path, limits: ImageLimits) -> bytes:
    """Read the bytes of a regular file of acceptable size.

    Raises a TlxError that names the path.
    """
    try:  # non-blocking: a pipe that nobody writes to must not hold us
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise _unopened(Path(path), error) from error
    try:
        before = os.fstat(fd)
        _check_file(before, path, limits)
        with open(fd, "rb", closefd=False) as file:
            data = file.read(before.st_size + 1)  # one more: a file that grows is noticed
        after = os.fstat(fd)
    except OSError as error:
        raise ResourceError(
            "storage-failing", f"cannot be read: {error.strerror}", where=path
        ) from error
    finally:
        os.close(fd)
    if len(data) != before.st_size or after.st_mtime_ns != before.st_mtime_ns:
        raise changed(path)
    return data


def changed(path: Path) -> IntegrityError:
    """Return the error for a file that is no longer what it was."""
    return IntegrityError(
        "file-changed",
        "changed during the run",
        where=path,
        remedy="let nothing write to the images while they are used, and run again",
    )


def _check_file(status: os.stat_result, path: Path, limits: ImageLimits) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise BadDataError("not-a-file", "a folder", where=path, expected="an image file")
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeError(
            "not-a-file", "a pipe, socket or device", where=path, expected="a regular file"
        )
    if status.st_size == 0:
        raise BadDataError("image-empty", "empty file (0 bytes)", where=path)
    if status.st_size > limits.bytes:
        raise BadDataError(
            "image-bytes",
            f"{status.st_size:,} bytes",
            where=path,
            expected=f"at most {limits.bytes:,}",
        )


def _unopened(path: Path, error: Exception) -> TlxError:
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENOTDIR):
        return MissingError("image", path)
    if number in (errno.EACCES, errno.EPERM):
        return ResourceError(
            "permission", f"cannot be read by this user ({_owner(path)})", where=path
        )
    if number in (errno.ENXIO, errno.ENODEV):
        return UnsafeError(
            "not-a-file", "a pipe, socket or device", where=path, expected="a regular file"
        )
    return BadDataError("image-unopened", f"cannot be opened: {error}", where=path)


def _owner(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "its folder is closed"
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        name = str(status.st_uid)
    return f"mode {stat.S_IMODE(status.st_mode):04o}, owner {name}"


# ---------------------------------------------------------------- format and header


def format_of(data: bytes, path: Path) -> str:
    """Return the key in FORMATS of these bytes.

    Raises UnsafeError or BadDataError when they are something else.
    """
    for name, row in FORMATS.items():
        if data.startswith(row.starts) and data[8:12].startswith(row.inner):
            return name
    for name, starts in REFUSED.items():
        if data.startswith(starts):
            raise UnsafeError(
                "image-format", f"format {name} not allowed", where=path, expected=ALLOWED
            )
    name = _named_unread(data)
    if name:
        raise BadDataError(
            "image-format",
            f"format {name} is not read",
            where=path,
            expected=ALLOWED,
            remedy="convert it, to PNG for example",
        )
    if data.startswith(b"version https://git-lfs"):
        raise BadDataError(
            "not-an-image",
            "a Git LFS pointer, not the image",
            where=path,
            expected=ALLOWED,
            remedy="fetch the images with: git lfs pull",
        )
    raise BadDataError(
        "not-an-image", f"not an image but {_kind_of(data)}", where=path, expected=ALLOWED
    )


def _kind_of(data: bytes) -> str:
    """Describe what kind of file these bytes are, and nothing of their content."""
    for name, starts in OTHER_KINDS.items():
        if data.startswith(starts):
            return name
    head = data[:4096]
    if not head.strip(b"\0"):
        return "zero bytes, as an interrupted copy leaves"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, as a failed download leaves"
    if text.startswith((b"<?xml", b"<svg")):
        return "XML or SVG text"
    try:
        is_text = "\0" not in head.decode("utf-8")
    except UnicodeDecodeError as error:
        is_text = error.start >= len(head) - 3 and b"\0" not in head
    return "text" if is_text else "data of an unknown kind"


def _named_unread(data: bytes) -> str:
    if data[4:8] == b"ftyp":  # the ISO container: the brand says which of its children this is
        brand = data[8:12].decode("ascii", "replace").strip()
        return {"avif": "AVIF", "avis": "AVIF"}.get(brand, f"HEIC/MP4 (brand {brand})")
    return next((name for name, starts in UNREAD.items() if data.startswith(starts)), "")


def header(data: bytes, path: Path, limits: ImageLimits) -> ImageFile.ImageFile:
    """Open the image of these bytes without decoding it.

    Its container is complete, and it is within the limits.
    """
    name = format_of(data, path)
    if name in CONTAINERS:
        CONTAINERS[name](data, path, limits)
    try:
        image = FORMATS[name].reader(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bomb(str(error), path, limits) from error
    except Exception as error:  # Pillow's readers raise a dozen kinds
        raise (_other_kind(name, data, path) or damaged(name, error, path)) from error
    _check_size(*image.size, path, limits)
    return image


def _check_size(width: int, height: int, path: Path, limits: ImageLimits) -> None:
    long, short, size = max(width, height), min(width, height), f"{width} × {height} pixels"
    if short < limits.min_side:
        raise BadDataError(
            "image-small", size, where=path, expected=f"sides of at least {limits.min_side}"
        )
    if long > limits.side or width * height > limits.pixels:
        raise _bomb(size, path, limits)
    if long > limits.aspect * short:
        raise BadDataError(
            "image-aspect",
            size,
            where=path,
            expected=f"a long side of at most {limits.aspect} × the short",
        )


def _bomb(size: str, path: Path, limits: ImageLimits) -> BadDataError:
    return BadDataError(
        "image-large",
        size,
        where=path,
        remedy="scale it down, or raise the limit",
        expected=f"at most {limits.pixels:,} pixels and sides of at most {limits.side:,}",
    )


def _other_kind(name: str, data: bytes, path: Path) -> BadDataError | None:
    """Describe an intact TIFF of a kind that Pillow does not open.

    None if the file is not that.
    """
    if name != "TIFF":
        return None
    try:
        file = io.BytesIO(data)
        tags = ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        width, height, bands = tags[256], tags[257], tags.get(277, 1)
        bits, kinds = tags.get(258, (1,)), tags.get(339, (1,))
        ends = [at + size for at, size in zip(tags.get(273, ()), tags.get(279, ()), strict=True)]
        numbers = {
            1: "unsigned whole numbers",
            2: "signed whole numbers",
            3: "floating-point numbers",
        }[kinds[0]]
    except Exception:  # whatever a broken directory raises, the file is damaged then
        return None
    if max(ends, default=0) > len(data) or not (width and height and bands):
        return None
    plural = "s" if bands > 1 else ""
    compression = tags.get(259, 1)
    packed = "" if compression in COMPRESSION_INFO else f" in compression {compression}"
    return BadDataError(
        "image-kind",
        f"a TIFF of {bands} band{plural} of {'/'.join(map(str, dict.fromkeys(bits)))}-bit "
        f"{numbers}{packed}, a kind that is not read",
        where=path,
        expected="grey, RGB or CMYK of 8 or 16 bits, or grey of 32 bits",
        remedy="choose the bands that are meant and convert them, for example to an 8-bit RGB PNG",
    )


NOT_READ = (
    "unsupported",
    "not supported",
    "cannot handle",
    "not available",
)  # decoders' words for kinds, not damage


def damaged(name: str, error: Exception, path: Path) -> TlxError:
    """Return what a failing reader or decoder means, in words."""
    reason = str(error) or type(error).__name__
    if isinstance(error, MemoryError):
        return ResourceError("memory", "not enough memory to decode it", where=path)
    if "truncated" in reason.lower():
        return BadDataError("image-truncated", f"truncated {name} ({reason})", where=path)
    if "MAX_TEXT_CHUNK" in reason or "MAX_TEXT_MEMORY" in reason or "too large" in reason.lower():
        return BadDataError("image-metadata", f"metadata too large ({reason})", where=path)
    if any(words in reason.lower() for words in NOT_READ):
        return BadDataError(
            "image-kind",
            f"a {name} of a kind that is not read ({reason})",
            where=path,
            remedy="convert it, for example to an 8-bit RGB PNG",
        )
    return BadDataError("image-damaged", f"damaged {name} ({reason})", where=path)


# ---------------------------------------------------------------- what the decoders do not check


def _check_png(data: bytes, path: Path, limits: ImageLimits) -> None:
    """Check that every chunk is complete with its CRC-32, up to IEND.

    Pillow skips the CRC of pixels and does without an end.
    """
    at, kind = 8, b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise BadDataError(
                "image-truncated",
                f"truncated PNG: {len(data):,} bytes and no end chunk",
                where=path,
            )
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + 12 + length
        if end > len(data):
            raise BadDataError(
                "image-truncated",
                f"truncated PNG: {len(data):,} of at least {end:,} bytes",
                where=path,
            )
        if zlib.crc32(memoryview(data)[at + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end], "big"
        ):
            raise BadDataError(
                "image-damaged", f"damaged PNG (checksum of {kind!r} at byte {at})", where=path
            )
        at = end
    if data[12:16] == b"IHDR":  # here, because Pillow takes one without width for no PNG at all
        width, height = struct.unpack(">II", data[16:24])
        _check_size(width, height, path, limits)


def _check_webp(data: bytes, path: Path, limits: ImageLimits) -> None:
    size = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < size:
        raise BadDataError(
            "image-truncated", f"truncated WEBP: {len(data):,} of {size:,} bytes", where=path
        )


CONTAINERS: dict[str, Callable[[bytes, Path, ImageLimits], None]] = {
    "PNG": _check_png,
    "WEBP": _check_webp,
}
