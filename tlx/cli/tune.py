"""tlx tune."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..lab.settings import Settings
from ..lab.tasks import Event, Failed, Finished, Progress, Waiting
from ..studies.few_shot import FewShotGrid
from ..studies.tuning.spec import Search, SearchBase
from .options import options
from .output import say
from .progress import Preparation, clock, format_outcome, steps, waiting


@options(Search, SearchBase, FewShotGrid, Settings)
def command(search: Search, base: SearchBase, few: FewShotGrid, settings: Settings) -> None:
    """Search classifiers, layers or fine-tuning recipes with Optuna: scored on val over all splits,
    tested once.

    Each configuration is tried on one split first and only the best go on. Trial 0 is the defaults:
    it is run on all splits and scored on the test set too, beside the winner. Asked again, finished
    trials are kept and only what is missing of --trials is run. Accuracies are mean per-class, as
    fractions.
    """
    from ..studies.tuning import plan as tuning_plan
    from ..studies.tuning import report as tuning_report
    from ..studies.tuning import run as tuning_run

    with steps("reading and extracting") as progress:
        ready = tuning_plan.plan_search(search, base.of(search.study), few, settings, progress)
    for note in ready.notes:
        say(f"note: {note}")
    say(f"{ready.title}: {ready.search.wanted} trials")
    report = tuning_run.run_search(
        ready,
        settings,
        SearchLines(ready.search.wanted),
        lambda made: tuning_report.write_summary(made, settings.form),
        tuning_report.test,
        _preparing,
    )
    say(*tuning_report.format_summary(report).split("\n"))
    if line := Preparation.line():
        say(line)
    report.raise_if_failed(settings.require_tracking)


@contextlib.contextmanager
def _preparing(title: str) -> Iterator[Any]:
    """Say what is about to be tested, and show how far its test images are read and extracted."""
    say(title)
    with steps("reading and extracting test images") as progress:
        yield progress


class SearchLines:
    """A line a trial, with the best so far and the time left."""

    def __init__(self, wanted: int, say: Callable[..., Any] = say):
        self._wanted, self._say, self._best, self._first = wanted, say, -1.0, (0.0, 0)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and "tried" in event.values:
            self._trial(event.step, event.values["tried"])  # type: ignore[arg-type]
        elif isinstance(event, Finished) and isinstance(event.result, dict):
            self._say(f"final test: {format_outcome(event.result)}")
        elif isinstance(event, Waiting):
            self._say(waiting(event))
        elif isinstance(event, Failed):
            said = "a worker is started again" if event.will_retry else "failed"
            self._say(f"{said}: {event.error}")

    def _trial(self, done: int, tried: dict[str, Any]) -> None:
        now = time.monotonic()
        if not self._first[1]:
            self._first = (now, done)
        of = done - self._first[1]
        left = clock((now - self._first[0]) / of * (self._wanted - done) if of else None)
        self._say(
            f"trial {tried['number']} ({done}/{self._wanted}): {self._came_to(tried)}, {left} left"
        )

    def _came_to(self, tried: dict[str, Any]) -> str:
        title, scores = tried["title"], tried["by_split"]
        if tried["state"] == "failed":
            return f"failed with {title}: {tried['error']}"
        if not scores:
            return f"{tried['state']} with {title}"
        mean = sum(scores) / len(scores)
        if tried["state"] != "complete":
            how = "given up" if tried["state"] == "pruned" else tried["state"]
            return f"{how} at val accuracy {mean:.4f} of {len(scores)} splits with {title}"
        costs = "".join(
            f", {cost:.3g} {unit}"
            for cost, unit in zip(
                tried["objectives"][1:],
                ["s" if tried["energy_j"] is None else "s or J"],
                strict=False,
            )
        )
        self._best = max(self._best, mean)
        return f"val accuracy {mean:.4f}{costs} with {title} (best {self._best:.4f})"
