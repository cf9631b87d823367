"""Orders and ranks of long vectors of numbers, by sorting words: time grows with the length alone.

A number becomes a whole one of the same order, and with its place in the vector one word of 64
bits, key above place. Words are sorted by the keys, eight bits a pass, from the lowest on; equal
keys keep the order of their places. Keys of float32 are exact. Of float64 the key is how far along
from the least number to the greatest one lies, in 2³² steps; or, where that tells fewer numbers of
a sample apart, it has the 32 highest bits in which the numbers differ at all. What still is equal
lies side by side afterwards, and is put in order by the numbers themselves.

Numbers that are equal share the mean of their ranks; -0.0 equals 0.0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit

from .parallel import parallel_for

MOST = 1 << 32  # numbers whose places fit half a word
PART = 1 << 18  # numbers of a task
DIGIT = 8  # bits of a pass
FEW = 32  # in a run that is put in order by insertion
STEPS = (1 << 32) - 2  # from the least number to the greatest: no rounding leads beyond half a word
SAMPLE = 4096  # numbers, by which a kind of key is chosen
HALF, PLACE = np.uint64(32), np.uint64(0xFFFFFFFF)


class SortOrder(NamedTuple):
    """The order of n numbers.

    words  (n,) uint64 — the lower half of each is the place of a number, the least first
    ends   (n,) uint32 — where in this order the run of equal numbers ends that a number is in
    """

    words: np.ndarray
    ends: np.ndarray


def order(x: np.ndarray, threads: int | None = None) -> SortOrder:
    """Return the order of x (n,) float32 or float64, finite, n < MOST. Uses 20·n bytes."""
    x = as_read_only(x)
    bits = x.view(np.int32 if x.dtype == np.float32 else np.int64)
    size = np.int64((1 << 8 * x.itemsize - 1) - 1)  # of a float's bits, all but the sign
    least, most = x.min(), x.max()
    low, high = (int(key(value.view(bits.dtype), size)) for value in (least, most))
    differ = (high - low).bit_length()
    shift = max(0, differ - 32)
    words, spare = np.empty((2, len(x)), np.uint64)
    parts = parts_of(len(x))

    def by_bits(bits: np.ndarray, begin: int, end: int, words: np.ndarray) -> None:
        _make(bits, size, begin, end, np.uint64(low), np.uint64(shift), words)

    if pace := _pace(x, least, most, by_bits) if shift else 0.0:
        differ = 32
        parallel_for(
            len(parts), lambda p, _: _make_by_steps(x, *parts[p], least, pace, words), threads
        )
    else:
        parallel_for(len(parts), lambda p, _: by_bits(bits, *parts[p], words), threads)
    for digit in range(32, 32 + min(differ, 32), DIGIT):
        _pass(words, spare, np.uint64(digit), parts, threads)
        words, spare = spare, words
    if shift:
        parallel_for(len(parts), lambda p, _: _settle(words, x, *parts[p]), threads)
    ends, stops = np.empty(len(x), np.uint32), np.empty(len(parts) + 1, np.int64)

    def look(part: int, thread: int) -> None:
        stops[part] = _first_run(words, x, shift == 0, *parts[part])

    parallel_for(len(parts), look, threads)
    stops[-1] = len(x)
    stops = np.minimum.accumulate(stops[::-1])[::-1]
    parallel_for(
        len(parts), lambda p, _: _ends(words, x, shift == 0, *parts[p], stops[p + 1], ends), threads
    )
    return SortOrder(words, ends)


def _pace(
    x: np.ndarray,
    least: np.float64,
    most: np.float64,
    by_bits: Callable[[np.ndarray, int, int, np.ndarray], None],
) -> float:
    """Return steps of a key for each 1 that a number is above the least.

    0 where the bits tell more numbers apart.
    """
    with np.errstate(all="ignore"):
        pace = STEPS / (most - least)
    if not (
        np.isfinite(pace) and pace
    ):  # they are as near to each other, or as far, as floats can be
        return 0.0
    sample = np.ascontiguousarray(x[:: -(-len(x) // SAMPLE)])
    words = np.empty((2, len(sample)), np.uint64)
    _make_by_steps(as_read_only(sample), 0, len(sample), least, pace, words[0])
    by_bits(as_read_only(sample).view(np.int64), 0, len(sample), words[1])
    told_apart = [len(np.unique(row >> HALF)) for row in words]
    return float(pace) if told_apart[0] >= told_apart[1] else 0.0


def _pass(
    words: np.ndarray,
    spare: np.ndarray,
    digit: np.uint64,
    parts: list[tuple[int, int]],
    threads: int | None,
) -> None:
    """Sort words into spare by eight bits from `digit` on."""
    counts = np.empty((len(parts), 1 << DIGIT), np.int64)
    parallel_for(len(parts), lambda p, _: tally(words, *parts[p], digit, counts[p]), threads)
    flat = counts.T.reshape(-1)  # digit by digit, part by part: the order they go to
    places = np.ascontiguousarray((np.cumsum(flat) - flat).reshape(counts.shape[::-1]).T)
    parallel_for(len(parts), lambda p, _: _move(words, *parts[p], digit, places[p], spare), threads)


def ranks(sort_order: SortOrder, threads: int | None = None) -> np.ndarray:
    """Return 2·rank − (n + 1) of every number: (n,) float64, whole numbers whose sum is 0.

    Ranks count from 1.
    """
    out, parts = np.empty(len(sort_order.words)), parts_of(len(sort_order.words))
    parallel_for(len(parts), lambda p, _: _rank(*sort_order, *parts[p], out), threads)
    return out


def ties(sort_order: SortOrder, threads: int | None = None) -> int:
    """Count the pairs of equal numbers."""
    parts = parts_of(len(sort_order.words))
    counts = np.empty(len(parts), np.int64)

    def work(part: int, thread: int) -> None:
        counts[part] = _ties(sort_order.ends, *parts[part])

    parallel_for(len(parts), work, threads)
    return int(counts.sum())


def as_read_only(x: np.ndarray) -> np.ndarray:
    """Return x as a view that cannot be written to: one type for the compiler."""
    x = x.view()
    x.flags.writeable = False
    return x


def parts_of(n: int) -> list[tuple[int, int]]:
    return [(begin, min(n, begin + PART)) for begin in range(0, n, PART)]


# ---------------------------------------------------------------- words


@njit(cache=True, nogil=True)
def key(bits, size):
    """Return the bits of a float as an uint64 that is greater where the float is.

    size  int64 — all bits of that float but the sign
    """
    middle, magnitude = np.uint64(1 << 63), np.uint64(np.int64(bits) & size)
    return middle - magnitude if bits < 0 else middle + magnitude


@njit(cache=True, nogil=True)
def _make(bits, size, begin, end, low, shift, words):
    for i in range(begin, end):
        words[i] = (key(bits[i], size) - low) >> shift << HALF | np.uint64(i)


@njit(cache=True, nogil=True)
def _make_by_steps(x, begin, end, least, pace, words):
    for i in range(begin, end):
        words[i] = np.uint64((x[i] - least) * pace) << HALF | np.uint64(i)


@njit(cache=True, nogil=True)
def tally(words, begin, end, digit, counts):
    """Count the values of eight bits, from `digit` on, of words begin…end.

    counts  (256,) int64, written
    """
    counts[:] = 0
    part = words[begin:end]
    for i in range(part.size):
        counts[np.uint64(part[i]) >> digit & np.uint64(255)] += 1


@njit(cache=True, nogil=True)
def _move(words, begin, end, digit, places, out):
    """Move words begin…end to where the next of their digit goes: places (256,) int64."""
    part = words[begin:end]
    for i in range(part.size):
        word = part[i]
        value = word >> digit & np.uint64(255)
        out[places[value]] = word
        places[value] += 1


@njit(cache=True, nogil=True)
def _settle(words, x, begin, end):
    """Sort runs of equal keys that start in begin…end by their numbers; equal ones stay."""
    at = begin
    while at < end and at > 0 and words[at] >> HALF == words[at - 1] >> HALF:
        at += 1
    while at < end:
        stop = at + 1
        same = True
        while stop < words.size and words[stop] >> HALF == words[at] >> HALF:
            same = same and x[words[stop] & PLACE] == x[words[at] & PLACE]
            stop += 1
        if not same and stop - at <= FEW:
            for i in range(at + 1, stop):
                word = words[i]
                number, j = x[word & PLACE], i
                while j > at and x[words[j - 1] & PLACE] > number:
                    words[j] = words[j - 1]
                    j -= 1
                words[j] = word
        elif not same:
            run = words[at:stop].copy()
            numbers = np.empty(run.size, x.dtype)
            for i in range(run.size):
                numbers[i] = x[run[i] & PLACE]
            sequence = np.argsort(numbers, kind="mergesort")
            for i in range(run.size):
                words[at + i] = run[sequence[i]]
        at = stop


@njit(cache=True, nogil=True)
def _first_run(words, x, exact, begin, end):
    """Return the first of places begin…end whose number differs from the one before.

    The number of places, if none does.
    """
    for i in range(begin, end):
        if (
            i == 0
            or words[i] >> HALF != words[i - 1] >> HALF
            or not (exact or x[words[i] & PLACE] == x[words[i - 1] & PLACE])
        ):
            return i
    return words.size


@njit(cache=True, nogil=True)
def _ends(words, x, exact, begin, end, stop, ends):
    """Write where the runs of equal numbers end, for places begin…end.

    stop  the end of the last run
    """
    for i in range(end - 1, begin - 1, -1):
        if i + 1 < end and (
            words[i] >> HALF != words[i + 1] >> HALF
            or not (exact or x[words[i] & PLACE] == x[words[i + 1] & PLACE])
        ):
            stop = i + 1
        ends[i] = stop


@njit(cache=True, nogil=True)
def _rank(words, ends, begin, end, out):
    at = begin
    while at < end and at > 0 and ends[at] == ends[at - 1]:  # the run started before
        at += 1
    while at < end:
        stop = np.int64(ends[at])
        for i in range(at, stop):
            out[words[i] & PLACE] = at + stop - words.size
        at = stop


@njit(cache=True, nogil=True)
def _ties(ends, begin, end):
    count = 0
    for i in range(begin, end):
        count += np.int64(ends[i]) - i - 1
    return count
