"""What every command that runs a study does with it: show it running, say what came of it, leave
accordingly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..lab.settings import Settings
from .output import say
from .progress import Preparation, watching


def run(
    asked: Any,
    settings: Settings,
    notes: Sequence[str] = (),
    *,
    summarise: Callable[[Any, str, str], None] | None = None,
    closing: Callable[[Any], str] | None = None,
) -> Any:
    """The report of a study that was run to its end, after its closing words; TrialsFailed or
    Untracked otherwise.

    summarise, closing   what is made of its results (store, key, form of figures), and said of
    them: as few-shot
                         studies do, unless given
    """
    from ..studies import reporting, runner

    for note in dict.fromkeys((*asked.notes, *notes)):
        say(f"note: {note}")
    say(f"{asked.title}: {len(asked.trials)} trials")
    with watching(asked.groups) as watch:
        report = runner.run_study(
            asked,
            settings,
            watch,
            lambda store, key: (summarise or reporting.write_summary)(store, key, settings.form),
        )
    say(*(closing or reporting.format_summary)(report).split("\n"))
    if line := Preparation.line():
        say(line)
    report.raise_if_failed(settings.require_tracking)
    return report
