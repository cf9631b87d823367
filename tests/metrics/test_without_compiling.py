"""The same tests where Numba compiles nothing: in processes of their own, as Numba decides when it
is loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.skipif(config.DISABLE_JIT, reason="nothing is compiled here either")
@pytest.mark.parametrize(
    "files",
    [
        ["metrics/test_sum_of_squares.py", "kernels/test_sums.py"],
        ["kernels/test_ranks.py"],
        ["kernels/test_nearest_between.py"],
        ["metrics/test_over_blocks.py"],
        ["metrics/test_comparison.py", "kernels/test_pairs.py"],
        ["metrics/test_class_contrast.py", "metrics/test_resampling.py", "metrics/test_arrays.py"],
    ],
    ids=lambda files: Path(files[0]).stem,
)
def test_without_compiling(files, tmp_path):
    call = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "--numprocesses=0",
        "-p",
        "no:cacheprovider",
        f"--basetemp={tmp_path / 'own'}",
    ]
    done = subprocess.run(
        [*call, *(str(TESTS / name) for name in files)],
        cwd=TESTS.parent,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
