"""Array of images on disk: uint8 shards in a sealed folder, written once, read through a map.

A folder in progress is `.tmp-<name>` next to its final place; each shard in it is complete or
absent, so after an interruption the next process continues. One process writes at a time: the
others wait for its lock and use what it made.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import files, locks
from ..errors import IntegrityError, ResourceError, TlxError, raise_all

SHARD_BYTES = 256 << 20
SPARE_BYTES = 16 << 20  # to be left free on the disk

ShardedImages = (
    tuple[np.ndarray, tuple[str, ...]] | TlxError
)  # the views of an image and its notes, or why there are none
Make = Callable[[range], Iterable[ShardedImages]]


@dataclass(frozen=True)
class ShardPlan:
    """Location and content of the array: `count` images of `views`.

    views (v, height, width, channels).
    """

    folder: Path
    count: int
    views: tuple[int, ...]

    @property
    def image_bytes(self) -> int:
        """Return the bytes of one image's views."""
        return int(np.prod(self.views, dtype=np.int64))

    @property
    def per_shard(self) -> int:
        """Return the number of images in a shard."""
        return max(1, SHARD_BYTES // self.image_bytes)

    def shards(self, folder: Path) -> Iterator[tuple[Path, range]]:
        """Return file and image numbers of every shard."""
        for number, start in enumerate(range(0, self.count, self.per_shard)):
            yield (
                folder / f"{number:05d}.npy",
                range(start, min(start + self.per_shard, self.count)),
            )


@dataclass(frozen=True)
class Shards:
    """Array of images, open for reading."""

    arrays: tuple[np.ndarray, ...]  # each (≤ per_shard, v, height, width, channels)
    paths: tuple[Path, ...]
    per_shard: int
    notes: dict[str, int]

    # to another process passes the array's path, not its content
    def __reduce__(self) -> tuple[object, ...]:
        return _mapped, (self.paths, self.per_shard, self.notes)


def _mapped(paths: tuple[Path, ...], per_shard: int, notes: dict[str, int]) -> Shards:
    # a plain view of the map slices faster than the map
    return Shards(
        tuple(np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)) for path in paths),
        paths,
        per_shard,
        notes,
    )


def kept(plan: ShardPlan, make: Make, *, verify: bool = True) -> Shards:
    """Return the array of `plan`, made now if it is absent.

    A damaged one is made again, with a note.

    Raises the problems of all images together, ResourceError when the disk cannot hold it.
    """
    with contextlib.suppress(IntegrityError, FileNotFoundError):
        return _open(plan, verify)
    with locks.lock(plan.folder.with_name(plan.folder.name + ".lock"), wait=True):
        rebuilt = {}
        try:
            return _open(plan, verify)
        except FileNotFoundError:
            pass
        except IntegrityError:
            shutil.rmtree(plan.folder)
            rebuilt = {"rebuilt": 1}
        _build(plan, make)
        array = _open(plan, verify=False)
        return Shards(array.arrays, array.paths, array.per_shard, array.notes | rebuilt)


def _open(plan: ShardPlan, verify: bool) -> Shards:
    """Open the array.

    Raises FileNotFoundError where there is none, IntegrityError where it is not what it was.
    """
    if not plan.folder.is_dir():
        raise FileNotFoundError(plan.folder)
    rows = files.manifest(plan.folder)
    if verify:
        files.verify(plan.folder)
    notes = Counter[str]()
    for path, _ in plan.shards(plan.folder):
        if path.name not in rows or path.stat().st_size != rows[path.name]["bytes"]:
            raise IntegrityError("file-missing", "a shard is missing or cut", where=path)
        notes.update(files.read_json(path.with_suffix(".json")))
    mapped = _mapped(
        tuple(path for path, _ in plan.shards(plan.folder)), plan.per_shard, dict(notes)
    )
    for path, array, (_, numbers) in zip(
        mapped.paths, mapped.arrays, plan.shards(plan.folder), strict=True
    ):
        if array.shape != (len(numbers), *plan.views) or array.dtype != np.uint8:
            raise IntegrityError(
                "array-shape", f"shape {array.shape}", where=path, expected=str(plan.views)
            )
    return mapped


def _build(plan: ShardPlan, make: Make) -> None:
    part = files.make_folder(plan.folder.with_name(files.TEMPORARY + plan.folder.name))
    files.remove_temporary(part)
    _drop_others(plan, part)
    _check_space(plan, part)
    problems = []
    for path, numbers in plan.shards(part):
        if not path.exists():  # one that does is whole, or it would not have this name
            problems += _write_shard(path, (len(numbers), *plan.views), make(numbers))
    if problems:  # once they are mended it is another array, under another name
        shutil.rmtree(part)
        raise_all(problems)
    files.seal(part)
    with files.storage_errors(plan.folder):
        part.rename(plan.folder)
        files.sync_folder(plan.folder.parent)


def _drop_others(plan: ShardPlan, part: Path) -> None:
    """Remove what is no shard of this plan: an earlier version may have cut the array elsewhere."""
    shapes = {path: (len(numbers), *plan.views) for path, numbers in plan.shards(part)}
    for path in part.glob("*.npy"):
        if np.load(path, mmap_mode="r", allow_pickle=False).shape != shapes.get(path):
            path.unlink()


def _check_space(plan: ShardPlan, part: Path) -> None:
    present = sum(path.stat().st_size for path in part.glob("*.npy"))
    need = plan.count * plan.image_bytes - present
    free = files.free_bytes(part)
    if need + SPARE_BYTES > free:
        raise ResourceError(
            "disk-space",
            f"the decoded images need {need:,} bytes and {SPARE_BYTES:,} are to be left, "
            f"{free:,} are free",
            where=plan.folder.parent,
            remedy="free some space, choose another cache folder, or lower the "
            "budget so that they are streamed",
        )


class _Flawed(Exception):  # noqa: N818 — a signal, never seen outside
    """Signal that ends the writing of a shard with unusable images."""


def _write_shard(
    path: Path, shape: tuple[int, ...], results: Iterable[ShardedImages]
) -> list[TlxError]:
    """Write the shard and, before it, its notes; or write nothing and return the errors."""
    problems: list[TlxError] = []
    notes: Counter[str] = Counter()
    with contextlib.suppress(_Flawed), files.atomic_write(path) as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        for item in results:
            if isinstance(item, TlxError):
                problems.append(item)
                continue
            file.write(np.ascontiguousarray(item[0]).data)
            notes.update(item[1])
        if problems:
            raise _Flawed
        files.write_json(path.with_suffix(".json"), dict(notes))
    return problems
