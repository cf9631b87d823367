"""Command of every study, made from its row in STUDIES."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import TrialsFailedError, UntrackedError
from ..lab.settings import Figures, Reporting, Settings
from ..studies import Study, run_study
from . import output
from .options import options
from .running import Terminal


def command(study: type[Study]) -> Callable[..., None]:
    """Return the function that typer makes the study's command from."""

    def run(*specs: Any) -> None:
        *own, settings, figures, reporting = specs
        session = Terminal(settings, figures, reporting)
        report = None
        try:
            with output.aside(reporting.json):
                report = run_study(study(*own), session)
        except (TrialsFailedError, UntrackedError):
            report = session.report  # what is finished is printed all the same
            raise
        finally:
            if reporting.json and report is not None:
                output.say_json(report.to_json())

    run.__doc__, run.__name__ = study.help, study.name
    function: Callable[..., None] = options(*study.specs, Settings, Figures, Reporting)(run)
    return function
