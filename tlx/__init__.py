"""Choose a pretrained network, feature extraction or fine-tuning, and where to cut or freeze.

    report = tlx.run("fine-tuning", dataset="photos/", shots=(1, 5, 10))

Everything is loaded when it is first used: importing tlx is quick.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
API = ("run", "plan", "settings", "Store", "load_backbone")
PARTS = ("data", "errors", "features", "metrics", "models", "studies")  # packages
STUDIES = (  # functions of a study each, with every setting in the signature
    *(
        "compare",
        "scores",
        "feature_extraction",
        "fine_tuning",
        "tune",
        "analyze",
        "atlas",
        "quanta",
        "layer_transfer",
    ),
    *("chop", "prune", "parameter_distance", "checkpoints", "pretrain", "evaluate"),
)
__all__ = [  # noqa: PLE0604 — the parts are tuples of names
    *API,
    "Settings",
    "StudyReport",
    *PARTS,
    *STUDIES,
    "__version__",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in PARTS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in API:
        return getattr(importlib.import_module(f"{__name__}.api"), name)
    if name in STUDIES:
        return importlib.import_module(f"{__name__}.api").study_function(name)
    if name == "Settings":
        return importlib.import_module(f"{__name__}.lab.settings").Settings
    if name == "StudyReport":
        return importlib.import_module(f"{__name__}.studies").StudyReport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
