"""Rows after a frozen prefix: computed for every batch, or cached in their memory layout."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ... import files
from ...errors import Stopped
from ..samples import Batches, BatchLoader
from .split import CannotSplit, SplitPoint


def arithmetic(device: str, bfloat16: bool) -> torch.autocast:
    """Set the precision in which a network runs inside the block."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16)


class ComputedBatches(Batches):
    """Rows after the prefix, which runs for every batch.

    size: of its batches, padded; 0: not padded.
    """

    def __init__(
        self, feed: BatchLoader, cut: SplitPoint, network: nn.Module, size: int, bfloat16: bool
    ):
        self.feed, self.cut, self.network, self.size, self.bfloat16 = (
            feed,
            cut,
            network,
            size,
            bfloat16,
        )
        self.device, self.labels = feed.device, feed.labels

    def batch(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return z (b, …), in the memory layout of block m's output, and y (b,) int64."""
        x, y = self.feed.batch(np.resize(index, self.size or len(index)))
        with arithmetic(self.device, self.bfloat16):
            z = self.cut.before(self.network, x)
        return z[: len(index)].clone(), y[: len(index)]

    def logits(self, network: nn.Module, x: Tensor) -> Tensor:
        """Compute the logits (b, classes) of a batch."""
        return self.cut.after(network, x)


class CachedBatches(Batches):
    """Cached rows after the prefix: (r, bytes) uint8 on the device, or in a file's map."""

    def __init__(self, computed: ComputedBatches, layout: RowLayout, rows: Tensor | np.ndarray):
        self.cut, self.device, self.labels = computed.cut, computed.device, computed.labels
        self._layout, self.rows = layout, rows

    def batch(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the z and y of `ComputedBatches.batch`, bit for bit."""
        at = torch.from_numpy(index).to(self.device)
        if isinstance(self.rows, Tensor):
            return self._layout.unpacked(self.rows.index_select(0, at)), self.labels[at]
        rows = torch.empty(
            (len(index), self._layout.bytes), dtype=torch.uint8
        )  # aligned as torch has it
        np.take(self.rows, index, axis=0, out=rows.numpy(), mode="clip")
        return self._layout.unpacked(rows), self.labels[at]

    def logits(self, network: nn.Module, x: Tensor) -> Tensor:
        """Compute the logits (b, classes) of a batch."""
        return self.cut.after(network, x)


@dataclass(frozen=True)
class RowLayout:
    """Memory layout of a row of z: a convolution's bits can depend on it."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in values
    dtype: torch.dtype

    @classmethod
    def of(cls, z: Tensor) -> RowLayout:
        """Return the layout of z (n, …).

        Raises CannotSplit unless rows are contiguous, without gaps.
        """
        layout = cls(tuple(z.shape[1:]), tuple(z.stride()[1:]), z.dtype)
        expected = 1
        for stride, length in sorted(
            (s, n) for s, n in zip(layout.strides, layout.shape, strict=True) if n > 1
        ):
            if stride != expected:
                raise CannotSplit("its rows have gaps in memory")
            expected *= length
        if len(z) > 1 and z.stride(0) != layout.values:
            raise CannotSplit("its rows are not contiguous in memory")
        return layout

    @property
    def values(self) -> int:
        """Return the number of values in a row."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes(self) -> int:
        """Return the number of bytes of a row."""
        return self.values * self.dtype.itemsize

    def packed(self, z: Tensor) -> Tensor:
        """Return z as (n, bytes) uint8 in memory order.

        Raises CannotSplit if z has another layout.
        """
        if RowLayout.of(z) != self:
            raise CannotSplit("its batches differ in memory layout")
        return z.as_strided((len(z), self.values), (self.values, 1)).view(torch.uint8)

    def unpacked(self, rows: Tensor) -> Tensor:
        """Return z (n, …) of rows (n, bytes) uint8."""
        return rows.view(self.dtype).as_strided(
            (len(rows), *self.shape), (self.values, *self.strides)
        )


def build_cache(
    computed: ComputedBatches,
    layout: RowLayout,
    size: int,
    folder: Path | None,
    stopping: Callable[[], bool],
) -> CachedBatches:
    """Compute all rows, `size` at a time: in an unnamed file in `folder`, else on the device.

    Raises CannotSplit, ResourceError or Stopped.
    """

    def parts() -> Iterator[Tensor]:
        for z, _ in computed.batches(size):
            if stopping():
                raise Stopped(15)
            yield layout.packed(z)

    shape = len(computed), layout.bytes
    if folder is not None:
        return CachedBatches(computed, layout, _filed(parts(), shape, folder))
    rows = torch.empty(shape, dtype=torch.uint8, device=computed.device)
    start = 0
    for part in parts():
        rows[start : start + len(part)] = part
        start += len(part)
    return CachedBatches(computed, layout, rows)


def _filed(parts: Iterator[Tensor], shape: tuple[int, int], folder: Path) -> np.ndarray:
    """Return a read-only map of the rows.

    Their file has no name: however the process ends, its space is freed.
    """
    files.make_folder(folder)
    with files.storage_errors(folder), tempfile.TemporaryFile(dir=folder) as file:
        for part in parts:
            file.write(part.numpy().data)
        file.flush()
        return np.asarray(np.memmap(file, np.uint8, "r", shape=shape))
