"""Stage of a search: its plan, and how it is run and reported."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...lab.tasks import Event

if TYPE_CHECKING:
    from ..session import Session
    from .plan import SearchPlan
    from .run import SearchReport

    __all__ = ["SearchReport", "SearchStage"]


@dataclass(frozen=True)
class SearchStage:
    """Search that is ready to run."""

    plan: SearchPlan

    @property
    def title(self) -> str:
        """Return the title."""
        return self.plan.title

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes, shown before the trials."""
        return self.plan.notes

    @property
    def trial_count(self) -> int:
        """Return the number of configurations, those of earlier commands included."""
        return self.plan.search.wanted

    def run(self, session: Session, watch: Callable[[Event], None]) -> SearchReport:
        """Run what is missing, then test the best configuration and the defaults."""
        from . import report, run

        @contextlib.contextmanager
        def preparing(title: str) -> Iterator[Any]:
            session.say(title)
            with session.steps("reading and extracting test images") as progress:
                yield progress

        figures = session.figures
        return run.run_search(
            self.plan,
            session.settings,
            watch,
            lambda done: report.write_summary(done, figures.study_form),
            report.test,
            preparing=preparing,
            form=figures.trial_form,
        )

    @staticmethod
    def format_summary(report: SearchReport) -> str:
        """Return the closing text of a search."""
        from . import report as tuning_report

        return tuning_report.format_summary(report)
