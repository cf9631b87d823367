"""Networks: backbones, weights, transfer, freezing and training."""

from __future__ import annotations

from typing import Any

LAZY = ("QuantaGate", "transfer")


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})


def __getattr__(name: str) -> Any:
    if name == "QuantaGate":  # loaded on first use: torch is heavy
        from .quanta.gate import QuantaGate

        return QuantaGate
    if name == "transfer":
        from .transferred import transfer

        return transfer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
