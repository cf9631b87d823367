"""Training state on disk: tensors and JSON in one checksummed safetensors file.

The file is replaced as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .. import files


def save(path: Path, tensors: dict[str, Tensor], state: Mapping[str, object]) -> None:
    """Write tensors and state durably to `path`.

    Readers see this state or the previous one, whole.
    """
    held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = files.canonical_json(state).decode()
    files.write_bytes(
        path, safetensors.torch.save(held, {"state": text, "sha256": _checksum(held, text)})
    )


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read the tensors and state at `path`.

    None if there is no file, or it is damaged (the work is then repeated).
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — not a dict
    except (SafetensorError, OSError):
        return None
    text = about.get("state", "")
    return (tensors, json.loads(text)) if about.get("sha256") == _checksum(tensors, text) else None


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    total = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(
            value.reshape(-1).view(dtype=torch.uint8).numpy().data if value.numel() else b""
        )
    return total.hexdigest()
