"""Pieces of metrics over blocks as tasks of an engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import BadDataError, UsageError
from ..lab import signals
from ..lab.engines import CLUSTERS, ENGINES, slots
from ..lab.settings import Settings
from ..lab.tasks import Event, Failed, Finished, Note, Report, RunOptions, Task
from ..metrics.blocks.pieces import PieceTask
from ..spec import make_specs

CALL = "tlx.studies.block_tasks:compute"
PRELOAD = ("tlx.studies.block_tasks", "tlx.metrics.blocks.over", "tlx.metrics.blocks.preloaded")


@dataclass
class EnginePieces:
    """Runner of pieces (metrics.blocks.pieces.PieceRunner) by the engine of the settings.

    progress  called with (tasks done, tasks in all)
    notes     what the user should know: nodes left out, attempts that were made again
    """

    settings: Settings
    progress: Callable[[int, int], None] = lambda done, of: None
    notes: list[str] = field(default_factory=list)
    _slots: int | None = field(default=None, repr=False)

    @property
    def threads(self) -> int:
        """Return the threads of each task."""
        return self.settings.threads

    @property
    def workers(self) -> int:
        """Return how many tasks run at once: as asked, else as many as there is room for."""
        if self.settings.workers is not None:
            return self.settings.workers
        if not self.settings.on_cluster:
            return self.settings.resolved_workers("cpu", os.cpu_count() or 1)
        if self._slots is None:
            self._slots = max(1, slots(self.settings.engine, self.threads, self._options()))
        return self._slots

    def __call__(self, tasks: Sequence[PieceTask]) -> list[object]:
        """Return the results of tasks, in their order; raise the first error, in that order."""
        done = 0

        def hear(event: Event) -> None:
            nonlocal done
            if isinstance(event, Finished):
                done += 1
                self.progress(done, len(tasks))
            elif isinstance(event, Note):
                self._note(event.text)
            elif isinstance(event, Failed) and event.will_retry:
                self._note(f"a piece is computed again: {event.error.what}")

        with signals.graceful():
            outcomes = ENGINES[self.settings.engine](
                [
                    Task(f"piece-{number}", task.title, CALL, (task.function, task.args))
                    for number, task in enumerate(tasks)
                ],
                workers=min(self.workers, len(tasks)),
                threads=self.threads,
                on_event=hear,
                options=self._options(),
            )
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        return [outcome.result for outcome in outcomes]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _options(self) -> RunOptions:
        return RunOptions(
            timeout_s=self.settings.timeout,
            preload=PRELOAD,
            cluster=self.settings.replace(device="cpu").cluster_options(),
        )


def compute(
    function: Callable[..., object],
    args: tuple[object, ...],
    *,
    emit: Callable[[Report], None],
) -> object:
    """Compute a piece, in the process of its task.

    Raises BadDataError for a file that this machine does not see.
    """
    try:
        return function(*args)
    except FileNotFoundError as error:
        raise BadDataError(
            "missing",
            "file of rows not found",
            where=error.filename or "",
            expected="a folder that every node sees under the same path",
        ) from error


def pieces_for(settings: Settings) -> EnginePieces | None:
    """Return the runner of a command's pieces; None where it has neither cluster nor workers."""
    if not settings.on_cluster and (settings.workers or 0) < 2:
        return None
    return EnginePieces(settings)


def pieces_by(engine: str, given: Mapping[str, object]) -> EnginePieces:
    """Return the runner of an engine, with settings by their names.

    Raises UsageError for settings that do not agree, UnknownNameError for another engine.
    """
    named = {name: value for name, value in given.items() if value is not None}
    (settings,) = make_specs((Settings,), {"engine": engine, **named})
    assert isinstance(settings, Settings)
    if engine not in CLUSTERS and settings.workers == 0:
        raise UsageError("conflict", "workers 0", where="workers", expected="at least 1")
    return EnginePieces(settings)
