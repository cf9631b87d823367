"""Rows in chunks: the same from memory, through a map and by reads; a map is read only where it
surely is the file.
"""

from __future__ import annotations

import os
import threading

import numpy as np
import psutil
import pytest

from tlx.errors import BadDataError
from tlx.metrics import streams
from tlx.metrics.streams import backing_file, blocks


@pytest.fixture
def mapped(tmp_path):
    x = np.random.default_rng(0).standard_normal((53, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "tlx-read"]


@pytest.mark.parametrize("read", [True, False, None])
@pytest.mark.parametrize("rows", [1, 7, 53, 100])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, ">f8"])
def test_every_row_once(dtype, rows, read, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "PIECE_BYTES", 11)
    x = (50 * np.random.default_rng(0).random((53, 6))).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for given in (x, mapped, np.asfortranarray(x), mapped[:, ::2]):
        starts, parts = zip(
            *[(start, part.copy()) for start, part in blocks(given, rows, read=read)], strict=True
        )
        assert list(starts) == list(range(0, 53, rows))
        np.testing.assert_array_equal(np.concatenate(parts), given)
        for _, part in blocks(given, rows, read=read):
            assert part.flags.c_contiguous
            assert part.dtype == (np.float32 if dtype in (np.float16, np.float32) else np.float64)
    odd = np.frombuffer(b"." + x.tobytes(), dtype, offset=1).reshape(53, 6)
    for start, part in blocks(odd, rows, read=read):
        assert part.flags.aligned
        np.testing.assert_array_equal(part, x[start : start + rows])
    assert not readers()


def test_the_file_behind_a_map(mapped):
    path, header = mapped.filename, os.path.getsize(mapped.filename) - mapped.nbytes
    for x, skipped in (
        (mapped, 0),
        (np.asarray(mapped), 0),
        (mapped[10:20], 10),
        (np.asarray(mapped)[50:], 50),
        (mapped.reshape(53, 2, 3)[5:].reshape(48, 6), 5),
        (mapped[3:][4:], 7),
    ):
        assert backing_file(x) == (path, header + skipped * 24)
    for x in (
        np.array(mapped),
        mapped[::2],
        mapped[:, :3],
        mapped * 2,
        np.load(path, mmap_mode="c"),
    ):
        assert backing_file(x) is None
    assert backing_file(np.load(path, mmap_mode="r+")) == (path, header)


def test_far_into_a_file(tmp_path):
    """Maps begin at a page: where one begins in the file is not where its numbers do."""
    np.arange(20_000, dtype=np.float32).tofile(tmp_path / "raw")
    x = np.memmap(tmp_path / "raw", np.float32, "r", offset=4 * 9001, shape=(1000, 10))
    assert backing_file(x) == (tmp_path / "raw", 4 * 9001)
    assert [part[0, 0] for _, part in blocks(x[7:], 400, read=True)] == [9071, 13071, 17071]


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_path_that_names_another_file_is_not_read(mapped, change):
    want = np.array(mapped)
    if change == "replaced":
        np.save(mapped.filename.parent / "other.npy", want + 1)
        os.replace(mapped.filename.parent / "other.npy", mapped.filename)
    else:
        os.unlink(mapped.filename)
    assert backing_file(mapped) is None
    np.testing.assert_array_equal(
        np.concatenate([part for _, part in blocks(mapped, 53, read=True)]), want
    )


def test_what_does_not_fit_half_the_memory_is_read(mapped, monkeypatch):
    asked = []
    monkeypatch.setattr(streams, "_read", lambda *how: asked.append(how) or iter(()))
    monkeypatch.setattr(streams.contextlib, "closing", streams.contextlib.nullcontext)
    for available, count in ((2 * mapped.nbytes, 0), (2 * mapped.nbytes - 2, 1)):
        monkeypatch.setattr(
            psutil, "virtual_memory", lambda a=available: type("Memory", (), {"available": a})
        )
        list(blocks(mapped, 10))
        assert len(asked) == count


def test_a_file_that_was_cut_is_said(mapped):
    with open(mapped.filename, "r+b") as file:
        file.truncate(os.path.getsize(mapped.filename) - 5)
    with pytest.raises(BadDataError, match=r"file-short.*5 bytes more"):
        list(blocks(mapped, 10, read=True))
    assert not readers()


def test_a_reader_ends_with_whoever_asked(mapped):
    def stops(error):
        for _ in blocks(mapped, 1, read=True):
            raise error

    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error):
            stops(error)
    parts = blocks(mapped, 1, read=True)
    next(parts)
    assert readers()
    parts.close()
    assert not readers()
