"""Inner products of rows in blocks, and how much two such blocks have in common: what kernel
alignments are made of.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from . import parallel, tile
from .dissimilarity import ROOM, StandardisedRows, column_parts

TASK = 8192  # numbers of two blocks that are multiplied at once


def gram(
    left: StandardisedRows,
    of: range,
    right: StandardisedRows,
    against: range,
    out: np.ndarray,
    *,
    upper: bool,
    room: int = ROOM,
    threads: int | None = None,
) -> None:
    """Write out[i, j] = Σ_k left[of[i], k] · right[against[j], k], float32.

    out     (len(of), len(against)) float32
    upper   both are the same rows: 0 for i ≥ j
    room    bytes for packed rows; more columns than fit are summed part by part, in `out`
    """
    side = tile.side(len(of) if upper else max(len(of), len(against)))
    tiles = (
        tile.upper_tiles(len(of), side)
        if upper
        else [(i, j) for i in range(0, len(of), side) for j in range(0, len(against), side)]
    )
    rows = tile.padded(len(of)) + (0 if upper else tile.padded(len(against)))
    if upper:
        out[:] = 0
    parts = column_parts(rows, left.x.shape[1], room)
    both = [(left, of)] if upper else [(left, of), (right, against)]
    rooms = [tile.empty(len(part), parts[0][1]) for _, part in both]
    for begin, end in parts:
        packs = [
            tile.empty(len(part), end - begin, room_of_part)
            for (_, part), room_of_part in zip(both, rooms, strict=True)
        ]
        for (source, part), packed in zip(both, packs, strict=True):
            tile.pack(
                packed,
                source.x,
                part.start,
                len(part),
                begin,
                end - begin,
                shift=source.shift,
                scale=source.scale,
                centre=source.centre,
                threads=threads,
            )
        _add(packs[0], packs[-1], tiles, side, out, upper, begin > 0, threads)


def _add(a, b, tiles, side, out, upper, part, threads):
    scratch: dict[int, np.ndarray] = {}

    def work(task: int, thread: int) -> None:
        if thread not in scratch:
            scratch[thread] = tile.scratch(side)
        i, j = tiles[task]
        height, width, sums = min(side, len(out) - i), min(side, out.shape[1] - j), scratch[thread]
        tile.products(a, i, height, b, j, width, upper and i == j, sums)
        _put(sums, i, i + height, j, j + width, upper, part, out)

    parallel.parallel_for(len(tiles), work, threads)


def overlaps(blocks: np.ndarray, pairs: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Return Σ_i blocks[a, i] · blocks[b, i] for every pair (a, b), in float64: (p,) float64.

    blocks  (l, m) float32;  pairs  (p, 2) int64
    """
    m = blocks.shape[1]
    sums = np.empty((-(-m // TASK), len(pairs)))

    def work(task: int, thread: int) -> None:
        _overlap(blocks, pairs, task * TASK, min(m, (task + 1) * TASK), sums[task])

    parallel.parallel_for(len(sums), work, threads)
    return sums.sum(axis=0)


@njit(cache=True, nogil=True)
def _put(sums, i0, i1, j0, j1, upper, part, out):
    for i in range(i0, i1):
        skip = max(0, i + 1 - j0) if upper else 0
        for block in range(skip // 64, (j1 - j0 + 63) // 64):
            begin, end = max(skip, block * 64), min(block * 64 + 64, j1 - j0)
            run, target = (
                sums[block, i - i0, begin - block * 64 : end - block * 64],
                out[i, j0 + begin : j0 + end],
            )
            if part:
                for j in range(run.size):
                    target[j] += run[j]
            else:
                for j in range(run.size):
                    target[j] = run[j]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})  # to sum in vectors; NaN stays
def _overlap(blocks, pairs, begin, end, sums):
    for p in range(len(pairs)):
        a, b, total = blocks[pairs[p, 0], begin:end], blocks[pairs[p, 1], begin:end], 0.0
        for i in range(a.size):
            total += np.float64(a[i]) * b[i]
        sums[p] = total
