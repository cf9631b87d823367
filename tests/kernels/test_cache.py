"""Where compiled kernels are kept when no usual place can be written to."""

from __future__ import annotations

import os
from pathlib import Path

from tlx.kernels import _cache


def test_without_a_place_kernels_are_kept_for_the_process_alone(tmp_path, monkeypatch):
    monkeypatch.setenv(_cache.VARIABLE, "")
    monkeypatch.setattr(_cache, "_can_write", lambda folder: False)
    _cache.ensure(tmp_path)
    folder = Path(os.environ[_cache.VARIABLE])
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o777 == 0o700, "others could plant what Numba would run"
    _cache._remove(str(folder), os.getpid() + 1)
    assert folder.is_dir(), "a forked child leaves it"
    _cache._remove(str(folder), os.getpid())
    assert not folder.exists()


def test_a_place_that_can_be_written_to_is_left_to_numba(tmp_path, monkeypatch):
    monkeypatch.delenv(_cache.VARIABLE, raising=False)
    _cache.ensure(tmp_path)
    assert _cache.VARIABLE not in os.environ
