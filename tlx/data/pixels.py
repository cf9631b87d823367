"""Images of a study as uint8 rows, decoded once into an array on disk, or streamed if too many.

A row is one crop of one image: row = image · crops + crop. Of each image the least is kept that its
crops can be cut from (see sizing.layout), a seventh of the ten crops at the usual ratio; the rows
are the same to the bit either way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .. import files
from ..errors import TlxError, raise_all
from . import shards
from .image_views import ImageSource, Originals, Precomputed
from .images import Progress, default_workers, digests, each, inspect, quiet
from .safe_image import DEFAULT, ImageLimits
from .sizing import CropLayout, Sizing, layout, precomputed_layout

FORMAT = 1  # to be raised when the same files and sizing give other pixels
# to be raised when arrays that are stored must be made again, though most hold what they would hold
# then
STORED = 2
BUDGET_BYTES = 8 << 30


def pixels(  # noqa: PLR0913 — settings of reading, all by name
    paths: Sequence[Path],
    sizing: Sizing,
    cache: Path,
    *,
    precomputed: Callable[[int], Sequence[Path]] | None = None,
    budget_bytes: int = BUDGET_BYTES,
    workers: int | None = None,
    progress: Progress | None = None,
    verify: bool = True,
    limits: ImageLimits = DEFAULT,
) -> Pixels:
    """Return the rows of these images, in their order.

    All errors of any file are raised at once, before the first row.

    precomputed   image number → its ten crops made elsewhere, used instead of the image where
                  sizing.crops
    budget_bytes  above it nothing is stored: rows are decoded on demand, by `workers`
                  threads
    progress      called with (done, of how many) while images are read for their digests and while
                  they are decoded
    verify        checksums of a stored array, or one check of every image that will be streamed; a
                  worker of a process
                  that has just verified may do without
    """
    source = _source(paths, sizing, cache, precomputed, limits, progress)
    count, plan = len(source.digests), _plan(source, cache)

    def make(images: range) -> Iterator[shards.ShardedImages]:
        advance = (lambda done, of: progress(images.start + done, count)) if progress else None
        return each(source.views, images, workers, advance)

    rows: PixelRows
    if plan.image_bytes * count <= budget_bytes:
        rows = Stored(source.layout, sizing, shards.kept(plan, make, verify=verify))
    else:
        rows = Streamed(source, sizing, workers or default_workers())
        rows.notes = _looked_over(make(range(count))) if verify else {}
    duplicates = count - len(set(source.digests))
    return Pixels(
        source,
        np.arange(count),
        rows,
        rows.notes | ({"duplicates": duplicates} if duplicates else {}),
    )


def _plan(source: ImageSource, cache: Path) -> shards.ShardPlan:
    count = len(source.digests)
    name = files.digest({"stored": STORED, "images": _identity(source, range(count))})
    return shards.ShardPlan(Path(cache) / "pixels" / name, count, source.layout.views)


def is_stored(
    paths: Sequence[Path],
    sizing: Sizing,
    cache: Path,
    *,
    precomputed: Callable[[int], Sequence[Path]] | None = None,
    limits: ImageLimits = DEFAULT,
) -> bool:
    """Return whether the rows of these images, in their order, are on disk already."""
    return _plan(_source(paths, sizing, cache, precomputed, limits, None), cache).folder.is_dir()


def stored_bytes(
    count: int, sizing: Sizing, *, precomputed: bool = False, budget_bytes: int = BUDGET_BYTES
) -> int:
    """Return the bytes that `pixels` keeps on disk of so many images: none above the budget."""
    kept = precomputed_layout(sizing) if precomputed and sizing.crops else layout(sizing)
    size = count * math.prod(kept.views)
    return size if size <= budget_bytes else 0


def _source(
    paths: Sequence[Path],
    sizing: Sizing,
    cache: Path,
    precomputed: Callable[[int], Sequence[Path]] | None,
    limits: ImageLimits,
    progress: Progress | None,
) -> ImageSource:
    def known(wanted: Sequence[Path]) -> tuple[str, ...]:
        try:
            return tuple(digests(wanted, cache, progress, limits=limits))
        except TlxError:
            raise_all(
                inspect(wanted, progress, limits=limits)[0]
            )  # the unreadable ones are not all that is wrong
            raise

    if precomputed and sizing.crops:
        return Precomputed.of(paths, precomputed, sizing, limits, known)
    return Originals(tuple(map(Path, paths)), known(paths), sizing, limits)


def _identity(source: ImageSource, images: Sequence[int] | np.ndarray) -> str:
    return files.digest(
        {"format": FORMAT, **source.identity(), "images": [source.digests[i] for i in images]}
    )


def _looked_over(results: Iterator[shards.ShardedImages]) -> dict[str, int]:
    problems, notes = [], dict[str, int]()
    for item in results:
        if isinstance(item, TlxError):
            problems.append(item)
        else:
            notes.update({note: notes.get(note, 0) + 1 for note in item[1]})
    raise_all(problems)
    return notes


class Pixels:
    """Images as uint8 rows: n of c crops each.

    digest  SHA-256 of what the images hold, their order and the sizing: no path, no folder
    notes   what was done beyond plain decoding → number of images, for all that was decoded
            together
    """

    def __init__(
        self, source: ImageSource, images: np.ndarray, rows: PixelRows, notes: dict[str, int]
    ):
        self._source, self._images, self._rows, self.notes = source, images, rows, notes
        self.crops = len(source.layout.rows)
        self.digest = _identity(source, images)

    def __len__(self) -> int:
        return len(self._images)

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Return (n, c, size, size, channels)."""
        size = self._source.sizing.size
        return len(self), self.crops, size, size, self._source.sizing.channels

    @property
    def streamed(self) -> bool:
        """Return whether rows are decoded on demand."""
        return isinstance(self._rows, Streamed)

    def take(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Return uint8 (r, size, size, channels), a copy, of flat rows (r,) int.

        Flat row = image · crops + crop.
        """
        images, crops = self._split(rows)
        return self._rows.take(images, crops)

    def prefetch(self, rows: np.ndarray | Sequence[int]) -> None:
        """Start decoding what the next `take` of these rows needs.

        Nothing to do for a stored array.
        """
        if isinstance(self._rows, Streamed):
            self._rows.begin(self._split(rows)[0])

    def subset(self, images: np.ndarray | Sequence[int]) -> Pixels:
        """Return a subset of the images, in the order requested, without a copy.

        Its digest is its own.
        """
        images = np.asarray(images, dtype=np.int64).reshape(-1)
        _check_numbers(images, len(self), "image")
        return Pixels(self._source, self._images[images], self._rows, self.notes)

    def part(self, images: range) -> PixelPart:
        """Return the rows of some images alone, by their numbers here: small to send elsewhere."""
        numbers = self._images[images.start : images.stop]
        return PixelPart(*self._rows.part(numbers), images.start, self.crops)

    def _split(self, rows: np.ndarray | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        rows = np.asarray(rows, dtype=np.int64).reshape(-1)
        _check_numbers(rows, len(self) * self.crops, "row")
        images, crops = np.divmod(rows, self.crops)
        return self._images[images], crops


class PixelPart:
    """Rows of some images, by their numbers among the rows of all.

    images  (m,) int64 — their numbers in `rows`; first: number of the first among all images
    """

    def __init__(self, rows: PixelRows, images: np.ndarray, first: int, crops: int):
        self._rows, self._images, self._first, self.crops = rows, images, first, crops

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return uint8 (r, size, size, channels), a copy, of flat rows (r,) int."""
        return self._rows.take(*self._split(rows))

    def prefetch(self, rows: np.ndarray) -> None:
        """Start decoding what the next `take` of these rows needs."""
        if isinstance(self._rows, Streamed):
            self._rows.begin(self._split(rows)[0])

    def _split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, crops = np.divmod(
            np.asarray(rows, dtype=np.int64) - self._first * self.crops, self.crops
        )
        _check_numbers(images, len(self._images), "image")
        return self._images[images], crops


def _check_numbers(numbers: np.ndarray, end: int, what: str) -> None:
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < end):
        raise IndexError(f"{what} {numbers.min()}…{numbers.max()} of {end}")


