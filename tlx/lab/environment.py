"""Environment of a result: versions, processor, threads, GPUs, commit; no part of its key."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from .. import __version__
from . import redaction

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "numba",
    "pillow",
    "safetensors",
    "h5py",
    "mlflow",
    "optuna",
)
CAPABILITIES = (
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "sve",
    "bf16",
)
CPU_VARIABLES = ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA")  # hold kernels back
CHECKOUT = Path(__file__).resolve().parents[2]
GIT_S = 2.0  # seconds that git may take


def gather() -> dict[str, object]:
    """Return plain JSON about this process's environment.

    What cannot be found out is None or absent.
    """
    return {**_fixed(), "threads": _threads(), "gpus": _gpus()}


@functools.cache
def _fixed() -> dict[str, Any]:
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": cpu(),
        "cpu_kind": cpu_kind(),
        "git": commit(),
    }


def versions() -> dict[str, str]:
    """Return package → version, of installed packages that a result may depend on."""
    result = {"python": platform.python_version(), "tlx": __version__}
    for package in PACKAGES:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return result


def cpu() -> dict[str, object]:
    """Return the processor's model, capabilities that change results, and usable cores."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    rows = dict(re.findall(r"^(model name|flags|Features)\s*:\s*(.*)$", text, re.MULTILINE))
    flags = set((rows.get("flags") or rows.get("Features") or "").split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": rows.get("model name") or platform.processor() or platform.machine(),
        "capabilities": [name for name in CAPABILITIES if name in flags],
        "cores": cores,
    }


@functools.cache
def cpu_kind() -> str:
    """Return the kind of this machine's CPU: machines of one kind give the same bits.

    Capabilities that kernels choose by, and the variables that hold them back.
    """
    capabilities = cpu()["capabilities"]
    assert isinstance(capabilities, list)
    held_back = [f"{name}={os.environ[name]}" for name in CPU_VARIABLES if name in os.environ]
    return " ".join([*capabilities, *held_back]) or "plain"


def commit(checkout: Path = CHECKOUT) -> dict[str, object] | None:
    """Return the git commit of tlx's checkout, and whether it was changed since.

    None outside a checkout.
    """
    if not (checkout / ".git").exists():  # an installed tlx may be inside somebody else's checkout
        return None
    head = _git(checkout, "rev-parse", "HEAD")
    if head is None:
        return None
    changes, remote = (
        _git(checkout, "status", "--porcelain"),
        _git(checkout, "config", "--get", "remote.origin.url"),
    )
    return {
        "commit": head,
        "dirty": None if changes is None else bool(changes),
        "remote": remote and redaction.public_address(remote),
    }


def _git(checkout: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 — fixed words and a folder
            [  # noqa: S607 — git of the search path, as in a shell
                "git",
                "--no-optional-locks",
                "-C",
                str(checkout),
                *arguments,
            ],
            capture_output=True,
            text=True,
            timeout=GIT_S,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()


def _threads() -> dict[str, object]:
    torch = sys.modules.get("torch")
    return {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "torch": torch.get_num_threads() if torch else None,
    }


def _gpus() -> list[str]:
    """Return names of the GPUs, if torch is loaded and has used them.

    Asking would otherwise start CUDA.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
