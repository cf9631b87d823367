"""Batches for both branches of a gated network: images, frozen source's outputs, labels.

With the source in evaluation mode and the images as they are, its outputs are the same in every
epoch: they are computed once and kept where that fits a limit of bytes and takes less time than
computing them again. Kept or not, the bits are the same: the source runs training rows in batches
of one size, a multiple of 16, filled up with repeated rows, and scoring rows in the same batches
every time; see prefix.py, whose ways these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ... import files
from ...errors import ResourceError
from .. import samples
from ..frozen_prefix.cache import CachedBatches, ComputedBatches, RowLayout, build_cache
from ..frozen_prefix.choice import FLOPS_PER_BYTE, FULL, LIMIT_BYTES
from ..frozen_prefix.split import CannotSplit, same_bits
from ..samples import BatchLoader
from .gate import GateSource

Batch = tuple[Tensor, list[Tensor], Tensor]  # x, Z of the source gate by gate, y


class OutputRows:
    """Rows of samples for both branches; without a source, for the target alone."""

    def __init__(
        self,
        feed: BatchLoader,
        outputs: Outputs | None = None,
        held: ComputedBatches | CachedBatches | None = None,
    ):
        self.feed, self._outputs, self._held = feed, outputs, held

    def __len__(self) -> int:
        return len(self.feed)

    def batch(self, index: np.ndarray) -> Batch:
        """Return the rows of these numbers unaltered, the source in evaluation mode."""
        x, y = self.feed.batch(index)
        if self._held is None or self._outputs is None:
            return x, [], y
        return x, self._outputs.unpacked(self._held.batch(index)[0]), y

    def altered(
        self, index: np.ndarray, alter: Callable[[Tensor], Tensor], source: GateSource | None
    ) -> Batch:
        """Return the same with augmented images, for both branches alike.

        The source is in the mode it is set to.
        """
        x, y = self.feed.batch(index)
        x = alter(x)
        return x, source(x) if source is not None else [], y

    def batches(self, size: int) -> Iterator[Batch]:
        """Iterate over every row once, in order."""
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))))


class Outputs:
    """Layout of the source's outputs of a row as bytes, one after the other in memory order."""

    def __init__(self, source: GateSource, x: Tensor):
        self.source, self.layouts = source, [_layout(z) for z in source(x)]
        self.ends = np.cumsum([0, *(layout.bytes for layout in self.layouts)])
        with FlopCounterMode(display=False) as counter:
            source(x[:1])
        self.flops = counter.get_total_flops()  # a row

    @property
    def row(self) -> RowLayout:
        """Return the layout of the bytes of a row."""
        return RowLayout((int(self.ends[-1]),), (1,), torch.uint8)

    def before(self, _network: Any, x: Tensor) -> Tensor:
        """Return (n, bytes) uint8 for x (n, channels, h, w), in evaluation mode."""
        self.source.training = False
        return torch.cat(
            [
                layout.packed(_laid(z, layout))
                for layout, z in zip(self.layouts, self.source(x), strict=True)
            ],
            1,
        )

    def unpacked(self, rows: Tensor) -> list[Tensor]:
        """Return the outputs (n, …) of rows (n, bytes)."""
        return [
            layout.unpacked(rows[:, start:end].contiguous())
            for layout, start, end in zip(self.layouts, self.ends, self.ends[1:], strict=False)
        ]


def _layout(z: Tensor) -> RowLayout:
    try:
        return RowLayout.of(z)
    except CannotSplit:  # a view with gaps
        return RowLayout.of(z.contiguous())


def _laid(z: Tensor, layout: RowLayout) -> Tensor:
    """Return z, or a copy where its memory layout differs (that of a batch of one row may)."""
    strides = (layout.values, *layout.strides)
    return (
        z
        if z.stride() == strides
        else torch.empty_strided(z.shape, strides, dtype=z.dtype, device=z.device).copy_(z)
    )


