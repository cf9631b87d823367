"""Layer of a dump that is kept in several files, read as one array of rows."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import psutil

from ..data.sources import read_npy
from ..errors import BadDataError, IntegrityError, ResourceError, UnsafeError, counted
from .cuts import RowCuts
from .shelf import DumpDirectory, Holding, check_once

ManifestRow = Mapping[str, object]


class Sharded:
    """Rows (n, …) of a layer that is cut into shards, each a file that is mapped when it is used.

    What numpy does with rows works here: whole numbers, slices, index arrays and masks, with
    IndexError for what is outside. A slice within one shard is a view of its map; what comes from
    several is a copy. A shard is compared with its SHA-256 when it is first opened. It goes to
    other processes by its place.
    """

    def __init__(
        self,
        shelf: DumpDirectory,
        files: Sequence[tuple[str, ManifestRow]],
        cuts: RowCuts,
        dtype: np.dtype,
        row_shape: tuple[int, ...] | None = None,
        *,
        holding: Holding | None = None,
    ):
        """Open the first shard, which tells the shape of a row unless it is given.

        files    name and manifest row of every shard, in order
        holding  what keeps the dump from being removed; a new one unless given
        Raises IntegrityError, naming the file, for a shard that is not what it was.
        """
        self._shelf, self._files, self.cuts = shelf, tuple(files), cuts
        self._holding = holding or Holding(shelf)
        self.dtype = np.dtype(dtype)
        self._open: dict[int, np.ndarray] = {}
        self._row_shape = row_shape
        self._row_shape = self.shard(0).shape[1:]

    def __reduce__(self) -> tuple[object, ...]:
        return Sharded, (self._shelf, self._files, self.cuts, self.dtype, self._row_shape)

    def __len__(self) -> int:
        return self.cuts.total

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (n, …)."""
        assert self._row_shape is not None
        return (self.cuts.total, *self._row_shape)

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Return how many numbers all rows have."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Return the bytes of a number."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Return the bytes of all rows."""
        return self.size * self.itemsize

    def reshape(self, rows: int, *shape: int) -> Sharded:
        """Return the same rows with another shape of a row; -1 stands for what is left."""
        if rows != len(self) and rows != -1:
            raise ValueError(f"cannot reshape {len(self)} rows in shards into {rows} rows")
        row_shape = np.empty(self.shape[1:], np.bool_).reshape(shape).shape
        return Sharded(
            self._shelf, self._files, self.cuts, self.dtype, row_shape, holding=self._holding
        )

    def shard(self, number: int) -> np.ndarray:
        """Return the rows of a shard, a read-only map."""
        if number not in self._open:
            self._open[number] = self._mapped(number)
        return self._open[number]

    def _mapped(self, number: int) -> np.ndarray:
        path, _ = self._checked(number)
        with self._shelf.remedied():
            try:
                array = read_npy(path)
            except (BadDataError, UnsafeError) as error:
                raise IntegrityError("file-damaged", error.what, where=path) from error
            rows = self.cuts.range(number)
            width = array[:1].size
            if len(array) != len(rows) or array.dtype != self.dtype or not self._has(width):
                raise IntegrityError(
                    "array-shape",
                    f"{array.dtype} {array.shape}",
                    where=path,
                    expected=f"{self.dtype} and {counted(len(rows), 'row')} as wide as those of "
                    "the first shard",
                )
        plain = np.asarray(array)  # a plain view of the map slices faster than the map
        return plain if self._row_shape is None else plain.reshape(len(rows), *self._row_shape)

    def _has(self, width: int) -> bool:
        return self._row_shape is None or math.prod(self._row_shape) == width

    def _checked(self, number: int) -> tuple[Path, ManifestRow]:
        name, row = self._files[number]
        path = self._shelf.folder / name
        with self._shelf.remedied():
            check_once(path, row)
        return path, row

    # ------------------------------------------------------------ rows

    def __getitem__(self, index: object) -> np.ndarray:
        if isinstance(index, tuple):
            return self._inside(index[0] if index else ..., index[1:])
        if index is ...:
            index = slice(None)
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._run(start, max(start, stop))
            return self._gathered(np.arange(start, stop, step))
        if isinstance(index, np.ndarray | Sequence):
            return self.take(index)
        if not isinstance(index, SupportsIndex):
            raise TypeError(f"rows in shards take no index of type {type(index).__name__}")
        return self._row(operator.index(index))

    def _inside(self, rows: object, within: tuple[object, ...]) -> np.ndarray:
        """Return a part of each of some rows: slices and whole numbers of it."""
        parts: list[slice | int] = []
        for part in within:
            if not isinstance(part, slice | int | np.integer):
                raise TypeError("behind the rows, shards take slices and whole numbers")
            parts.append(part if isinstance(part, slice) else int(part))
        values = self[rows]
        if isinstance(rows, slice | np.ndarray | Sequence) or rows is ...:
            parts.insert(0, slice(None))
        result: np.ndarray = values[tuple(parts)]
        return result

    def take(self, rows: object) -> np.ndarray:
        """Return a copy of these rows: whole numbers of any shape, or a mask (n,) of all rows."""
        index = np.asarray(rows)
        if not index.size:
            return np.empty((*index.shape, *self.shape[1:]), self.dtype)
        if index.dtype == np.bool_:
            if index.shape != (len(self),):
                raise IndexError(f"a mask of shape {index.shape} for {len(self)} rows")
            return self._gathered(np.flatnonzero(index))
        if index.dtype.kind not in "iu":
            raise IndexError(f"rows are whole numbers or a mask, not {index.dtype}")
        wrong = index[(index < -len(self)) | (index >= len(self))]
        if wrong.size:
            raise IndexError(f"row {wrong.flat[0]} of {len(self)}")
        flat = index.reshape(-1).astype(np.int64)
        values = self._gathered(np.where(flat < 0, flat + len(self), flat))
        return values.reshape(*index.shape, *self.shape[1:])

    def blocks(self, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Iterate over (number of the first row, rows): so many rows each, fewer in the last."""
        for start in range(0, len(self), rows):
            yield start, self._run(start, min(len(self), start + rows))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return a copy of rows, by plain reads: their pages are no memory of this process."""
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        for number, rows in self._pieces(start, stop):
            path, row = self._checked(number)
            own = self.cuts.range(number)
            width = out[:1].nbytes
            head = int(str(row["bytes"])) - len(own) * width
            part = out[rows.start - start : rows.stop - start]
            values = np.fromfile(
                path, self.dtype, part.size, offset=head + (rows.start - own.start) * width
            )
            if values.size != part.size:
                raise BadDataError("file-short", "it was cut while it was read", where=path)
            part[:] = values.reshape(part.shape)
        return out

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        """Return all rows as one array.

        Raises ResourceError where they take more than half of the memory that is available.
        """
        if copy is False:
            raise ValueError("rows in shards are an array only as a copy")
        available = psutil.virtual_memory().available
        if self.nbytes > available // 2:
            raise ResourceError(
                "memory",
                f"{counted(len(self), 'row')} take {self.nbytes:,} bytes, {available:,} are free",
                where=self._shelf.folder / self._files[0][0],
                remedy="take them in blocks (tlx.metrics.over), fewer of them, or pooled ones "
                "(tlx extract --reduce pooled)",
            )
        rows = self.read(0, len(self))
        return rows if dtype is None else rows.astype(np.dtype(dtype), copy=False)  # type: ignore[call-overload]

    def _row(self, number: int) -> np.ndarray:
        place = number + len(self) if number < 0 else number
        if not 0 <= place < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        shard, within = divmod(place, self.cuts.rows)
        row: np.ndarray = self.shard(shard)[within]
        return row

    def _run(self, start: int, stop: int) -> np.ndarray:
        pieces = list(self._pieces(start, stop))
        if len(pieces) == 1:
            number, rows = pieces[0]
            first = self.cuts.range(number).start
            return self.shard(number)[rows.start - first : rows.stop - first]
        values = self.read(start, stop)
        values.flags.writeable = False  # as the views are
        return values

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, range]]:
        """Iterate over the shards that hold these rows, and which of them each holds."""
        for number in range(start // self.cuts.rows, -(-stop // self.cuts.rows)):
            own = self.cuts.range(number)
            yield number, range(max(start, own.start), min(stop, own.stop))

    def _gathered(self, index: np.ndarray) -> np.ndarray:
        """Return a copy of rows (m,) that are all inside."""
        out = np.empty((len(index), *self.shape[1:]), self.dtype)
        number, place = np.divmod(index, self.cuts.rows)
        order = np.argsort(number, kind="stable")
        shards, starts = np.unique(number[order], return_index=True)
        for shard, chosen in zip(shards.tolist(), np.split(order, starts[1:]), strict=False):
            out[chosen] = self.shard(shard)[place[chosen]]
        return out


LayerArray = np.ndarray | Sharded
