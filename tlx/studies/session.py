"""Session: runs studies stage by stage with one set of machine settings, and shows progress."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..errors import counted
from ..lab import outputs
from ..lab.engines import slots
from ..lab.settings import Figures, Settings
from ..lab.store import Store
from ..lab.tasks import Event, RunOptions
from . import replicas
from .base import Stage, Study, StudyReport, has_trials, open_store

if TYPE_CHECKING:
    from .tuning.stage import SearchReport, SearchStage

Progress = Callable[[int, int], None]  # (done, of)


class Session:
    """Silent runner of stages.

    Subclasses show progress: a terminal, a notebook. Notes are shown once, however many stages
    repeat them.
    """

    def __init__(self, settings: Settings, figures: Figures | None = None):
        self.settings = settings
        self.figures = figures or Figures()
        self.report: StudyReport | SearchReport | None = None  # of the stage that ended last
        self._noted: set[str] = set()

    @functools.cached_property
    def store(self) -> Store:
        """Return the store of the settings.

        Raises BadDataError if it is of another format.
        """
        return open_store(self.settings)

    def say(self, *lines: str) -> None:
        """Show lines to a person."""

    def steps(self, title: str) -> AbstractContextManager[Progress | None]:
        """Show the progress of a preparation: the context gives a (done, of) callback."""
        return contextlib.nullcontext()

    def preparing(
        self, title: str, modules: Sequence[str] = ()
    ) -> AbstractContextManager[Progress | None]:
        """Show a preparation, as `steps`; the workers start where trials are sure to follow it.

        At once if the store has none; else with its first step, as images that are read or
        extracted now are new.

        modules  that the trials need beside runner.PRELOAD
        """
        return self._starting_workers(title, modules)

    @contextlib.contextmanager
    def _starting_workers(self, title: str, modules: Sequence[str]) -> Iterator[Progress]:
        from . import runner

        start = functools.cache(lambda: runner.start_workers(self.settings, modules))
        if not has_trials(self.settings):
            start()
        with self.steps(title) as progress:

            def tell(done: int, of: int) -> None:
                start()
                if progress is not None:
                    progress(done, of)

            yield tell

    def watching(
        self, stage: Stage | SearchStage
    ) -> AbstractContextManager[Callable[[Event], None]]:
        """Show the progress of a stage's trials: the context gives a callback of events."""
        return contextlib.nullcontext(lambda event: None)

    def note(self, *notes: str) -> None:
        """Show the notes that were not shown yet."""
        for note in notes:
            if note not in self._noted:
                self._noted.add(note)
                self.say(f"note: {note}")

    def run(self, stage: Stage) -> StudyReport:
        """Run a stage and show its outcome.

        Raises TrialsFailedError if trials failed, UntrackedError if tracking was required and
        records are unsent.
        """
        from . import reporting, runner

        self.note(*stage.notes)
        self.say(f"{stage.title}: {counted(len(stage.trials), 'trial')}")
        self._say_where()
        with self.watching(stage) as watch:
            report = runner.run_stage(stage, self.settings, watch, figures=self.figures)
        self.report = report
        self.ended((stage.format_summary or reporting.format_summary)(report))
        report.raise_if_failed(self.settings.require_tracking)
        return report

    def run_search(self, stage: SearchStage) -> SearchReport:
        """Run a search and show its outcome; errors as for `run`."""
        self.note(*stage.notes)
        self.say(f"{stage.title}: {counted(stage.trial_count, 'trial')}")
        self._say_where()
        with self.watching(stage) as watch:
            report = stage.run(self, watch)
        self.report = report
        self.ended(stage.format_summary(report))
        report.raise_if_failed(self.settings.require_tracking)
        return report

    def _say_where(self) -> None:
        """Show once where results go and how MLflow shows them."""
        from ..lab.tracking import api as tracking_api

        line = f"results go to {self.store.root}"
        if self.settings.tracking:
            shown = tracking_api.resolve(self.settings.mlflow_path).to_open()
            line += f"; MLflow: {shown}"
        if line not in self._noted:
            self._noted.add(line)
            self.say(line)

    def ended(self, text: str) -> None:
        """Show the closing lines of a stage."""
        self.say(*text.split("\n"))


def run_study(study: Study, session: Session) -> Any:
    """Run the stages of a study in order and return the report of the last one.

    Raises an error, before anything is computed, for a place that cannot be written to.
    """
    from .tuning.stage import SearchStage

    _check_outputs(study, session)
    study.check(session.settings)
    session.note(*replicas.check(study.given.values(), session.settings))
    _check_cluster(study, session)
    stages = study.stages(session)
    report: Any = None
    stage = next(stages, None)
    while stage is not None:
        report = session.run_search(stage) if isinstance(stage, SearchStage) else session.run(stage)
        try:  # around `send` alone: a StopIteration of a trial must not end the study as if done
            stage = stages.send(report)
        except StopIteration:
            stage = None
    return report


def _check_cluster(study: Study, session: Session) -> None:
    """Raise an error for a cluster that does not answer or cannot run a trial; say its room."""
    settings = session.settings
    if settings.on_cluster:
        processes = replicas.processes_of(study.given.values())
        options = RunOptions(cluster=settings.cluster_options(), processes=processes)
        room = slots(settings.engine, settings.threads, options)
        session.say(
            f"{settings.engine} cluster at {settings.address}: room for {counted(room, 'trial')} "
            "at once"
        )


def _check_outputs(study: Study, session: Session) -> None:
    """Raise an error for a file or folder of the study that cannot be written to."""
    from ..lab.tracking import api as tracking_api

    settings = session.settings
    outputs.check([*study.given.values(), settings])
    outputs.check_one(outputs.FOLDER, session.store.root, "--store")
    if settings.tracking:
        database = tracking_api.resolve(settings.mlflow_path).database
        outputs.check_one(outputs.FILE, database, "--mlflow-path")
