"""Run of a study's stages with progress and closing lines on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ..lab.settings import Figures, Reporting, Settings
from ..lab.tasks import Event
from ..studies.session import Session
from .output import say
from .progress import Preparation, SearchLines, steps, watching

if TYPE_CHECKING:
    from ..studies.base import Stage
    from ..studies.tuning.stage import SearchStage


class Terminal(Session):
    """Session that shows bars on a terminal, and lines elsewhere."""

    def __init__(
        self,
        settings: Settings,
        figures: Figures | None = None,
        reporting: Reporting | None = None,
    ):
        super().__init__(settings, figures)
        self.reporting = reporting or Reporting()

    def say(self, *lines: str) -> None:
        """Print lines."""
        say(*lines)

    def steps(self, title: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Show a bar of a preparation, or a line each tenth."""
        return steps(title)

    def watching(
        self, stage: Stage | SearchStage
    ) -> AbstractContextManager[Callable[[Event], None]]:
        """Show the trials of a stage: bars, or a line a trial."""
        from ..studies.base import Stage

        if isinstance(stage, Stage):
            return watching(stage.groups, self.reporting.verbose)
        return SearchLines.of(stage.trial_count)

    def ended(self, text: str) -> None:
        """Print the closing lines of a stage, and how long reading and extracting took."""
        say(*text.split("\n"))
        if line := Preparation.line():
            say(line)
