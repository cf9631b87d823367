"""Content of a study's folders as a tracking store has it: metrics, parameters, tags.

Plain values only.
"""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from ... import __version__, files
from ...errors import BadDataError
from ...result import Result
from ..records import StoredStudy, StoredTrial
from ..redaction import redact
from ..sealed import PART, STUDY
from ..store import JOURNAL, Store

PARAMETER_LIMIT, TAG_LIMIT, NAME_LIMIT = 6000, 5000, 250  # characters that every store accepts
ARTIFACTS = {".json", ".csv", ".parquet", ".txt", ".md", ".html", ".png", ".svg", ".pdf"}
ARTIFACT_LIMIT = 16 << 20  # bytes; weights and dumps stay in the run folder
SUMMARY = "summary.json"
OWN = "tlx.own."  # tags with the marks of the names of what we sent
MARK_LENGTH, MARKS_A_TAG = 12, 300
NOTE = "mlflow.note.content"  # a description
OWN_NOTE = "tlx.note"  # the digest of the description that we wrote
EXPERIMENT_NOTE = (
    "Made by tlx. Each study is a parent run: its description has the verdict, the table, what the "
    "intervals cover, "
    "the folder of the results and the command. Its trials are the runs below it. The run folders "
    "are the truth; what "
    "could not be sent is sent later by `tlx sync`."
)
EXPERIMENT_TAGS = {NOTE: EXPERIMENT_NOTE, "mlflow.experimentKind": "custom_model_development"}

Point = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step
ShownAs = Mapping[str, str | tuple[str, float]]  # our metric name → name to show, or with a factor


class JournalRecord(TypedDict):
    """Record of a journal: the start, the values of a step, or a sample of the machine's load."""

    t: str
    ts: int
    step: NotRequired[int]
    values: NotRequired[Mapping[str, float]]
    not_finite: NotRequired[Mapping[str, str]]


@dataclass(frozen=True)
class MirroredTrial:
    """State of a trial's folder.

    `row` is its line in study.json; `result` is present once it is complete.

    shown_as   our metric name → the name to show, or [name, factor] (the seeds gave accuracies in
    percent)
    """

    key: str
    row: StoredTrial
    folder: Path
    records: list[JournalRecord]
    result: Result | None
    shown_as: ShownAs = field(default_factory=dict)

    @property
    def started_ms(self) -> int:
        """Return when it started, in milliseconds since 1970."""
        return int(self.records[0]["ts"])

    @property
    def ended_ms(self) -> int:
        """Return when it ended, in milliseconds since 1970."""
        return int(max(r["ts"] for r in self.records))

    def points(self, after: int = 0) -> list[Point]:
        """Return the metrics of the records after the first `after`, with journalled times.

        Sent twice, they are still one point.
        """
        points: list[Point] = []
        system = 0
        for number, record in enumerate(self.records):
            step = int(record.get("step", 0))
            if record["t"] == "system":
                step, system = system, system + 1
            if number >= after and record["t"] in ("metrics", "system"):
                values: dict[str, float | str] = dict(record.get("values", {}))
                values |= record.get("not_finite", {})
                points += [(*self._shown(n, v), int(record["ts"]), step) for n, v in values.items()]
        return points

    def final_points(self) -> list[Point]:
        """Return scores and costs of the result, one point each, at step 0.

        MLflow's pages draw a metric as a line as soon as a run's newest point of it is at step 1 or
        later, and as a bar otherwise. A score with the name of a series of the journal is called
        `final_…`, as it is no point of that.
        """
        assert self.result is not None
        series = {self._shown(n, 0.0)[0] for r in self.records for n in r.get("values", {})}
        cost = {f"cost.{n}": row.get("value") for n, row in self.result.cost.items()}
        shown = [
            self._shown(n, v)
            for n, v in {**self.result.scores, **cost}.items()
            if isinstance(v, (int, float)) and math.isfinite(v)
        ]
        return [
            (name(f"final_{n}") if n in series else n, value, self.ended_ms, 0)
            for n, value in shown
        ]

    def _shown(self, own: str, value: float | str) -> tuple[str, float]:
        shown = self.shown_as.get(own, own)
        as_name, factor = (shown, 1.0) if isinstance(shown, str) else shown
        return name(as_name), float(value) * factor


