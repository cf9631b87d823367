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
from .. import attempts, environment
from ..records import StoredTrial
from ..sealed import FORMAT
from ..store import JOURNAL, Draft, Store

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
                record = TrialRecord(**row)
                previous = records.get((record.study, record.number))
                if previous is None or record.ended_ms < previous.ended_ms:
                    records[record.study, record.number] = record
        return [records[key] for key in sorted(records)]

    def of(self, study: str) -> dict[int, TrialRecord]:
        """Return the trials of a study, by number."""
        return {record.number: record for record in self.all() if record.study == study}

    @contextlib.contextmanager
    def writing(self) -> Iterator[files.Journal]:
        """Hold a slot of one's own inside the block: a killed process's slot is reused.

        An attempt on a cluster has a file of its name, and needs no lock.
        """
        files.make_folder(self.folder)
        if attempts.current():
            with files.Journal(self.folder / f"{attempts.current()}.journal") as journal:
                yield journal
            return
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


def plain(record: TrialRecord) -> dict[str, object]:
    """Return the line of a trial."""
    return asdict(record)


def keep(store: Store, record: TrialRecord) -> None:
    """Write the run folder of a trial from its line, unless it exists."""
    if store.folder(record.key).is_dir():
        return

    def make(draft: Draft) -> Result:
        _write_journal(record, draft.folder / JOURNAL)
        return _result(record)

    store.get_or_compute(record.key, make)


def _write_journal(record: TrialRecord, path: Path) -> None:
    """Write a trial's journal, with the times at which it happened."""
    with files.Journal(path) as journal:
        if not journal.records:
            journal.append(
                {"t": "start", "ts": record.started_ms, "format": FORMAT, "tlx": __version__}
            )
        for step in range(len(journal.records) - 1, len(record.by_split)):
            journal.append(
                {
                    "t": "metrics",
                    "step": step,
                    "ts": record.ended_ms + step,
                    "values": {"val_accuracy": record.by_split[step]},
                }
            )


def _result(record: TrialRecord) -> Result:
    scores = {"seconds": record.seconds, "fits": float(len(record.by_split))}
    if record.by_split:
        scores["mean_val_accuracy"] = sum(record.by_split) / len(record.by_split)
    cost = {}
    if record.energy_j is not None:
        source = record.details.get("energy_source")
        cost["energy_j"] = {"value": record.energy_j, "unit": "J", "source": source}
    return Result(
        key=record.key,
        kind="search-trial",
        status=record.status,
        scores=scores,
        cost=cost,
        spec={"kind": "search-trial", "number": record.number, **record.values},
        details=plain(record),
        environment=environment.gather(),
    )


def row(record: TrialRecord) -> StoredTrial:
    """Return the line of a trial in study.json, for the mirror."""
    return {
        "key": record.key,
        "title": f"trial {record.number}: {record.title}",
        "shots": 0,
        "split": 0,
        "params": {**record.values, "Trial": record.number},
        "tags": marks(record),
    }


def marks(record: TrialRecord) -> Mapping[str, str]:
    """Return the tags of a trial's run."""
    tags = {
        "optuna.trial_number": str(record.number),
        "optuna.state": record.state.upper(),
        "tlx.configuration": record.configuration,
    }
    return (
        tags
        | ({"tlx.error": record.error} if record.error else {})
        | ({} if record.same_as is None else {"tlx.same_as": f"trial {record.same_as[1]}"})
    )
