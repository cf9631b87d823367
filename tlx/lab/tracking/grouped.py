"""Groups of trials as one run each: the numbers of a trial are metrics under its label.

A comparison has hundreds of short trials, and a run of its own costs each of them more than its
training. So a study may say of a trial to which group it belongs (`StoredTrial`): the group is a
run, found by its key as that of a trial is, with `test_accuracy/knn` of the trial labelled knn and
a tag that has the trial's key. Trials of one label, as the draws of a number of shots, are steps of
these metrics. A trial is sent once: its tag says that its numbers are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...result import DIVERGED
from ..records import StoredTrial
from . import records as tracking_records
from .cursors import Cursor
from .records import MirroredTrial, Point

if TYPE_CHECKING:
    from mlflow.entities import Run

    from .mirror import StudyMirror

ROLE = "group"  # of its run, beside "trial" and "study"
OTHER_RUNS = "other runs show its trials"
FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"  # mlflow's words


@dataclass(frozen=True)
class TrialGroup:
    """Trials that are shown as one run.

    key    of the run: a digest, as that of a trial
    title  its name
    rows   of its trials, in the order of the study
    """

    key: str
    title: str
    rows: tuple[StoredTrial, ...]


def groups_of(rows: Iterable[StoredTrial]) -> list[TrialGroup]:
    """Return the groups among the trials of a study, in order of their first trial."""
    together: dict[str, list[StoredTrial]] = {}
    for row in rows:
        if row.get("group"):
            together.setdefault(row["group"], []).append(row)
    return [
        TrialGroup(key, members[0].get("group_title") or key[:12], tuple(members))
        for key, members in together.items()
    ]


def trial_tag(row: StoredTrial) -> str:
    """Return the tag of a group's run that has the key of this trial."""
    return tracking_records.name(f"tlx.trial.{_named(row)}")


def _named(row: StoredTrial) -> str:
    """Return the name of a trial in its group: its label, and its step if it has one."""
    return f"{_label(row)}.{row['step']}" if "step" in row else _label(row)


@dataclass(frozen=True)
class Members:
    """Trials of a group that are complete, and what is known of the others.

    complete  read from their folders
    failed    name of a trial → why it ended without a result
    is_whole  whether no trial is missing
    """

    complete: tuple[MirroredTrial, ...]
    failed: Mapping[str, str]
    is_whole: bool

    @property
    def status(self) -> str:
        """Return how their run ends, in mlflow's words."""
        ended = [trial.result.status for trial in self.complete if trial.result is not None]
        if self.failed or DIVERGED in ended or "failed" in ended:
            return FAILED
        return FINISHED if self.is_whole else KILLED