@dataclass
class StudyRecord:
    """State of a study's folder: study.json (before the first trial), summary.json (at the end)."""

    key: str
    record: StoredStudy
    folder: Path
    rows: list[StoredTrial]
    read_at: int = 0  # when study.json was written, as read

    @classmethod
    def read(cls, store: Store, key: str) -> StudyRecord | None:
        """Read the record of a study from its store."""
        record = store.read_study(key)
        folder = store.root / "studies" / key
        return None if record is None else cls(key, record, folder, _rows(record))

    def refresh(self, store: Store) -> None:
        """Read the record again if it was rewritten.

        A search's trials are not known when it begins.
        """
        at = (self.folder / STUDY).stat().st_mtime_ns
        if at != self.read_at:
            record = store.read_study(self.key)
            if record is not None:
                self.record, self.rows, self.read_at = record, _rows(record), at

    @property
    def experiment(self) -> str:
        """Return the name of the experiment."""
        return str(self.record.get("experiment") or "tlx")

    @property
    def run_name(self) -> str:
        """Return the name of its run: its title, and what differs from the defaults."""
        return text_of(str(self.record.get("run_name") or self.title), NAME_LIMIT)

    @property
    def title(self) -> str:
        """Return the title of the study."""
        return str(self.record.get("title") or self.key[:12])

    def trial(self, store: Store, row: StoredTrial) -> MirroredTrial | None:
        """Return the trial of a row, None before it has begun.

        Raises Integrity if its folder is damaged.
        """
        return read_trial(store, row, self.record.get("metric_names", {}))

    @property
    def started_ms(self) -> int:
        """Return when it started, in milliseconds since 1970."""
        return int((self.folder / STUDY).stat().st_mtime * 1000)

    def summary(self, store: Store) -> dict[str, Any] | None:
        """Return the summary, checked against the study's manifest; None if there is none."""
        path = store.study_files(self.key).get(SUMMARY)
        return files.read_json(path, limit=64 << 20) if path is not None else None


def _rows(record: StoredStudy) -> list[StoredTrial]:
    return list(record.get("trials", []))


def read_trial(store: Store, row: StoredTrial, shown_as: ShownAs) -> MirroredTrial | None:
    """Return the trial of a row of study.json; None before it has begun.

    Raises Integrity if its folder is damaged.
    """
    key = row["key"]
    folder = store.folder(key)
    if folder.is_dir():
        result = store.find(key)
        records = _read_journal(store.file(key, JOURNAL))
        return MirroredTrial(key, row, folder, records, result, shown_as) if records else None
    part = folder.with_name(folder.name + PART)
    records = _read_journal(part / JOURNAL)
    return MirroredTrial(key, row, part, records, None, shown_as) if records else None


def _read_journal(path: Path) -> list[JournalRecord]:
    return cast(list[JournalRecord], files.Journal.read(path))


def is_part(store: Store, key: str) -> bool:
    """Return whether the trial has begun and is not complete."""
    folder = store.folder(key)
    return not folder.is_dir() and folder.with_name(folder.name + PART).is_dir()


# ---------------------------------------------------------------- names and values a store accepts


def name(text: str) -> str:
    """Return a valid metric, parameter or tag name: letters, digits and _-./: and space."""
    clean = re.sub(r"[^/\w.\- :]", "_", text)[:NAME_LIMIT]
    is_path = posixpath.normpath(clean) == clean and not clean.startswith(("/", ".."))
    return clean if is_path else clean.replace("/", "_").lstrip(".") or "_"


