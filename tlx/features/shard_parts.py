"""Shards in progress: made in any order, by any process that sees the folder, without a lock.

A shard is written under a name of its own and renamed once it is durable, so that what has the name
of a shard is whole. The command that wants the dump lists what was made in the manifest of the part
from time to time; what is not listed yet is read again by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, cast

import numpy as np

from .. import files
from ..data.sources import read_npy
from ..errors import IntegrityError, ResourceError, TlxError
from .cuts import RowCuts
from .dump import ExtractionConfig
from .parts import GrowingFile, check_finite
from .sharded import ManifestRow
from .shelf import SHARD, file_name

PLAN = "plan.json"
SAVE_S = 30.0  # between two manifests of a part
STALE_S = 3600.0  # a file that was not written to for so long is nobody's
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


ManifestRows = dict[str, dict[str, object]]


class ShardOrigin(TypedDict, total=False):
    """Where and how a shard was made: seconds, what was used (name → sum), device, versions."""

    seconds: float
    used: dict[str, float]
    device: str
    threads: int
    torch: str


@dataclass(frozen=True)
class ShardOrder:
    """What shards of a pass are made by, beside network and pixels; plain and picklable.

    folder  of the part
    """

    folder: Path
    layers: tuple[str, ...]
    cuts: RowCuts
    how: ExtractionConfig

    def names(self, number: int) -> dict[str, str]:
        """Return layer → name of the file of a shard."""
        shard = number if self.cuts.count > 1 else None
        return {layer: file_name(layer, shard) for layer in self.layers}


@dataclass(frozen=True)
class ShardDone:
    """A whole shard: its number, file → manifest row, and how it was made."""

    number: int
    rows: Mapping[str, ManifestRow]
    origin: ShardOrigin = field(default_factory=ShardOrigin)


class ShardWriter:
    """Files of one shard that grow batch after batch, and get their names together at the end."""

    def __init__(self, order: ShardOrder, number: int, shapes: Mapping[str, Sequence[int]]):
        """Begin the files.

        Raises ResourceError where the folder of the part is gone.
        """
        self.order, self.number, self.range = order, number, order.cuts.range(number)
        self._dtype, self._done = np.dtype(order.how.dtype), 0
        self._files: dict[str, GrowingFile] = {}
        token = secrets.token_hex(8)
        try:
            for place, (layer, shape) in enumerate(shapes.items()):
                path = order.folder / f"{files.TEMPORARY}{token}.{place}"
                self._files[layer] = GrowingFile.opened(
                    path, (len(self.range), *shape), self._dtype, os.O_EXCL
                )
                self._files[layer].cut(0)
                self._files[layer].sum.update(self._files[layer].head)
        except BaseException as error:
            self.close()
            if isinstance(error, FileNotFoundError):
                raise _folder_gone(order.folder) from error
            raise

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add a batch, layer → (b, …).

        Raises BadDataError if it holds NaN or infinity.
        """
        for layer, array in arrays.items():
            check_finite(layer, array, self.range.start + self._done)
        for layer, growing in self._files.items():
            growing.add(arrays[layer], self._dtype)
        self._done += len(next(iter(arrays.values())))

    def mark(self) -> None:
        """Do nothing: a shard is made in one go."""

    def finish(self) -> dict[str, ManifestRow]:
        """Make the files durable and give them their names; return file → manifest row.

        Where another has made the same shard meanwhile, that one stays and is listed.
        """
        if self._done != len(self.range):
            raise ValueError(f"{self._done} of {len(self.range)} rows")
        rows: dict[str, ManifestRow] = {}
        names = self.order.names(self.number)
        with files.storage_errors(self.order.folder):
            for growing in self._files.values():
                os.fsync(growing.fd)
            for layer, growing in self._files.items():
                path = self.order.folder / names[layer]
                digest = growing.sum.hexdigest()
                if not _take_name(growing.path, path):
                    digest = files.sha256(path)
                size = path.stat().st_size
                rows[path.name] = {"bytes": size, "sha256": digest, "layer": layer}
            files.sync_folder(self.order.folder)
        return rows

    def close(self) -> None:
        """Close the files; remove those that have no name."""
        for growing in self._files.values():
            os.close(growing.fd)
            growing.path.unlink(missing_ok=True)
        self._files = {}

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _take_name(temporary: Path, path: Path) -> bool:
    """Give a file its name, unless the name is taken: return whether it was free."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except FileNotFoundError as error:
        raise _folder_gone(path.parent) from error
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if path.exists():
            return False
        os.replace(temporary, path)
    return True


def _folder_gone(folder: Path) -> ResourceError:
    return ResourceError(
        "part-gone",
        "the folder of the shards is gone: another command has finished or removed this dump",
        where=folder,
        remedy="run the same command again",
    )


class ShardPart:
    """Shards of a pass in their folder: which are whole, and which are still to be made.

    start  identity of the pass; its digest names the folder
    about  what the manifest says of the pass, beside its seconds
    """

    def __init__(self, order: ShardOrder, start: Mapping[str, object], about: Mapping[str, object]):
        self.order = order
        self._about = dict(about)
        files.make_folder(order.folder)
        self._remove_stale()
        plan = {
            "start": dict(start),
            "about": self._about,
            "layers": list(order.layers),
            "total": order.cuts.total,
            "rows": order.cuts.rows,
        }
        files.write_json(order.folder / PLAN, plan)
        self.shards = _listed(order, _has_size)
        self._saved_at = time.monotonic()

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not whole yet.

        One that is whole and not listed is read, and listed from then on.
        """
        missing = []
        for number in range(self.order.cuts.count):
            if number in self.shards:
                continue
            done = _adopted(self.order, number)
            if done is None:
                missing.append(number)
            else:
                self.shards[number] = done
        return missing

    def add(self, done: ShardDone) -> None:
        """Take a shard that was made; from time to time it is listed durably."""
        self.shards[done.number] = done
        if time.monotonic() - self._saved_at > SAVE_S:
            self.save()

    def save(self) -> None:
        """List what is whole in the manifest of the part."""
        files.write_manifest(self.order.folder, _rows(self.order, self.shards))
        self._saved_at = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds that all shards took, on whatever machines."""
        return sum(done.origin.get("seconds", 0.0) for done in self.shards.values())

    def manifest(self) -> ManifestRows:
        """Return file → manifest row of the whole layers, with the pass in that of the first."""
        return _published(self.order, self.shards, self._about)

    def _remove_stale(self) -> None:
        for path in self.order.folder.glob(f"{files.TEMPORARY}*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()


def whole_shards(folder: Path) -> ManifestRows | None:
    """Return file → manifest row of a part whose shards are all listed as whole; else None.

    Some may have been moved in already.
    """
    try:
        plan = files.read_json(folder / PLAN)
    except (OSError, TlxError):
        return None
    cuts = RowCuts(plan["total"], plan["rows"])
    order = ShardOrder(folder, tuple(plan["layers"]), cuts, ExtractionConfig())
    shards = _listed(order, lambda path, row: True)
    if len(shards) < cuts.count:
        return None
    return _published(order, shards, plan["about"])


def _listed(
    order: ShardOrder, is_whole: Callable[[Path, ManifestRow], bool]
) -> dict[int, ShardDone]:
    """Return the shards that the manifest of a part lists, and whose files are all whole."""
    try:
        rows = files.manifest(order.folder)
    except IntegrityError:
        return {}
    shards = {}
    for number in range(order.cuts.count):
        own = {name: rows[name] for name in order.names(number).values() if name in rows}
        if len(own) == len(order.layers) and all(
            is_whole(order.folder / name, row) for name, row in own.items()
        ):
            origin = next(iter(own.values())).get("made", {})
            shards[number] = ShardDone(number, own, cast("ShardOrigin", origin))
    return shards


def _has_size(path: Path, row: ManifestRow) -> bool:
    return path.is_file() and path.stat().st_size == row["bytes"]


def _adopted(order: ShardOrder, number: int) -> ShardDone | None:
    """Return a shard that is whole and not listed; None where a file of it is absent."""
    rows: dict[str, ManifestRow] = {}
    for layer, name in order.names(number).items():
        path = order.folder / name
        if not path.is_file():
            return None
        try:
            is_right = len(read_npy(path)) == len(order.cuts.range(number))
        except TlxError:
            is_right = False
        if not is_right:
            path.unlink()
            return None
        size, digest = path.stat().st_size, files.sha256(path)
        rows[name] = {"bytes": size, "sha256": digest, "layer": layer}
    return ShardDone(number, rows)


def _rows(order: ShardOrder, shards: Mapping[int, ShardDone]) -> ManifestRows:
    """Return the manifest rows of shards; how one was made is in the row of its first layer."""
    rows: ManifestRows = {}
    for number, done in sorted(shards.items()):
        first = order.names(number)[order.layers[0]]
        for layer, name in order.names(number).items():
            row = {key: done.rows[name][key] for key in ("bytes", "sha256")}
            rows[name] = {**row, "layer": layer}
            if order.cuts.count > 1:
                rows[name][SHARD] = number
        rows[first]["made"] = dict(done.origin)
    return rows


def _published(
    order: ShardOrder, shards: Mapping[int, ShardDone], about: Mapping[str, object]
) -> ManifestRows:
    rows = _rows(order, shards)
    for row in rows.values():
        row.pop("made", None)
    origin = {**about, **_summed([done.origin for done in shards.values()])}
    for name in order.names(0).values():
        rows[name]["made"] = origin
    return rows


def _summed(origins: Sequence[ShardOrigin]) -> dict[str, object]:
    """Return what a pass took in all; what one shard does not tell, nobody knows of the pass."""
    known = set.intersection(*(set(origin.get("used", {})) for origin in origins))
    used = {name: round(sum(o["used"][name] for o in origins), 6) for name in sorted(known)}
    devices = sorted({origin["device"] for origin in origins if "device" in origin})
    return {
        "seconds": round(sum(origin.get("seconds", 0.0) for origin in origins), 3),
        "used": used,
        **({"device": ", ".join(devices)} if devices else {}),
    }