class GroupRuns:
    """Runs of the groups of one study."""

    def __init__(self, mirror: StudyMirror):
        self._mirror = mirror

    def send(self, group: TrialGroup, ending: str | None) -> None:
        """Send a group whose trials are all complete; with `ending` also one of which some are.

        What its run has already is not sent again.
        """
        mirror = self._mirror
        count = self._count(group)
        if self._is_settled(group) or mirror.is_refused(group.key):
            return
        if count < len(group.rows) and not ending:
            return
        members = self._members(group)
        if not members.complete and not members.failed:
            return
        with mirror.sender.creation():
            run = self._find_or_create(group, members)
        cursor = mirror.cursors.of(group.key)
        mirror.seen_at(max((trial.ended_ms for trial in members.complete), default=0))
        missing = [trial for trial in members.complete if not _has(run, trial)]
        is_unchanged = (
            (cursor.run_id, cursor.parent) == (run.info.run_id, mirror.parent_id)
            and bool(cursor.ended)
            and cursor.records >= len(members.complete)
        )
        if is_unchanged and not missing and not members.failed:
            mirror.known[group.key] = run
            return
        self._send(group, members, run, missing)

    def _is_settled(self, group: TrialGroup) -> bool:
        """Return whether nothing can be left to send: known in this session, whole and ended."""
        cursor = self._mirror.cursors.of(group.key)
        is_sent = bool(cursor.ended) and cursor.records >= len(group.rows)
        return group.key in self._mirror.known and is_sent

    def _count(self, group: TrialGroup) -> int:
        """Count the trials of a group whose folder is complete."""
        store = self._mirror.store
        return sum(store.folder(row["key"]).is_dir() for row in group.rows)

    def unsent(self, group: TrialGroup) -> int:
        """Count what the store has not acknowledged: complete trials, and the end of the run."""
        cursor, count = self._mirror.cursors.of(group.key), self._count(group)
        if not count and not cursor.run_id:
            return 0
        return max(0, count - cursor.records) + (0 if cursor.ended else 1)

    def retire_others(self, groups: Sequence[TrialGroup]) -> None:
        """Delete the runs of groups whose trials other runs show by now."""
        present = {group.key for group in groups}
        children = self._mirror.children
        for key in [key for key in children if key not in present]:
            for run in children[key]:
                if run.data.tags.get("tlx.role") == ROLE:
                    self._mirror.sender.retire(run.info.run_id, OTHER_RUNS)
                    children.pop(key, None)

    # ------------------------------------------------------------ one group

    def _members(self, group: TrialGroup) -> Members:
        """Read the complete trials; a damaged one is left out and recorded."""
        mirror, complete = self._mirror, []
        failed: dict[str, str] = {}
        for row in group.rows:
            trial = None
            if mirror.store.folder(row["key"]).is_dir():
                with mirror.recording_refusals(row["key"]):
                    trial = mirror.study.trial(mirror.store, row)
            if trial is not None and trial.result is not None:
                complete.append(trial)
            elif row["key"] in mirror.failed:
                failed[_named(row)] = mirror.failed[row["key"]]
        return Members(tuple(complete), failed, len(complete) == len(group.rows))

    def _find_or_create(self, group: TrialGroup, members: Members) -> Run:
        """Return the run of a group; one with other numbers of a trial to be sent is replaced."""
        mirror = self._mirror
        run = mirror.sender.settle(mirror.children.get(group.key, []))
        run = run or mirror.sender.find(group.key)
        if run is not None and self._contradicts(run, members.complete):
            mirror.sender.retire(run.info.run_id)
            run = None
        if run is None:
            started_ms = min(
                (trial.started_ms for trial in members.complete), default=mirror.study.started_ms
            )
            run = mirror.create(group.key, group.title, started_ms, self._marks(group, "running"))
        cursor = mirror.cursors.of(group.key)
        if cursor.run_id != run.info.run_id:
            mirror.cursors.put(group.key, Cursor(run.info.run_id))
        return run

    def _contradicts(self, run: Run, trials: Sequence[MirroredTrial]) -> bool:
        """Return whether a run has other numbers of a trial than are to be sent.

        They were sent of a folder that is no more, and the sending was cut off. A run shows the
        last step of a metric alone: those of others are asked for.
        """
        present = run.data.metrics
        points = [
            (name, step, value)
            for trial in trials
            if not _has(run, trial)
            for name, value, _, step in points_of(trial)
            if name in present
        ]
        if all("step" not in trial.row for trial in trials):
            return any(present[name] != value for name, _, value in points)
        before: dict[tuple[str, int], set[float]] = {}
        for name, value, _, step in self._mirror.sender.points_of(run, {n for n, _, _ in points}):
            before.setdefault((name, step), set()).add(value)
        return any(before.get((name, step), {value}) != {value} for name, step, value in points)

    def _send(
        self, group: TrialGroup, members: Members, run: Run, missing: Sequence[MirroredTrial]
    ) -> None:
        """Send what the run lacks, its tags last, and end it."""
        mirror, run_id = self._mirror, run.info.run_id
        points = [point for trial in missing for point in points_of(trial)]
        params = {
            name: value
            for name, value in common_parameters(members.complete).items()
            if name not in run.data.params
        }
        tags = self._tags(group, members)
        tags = {name: text for name, text in tags.items() if run.data.tags.get(name) != text}
        if mirror.sender.is_one_call(points, params, tags):
            mirror.sender.batch(run_id, points, params, tags)
        else:  # a tag says that the numbers of its trial are there
            mirror.sender.batch(run_id, points, params)
            mirror.sender.batch(run_id, tags=tags)
        inputs = list(mirror.study.record.get("inputs", []))
        for trial in members.complete[:1]:
            inputs += trial.row.get("inputs", [])
        mirror.sender.inputs(run_id, inputs)
        ended_ms = max((trial.ended_ms for trial in members.complete), default=run.info.start_time)
        mirror.sender.end(run_id, members.status, ended_ms)
        cursor = mirror.cursors.of(group.key)
        mirror.sent += len(missing) + 1
        cursor.records, cursor.parent = len(members.complete), mirror.parent_id
        cursor.ended = members.status
        mirror.cursors.save(group.key)
        mirror.known[group.key] = run

    def _tags(self, group: TrialGroup, members: Members) -> dict[str, str]:
        status = {FINISHED: "finished", FAILED: "failed"}.get(members.status, "interrupted")
        tags = self._marks(group, status)
        for trial in members.complete[:1]:
            assert trial.result is not None
            tags |= tracking_records.tags(
                tracking_records.environment_tags(trial.result.environment),
                {f"cost.{n}.source": row.get("source") for n, row in trial.result.cost.items()},
            )
        failed = {f"tlx.error.{named}": reason for named, reason in members.failed.items()}
        own = {trial_tag(trial.row): trial.key for trial in members.complete}
        return tags | tracking_records.tags(failed) | own

    def _marks(self, group: TrialGroup, status: str) -> dict[str, str]:
        study = self._mirror.study
        kind = str(study.record.get("kind", ""))
        return tracking_records.tags(
            study.record.get("tags", {}),
            tracking_records.standing_tags(group.key, kind, status),
            {
                "mlflow.parentRunId": self._mirror.parent_id,
                "tlx.study": study.key,
                "tlx.role": ROLE,
            },
        )


def _label(row: StoredTrial) -> str:
    return row.get("label") or row["key"][:12]


def points_of(trial: MirroredTrial) -> list[Point]:
    """Return the scores and costs of a trial under its label: `test_accuracy/knn`, at its step."""
    label, step = _label(trial.row), trial.row.get("step", 0)
    return [
        (tracking_records.name(f"{name}/{label}"), value, ms, step)
        for name, value, ms, _ in trial.final_points()
    ]


def common_parameters(trials: Sequence[MirroredTrial]) -> dict[str, str]:
    """Return the parameters that all trials of a group share, and none that tells them apart."""
    shared: dict[str, str] = {}
    for number, trial in enumerate(trials):
        spec = trial.row.get("spec") or (trial.result.spec if trial.result else None)
        own = tracking_records.parameters(trial.row.get("params", {}), spec)
        own = {name: value for name, value in own.items() if value != _label(trial.row)}
        shared = {
            name: value
            for name, value in (own if number == 0 else shared).items()
            if own.get(name) == value
        }
    return shared


def _has(run: Run, trial: MirroredTrial) -> bool:
    """Return whether a run has the numbers of a trial."""
    return bool(run.data.tags.get(trial_tag(trial.row)) == trial.key)
