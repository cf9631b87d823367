"""Scored rows after a frozen prefix in files that the trainings of a study share.

Every training of a study scores the same validation and test images, and frozen blocks give the
same outputs in all of them. The first training computes them and the others read them, bit for bit.
A file is found by what its rows are made of: pixels, weights and structure of the prefix, size of
the batches, arithmetic, machine and number of threads. One that is damaged or gone is made again.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ... import files
from ...errors import TlxError
from ..network import Network
from .cache import CachedBatches, ComputedBatches, RowLayout

FORMAT = 1  # to be raised when the same rows are computed or stored in another way


def shared_name(
    network: Network, computed: ComputedBatches, layout: RowLayout, size: int
) -> str | None:
    """Return the name of the file of these rows, scored `size` at a time.

    None where nothing says what the pixels are.
    """
    pixels = computed.feed.digest()
    if pixels is None:
        return None
    tensors = hashlib.sha256()
    for block in network.blocks[: computed.cut.depth]:
        for name, tensor in network.tensors(block).items():
            tensors.update(
                f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.stride()}".encode()
            )
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            tensors.update(flat.view(torch.uint8).numpy().data)
    return files.digest(
        {
            "format": FORMAT,
            "pixels": pixels,
            "network": [repr(network.net), network.row.model, network.row.family],
            "tensors": tensors.hexdigest(),
            "cut": [computed.cut.depth, computed.cut.last],
            "layout": [layout.shape, layout.strides, str(layout.dtype)],
            "batch": size,
            "bfloat16": computed.bfloat16,
            "machine": [
                platform.node(),
                computed.device,
                torch.__version__,
                torch.backends.cpu.get_cpu_capability(),
                torch.get_num_threads(),
            ],
        }
    )


def load(path: Path, computed: ComputedBatches, layout: RowLayout) -> CachedBatches | None:
    """Return the rows of a file, mapped; None where it is absent or damaged."""
    try:
        record = files.read_json(path.with_suffix(".json"))
        rows = np.memmap(path, np.uint8, "r", shape=(len(computed), layout.bytes))
        if record["sha256"] != files.sha256(path):
            return None
    except (OSError, ValueError, TypeError, KeyError, TlxError):
        return None
    if computed.device == "cpu":
        return CachedBatches(computed, layout, np.asarray(rows))
    return CachedBatches(computed, layout, torch.from_numpy(rows.copy()).to(computed.device))


def used(path: Path) -> dict[str, float]:
    """Return what the rows of a file took, name → sum; {} where it is not told."""
    try:
        sums = files.read_json(path.with_suffix(".json"))["used"]
        return {str(name): float(value) for name, value in sums.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, TlxError):
        return {}


def save(path: Path, rows: Tensor, used: Mapping[str, float]) -> None:
    """Write rows (r, bytes) uint8 to a file for others; nothing where it has no place.

    used  what they took
    """
    try:
        files.make_folder(path.parent)
        if 2 * rows.numel() > files.free_bytes(path.parent):
            return
        with files.atomic_write(path) as file:
            file.write(rows.cpu().numpy().data)
        files.write_json(
            path.with_suffix(".json"), {"sha256": files.sha256(path), "used": dict(used)}
        )
    except (OSError, TlxError):
        return
