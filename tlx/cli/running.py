"""What every command that runs a study does with it: show it running, say what came of it, leave accordingly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..lab.settings import Settings
from .progress import watching


def run(asked: Any, settings: Settings, notes: Sequence[str] = ()) -> Any:
    """The report of a study that was run to its end, after its closing words; TrialsFailed or Untracked otherwise."""
    from ..report import studies
    from ..trials import study

    for note in notes:
        print(f"note: {note}")
    print(f"{asked.title}: {len(asked.trials)} trials", flush=True)
    with watching(asked.groups) as watch:
        report = study.perform(asked, settings, watch, studies.summarise)
    print(studies.closing(report), flush=True)
    report.raise_if_failed(settings.require_tracking)
    return report
