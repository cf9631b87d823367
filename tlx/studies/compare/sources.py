"""Scores of the sources beside the accuracies that this comparison reached with them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from ...metrics.scores import SCORES
from ...metrics.scores_audit import Audit, audit
from ...metrics.source_nulls import NULLS
from ...result import FINISHED, Result
from ..scores.ranking import Ranking
from ..scores.spec import ALL_IMAGES
from .evidence import FEATURES, TUNING, Evidence, Side


@dataclass(frozen=True)
class Reached:
    """Mean test accuracy with a source, over splits that every source was tried on."""

    accuracy: float
    splits: int


@dataclass(frozen=True)
class SourceAudit:
    """Scores and nulls of every source, and what each side reached with it at the headline.

    ranking  scores of the sources
    shots    training images per class that the answer is for
    reached  side → source → accuracy; a source without a finished trial is left out
    """

    ranking: Ranking
    shots: int
    reached: Mapping[str, Mapping[str, Reached]]

    @property
    def sources(self) -> list[str]:
        """Return the names of the sources."""
        return self.ranking.sources

    def shots_of(self, name: str) -> int:
        """Return the shots that a score is shown at: all images where it is not defined else."""
        if name in NULLS:
            return ALL_IMAGES
        at_headline = self.ranking.standings(name, self.shots)
        is_known = any(row.mean is not None for row in at_headline)
        return self.shots if is_known else ALL_IMAGES

    @functools.cached_property
    def values(self) -> dict[str, dict[str, float | None]]:
        """Return score or null → source → value, larger is better."""
        return {
            name: {
                row.source: row.mean for row in self.ranking.standings(name, self.shots_of(name))
            }
            for name in (*SCORES, *NULLS)
        }

    @functools.cached_property
    def audits(self) -> dict[str, Audit]:
        """Return side → audit of every score and null by what the side reached."""
        return {
            side: audit({source: row.accuracy for source, row in rows.items()}, self.values)
            for side, rows in self.reached.items()
            if rows
        }


def audit_sources(
    scored: Iterable[Result], data: Evidence, left_out: Iterable[Result], at: int
) -> SourceAudit | None:
    """Return the scores beside what was reached at `at` shots; None of fewer than two sources.

    scored    trials of scores, one a source
    left_out  fine-tunings of sources that were not gone on with
    """
    ranking = Ranking(tuple(scored))
    if len(ranking.results) < 2:
        return None
    networks = {
        source: weights_of(result)
        for source, result in zip(ranking.sources, ranking.results, strict=True)
    }
    tuned = Side(TUNING)
    for trials in data.tuning.arms.values():
        tuned.add(trials.values())
    tuned.add(left_out)
    return SourceAudit(
        ranking,
        at,
        {side.name: reached(side, networks, at) for side in (data.features, tuned)},
    )


def weights_of(result: Result) -> tuple[str, str]:
    """Return what tells sources apart: the backbone, and the digest of its weights."""
    return str(result.spec["architecture"]), str(result.spec.get("weights", ""))


def reached(side: Side, networks: Mapping[str, tuple[str, str]], at: int) -> dict[str, Reached]:
    """Return source → mean test accuracy over the splits that all sources with any were tried on.

    Of several arms of a source the one counts that is best on validation in the other splits.

    networks  source → its backbone and weights, of `weights_of`
    """
    accuracies: dict[str, dict[int, float]] = {}
    for source, network in networks.items():
        own = Side(side.name)
        own.arms = {
            arm: trials
            for arm, trials in side.arms.items()
            if weights_of(next(iter(trials.values()))) == network
        }
        splits = {split for trials in own.arms.values() for k, split in trials if k == at}
        picked = {split: own.pick(at, split) for split in sorted(splits)}
        scored = {
            split: result.scores["test_accuracy"]
            for split, result in picked.items()
            if result is not None and result.status == FINISHED and "test_accuracy" in result.scores
        }
        if scored:
            accuracies[source] = scored
    common = set.intersection(*(set(rows) for rows in accuracies.values())) if accuracies else set()
    if not common:
        return {}
    return {
        source: Reached(float(np.mean([rows[split] for split in sorted(common)])), len(common))
        for source, rows in accuracies.items()
    }


def to_json(sources: SourceAudit) -> dict[str, object]:
    """Return scores, what was reached, and the audit as plain JSON.

    shots    training images per class of the headline
    values   score or null → source → value; scored_on: its images per class, 0 for all
    reached  side → source → accuracy and number of splits
    audit    side → score or null → AuditRow, and what a source drawn at random loses
    """
    return {
        "shots": sources.shots,
        "values": sources.values,
        "scored_on": {name: sources.shots_of(name) for name in SCORES},
        "reached": {
            side: {source: asdict(row) for source, row in rows.items()}
            for side, rows in sources.reached.items()
        },
        "audit": {
            side: {
                "rows": {name: asdict(row) for name, row in of_side.rows.items()},
                "random_regret": of_side.random_regret,
            }
            for side, of_side in sources.audits.items()
        },
    }


AUDIT_CSV = ["side", "score", "kind", "images_per_class", "sources", "first", "regret"]
AUDIT_CSV += [
    f"{name}{end}" for name in ("pearson", "kendall", "weighted") for end in ("", "_low", "_high")
]
VALUES_CSV = ["name", "kind", "images_per_class", "source", "value", "draws"]


def audit_rows(sources: SourceAudit) -> list[list[object]]:
    """Return a row for each side and score, null, and a source drawn at random."""
    rows: list[list[object]] = []
    for side, of_side in sources.audits.items():
        for name, row in of_side.rows.items():
            agreements = (row.pearson, row.kendall, row.weighted)
            numbers = [value for a in agreements for value in (a.value, a.low, a.high)]
            rows.append(
                [
                    *(side, name, _kind(name), _images(sources.shots_of(name))),
                    *(row.sources, row.top, row.regret, *numbers),
                ]
            )
        count = len(sources.reached[side])
        rows.append([side, "random", "null", "", count, "", of_side.random_regret, *[None] * 9])
    return rows


def value_rows(sources: SourceAudit) -> list[list[object]]:
    """Return a row for each source of what was reached, of every score and every null."""
    rows: list[list[object]] = [
        [f"{side} accuracy", "reached", sources.shots, source, row.accuracy, row.splits]
        for side, of_side in sources.reached.items()
        for source, row in of_side.items()
    ]
    for name in (*SCORES, *NULLS):
        shots = sources.shots_of(name)
        rows += [
            [name, _kind(name), _images(shots), row.source, row.mean, row.draws]
            for row in sources.ranking.standings(name, shots)
        ]
    return rows


def _kind(name: str) -> str:
    return "null" if name in NULLS else "score"


def _images(shots: int) -> object:
    return "all" if shots == ALL_IMAGES else shots


def sides_with_audit(sources: SourceAudit) -> list[str]:
    """Return the sides that reached something, in order."""
    return [side for side in (FEATURES, TUNING) if side in sources.audits]
