"""Command of every study, made from its row in STUDIES."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

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
        with output.aside(reporting.json):
            report = run_study(study(*own), session)
        if reporting.json and report is not None:
            content = report.to_json()
            output.say(*json.dumps(content, indent=1, ensure_ascii=False).split("\n"))

    run.__doc__, run.__name__ = study.help, study.name
    function: Callable[..., None] = options(*study.specs, Settings, Figures, Reporting)(run)
    return function
