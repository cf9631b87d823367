"""Folder of Numba's compiled kernels: a private one where no other can be written to."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def ensure(source: Path) -> None:
    """Point Numba to a private temporary folder if no other can be written to.

    The others are the package's and the user's cache.

    Numba refuses to load a kernel that it cannot keep. The folder is removed at the end of the
    process: kernels are then compiled by each process. Set NUMBA_CACHE_DIR to a folder of your own
    to keep them.
    """
    if os.environ.get(VARIABLE) or _can_write(source / "__pycache__") or _can_write(_user_cache()):
        return
    try:
        folder = tempfile.mkdtemp(prefix="tlx-kernels-")
    except OSError:
        return  # said in words where the first kernel is compiled
    owner = os.getpid()
    os.environ[VARIABLE] = folder
    atexit.register(_remove, folder, owner)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked child
        os.environ.pop(VARIABLE, None)
        shutil.rmtree(folder, ignore_errors=True)


def _user_cache() -> Path:
    """Return the folder that Numba tries after the package's own."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "numba"


def _can_write(folder: Path) -> bool:
    """Return whether files can be created in a folder, which is created if it is absent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
