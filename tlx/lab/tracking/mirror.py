"""Transfer of one study from its run folders to a tracking store, sending only what is new.

A trial's run is found by its key, brought up to date, and closed when the trial is whole or the
study ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ... import files
from ...errors import TlxError
from ...result import DIVERGED
from ..records import StoredTrial
from ..redaction import redact
from ..sealed import STUDY
from ..store import Store
from . import records as tracking_records
from .client import LOST, Abandoned, Sender, refused
from .cursors import Cursor, Cursors
from .grouped import GroupRuns, groups_of
from .records import MirroredTrial, StudyRecord

if TYPE_CHECKING:
    from mlflow.entities import Run

FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"  # mlflow's words
WHOLE = (FINISHED, "adopted")  # ends in a cursor after which nothing is left to send
MAX_REFUSALS = 2  # refusals of one run after which it is left for the next `tlx sync`
SPEC = "config.json"  # the artifact of a run's settings
INTERRUPTED = {"tlx.status": "interrupted"}


@dataclasses.dataclass(frozen=True)
class Opened:
    """Run that was found or created, and the parameters and tags still to be sent to it."""

    run: Run
    params: Mapping[str, str]
    tags: Mapping[str, str]


class StudyMirror:
    """Mirror of one study.

    `sweep` sends what is new; `unsent` counts what is not yet there.
    """

    def __init__(self, store: Store, study: StudyRecord, sender: Sender):
        self.store, self.study, self.sender = store, study, sender
        self.parent: Run | None = None  # the parent run, once it is known
        self.failed: dict[str, str] = {}  # key → why the trial did not end
        self.problems: dict[str, str] = {}  # key → why the store did not take it
        self.faults: dict[str, TlxError] = {}  # key → fault of its folder: damaged, or not ours
        self.sent = 0
        self.cursors = Cursors(store.root / "tracking" / sender.target.name)
        self.known: dict[str, Run] = {}  # runs found or made in this session
        self._params: dict[str, set[str]] = {}  # names a run has: the store refuses a second value
        self.children: dict[str, list[Run]] = {}  # key → runs below the parent
        self._groups = GroupRuns(self)
        self._refusals: dict[str, int] = {}
        self._uploaded: set[tuple[str, str]] = set()
        self._last_ms = 0  # the last time in any journal
        cursor = self.cursors.of(study.key)
        if sender.experiment and sender.experiment != cursor.experiment:
            cursor.experiment = sender.experiment
            self.cursors.save(study.key)
        sender.experiment = cursor.experiment
        self._last_ending = cursor.ended

    def sweep(self, ending: str | None = None) -> None:
        """Send what is new of every trial.

        With `ending` (the study's status) close what is open, the parent last.
        """
        if self.sender.replaced():
            self._reset()
        self.study.refresh(self.store)
        if not self.open():
            return
        for row in self.study.rows:
            if not row.get("group") and not self._settled(row["key"]):
                with self.recording_refusals(row["key"]):
                    self._send(row, ending)
        groups = groups_of(self.study.rows)
        for group in groups:
            with self.recording_refusals(group.key):
                self._groups.send(group, ending)
        if ending:
            with self.recording_refusals(self.study.key):
                self._groups.retire_others(groups)
            with self.recording_refusals(self.study.key):
                self._close_parent(ending)

    def ending(self) -> str:
        """Return how the study ended by its own record.

        As in summary.json; with an incomplete trial it was interrupted.
        """
        summary = None
        with self.recording_refusals(self.study.key):
            summary = self.study.summary(self.store)
        if summary is None or any(
            tracking_records.is_part(self.store, row["key"]) for row in self.study.rows
        ):
            return self._last_ending or KILLED
        return str(summary.get("status", FINISHED)).upper()

    def progress(self) -> tuple[int, ...]:
        """Return a value that changes whenever a sweep made progress, so a retry is worth it."""
        return (
            self.sent,
            len(self.known),
            len(self._uploaded),
            self.parent is not None,
            self.cursors.ended(),
        )

    def unsent(self) -> int:
        """Count what the store has not acknowledged.

        Journal records, ends of trials and the end of the study.
        """
        count = 0 if self.cursors.of(self.study.key).ended else 1
        count += sum(self._groups.unsent(group) for group in groups_of(self.study.rows))
        for row in self.study.rows:
            if row.get("group"):
                continue
            cursor = self.cursors.of(row["key"])
            with contextlib.suppress(TlxError, OSError):  # the next reader reports a damaged folder
                trial = None if self._settled(row["key"]) else self.study.trial(self.store, row)
                if trial is not None:
                    ended = cursor.ended in WHOLE if trial.result else cursor.ended
                    count += max(0, len(trial.records) - cursor.records) + (0 if ended else 1)
        return count

    def open(self) -> bool:
        """Find or create the parent run; return False if the store refuses it."""
        if self.parent is None and not self.is_refused(self.study.key):
            with self.recording_refusals(self.study.key):
                self._open_parent()
        return self.parent is not None

    # ------------------------------------------------------------ the parent

    @property
    def parent_id(self) -> str:
        """Return the id of the parent run, which is open."""
        assert self.parent is not None
        return str(self.parent.info.run_id)

    def _open_parent(self) -> None:
        study = self.study
        marks = {
            **study.record.get("tags", {}),
            **tracking_records.environment_tags(study.record.get("environment", {})),
            **tracking_records.standing_tags(
                study.key, str(study.record.get("kind", "")), "running"
            ),
            "tlx.role": "study",
        }
        with self.sender.creation():
            existing, replaced = self.sender.find_replacing(study.key)
            run = existing or self.create(
                study.key, study.run_name, study.started_ms, tracking_records.tags(marks)
            )
        self.sender.reopen(run)
        cursor = self.cursors.of(study.key)
        if cursor.run_id != run.info.run_id:
            cursor = self.cursors.put(
                study.key, Cursor(run.info.run_id, experiment=cursor.experiment)
            )
        cursor.ended = ""
        params = tracking_records.parameters(
            study.record.get("params", {}), study.record.get("spec")
        )
        self.sender.batch(
            run.info.run_id, params=_missing(params, run), tags=tracking_records.tags(marks)
        )
        self.sender.inputs(run.info.run_id, study.record.get("inputs", []))
        self.children = self.sender.children(run.info.run_id) if existing else {}
        self.cursors.save(study.key)
        for old in replaced:
            self._take_over(
                old,
                run,
                {*run.data.params, *params},
                {*run.data.tags, *tracking_records.tags(marks)},
            )
        self.parent = run

    def _close_parent(self, status: str) -> None:
        study = self.study
        summary = study.summary(self.store) or {}
        end_ms = self._last_ms or study.started_ms
        points = tracking_records.summary_points(summary, end_ms)
        listed = self.store.study_files(study.key)
        if listed:
            listed = {STUDY: study.folder / STUDY, **listed}
        own = {name for name, *_ in points} | {*listed, SPEC}
        run = self._mark_own(own)
        if self._has_other_values(run, points):
            self._replace_parent()
            run = self._mark_own(own)
        self._send_summary(run, points)
        mark = {"tlx.status": {FINISHED: "finished", FAILED: "failed"}.get(status, "interrupted")}
        tags = tracking_records.tags(mark, summary.get("tags", {}))
        if summary.get("note") and not tracking_records.is_edited(run.data.tags):
            tags |= tracking_records.note_tags(str(summary["note"]))
        self.sender.batch(run.info.run_id, tags=tags)
        self._send_artifacts(run, listed, study.record.get("spec"))
        self.sender.end(run.info.run_id, status, end_ms)
        self.cursors.of(study.key).ended = status
        self.cursors.save(study.key)

    def _mark_own(self, names: Iterable[str]) -> Run:
        """Mark these metrics and artifacts as ours on the parent run, before they are sent.

        Return the run as it was before.
        """
        run = self.sender.client.get_run(self.parent_id)
        if more := tracking_records.own_tags(run.data.tags, names):
            self.sender.batch(run.info.run_id, tags=more)
        return run

    def _has_other_values(self, run: Run, points: Sequence[tracking_records.Point]) -> bool:
        """Return whether the parent has a value of ours that the summary does not have.

        A metric can be added to a run and not taken back. So where the study has grown, lost trials
        or was summarised again, a new parent takes its place and its children.
        """
        if self.cursors.of(self.study.key).summary == _summary_digest(points):
            return False
        wanted = {(name, step): value for name, value, _, step in points}
        present = self._own_values(run, {name for name, _ in wanted})
        return any(values != {wanted.get(at)} for at, values in present.items())

    def _send_summary(self, run: Run, points: Sequence[tracking_records.Point]) -> None:
        """Send the summary's metrics that the parent lacks: one value for each (name, step)."""
        cursor, digest = self.cursors.of(self.study.key), _summary_digest(points)
        if cursor.summary == digest:
            return
        present = self._own_values(run, {name for name, *_ in points})
        self.sender.batch(
            run.info.run_id, [point for point in points if (point[0], point[3]) not in present]
        )
        cursor.summary = digest
        self.cursors.save(self.study.key)

    def _own_values(self, run: Run, wanted: set[str]) -> dict[tuple[str, int], set[float]]:
        """Return the values of our metrics in the parent run, (name, step) → values.

        People's are left out.
        """
        own = tracking_records.own_names(run.data.tags)
        values: dict[tuple[str, int], set[float]] = {}
        for name, value, _, step in self.sender.points_of(run):
            if name in wanted or tracking_records.mark_of(name) in own:
                values.setdefault((name, step), set()).add(value)
        return values

    def _replace_parent(self) -> None:
        """Create a new parent run, with what people logged on the old one and its children.

        The old one is set aside first and deleted last, so that an interrupted replacement resumes.
        """
        self.sender.set_aside(self.parent_id, self.study.key)
        self.parent = None
        self._open_parent()

    def _take_over(self, old: Run, new: Run, params: set[str], tags: set[str]) -> None:
        """Copy to a new parent run what people logged on the old one; move its children.

        Then the old one is deleted.

        params, tags   names that the new one has
        """
        from_id, to_id = old.info.run_id, new.info.run_id
        own = tracking_records.own_names(old.data.tags)
        points = [
            point
            for point in self.sender.points_of(old)
            if tracking_records.mark_of(point[0]) not in own
        ]
        params_by_hand = {
            name: value for name, value in old.data.params.items() if name not in params
        }
        tags_by_hand = {
            name: value
            for name, value in old.data.tags.items()
            if tracking_records.is_by_hand(name, old.data.tags)
            and name not in tags - {tracking_records.NOTE}
        }
        self.sender.batch(to_id, points, params_by_hand, tags_by_hand)
        for path in self.sender.artifacts_of(from_id):
            if tracking_records.mark_of(path) not in own:
                self.sender.copy_artifact(path, from_id, to_id)
        for key, runs in self.sender.children(from_id).items():
            for run in runs:
                self.sender.batch(run.info.run_id, tags={"mlflow.parentRunId": to_id})
            self.children.setdefault(key, []).extend(runs)
            if self.cursors.of(key).run_id:
                self.cursors.of(key).parent = to_id
                self.cursors.save(key)
        self.sender.retire(from_id, "the study was summarised again; another run has the new means")

    # ------------------------------------------------------------ a trial

    def _settled(self, key: str) -> bool:
        """Return whether nothing can be left to send: known in this session, with its end sent."""
        return key in self.known and self.cursors.of(key).ended in WHOLE

    def _send(self, row: StoredTrial, ending: str | None) -> None:
        trial = self.study.trial(self.store, row)
        if trial is None or self.is_refused(trial.key):
            return
        opened = None
        if trial.key not in self.known:
            opened = self._open(trial, ending)
        cursor = self.cursors.of(trial.key)
        self.seen_at(trial.ended_ms)
        if cursor.ended in WHOLE:
            return
        has_news = self._send_new(trial, opened)
        if trial.result is not None:
            self._end(trial)
        elif ending and not cursor.ended:
            self._end_incomplete(trial)
        elif opened is not None or has_news:
            self.cursors.save(trial.key)

    def _send_new(self, trial: MirroredTrial, opened: Opened | None) -> bool:
        """Send what the run lacks, in one call; return whether there were new records.

        Of a run just opened its settings, new records, and the scores. The caller saves the
        cursor: until then, a killed mirror sends these records again, to the same end.
        """
        cursor, result = self.cursors.of(trial.key), trial.result
        fresh = len(trial.records) - cursor.records
        points = trial.points(after=cursor.records) if fresh else []
        params = dict(opened.params) if opened else {}
        tags = dict(opened.tags) if opened else {}
        if result is not None:
            points += trial.final_points()
            has = {*self._params.get(trial.key, set()), *(opened.run.data.params if opened else ())}
            own = tracking_records.parameters(trial.row.get("params", {}), result.spec)
            params |= {n: v for n, v in own.items() if n not in has}
            tags |= tracking_records.tags(
                self._marks(trial, result.status),
                tracking_records.environment_tags(result.environment),
                {f"cost.{n}.source": row.get("source") for n, row in result.cost.items()},
            )
        if opened is not None:
            present = opened.run.data.tags  # as the store has just returned them
            tags = {name: text for name, text in tags.items() if present.get(name) != text}
        if points or params or tags:
            self.sender.batch(cursor.run_id, points, params, tags)
        if opened is not None:
            self._params[trial.key] = {*opened.run.data.params, *params}
            self.known[trial.key] = opened.run
        cursor.records += fresh
        self.sent += fresh
        return fresh > 0

    def _open(self, trial: MirroredTrial, ending: str | None) -> Opened | None:
        """Find or create the run of a trial, update its cursor; return what is still to be sent.

        None if nothing is.
        """
        with self.sender.creation():
            return self._find_or_create(trial, ending)

    def _find_or_create(self, trial: MirroredTrial, ending: str | None) -> Opened | None:
        parent_id, key = self.parent_id, trial.key
        run = self.sender.settle(self.children.get(key, [])) or self.sender.find(key)
        cursor = self.cursors.of(key)
        if run is not None and run.info.start_time != trial.started_ms:
            # made of a folder of this trial that is no more
            if run.data.tags.get("tlx.status") == "finished":
                self._adopt(trial, run)
                return None
            self.sender.retire(run.info.run_id)
            run = None
        if (
            run is not None
            and (cursor.run_id, cursor.parent) == (run.info.run_id, parent_id)
            and (cursor.ended == FINISHED or (ending and _is_closed_unchanged(cursor, trial)))
        ):
            self.known[key] = run
            return None
        marks = self._marks(trial, "running")
        is_new = run is None
        run = run or self.create(
            key, str(trial.row.get("title") or key[:12]), trial.started_ms, marks
        )
        if cursor.run_id != run.info.run_id or cursor.records > len(trial.records):
            cursor = Cursor(run.info.run_id)
        self.cursors.put(key, dataclasses.replace(cursor, parent=parent_id, ended=""))
        if not is_new:  # before anything changes in a run that a cursor may call closed
            self.cursors.save(key)
        if trial.result is None:
            self.sender.reopen(run)
        spec = trial.row.get("spec") or (trial.result.spec if trial.result else None)
        is_own = is_new and run.data.tags.get("mlflow.parentRunId") == parent_id
        tags = {} if is_own else marks
        params = tracking_records.parameters(trial.row.get("params", {}), spec)
        return Opened(run, _missing(params, run), tags)

    def _adopt(self, trial: MirroredTrial, run: Run) -> None:
        """Show a finished run of this key that was made elsewhere.

        By its identity it is the same result, so it is shown unchanged.
        """
        self.sender.batch(run.info.run_id, tags={"mlflow.parentRunId": self.parent_id})
        self.cursors.put(
            trial.key,
            Cursor(run.info.run_id, len(trial.records), self.parent_id, "adopted"),
        )
        self.known[trial.key] = run
        self.cursors.save(trial.key)

    def _end(self, trial: MirroredTrial) -> None:
        """Send a complete trial's files in addition to its numbers, and close its run."""
        result, cursor = trial.result, self.cursors.of(trial.key)
        assert result is not None
        self.sender.inputs(
            cursor.run_id, [*self.study.record.get("inputs", []), *trial.row.get("inputs", [])]
        )
        files_of_trial = self.store.trial_files(trial.key)
        self._send_artifacts(self.known[trial.key], files_of_trial, result.spec)
        if result.status in (DIVERGED, "failed"):
            status = FAILED
        else:
            status = KILLED if result.status == "pruned" else FINISHED
        self.sender.end(cursor.run_id, status, trial.ended_ms)
        cursor.ended = FINISHED
        self.sent += 1
        self.cursors.save(trial.key)

    def _end_incomplete(self, trial: MirroredTrial) -> None:
        """Close the run of an incomplete trial at the end of the study.

        It is opened again when the trial is resumed.
        """
        reason, cursor = self.failed.get(trial.key), self.cursors.of(trial.key)
        mark = INTERRUPTED if reason is None else {"tlx.status": "failed", "tlx.error": reason}
        self.sender.batch(cursor.run_id, tags=tracking_records.tags(mark))
        self.sender.end(cursor.run_id, KILLED if reason is None else FAILED, trial.ended_ms)
        cursor.ended = KILLED
        self.cursors.save(trial.key)

    def _send_artifacts(self, run: Run, listed: Mapping[str, Path], spec: object) -> None:
        """Send the listed files of a folder and its spec.

        Each once in a session however often the connection is lost.
        """
        run_id = run.info.run_id
        if spec and (run_id, "spec") not in self._uploaded:
            self.sender.json_artifact(run, spec, SPEC)
            self._uploaded.add((run_id, "spec"))
        names = {path: name for name, path in listed.items()}
        for path in tracking_records.artifacts(listed):
            mark = (run_id, f"{path}:{path.stat().st_mtime_ns}")
            if mark not in self._uploaded:
                self.sender.artifact(run, path, names[path])
                self._uploaded.add(mark)
        for path in tracking_records.models(listed):
            if (run_id, str(path)) not in self._uploaded:
                self.sender.model(run_id, path)
                self._uploaded.add((run_id, str(path)))

    def _marks(self, trial: MirroredTrial, status: str) -> dict[str, str]:
        place = {
            "mlflow.parentRunId": self.parent_id,
            "tlx.study": self.study.key,
            "tlx.role": "trial",
        }
        kind = trial.result.kind if trial.result else str(self.study.record.get("kind", ""))
        return tracking_records.tags(
            self.study.record.get("tags", {}),
            trial.row.get("tags", {}),
            tracking_records.standing_tags(trial.key, kind, status),
            place,
        )

    def create(self, key: str, run_name: str, start_ms: int, marks: Mapping[str, str]) -> Run:
        """Create a run that was not found. Raises ConnectionError where the store has none then."""
        run = self.sender.create(key, run_name, start_ms, marks)
        if run is None:
            raise ConnectionError("the store does not show the run it was just given")
        return run

    def seen_at(self, ms: int) -> None:
        """Note a time of a trial: the study ends with the last."""
        self._last_ms = max(self._last_ms, ms)

    # ------------------------------------------------------------ refusals

    def is_refused(self, key: str) -> bool:
        """Return whether the store refused this run often enough to leave it for the next time."""
        return self._refusals.get(key, 0) >= MAX_REFUSALS

    def _reset(self) -> None:
        self.parent = None
        self.children.clear()
        self.known.clear()
        self._uploaded.clear()

    @contextlib.contextmanager
    def recording_refusals(self, key: str) -> Iterator[None]:
        """Record a refusal or a damaged folder, which concerns one run.

        A lost connection concerns all and is raised.
        """
        try:
            yield
        except (TlxError, FileNotFoundError) as error:  # the latter: renamed while we looked
            if isinstance(error, TlxError):
                self.problems[key] = redact(error)
                self.faults[key] = error
        except Abandoned:
            raise
        except Exception as error:
            if not refused(error):
                raise
            if getattr(error, "error_code", "") in LOST:
                self.known.pop(key, None)
                self.children.pop(key, None)
                self.parent = None if key == self.study.key else self.parent
            self._refusals[key] = self._refusals.get(key, 0) + 1
            self.problems[key] = redact(error)
        else:
            self.problems.pop(key, None)
            self.faults.pop(key, None)


def _is_closed_unchanged(cursor: Cursor, trial: MirroredTrial) -> bool:
    """Return whether an unfinished trial's run was closed and nothing came after.

    It failed, or was interrupted.
    """
    return bool(cursor.ended) and trial.result is None and cursor.records == len(trial.records)


def _summary_digest(points: Sequence[tracking_records.Point]) -> str:
    """Return the digest of a summary's metrics, whatever their order and time."""
    values = {(name, step): value for name, value, _, step in points}
    return files.digest(sorted([name, step, repr(value)] for (name, step), value in values.items()))


def _missing(params: Mapping[str, str], run: Run) -> dict[str, str]:
    """Return the parameters a run does not have yet: a second value of one is refused."""
    return {name: value for name, value in params.items() if name not in run.data.params}