def text_of(value: object, limit: int) -> str:
    """Return a value as text without secrets, cut at `limit` characters with a … at its end."""
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    )
    text = redact(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def flat(value: object, prefix: str) -> Iterator[tuple[str, object]]:
    """Return nested mappings as dotted names."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def parameters(params: Mapping[str, object], spec: Mapping[str, object] | None) -> dict[str, str]:
    """Return the published parameter names of the study ("params"), and every setting as cfg.*."""
    named = {name(key): value for key, value in params.items()}
    settings = {name(key): value for key, value in flat(spec or {}, "cfg") if key != "cfg"}
    return {key: text_of(value, PARAMETER_LIMIT) for key, value in {**named, **settings}.items()}


def tags(*parts: Mapping[str, object]) -> dict[str, str]:
    """Return tags from mappings, later ones winning; None is left out."""
    merged = {key: value for part in parts for key, value in part.items() if value is not None}
    return {name(key): text_of(value, TAG_LIMIT) for key, value in merged.items()}


def note_tags(note: str) -> dict[str, str]:
    """Return the tags of a description: its text, and its digest.

    The digest reveals a person's edit later.
    """
    marks = tags({NOTE: note or None})
    return {**marks, OWN_NOTE: files.digest(marks[NOTE])} if marks else {}


def is_edited(run_tags: Mapping[str, str]) -> bool:
    """Return whether the description of a run is a person's.

    It is another text than ours, or none where we wrote one.
    """
    text, written = run_tags.get(NOTE, ""), run_tags.get(OWN_NOTE)
    return bool(text) if written is None else files.digest(text) != written


def mark_of(sent: str) -> str:
    """Return the mark of the name of a metric or artifact that we sent."""
    return hashlib.sha256(sent.encode()).hexdigest()[:MARK_LENGTH]


def own_names(run_tags: Mapping[str, str]) -> set[str]:
    """Return the marks of the metrics and artifacts of a run that are ours.

    All others were logged by a person.
    """
    return {mark for tag, text in run_tags.items() if tag.startswith(OWN) for mark in text.split()}


def own_tags(run_tags: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return the tags that add these names to those that are ours; {} where all are marked."""
    new = sorted({mark_of(sent) for sent in names} - own_names(run_tags))
    first = sum(tag.startswith(OWN) for tag in run_tags)
    return {
        f"{OWN}{first + number}": " ".join(new[start : start + MARKS_A_TAG])
        for number, start in enumerate(range(0, len(new), MARKS_A_TAG))
    }


def is_by_hand(tag: str, run_tags: Mapping[str, str]) -> bool:
    """Return whether a tag of a run is a person's.

    It is neither ours nor MLflow's, or a description that was edited.
    """
    return is_edited(run_tags) if tag == NOTE else not tag.startswith(("tlx.", "mlflow.", "env."))


def environment_tags(environment: Mapping[str, Any]) -> dict[str, object]:
    """Return the environment as env.*, and the commit under the name that mlflow's pages use."""
    commit = (environment.get("git") or {}).get("commit")
    return (
        {**dict(flat(environment, "env")), "mlflow.source.git.commit": commit}
        if environment
        else {}
    )


def standing_tags(key: str, kind: str, status: str) -> dict[str, object]:
    """Return the tags of a run's key, kind and status."""
    return {"tlx.key": key, "tlx.kind": kind, "tlx.version": __version__, "tlx.status": status}


def artifacts(listed: Mapping[str, Path]) -> list[Path]:
    """Return the report and figure files among those of a manifest, in order of name."""
    inside = models(listed)
    return [
        path
        for path in listed.values()
        if path.suffix.lower() in ARTIFACTS
        and not inside.intersection(path.parents)
        and path.stat().st_size <= ARTIFACT_LIMIT
    ]


def models(listed: Mapping[str, Path]) -> set[Path]:
    """Return the folders among the listed files that hold a model in mlflow's format."""
    return {path.parent for path in listed.values() if path.name == "MLmodel"}


def summary_points(summary: Mapping[str, Any], at_ms: int) -> list[Point]:
    """Return the parent's metrics, all at one fixed time.

    {"name": value} or [{"name", "value", "step"}].

    A metric of one point is at step 0 whatever its step, so that MLflow shows it as a bar and not
    as a line of one point.
    """
    metrics = summary.get("metrics", {})
    rows = (
        [{"name": n, "value": v} for n, v in metrics.items()]
        if isinstance(metrics, Mapping)
        else metrics
    )
    try:
        points = [
            (name(r["name"]), float(r["value"]), at_ms, int(r.get("step", 0)))
            for r in rows
            if r["value"] is not None
        ]
        steps: dict[str, set[int]] = {}
        for called, _, _, step in points:
            steps.setdefault(called, set()).add(step)
        return [
            (called, value, ms, step if len(steps[called]) > 1 else 0)
            for called, value, ms, step in points
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise BadDataError(
            "summary-metrics",
            f"{error!r}",
            where=SUMMARY,
            expected='{"name": number} or [{"name", "value", "step"}]',
        ) from error
