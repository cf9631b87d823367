"""tlx: which pre-trained network, feature extraction or fine-tuning, cut or frozen where, at what
cost.
"""

from types import ModuleType

__version__ = "0.1.0"
PARTS = (
    "data",
    "errors",
    "features",
    "metrics",
    "models",
)  # usable without the platform; loaded when asked for


def __dir__() -> list[str]:
    return sorted({*globals(), *PARTS})


def __getattr__(name: str) -> ModuleType:
    if name in PARTS:
        import importlib

        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
