"""Rows that are read a block at a time, from whatever has them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil

from ...errors import BadDataError, UsageError, counted
from ...features.sharded import LayerArray, Sharded
from .. import arrays
from ..streams import backing_file

COPIES = 4  # of a block are in memory: two blocks, each also as packed by the kernels
LEAST_ROWS = 64  # in a block


class SlicedRows(Protocol):
    """What has rows: a length, a shape, a type, and slices that numpy takes as arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (rows, …)."""

    @property
    def dtype(self) -> np.dtype:
        """Return the type of its numbers."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, rows: slice) -> object:
        """Return some rows."""


class BlockRows:
    """Rows (n, d) of numbers, of which a block at a time is in memory.

    A map of a file and shards of a dump are read by plain reads, so that their pages do not count
    as memory of this process, and are pickled as the names of their files.

    x      (n, …) what `arrays.matrix` takes, or what has `SlicedRows`; each row is flattened
    index  (m,) int64 — these rows alone, in this order; None: all
    """

    def __init__(self, x: object, *, where: object = "x", index: np.ndarray | None = None):
        """Check the shape and the type of x.

        Raises BadDataError: not numbers, no rows or no feature.
        """
        is_plain = isinstance(x, np.ndarray) or not _is_sliced(x)
        source = arrays.matrix(x, where=where, least=1) if is_plain else x  # type: ignore[arg-type]
        self._source: SlicedRows = source  # type: ignore[assignment]
        shape, dtype = self._source.shape, np.dtype(self._source.dtype)
        if len(shape) < 2 or 0 in shape or dtype.kind not in "fiub":
            raise BadDataError(
                "rows-shape",
                f"{type(x).__name__} of shape {tuple(shape)} and type {dtype}",
                where=where,
                expected="(rows, features) of real numbers, at least one row and one feature",
            )
        self.where, self.index = where, index
        self.width, self.dtype = int(np.prod(shape[1:])), dtype
        self._file = backing_file(source) if isinstance(source, np.ndarray) else None

    def __len__(self) -> int:
        return len(self._source) if self.index is None else len(self.index)

    def __reduce__(self) -> tuple[object, ...]:
        """Return the file instead of its bytes where there is one."""
        if self._file is None:
            return BlockRows, (self._source,), {"where": self.where, "index": self.index}
        path, offset = self._file
        about = (str(path), offset, self.dtype.str, tuple(self._source.shape))
        return _reopened, (*about, self.where, self.index)

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)

    @property
    def has_files(self) -> bool:
        """Return whether other processes read the rows from files, so that these pickle small."""
        return self._file is not None or isinstance(self._source, Sharded)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all rows, as they are kept."""
        return len(self) * self.width * self.dtype.itemsize

    @property
    def kind(self) -> np.dtype:
        """Return the type that rows are read as: float32 or float64."""
        return arrays.float_type(self.dtype)

    def ranges(self, block_rows: int) -> list[range]:
        """Return the blocks: ranges of this many rows, the last of what is left."""
        n = len(self)
        return [range(i, min(n, i + block_rows)) for i in range(0, n, block_rows)]

    def select(self, index: np.ndarray) -> BlockRows:
        """Return some of these rows, (m,) int64, as rows of their own."""
        within = index if self.index is None else self.index[index]
        return BlockRows(self._source, where=self.where, index=np.asarray(within, np.int64))

    def read(self, rows: range, *, finite: bool = True) -> np.ndarray:
        """Return (m, d) float32 or float64, C order: a range of rows.

        finite  raise BadDataError, naming row and column, for NaN and infinity
        """
        index = None if self.index is None else self.index[rows.start : rows.stop]
        if self._file is not None:
            part = self._from_file(rows) if index is None else self._chosen_from_file(index)
        elif isinstance(self._source, Sharded) and index is None:
            part = self._source.read(rows.start, rows.stop)
        elif index is not None:
            part = _gathered(self._source, index)
        else:
            part = np.asarray(self._source[rows.start : rows.stop])
        part = part.reshape(len(rows), self.width)
        values: np.ndarray = np.ascontiguousarray(arrays.floating(part))
        if finite:
            arrays.check_finite(values, where=self.where, first=rows.start)
        return values

    def _from_file(self, rows: range) -> np.ndarray:
        assert self._file is not None
        path, offset = self._file
        begin = offset + rows.start * self.width * self.dtype.itemsize
        part = np.fromfile(path, self.dtype, len(rows) * self.width, offset=begin)
        lacking = (len(rows) * self.width - part.size) * self.dtype.itemsize
        if lacking:
            raise _too_short(path, begin + part.nbytes, lacking)
        return part

    def _chosen_from_file(self, index: np.ndarray) -> np.ndarray:
        assert self._file is not None
        path, offset = self._file
        part = np.empty((len(index), self.width), self.dtype)
        size = self.width * self.dtype.itemsize
        with open(path, "rb", buffering=0) as file:
            for row, number in zip(part, index.tolist(), strict=True):
                done = 0
                while done < size:
                    begin = offset + number * size + done
                    count = os.preadv(file.fileno(), [row.view(np.uint8)[done:].data], begin)
                    if not count:
                        raise _too_short(path, begin, size - done)
                    done += count
        return part


def _too_short(path: Path, end: int, lacking: int) -> BadDataError:
    return BadDataError(
        "file-short",
        f"ends at byte {end:,}",
        where=path,
        expected=f"{lacking:,} bytes more; it was cut while it was read",
    )


def _is_sliced(x: object) -> bool:
    return all(hasattr(x, name) for name in ("shape", "dtype", "__len__", "__getitem__")) and (
        not hasattr(x, "detach")
    )


def _gathered(source: SlicedRows, index: np.ndarray) -> np.ndarray:
    """Return rows (m, …) of a source that may have slices alone."""
    if isinstance(source, LayerArray):
        rows: np.ndarray = source[index]
        return rows
    return np.concatenate([np.asarray(source[int(row) : int(row) + 1]) for row in index])


def _reopened(
    path: str,
    offset: int,
    dtype: str,
    shape: tuple[int, ...],
    where: object,
    index: np.ndarray | None,
) -> BlockRows:
    source = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
    return BlockRows(source, where=where, index=index)


def fitting_rows(width: int, itemsize: int = 4) -> int:
    """Return how many rows of a block half of this machine's memory holds.

    The whole memory counts, not what is free now, so that blocks of one machine are always alike.
    """
    memory = int(psutil.virtual_memory().total)
    return max(LEAST_ROWS, memory // 2 // (COPIES * itemsize * width))


def checked_block_rows(block_rows: int | None, rows: BlockRows) -> int:
    """Return the rows of a block: what is given, else what fits in half of the memory.

    Raises UsageError unless it is a whole number, at least 1.
    """
    if block_rows is None:
        return fitting_rows(rows.width, rows.kind.itemsize)
    if isinstance(block_rows, bool) or block_rows != int(block_rows) or block_rows < 1:
        raise UsageError(
            "out-of-range",
            f"{block_rows}",
            where="block_rows",
            expected="a whole number, at least 1",
        )
    return int(block_rows)


def check_same_rows(x: BlockRows, y: BlockRows) -> None:
    """Raise BadDataError unless both have as many rows."""
    if len(x) != len(y):
        raise BadDataError(
            "rows-differ",
            f"{counted(len(y), 'row')}",
            where=y.where,
            expected=f"the {len(x)} of {x.where}",
            remedy="take the same images, in the same order, from both layers",
        )


@contextlib.contextmanager
def naming_rows(rows: BlockRows, part: range) -> Iterator[None]:
    """Name the row of all rows, not of the block, where a block has NaN or infinity."""
    try:
        yield
    except BadDataError as error:
        if error.code == "not-finite":
            rows.read(part)
        raise
