"""Records of a search's trials, one durable line each, from which the storage is rebuilt.

    <root>/searches/<family>/<slot>.journal    a line a trial; each process that works on a search
                                               has a slot of its own
    <root>/trials/<key>/                       the same trial as a run folder, made from its line by
                                               the driver

Searches of one family try configurations of the same thing on the same data and splits, so that one
finds what another has tried.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ... import __version__, files, locks
from ...errors import BusyError
from ...result import Result
from .. import environment
from ..store import FORMAT, JOURNAL, Store

COMPLETE, PRUNED, FAILED, DIVERGED = "complete", "pruned", "failed", "diverged"
SLOTS = 4096


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """Trial of a search.

    number         in its study, from 0
    values         parameter → value, as Optuna proposed it
    configuration  names what was run, by content
    state          complete; pruned or diverged (given up early); failed
    objectives     one number an objective, where complete
    reports        [step, value] as they came: a step is a split, or an epoch of the first one and
                   then a split
    by_split       val accuracy (fraction) of each split that was run
    seconds        of fitting and predicting this configuration, in any process; energy_j: joules,
                   where known
    same_as        the trial (of this search or another of the family) that had the same
                   configuration and spared this
                   one, as [study, number]; None if it was run
    """

    study: str
    number: int
    values: dict[str, Any]
    configuration: str
    title: str
    state: str
    objectives: list[float] = field(default_factory=list)
    reports: list[list[float]] = field(default_factory=list)
    by_split: list[float] = field(default_factory=list)
    seconds: float = 0.0
    energy_j: float | None = None
    same_as: list[Any] | None = None
    error: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    system: dict[str, Any] = field(default_factory=dict)  # what a sampler keeps with its trial
    started_ms: int = 0
    ended_ms: int = 0

    @property
    def key(self) -> str:
        """Return the name of its run folder."""
        return files.digest(["search trial", self.study, self.number])

    @property
    def spent_s(self) -> float:
        """Return the seconds of this trial: none where another spared it."""
        return self.seconds if self.same_as is None else 0.0

    @property
    def spent_j(self) -> float:
        """Return its joules, as far as known."""
        return (self.energy_j or 0.0) if self.same_as is None else 0.0

    @property
    def status(self) -> str:
        """Return its state as a result's status."""
        return "finished" if self.state == COMPLETE else self.state


def now_ms() -> int:
    """Return milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Records:
    """Lines of a family of searches: all can be read, lines are added to one's own slot."""

    def __init__(self, root: Path | str, family: str):
        self.folder = Path(root) / "searches" / family

    def all(self) -> list[TrialRecord]:
        """Return every recorded trial, the earliest of two of one number, by study and number."""
        records: dict[tuple[str, int], TrialRecord] = {}
        for path in sorted(self.folder.glob("*.journal")):
            for row in files.Journal.read(path):
                tried = TrialRecord(**row)
                previous = records.get((tried.study, tried.number))
                if previous is None or tried.ended_ms < previous.ended_ms:
                    records[tried.study, tried.number] = tried
        return [records[key] for key in sorted(records)]

    def of(self, study: str) -> dict[int, TrialRecord]:
        """Return the trials of a study, by number."""
        return {tried.number: tried for tried in self.all() if tried.study == study}

    @contextlib.contextmanager
    def writing(self) -> Iterator[files.Journal]:
        """Hold a slot of one's own inside the block: a killed process's slot is reused."""
        files.make_folder(self.folder)
        with contextlib.ExitStack() as held:
            for slot in range(SLOTS):
                path = self.folder / f"{slot:04d}.journal"
                try:
                    held.enter_context(locks.lock(path.with_suffix(".lock")))
                except BusyError:
                    continue
                yield held.enter_context(files.Journal(path))
                return
            raise BusyError("busy", f"{SLOTS} processes write to this search", where=self.folder)


def plain(tried: TrialRecord) -> dict[str, Any]:
    """Return the line of a trial."""
    return asdict(tried)


def keep(store: Store, tried: TrialRecord) -> None:
    """Write the run folder of a trial from its line, unless it exists."""
    if store.folder(tried.key).is_dir():
        return

    def make(draft: Any) -> Result:
        with files.Journal(
            draft.folder / JOURNAL
        ) as journal:  # with the times at which it happened
            if not journal.records:
                journal.append(
                    {"t": "start", "ts": tried.started_ms, "format": FORMAT, "tlx": __version__}
                )
            for step, value in enumerate(tried.by_split):
                if step >= len(journal.records) - 1:
                    journal.append(
                        {
                            "t": "metrics",
                            "step": step,
                            "ts": tried.ended_ms + step,
                            "values": {"val_accuracy": value},
                        }
                    )
        scores = {"seconds": tried.seconds, "fits": float(len(tried.by_split))}
        if tried.by_split:
            scores["mean_val_accuracy"] = sum(tried.by_split) / len(tried.by_split)
        known = (
            {}
            if tried.energy_j is None
            else {
                "energy_j": {
                    "value": tried.energy_j,
                    "unit": "J",
                    "source": tried.details.get("energy_source"),
                }
            }
        )
        return Result(
            key=tried.key,
            kind="search-trial",
            status=tried.status,
            scores=scores,
            cost=known,
            spec={"kind": "search-trial", "number": tried.number, **tried.values},
            details=plain(tried),
            environment=environment.gather(),
        )

    store.get_or_compute(tried.key, make)


def row(tried: TrialRecord) -> dict[str, Any]:
    """Return the line of a trial in study.json, for the mirror."""
    return {
        "key": tried.key,
        "title": f"trial {tried.number}: {tried.title}",
        "shots": 0,
        "split": 0,
        "params": {**tried.values, "Trial": tried.number},
        "tags": marks(tried),
    }


def marks(tried: TrialRecord) -> Mapping[str, str]:
    """Return the tags of a trial's run."""
    tags = {
        "optuna.trial_number": str(tried.number),
        "optuna.state": tried.state.upper(),
        "tlx.configuration": tried.configuration,
    }
    return (
        tags
        | ({"tlx.error": tried.error} if tried.error else {})
        | ({} if tried.same_as is None else {"tlx.same_as": f"trial {tried.same_as[1]}"})
    )
