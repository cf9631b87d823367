"""Batches for both branches of a gated network: images, frozen source's outputs, labels.

With the source in evaluation mode and the images as they are, its outputs are the same in every
epoch: they are computed once and kept where that fits a limit of bytes and takes less time than
computing them again. Kept or not, the bits are the same: the source runs training rows in batches
of one size, a multiple of 16, filled up with repeated rows, and scoring rows in the same batches
every time; see prefix.py, whose ways these are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ...errors import ResourceError
from ..frozen_prefix.cache import CachedBatches, ComputedBatches, RowLayout, build_cache
from ..frozen_prefix.choice import (
    FULL,
    CacheDecision,
    CacheRequest,
    size_text,
    whether_to_keep,
)
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

    def before(self, _network: object, x: Tensor) -> Tensor:
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


def rows(
    source: GateSource | None, feeds: Sequence[BatchLoader], wish: CacheRequest
) -> tuple[list[OutputRows], CacheDecision]:
    """Return the rows of training (first) and of scoring, the source's outputs cached if it pays.

    Raises Stopped.
    """
    if source is None:
        return [OutputRows(feed) for feed in feeds], CacheDecision(0, "", "no source")
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
    outputs: Outputs, counts: Sequence[int], device: str, wish: CacheRequest
) -> CacheDecision:
    count = sum(counts if wish.fixed else counts[1:])
    row_bytes = outputs.row.bytes
    where, total, why = whether_to_keep(count, row_bytes, outputs.flops, device, wish)
    described = f"{count:,} rows of {row_bytes:,} bytes = {size_text(total)}"
    if why:
        return CacheDecision(0, "", _computed(f"{described}, {why}"), count)
    if not wish.fixed:
        described += " (those that score only)"
    place = "memory" if where == "memory" else "a file"
    reason = f"the source's outputs are kept in {place}: {described}"
    return CacheDecision(0, where, reason, count, total)


def _computed(why: str) -> str:
    return f"the source runs in every epoch: {why}"
