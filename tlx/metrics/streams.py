"""Rows in chunks, from memory or from a file larger than memory."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import psutil

from ..errors import BadDataError
from ..features.sharded import LayerArray, Sharded
from .arrays import float_type, floating

PIECE_BYTES = 16 << 20  # of one read
Parts = Generator[tuple[int, np.ndarray], None, None]


def blocks(
    x: LayerArray, rows: int, *, read: bool | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Iterate over x as (number of the first row, rows).

    x     (n, d) of numbers of any type, an array or a map
    rows  in each but the last
    read  fetch the file behind a map by plain reads into two buffers, by a thread of its own,
          instead of touching the
          map. None: where x takes more than half the memory that is available. Of a file that fits,
          the map is the faster way (its pages stay, and may be there already); one that does not
          fit would turn out everything else and be faulted in page by page
    →     (m, d) float32 or float64, C order, valid until the next is requested
    """
    if read is None:
        read = x.nbytes > psutil.virtual_memory().available // 2
    out = None
    with contextlib.closing(_parts(x, rows, read)) as parts:
        for start, part in parts:
            plain = (
                part.flags.c_contiguous
                and part.flags.aligned
                and part.dtype == float_type(part.dtype)
            )
            if out is None and not plain:
                out = np.empty(part.shape, float_type(part.dtype))
            yield start, part if out is None else _copied(part, out[: len(part)])


def _parts(x: LayerArray, rows: int, read: bool) -> Parts:
    if isinstance(x, Sharded):
        return _from_shards(x, rows, read)
    source = backing_file(x) if read else None
    return _touched(x, rows) if source is None else _read(*source, x, rows)


def _from_shards(x: Sharded, rows: int, read: bool) -> Parts:
    """Iterate over rows as they are cut here, not as the shards are."""
    for start in range(0, len(x), rows):
        stop = min(len(x), start + rows)
        yield start, x.read(start, stop) if read else x[start:stop]


def _copied(part: np.ndarray, out: np.ndarray) -> np.ndarray:
    if floating(part, out) is part:  # of the right type, in another order
        np.copyto(out, part)
    return out


def _touched(x: np.ndarray, rows: int) -> Parts:
    for start in range(0, len(x), rows):
        yield start, x[start : start + rows]


def backing_file(x: np.ndarray) -> tuple[Path, int] | None:
    """Return the file that x is a map of, and the offset of x in it.

    None unless the two are surely the same bytes.

    They are not where pages may have been written to privately, where rows are not side by side,
    and where the path has come to name another file since: the system says which file is mapped.
    """
    root = x
    while isinstance(root.base, np.ndarray):
        root = root.base
    if (
        not isinstance(root, np.memmap)
        or root.filename is None
        or root.mode == "c"
        or not x.flags.c_contiguous
    ):
        return None
    begin = x.ctypes.data
    with contextlib.suppress(OSError, ValueError):
        status = os.stat(root.filename)
        for line in Path("/proc/self/maps").read_text().splitlines():
            low, high = (int(end, 16) for end in line.split(maxsplit=1)[0].split("-"))
            if low <= begin < high:
                _, _, shift, device, number = line.split(maxsplit=5)[:5]
                major, minor = (int(part, 16) for part in device.split(":"))
                if begin + x.nbytes <= high and (os.makedev(major, minor), int(number)) == (
                    status.st_dev,
                    status.st_ino,
                ):
                    return Path(root.filename), begin - low + int(shift, 16)
    return None


def _read(path: Path, offset: int, x: np.ndarray, rows: int) -> Parts:
    """Iterate as `_touched` does, by reads into two buffers.

    One is filled while the other is in use.
    """
    width = x.nbytes // len(x)
    free, full = (
        queue.Queue[np.ndarray | None](),
        queue.Queue[BaseException | tuple[int, np.ndarray]](),
    )
    for _ in range(2):
        free.put(np.empty(min(rows, len(x)) * width, np.uint8))

    def fill() -> None:
        try:
            with open(path, "rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), offset, x.nbytes, os.POSIX_FADV_SEQUENTIAL)
                for start in range(0, len(x), rows):
                    if (buffer := free.get()) is None:
                        return
                    part = buffer[: min(rows, len(x) - start) * width]
                    _fill(file.fileno(), part, offset + start * width, path)
                    full.put((start, part))
        except BaseException as error:
            full.put(error)

    reader = threading.Thread(target=fill, name="tlx-read", daemon=True)
    reader.start()
    try:
        for _ in range(0, len(x), rows):
            if isinstance(item := full.get(), BaseException):
                raise item
            start, part = item
            yield start, part.view(x.dtype).reshape(-1, x.shape[1])
            free.put(part.base)
    finally:
        free.put(None)
        reader.join()


def _fill(file: int, part: np.ndarray, offset: int, path: Path) -> None:
    done = 0
    while done < len(part):
        got = os.preadv(file, [part[done : done + PIECE_BYTES].data], offset + done)
        if got == 0:
            raise BadDataError(
                "file-short",
                f"ends at byte {offset + done:,}",
                where=path,
                expected=f"{len(part) - done:,} bytes more; it was cut while it was read",
            )
        done += got
