"""Images, one or many: read, inspected all in one pass, identified by the digest of their bytes.

`decode` defines what a file becomes, `safe_image` what may be opened at all.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from .. import files, locks
from ..errors import TlxError, raise_all
from . import safe_image
from .decode import array, decode
from .safe_image import DEFAULT, ImageLimits

Progress = Callable[[int, int], None]  # (done, of how many)
T = TypeVar("T")
R = TypeVar("R")
BLOCK = 64  # items under way at a time: bounds the memory
DIGESTS = "digests.txt"
SETTLED_NS = 2_000_000_000  # a file younger than this may still change without its time changing


def read(path: Path, channels: int = 3, limits: ImageLimits = DEFAULT) -> np.ndarray:
    """Read the image as (h, w, channels) uint8, channels 3 or 1.

    Raises a TlxError that names the file.
    """
    with quiet():
        return array(decode(path, limits).image, channels)


# ---------------------------------------------------------------- many images


def default_workers() -> int:
    """Return the default number of decoding threads.

    Pillow frees the interpreter while it scales, so a few are worth it.
    """
    return min(4, len(os.sched_getaffinity(0)))


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Pillow's warnings on the terminal inside the block.

    What matters is an error or a note. Enter it in one thread only.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def each(
    call: Callable[[T], R],
    items: Sequence[T],
    workers: int | None = None,
    progress: Progress | None = None,
) -> Iterator[R | TlxError]:
    """Yield call(item) for every item, in order, from a few threads.

    A TlxError that it raises is its value.
    """

    def attempt(item: T) -> R | TlxError:
        try:
            return call(item)
        except TlxError as error:
            return error

    with quiet(), ThreadPoolExecutor(workers or default_workers()) as pool:
        for start in range(0, len(items), BLOCK):
            yield from pool.map(attempt, items[start : start + BLOCK])
            if progress:
                progress(min(start + BLOCK, len(items)), len(items))


def inspect(
    paths: Sequence[Path],
    progress: Progress | None = None,
    *,
    workers: int | None = None,
    limits: ImageLimits = DEFAULT,
) -> tuple[list[TlxError], dict[str, int]]:
    """Decode every image once: return all errors in order, and note → number of images.

    See NOTES; "duplicates" too.
    """
    problems, notes, seen = [], Counter[str](), set()

    def facts(path: Path) -> tuple[tuple[str, ...], str]:
        decoded = decode(path, limits)
        return decoded.notes, decoded.digest

    for result in each(facts, paths, workers, progress):
        if isinstance(result, TlxError):
            problems.append(result)
        else:
            notes.update(result[0])
            notes.update(["duplicates"] if result[1] in seen else [])
            seen.add(result[1])
    return problems, dict(notes)


# ---------------------------------------------------------------- digests, remembered


def digests(
    paths: Sequence[Path],
    cache: Path,
    progress: Progress | None = None,
    *,
    limits: ImageLimits = DEFAULT,
) -> list[str]:
    """Return the SHA-256 (hex) of every file's bytes, in order.

    All files that cannot be read are raised at once.

    Remembered in `cache` by absolute path, size, times and inode; a memory that is damaged is made
    anew.
    """
    memory = Path(cache) / DIGESTS
    known = _remembered(memory)
    places = [os.path.abspath(path) for path in paths]
    stamps = {place: _stamp(place) for place in places}
    unknown = [
        place
        for place, stamp in stamps.items()
        if not stamp or known.get(place, ("", ""))[1] != stamp
    ]
    computed = list(each(lambda place: _sha256(Path(place), limits), unknown, progress=progress))
    raise_all([f for f in computed if isinstance(f, TlxError)])
    fresh = {
        place: (str(digest), stamps[place]) for place, digest in zip(unknown, computed, strict=True)
    }
    _remember(memory, {p: row for p, row in fresh.items() if "\n" not in p and _settled(p, row[1])})
    known.update(fresh)
    return [known[place][0] for place in places]


def _sha256(path: Path, limits: ImageLimits) -> str:
    return hashlib.sha256(safe_image.read_bytes(path, limits)).hexdigest()


def _stamp(place: str) -> str:
    """Return a value that changes when a file does; "" when there is none."""
    try:
        status = os.stat(place)
    except (OSError, ValueError):
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"


def _settled(place: str, stamp: str) -> bool:
    """Return whether a file's times reveal a later change.

    It must be old enough, and not just have changed.
    """
    return _stamp(place) == stamp and time.time_ns() - int(stamp.split(":")[2]) > SETTLED_NS


def _remembered(memory: Path) -> dict[str, tuple[str, str]]:
    """Return absolute path → (digest, stamp).

    Empty when there is no cache or its checksum is wrong.
    """
    try:
        head, _, body = memory.read_bytes().partition(b"\n")
    except OSError:
        return {}
    if head.decode("ascii", "replace") != hashlib.sha256(body).hexdigest():
        return {}
    rows = (line.split(" ", 2) for line in os.fsdecode(body).split("\n") if line)
    return {place: (digest, stamp) for digest, stamp, place in rows}


def _remember(memory: Path, fresh: dict[str, tuple[str, str]]) -> None:
    """Add rows to the cache; other processes may be adding theirs."""
    if not fresh:
        return
    with locks.lock(memory.with_suffix(".lock"), wait=True):
        rows = _remembered(memory) | fresh
        body = os.fsencode(
            "".join(
                f"{digest} {stamp} {place}\n" for place, (digest, stamp) in sorted(rows.items())
            )
        )
        files.write_bytes(memory, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
