"""Command of every study, made from its row in STUDIES."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..lab.settings import Settings
from ..studies import Study, run_study
from .options import options
from .running import Terminal


def command(study: type[Study]) -> Callable[..., None]:
    """Return the function that typer makes the study's command from."""

    def run(*specs: Any) -> None:
        *own, settings = specs
        run_study(study(*own), Terminal(settings))

    run.__doc__, run.__name__ = study.help, study.name
    function: Callable[..., None] = options(*study.specs, Settings)(run)
    return function
