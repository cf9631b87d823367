"""Choose between the kernels of llvm/ and plain Numba: once a process, at the first call.

    has_tile        register tile, panels, masks (tile.py, panels.py, candidates.py)
    has_bfloat16    products of bfloat16 (bfloat16.py)
    has_class_sums  sums of squares by class (sums.py)

Plain Numba is taken

- where the processor lacks the instructions,
- with TLX_KERNELS=plain in the environment,
- with NUMBA_DISABLE_JIT=1, where plain code runs without compilation,
- where Numba does not compile what llvm/ builds, or compiles it to other sums: llvm/ uses
  `numba.core.cgutils` and `numba.extending`, which change between versions of Numba. One warning of
  the logger "tlx.kernels" names the reason.

Call the functions at each use and never compile their answer into a kernel: the files in which
Numba keeps machine code are keyed by the processor's features and the kernel's source alone.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from numba import config
from numba.core.codegen import get_host_cpu_features

FEATURES = frozenset(
    (get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES).split(",")
)
VARIABLE = "TLX_KERNELS"

_log = logging.getLogger("tlx.kernels")
_lock = threading.Lock()
_compiled: dict[str, bool] = {}  # of each group of kernels that has been tried


def has_tile() -> bool:
    """Return whether the register tile, its panels and its masks run here."""
    has_fma = "+avx512f" in FEATURES or {"+avx2", "+fma"} <= FEATURES
    return has_fma and _is_wanted() and _is_compiled("register tile", _check_tile)


def has_bfloat16() -> bool:
    """Return whether tiles of bfloat16 products run here."""
    return (
        "+avx512bf16" in FEATURES
        and has_tile()
        and _is_compiled("bfloat16 tile", _check_bfloat16_tile)
    )


def has_class_sums() -> bool:
    """Return whether sums of squares by class run on LLVM vectors here."""
    return _is_wanted() and _is_compiled("sums by class", _check_class_sums)


def _is_wanted() -> bool:
    return not config.DISABLE_JIT and os.environ.get(VARIABLE) != "plain"


def _is_compiled(group: str, check: Callable[[], None]) -> bool:
    """Return whether `check` passes; it runs once, as kernels are called from several threads."""
    with _lock:
        if group not in _compiled:
            try:
                check()
                _compiled[group] = True
            except Exception as error:  # whatever another version of Numba or llvmlite may raise
                _compiled[group] = False
                _log.warning(
                    "Numba does not compile the LLVM kernels of the %s (%s: %s); "
                    "plain Numba is used instead, which is slower. "
                    "Set %s=plain to choose it without this warning.",
                    group,
                    type(error).__name__,
                    next(iter(str(error).strip().splitlines()), "no message"),
                    VARIABLE,
                )
        return _compiled[group]


def _check_tile() -> None:
    from .llvm import masks, register_tile, transposition

    register_tile.check()
    transposition.check()
    masks.check()


def _check_bfloat16_tile() -> None:
    from .llvm import bfloat16_tile

    bfloat16_tile.check()


def _check_class_sums() -> None:
    from .llvm import class_sums

    class_sums.check()
