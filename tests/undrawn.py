"""Studies without figures, for tests that look at none: figures take most of the time of small
trials.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from tlx.lab.settings import Figures, Settings
from tlx.studies import Session, reporting, runner
from tlx.studies.base import Stage, StudyReport

WORDS = ("--figures", "none")  # of a command
NONE = Figures(figures="none")


def run_stage(
    stage: Stage,
    settings: Settings,
    watch: Callable = lambda event: None,
    write_summary: Callable = reporting.write_summary,
) -> StudyReport:
    """Run a stage and return its report; its tables are written, and no figures."""
    write = functools.partial(write_summary, form=None)
    return runner.run_stage(stage, settings, watch, write, NONE)


def session(settings: Settings) -> Session:
    """Return a session whose studies draw no figures."""
    return Session(settings, NONE)
