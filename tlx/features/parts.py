"""Layers of a dump in progress: one growing .npy file each, and a journal of what is complete.

Batches are appended to every file; from time to time the files are made durable and then a mark in
the journal says how many rows they hold and the SHA-256 of each file up to there. A cut-off pass is
continued behind the last mark whose checksums are right, so at most the work since then is done
twice.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from ..errors import BadDataError, counted
from .shelf import file_name

JOURNAL = "journal"
MARK_S, MARK_BYTES = (
    1.0,
    64 << 20,
)  # a mark is set after so many seconds or bytes, always between two batches
READ_BYTES = 1 << 20


def whole(folder: Path) -> dict[str, Any] | None:
    """Return file → manifest row of a complete part; None for an incomplete one."""
    return next(
        (
            record["files"]
            for record in files.Journal.read(folder / JOURNAL)
            if record["t"] == "whole"
        ),
        None,
    )


@dataclass
class GrowingFile:
    """Growing .npy file whose header has its final number of rows."""

    path: Path
    head: bytes
    row_bytes: int
    fd: int
    sum: Any = field(default_factory=hashlib.sha256)

    @classmethod
    def opened(
        cls, path: Path, shape: tuple[int, ...], dtype: np.dtype, flags: int = 0
    ) -> GrowingFile:
        """Open or create the file of an array of this shape."""
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            head, {"descr": dtype.str, "fortran_order": False, "shape": shape}
        )
        fd = files.open_own(path, os.O_RDWR | os.O_CREAT | flags)
        row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        return cls(path, head.getvalue(), row_bytes, fd)

    def size(self, rows: int) -> int:
        """Return its bytes when it has so many rows."""
        return len(self.head) + rows * self.row_bytes

    def write(self, data: Any) -> None:
        """Append bytes; unbuffered, so that nothing is left to be written when it is closed."""
        view = memoryview(data)
        with files.storage_errors(self.path):
            while view:
                view = view[os.write(self.fd, view) :]

    def add(self, array: np.ndarray, dtype: np.dtype) -> None:
        """Append rows, and count them into the checksum."""
        data = np.ascontiguousarray(array, dtype=dtype).data.cast("B")
        self.write(data)
        self.sum.update(data)

    def cut(self, rows: int) -> None:
        """Truncate or extend the file to so many rows."""
        with files.storage_errors(self.path):
            if not rows:
                os.ftruncate(self.fd, 0)
                os.lseek(self.fd, 0, os.SEEK_SET)
                self.write(self.head)
            os.ftruncate(self.fd, self.size(rows))
            os.lseek(self.fd, 0, os.SEEK_END)


class DumpPart:
    """Layers in progress in a folder, which its caller has locked.

    start    identity of a pass; it comes first in the journal
    shapes   layer → shape of one row
    usage    what the process has used so far, name → sum: a part of it is what this takes
    """

    def __init__(
        self,
        folder: Path,
        start: Mapping[str, object],
        shapes: Mapping[str, Sequence[int]],
        dtype: str,
        rows: int,
        usage: Callable[[], Mapping[str, float]] = dict,
    ):
        self.folder, self.dtype, self.total = files.make_folder(folder), np.dtype(dtype), rows
        self.rows, self.seconds = 0, 0.0
        self.used: dict[
            str, float
        ] = {}  # by all calls so far; what one of them does not tell: none
        self._usage, self._used_before = usage, dict(usage())
        self.journal = files.Journal(folder / JOURNAL)
        if not self.journal.records:
            self.journal.append({"t": "start", **start})
        self._files: dict[str, GrowingFile] = {}
        try:
            for layer, shape in shapes.items():
                path = self.folder / file_name(layer)
                self._files[layer] = GrowingFile.opened(path, (rows, *shape), self.dtype)
            self._continue()
        except BaseException:
            self.close()
            raise
        self._marked, self._marked_at, self._since = (
            self.rows,
            time.monotonic(),
            time.perf_counter(),
        )

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add a batch, layer → (b, …).

        Raises BadDataError if it holds NaN or infinity.
        """
        for layer, array in arrays.items():
            check_finite(layer, array, self.rows)
        for layer, growing in self._files.items():
            growing.add(arrays[layer], self.dtype)
        self.rows += len(next(iter(arrays.values())))
        grown = (self.rows - self._marked) * sum(
            growing.row_bytes for growing in self._files.values()
        )
        if time.monotonic() - self._marked_at >= MARK_S or grown >= MARK_BYTES:
            self.mark()

    def mark(self) -> None:
        """Make the rows so far durable, and record them in the journal."""
        if self.rows == self._marked:
            return
        for growing in self._files.values():
            with files.storage_errors(growing.path):
                os.fsync(growing.fd)
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        self._add_usage()
        self.journal.append(
            {
                "t": "mark",
                "rows": self.rows,
                "seconds": round(self.seconds, 3),
                "used": self.used,
                "sums": {layer: growing.sum.hexdigest() for layer, growing in self._files.items()},
            }
        )
        self._marked, self._marked_at = self.rows, time.monotonic()

    def _add_usage(self) -> None:
        """Add what was used since the last mark; names that an earlier call did not tell go."""
        now = dict(self._usage())
        since = {name: value - self._used_before.get(name, 0.0) for name, value in now.items()}
        known = since.keys() & self.used.keys() if self._marked else since.keys()
        self.used = {name: round(self.used.get(name, 0.0) + since[name], 6) for name in known}
        self._used_before = now

    def finish(self, **about: object) -> dict[str, Any]:
        """Complete the part: return file → manifest row, with `about` and seconds in its "made"."""
        if self.rows != self.total:
            raise ValueError(f"{self.rows} of {counted(self.total, 'row')}")
        self.mark()
        origin = {"seconds": round(self.seconds, 3), "used": self.used, **about}
        rows = {
            growing.path.name: {
                "bytes": growing.size(self.rows),
                "sha256": growing.sum.hexdigest(),
                "layer": layer,
                "made": origin,
            }
            for layer, growing in self._files.items()
        }
        files.sync_folder(self.folder)
        self.journal.append({"t": "whole", "files": rows})
        return rows

    def close(self) -> None:
        """Close the files.

        What was not marked is computed again by the next one.
        """
        for growing in self._files.values():
            os.close(growing.fd)
        self._files = {}
        self.journal.close()

    def __enter__(self) -> DumpPart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------ continued

    def _continue(self) -> None:
        """Go back to the last mark that every file agrees with, and truncate what follows."""
        marks: list[dict[str, Any]] = []
        for record in self.journal.records:
            if record["t"] == "mark":
                marks.append(record)
            elif record["t"] == "back":
                marks = [mark for mark in marks if mark["rows"] <= record["rows"]]
        sums = {layer: self._sums(layer, growing, marks) for layer, growing in self._files.items()}
        good = (
            min(len(digests) for digests in sums.values()) - 1
        )  # the first sum is that of the header alone
        self.rows, self.seconds = (
            (marks[good - 1]["rows"], marks[good - 1]["seconds"]) if good else (0, 0.0)
        )
        self.used = dict(marks[good - 1].get("used", {})) if good else {}
        if good < len(marks):
            self.journal.append({"t": "back", "rows": self.rows})
        for layer, growing in self._files.items():
            growing.sum = sums[layer][good]
            growing.cut(self.rows)

    @staticmethod
    def _sums(layer: str, growing: GrowingFile, marks: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Return the running sums at the header's end and each mark that the file agrees with."""
        digests = [hashlib.sha256(growing.head)]
        if marks and os.read(growing.fd, len(growing.head)) != growing.head:
            return digests
        at = 0
        for mark in marks:
            total, left = digests[-1].copy(), (mark["rows"] - at) * growing.row_bytes
            while left and (data := os.read(growing.fd, min(left, READ_BYTES))):
                total.update(data)
                left -= len(data)
            if left or total.hexdigest() != mark["sums"][layer]:
                break
            digests.append(total)
            at = mark["rows"]
        return digests


def check_finite(layer: str, array: np.ndarray, first_row: int) -> None:
    """Raise BadDataError, naming layer and row, unless every number of a batch is finite."""
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        remedy = (
            "values above 65,504 do not fit float16: keep them as float32"
            if array.dtype == np.float16
            else "the weights may be damaged, or not made for this network"
        )
        raise BadDataError(
            "features-not-finite",
            f"{layer} gives NaN or infinity in {len(bad)} of {counted(len(array), 'row')}, "
            f"first in row {first_row + int(bad[0])}",
            remedy=remedy,
        )