# ---------------------------------------------------------------- stored or streamed


class PixelRows(Protocol):
    """Crops of images, by two arrays of numbers (r,) int64."""

    notes: dict[str, int]

    def take(self, images: np.ndarray, crops: np.ndarray) -> np.ndarray:
        """Return uint8 (r, size, size, channels), a copy."""

    def part(self, images: np.ndarray) -> tuple[PixelRows, np.ndarray]:
        """Return rows that have these images (m,) int64 at least, and their numbers there."""


class Stored:
    """Rows cut from the array on disk."""

    def __init__(self, layout: CropLayout, sizing: Sizing, array: shards.Shards):
        self._layout, self._sizing, self._found, self.notes = layout, sizing, array, array.notes

    def take(self, images: np.ndarray, crops: np.ndarray) -> np.ndarray:
        """Return uint8 (r, size, size, channels), a copy."""
        size = self._sizing.size
        out = np.empty((len(images), size, size, self._sizing.channels), np.uint8)
        shard, place = np.divmod(images, self._found.per_shard)
        for k in range(len(images)):
            self._layout.cut(self._found.arrays[shard[k]][place[k]], crops[k], out[k])
        return out

    def part(self, images: np.ndarray) -> tuple[PixelRows, np.ndarray]:
        """Return these rows: they go elsewhere as the names of their files."""
        return self, images


class Streamed:
    """Rows decoded on demand."""

    AHEAD = 512  # images decoded or being decoded that nobody has taken yet

    def __init__(self, source: ImageSource, sizing: Sizing, workers: int):
        self._source, self._sizing, self.notes = source, sizing, dict[str, int]()
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers)
        self._begun: dict[int, Future[Any]] = {}

    def __reduce__(self) -> tuple[object, ...]:  # threads do not go to another process
        return Streamed, (self._source, self._sizing, self._workers)

    def part(self, images: np.ndarray) -> tuple[PixelRows, np.ndarray]:
        """Return rows of these images alone, which are renumbered."""
        source = self._source.subset(images.tolist())
        return Streamed(source, self._sizing, self._workers), np.arange(len(images))

    def begin(self, images: np.ndarray) -> None:
        """Decode these images in the background."""
        for image in map(int, np.unique(images)):
            if image not in self._begun and len(self._begun) < self.AHEAD:
                self._begun[image] = self._pool.submit(self._source.views, image)

    def take(self, images: np.ndarray, crops: np.ndarray) -> np.ndarray:
        """Return uint8 (r, size, size, channels), decoded now or ahead."""
        size = self._sizing.size
        out = np.empty((len(images), size, size, self._sizing.channels), np.uint8)
        order = np.unique(images)
        with quiet():
            for start in range(0, len(order), self.AHEAD):
                batch = order[start : start + self.AHEAD]
                self._begun |= {
                    int(i): self._pool.submit(self._source.views, int(i))
                    for i in batch
                    if int(i) not in self._begun
                }
                for image in batch:
                    views, _ = self._begun.pop(int(image)).result()
                    for k in np.flatnonzero(images == image):
                        self._source.layout.cut(views, crops[k], out[k])
        return out
