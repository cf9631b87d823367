"""IDX files, the format of MNIST, read by strict rules: magic, dimensions, exact size."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadDataError, TlxError, counted, raise_all, refusal

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
PREFIXES = {"train": "train", "t10k": "test"}  # in the files' names → our split
LIMIT = 1 << 30  # bytes of one file, unpacked
UNSIGNED_BYTE = 0x08
HEADER_BYTES = 4 + 4 * 255  # of as many dimensions as the format has room for
PART_BYTES = 1 << 20


def is_idx_folder(folder: Path) -> bool:
    """Return whether `folder` holds IDX images by their MNIST names."""
    return any(_path(folder, prefix, IMAGES) for prefix in PREFIXES)


def paths(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return split → (images file, labels file) of a folder in MNIST's layout.

    Raises BadDataError naming files that are missing.
    """
    pairs: dict[str, tuple[Path, Path]] = {}
    problems: list[TlxError] = []
    for prefix, split in PREFIXES.items():
        images, labels = _path(folder, prefix, IMAGES), _path(folder, prefix, LABELS)
        if images and labels:
            pairs[split] = (images, labels)
        elif images or labels:
            name = f"{prefix}-{LABELS if images else IMAGES}"
            problems.append(
                BadDataError("idx-missing", f"no {name}[.gz] to go with its partner", where=folder)
            )
    raise_all(problems)
    return pairs


def read_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read (n, h, w) uint8 images and (n,) uint8 labels of two IDX files.

    Raises BadDataError unless both are intact and agree.
    """
    x, y = read(images, 3), read(labels, 1)
    if len(x) != len(y):
        raise BadDataError(
            "idx-count",
            f"{counted(len(y), 'label')}",
            where=labels,
            expected=f"{len(x)}, as in {images.name}",
        )
    return x, y


def read(path: Path, dimensions: int) -> np.ndarray:
    """Read the array of one IDX file, gzipped or not, of so many dimensions.

    Raises BadDataError otherwise.
    """
    data = _unpacked(Path(path))
    header, magic = 4 + 4 * dimensions, bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if len(data) >= 4 and data[:4] != magic:
        is_idx = data[:2] == b"\0\0" and data[3] in (
            1,
            2,
            3,
            4,
        )  # what else begins otherwise is not shown
        raise BadDataError(
            "idx-magic",
            f"magic number {data[:4].hex()}" if is_idx else "not an IDX file",
            where=path,
            expected=f"{magic.hex()} (unsigned bytes, {dimensions}-d)",
        )
    if len(data) < header:
        raise BadDataError(
            "idx-size",
            f"{len(data)} bytes",
            where=path,
            expected=f"at least the {header} of the header",
        )
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    if math.prod(shape) != len(data) - header or 0 in shape:
        raise BadDataError(
            "idx-size",
            f"{len(data) - header} bytes after a header that says {' x '.join(map(str, shape))}",
            where=path,
            expected=f"{math.prod(shape)} bytes",
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _path(folder: Path, prefix: str, suffix: str) -> Path | None:
    for name in (
        f"{prefix}-{suffix}",
        f"{prefix}-{suffix}.gz",
        f"{prefix}-{suffix.replace('-idx', '.idx')}",
    ):
        if (folder / name).is_file():
            return folder / name
    return None


def _unpacked(path: Path) -> bytes | bytearray:
    """Return the bytes of a file, out of gzip if it is gzip by its content.

    Raises BadDataError above the limit.
    """
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            return _whole(file, path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadDataError(
            "idx-gzip", f"damaged gzip ({error})", where=path, remedy="fetch the file again"
        ) from error
    except OSError as error:
        raise refusal(error, path) or error from error


def _whole(file: Any, path: Path) -> bytes | bytearray:
    """Read an IDX file up to the size in its header and one byte more.

    A file that claims to be larger than the limit, or does not end, is not unpacked.
    """
    data = bytearray(file.read(HEADER_BYTES))
    if len(data) < HEADER_BYTES or data[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        return data  # all of it, or refused for its magic number
    size = 4 + 4 * data[3] + math.prod(struct.unpack_from(f">{data[3]}I", data, 4))
    if size > LIMIT:
        raise BadDataError(
            "idx-size",
            f"a header that says {size:,} bytes",
            where=path,
            expected=f"at most {LIMIT:,}",
        )
    while len(data) <= size and (part := file.read(min(size + 1 - len(data), PART_BYTES))):
        data += part
    if len(data) > size:
        raise BadDataError(
            "idx-size",
            f"more than the {size:,} bytes that its header says",
            where=path,
            expected=f"{size:,} bytes",
            remedy="fetch the file again",
        )
    return data
