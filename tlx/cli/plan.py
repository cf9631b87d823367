"""Commands tlx plan STUDY: what a study would run and cost; nothing is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from ..lab import outputs
from ..lab.settings import JsonOutput, Settings
from ..spec import Spec
from ..studies import STUDIES, Study
from ..studies.session import Session
from .help import SectionedCommand
from .options import options
from .output import aside, say, say_json
from .running import Terminal

app = typer.Typer(
    no_args_is_help=True,
    help="Say what a study would run, and estimate its time, disk and memory, on this machine and "
    "on clusters. The options are those of the study; nothing is trained.",
)


def _command(study: type[Study]) -> Callable[..., None]:
    """Return the function that plans a study."""

    def run(*specs: Spec) -> None:
        from ..studies.planning import plan_study

        *own, settings, shown = specs
        assert isinstance(settings, Settings)
        assert isinstance(shown, JsonOutput)
        outputs.check([settings])
        asked = study(*own)
        with aside(shown.json):
            planned = plan_study(asked, Terminal(settings) if not shown.json else Session(settings))
        if shown.json:
            say_json(planned.to_json())
        else:
            say(*str(planned).split("\n"))

    run.__doc__ = f"Plan tlx {study.name}: {study.short[0].lower()}{study.short[1:]}."
    run.__name__ = study.name
    function: Callable[..., None] = options(*study.specs, Settings, JsonOutput)(run)
    return function


def add_commands(settings: dict[str, Any]) -> None:
    """Add a command for every study."""
    for name, row in STUDIES.items():
        app.command(name, cls=SectionedCommand, context_settings=settings, short_help=row.short)(
            _command(row)
        )
