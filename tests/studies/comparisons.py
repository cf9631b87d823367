"""A small comparison, as the tests of comparisons run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import undrawn

from tlx.lab.settings import Figures, Settings
from tlx.studies import STUDIES, Session, run_study

FEW: dict[str, Any] = {
    "shots": (1, 2),
    "splits": 4,
    "val_per_class": 3,
    "use_crops": False,
    "epochs": 2,
    "classifier": "ncm",
}


def settings_of(store: Path, cache: Path) -> Settings:
    """Return settings of a study in this process, with this store and no tracking."""
    return Settings(
        store=str(store), cache=str(cache), tracking=False, workers=0, system_metrics=False
    )


def compare(
    dataset: object, settings: Settings, figures: Figures = undrawn.NONE, **changes: object
) -> Any:
    """Run a comparison and return its report; `dataset` None where finished studies are taken."""
    given = {} if dataset is None else {"dataset": str(dataset), **FEW}
    study = STUDIES["compare"].with_settings({**given, **changes})
    return run_study(study, Session(settings, figures))