@dataclass(frozen=True)
class OutputCacheDecision:
    """Decision about the source's outputs: kept in "memory", in a "file", or "".

    "": computed every time.
    """

    kept: str
    bytes: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class OutputCacheRequest:
    """Requirements of a training on the cache of outputs.

    Rows a step, rows a scoring pass, epochs; the folder for cached rows, and their limit in bytes.

    fixed  whether training rows are the same in every epoch (no augmentation, no dropout in the
    source)
    """

    batch_size: int
    score_batch: int
    epochs: int
    fixed: bool = True
    limit: int = LIMIT_BYTES
    folder: Path | None = None
    stopping: Callable[[], bool] = lambda: False


def rows(
    source: GateSource | None, feeds: Sequence[BatchLoader], wish: OutputCacheRequest
) -> tuple[list[OutputRows], OutputCacheDecision]:
    """Return the rows of training (first) and of scoring, the source's outputs cached if it pays.

    Raises Stopped.
    """
    if source is None:
        return [OutputRows(feed) for feed in feeds], OutputCacheDecision("", 0, "no source")
    outputs = Outputs(source, feeds[0].batch(np.arange(min(len(feeds[0]), 4)))[0])
    sizes = [-(-min(wish.batch_size, len(feeds[0])) // FULL) * FULL, *(0 for _ in feeds[1:])]
    computed = [
        ComputedBatches(feed, outputs, source.network, size, False)  # type: ignore[arg-type]
        for feed, size in zip(feeds, sizes, strict=True)
    ]
    choice = _decide(outputs, [len(feed) for feed in feeds], feeds[0].device, wish)
    held: list[ComputedBatches | CachedBatches] = list(computed)
    if choice.kept:
        folder = wish.folder if choice.kept == "file" else None
        try:
            for number, each in enumerate(computed):
                if number == 0 and not wish.fixed:
                    continue
                held[number] = build_cache(
                    each, outputs.row, sizes[number] or wish.score_batch, folder, wish.stopping
                )
            index = np.random.default_rng(0).permutation(len(feeds[0]))[: wish.batch_size]
            if wish.fixed and not same_bits(held[0].batch(index)[0], computed[0].batch(index)[0]):
                raise CannotSplit(
                    "on this machine a row's bits depend on the other rows of its batch"
                )
        except (CannotSplit, ResourceError) as refusal:
            held, choice = (
                list(computed),
                replace(choice, kept="", bytes=0, reason=_computed(str(refusal))),
            )
    return [OutputRows(feed, outputs, each) for feed, each in zip(feeds, held, strict=True)], choice


def _decide(
    outputs: Outputs, counts: Sequence[int], device: str, wish: OutputCacheRequest
) -> OutputCacheDecision:
    count = sum(counts if wish.fixed else counts[1:])
    total = count * outputs.row.bytes
    where = "memory" if total <= samples.RESIDENT_BYTES else "file"
    described = f"{count:,} rows of {outputs.row.bytes:,} bytes = {total / 1e6:,.1f} MB"
    why = ""
    if wish.epochs < 2:
        why = "and one epoch reads them only once"
    elif total > wish.limit:
        why = f"above the limit of {wish.limit / 1e6:,.0f} MB"
    elif outputs.flops * (1 - 1 / wish.epochs) < outputs.row.bytes * FLOPS_PER_BYTE[where]:
        why = "and reading them back takes no less time"
    elif where == "file" and (device != "cpu" or wish.folder is None):
        why = "more than the device is given"
    elif where == "file" and wish.folder is not None and total > files.free_bytes(wish.folder) // 2:
        why = "more than half of the disk that is free"
    if why:
        return OutputCacheDecision("", 0, _computed(f"{described}, {why}"))
    if not wish.fixed:
        described += " (those that score only)"
    place = "memory" if where == "memory" else "a file"
    return OutputCacheDecision(
        where, total, f"the source's outputs are kept in {place}: {described}"
    )


def _computed(why: str) -> str:
    return f"the source runs in every epoch: {why}"
