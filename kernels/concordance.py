"""Kendall's concordance of long vectors of numbers: how many pairs of places have the same order in
both.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .parallel import parallel_for
from .ranks import DIGIT, FEW, PLACE, SortOrder, as_read_only, order, parts_of, tally, ties


def concordance(a: SortOrder, b: np.ndarray, threads: int | None = None) -> int:
    """Return the pairs of places in the same order less those in opposite orders.

    a  the order of the first; best of the one with fewer ties
    b  (n,) the second

    Of b in the order of a, the pairs out of order are counted (Knight 1966,
    doi:10.1080/01621459.1966.10480879); those equal in a or in b are not among them, as they are
    put in order first.
    """
    b, n, parts = as_read_only(b), len(b), parts_of(len(b))
    along, sequence, spare = np.empty(n, b.dtype), np.empty(n, np.uint32), np.empty(n, np.uint32)
    parallel_for(len(parts), lambda p, _: _take(a.words, b, *parts[p], along), threads)
    second = order(along, threads)
    parallel_for(len(parts), lambda p, _: _put(second.words, *parts[p], sequence), threads)
    both = np.empty(len(parts), np.int64)

    def tied(part: int, thread: int) -> None:
        both[part] = _tied_in_both(a.ends, along, *parts[part], sequence)

    parallel_for(len(parts), tied, threads)
    equal = ties(a, threads) + ties(second, threads) - int(both.sum())
    return n * (n - 1) // 2 - equal - 2 * inversions(sequence, spare, threads)


def inversions(sequence: np.ndarray, spare: np.ndarray, threads: int | None = None) -> int:
    """Count the pairs of a permutation that are in descending order. Both arrays are overwritten.

    sequence, spare  (n,) uint32; sequence holds each of 0…n−1 once

    A stable sort from the highest digit down: a number passes those before it that have a higher
    digit, and two tables of 16 counters tell how many they are.
    """
    n, parts = len(sequence), parts_of(len(sequence))
    bits = max(0, n - 1).bit_length()
    shift = max(0, bits - DIGIT)
    counts = np.empty((len(parts), 1 << DIGIT), np.int64)
    parallel_for(
        len(parts), lambda p, _: tally(sequence, *parts[p], np.uint64(shift), counts[p]), threads
    )
    before = np.cumsum(counts, axis=0) - counts  # of each digit, in the parts before
    higher = before[:, ::-1].cumsum(axis=1)[:, ::-1] - before
    places = (np.arange(1 << DIGIT) << shift) + before
    inside = np.zeros((2, max(len(parts), 1 << DIGIT)), np.int64)

    def split(part: int, thread: int) -> None:
        inside[0, part] = _split(sequence, spare, *parts[part], 0, shift, places[part])

    def finish(node: int, thread: int) -> None:
        begin = node << shift
        inside[1, node] = _inversions(
            spare[begin : begin + (1 << shift)], sequence[begin : begin + (1 << shift)], shift
        )

    parallel_for(len(parts), split, threads)
    parallel_for(-(-n >> shift) if n else 0, finish, threads)
    return int(inside.sum()) + int((counts * higher).sum())


@njit(cache=True, nogil=True)
def _take(words, x, begin, end, out):
    for i in range(begin, end):
        out[i] = x[words[i] & PLACE]


@njit(cache=True, nogil=True)
def _put(words, begin, end, out):
    for i in range(begin, end):
        out[words[i] & PLACE] = i


@njit(cache=True, nogil=True)
def _tied_in_both(ends, along, begin, end, sequence):
    """Sort the sequence in runs of equal numbers; return how many pairs of those tie in `along`."""
    at, both = begin, 0
    while at < end and at > 0 and ends[at] == ends[at - 1]:
        at += 1
    while at < end:
        stop = np.int64(ends[at])
        if stop - at > FEW:
            sequence[at:stop].sort()
            numbers = np.sort(along[at:stop])
            run = 1
            for i in range(1, numbers.size):
                run = run + 1 if numbers[i] == numbers[i - 1] else 1
                both += run - 1
        else:
            for i in range(at + 1, stop):
                number, j = sequence[i], i
                while j > at and sequence[j - 1] > number:
                    sequence[j] = sequence[j - 1]
                    j -= 1
                sequence[j] = number
                for j in range(at, i):
                    both += along[j] == along[i]
        at = stop
    return both


@njit(cache=True, nogil=True)
def _split(numbers, out, begin, end, base, shift, places):
    """Move numbers begin…end to where the next of their digit goes, and count; base is their least.

    places  (256,) int64 — where that is;  →  pairs among them whose digits descend
    """
    coarse, fine, descents = np.zeros(16, np.uint32), np.zeros((16, 16), np.uint32), 0
    part = numbers[begin:end]
    for i in range(part.size):
        number = part[i]
        digit = (np.int64(number) - base) >> shift
        high, low = digit >> 4, digit & 15
        row = fine[high]
        descents += np.int64(coarse[high]) + np.int64(row[low])
        for d in range(16):
            coarse[d] += np.uint32(d < high)
        for d in range(16):
            row[d] += np.uint32(d < low)
        out[places[digit]] = number
        places[digit] += 1
    return descents


@njit(cache=True, nogil=True)
def _inversions(numbers, spare, bits):
    """Count descending pairs of numbers that differ in their lowest `bits` bits only.

    Each value occurs once; both arrays are overwritten.
    """
    descents, base = 0, numbers.min()
    places = np.empty(1 << 8, np.int64)
    while bits > 5:
        shift = max(0, bits - 8)
        for begin in range(0, numbers.size, 1 << bits):
            for digit in range(1 << 8):
                places[digit] = begin + (digit << shift)
            end = min(numbers.size, begin + (1 << bits))
            descents += _split(numbers, spare, begin, end, base + begin, shift, places)
        numbers, spare, bits = spare, numbers, shift
    for begin in range(0, numbers.size, 1 << bits):
        for i in range(begin, min(numbers.size, begin + (1 << bits))):
            number, passed = numbers[i], 0
            for other in numbers[begin:i]:
                passed += other > number
            descents += passed
    return descents
