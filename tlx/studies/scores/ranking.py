"""Sources by their scores: means over draws, places, and how the places vary from draw to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ...metrics.scores import SCORES
from ...metrics.source_nulls import NULLS
from ...result import FINISHED, Result
from ..source_list import labels_of
from .spec import ALL_IMAGES

TITLES = {
    **{name: row.title for name, row in SCORES.items()},
    **{name: row.title for name, row in NULLS.items()},
}


@dataclass(frozen=True)
class Standing:
    """Value of one score for one source at one number of shots, and its place among the sources.

    shots         images per class; 0: all training images
    mean, sd      over the draws; None where the score is not defined, sd also of one draw
    draws         how many have a value
    place         1 is the largest mean; None without a value
    best, worst   least and greatest place over the draws in which every source has a value
    reason        why there is no value, or what to bear in mind
    """

    source: str
    score: str
    shots: int
    mean: float | None
    sd: float | None
    draws: int
    place: int | None = None
    best: int | None = None
    worst: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Ranking:
    """Sources of a study of scores.

    results  of its trials, one a source
    """

    results: tuple[Result, ...]

    @property
    def sources(self) -> list[str]:
        """Return the names of the sources, in the order that was asked."""
        return labels_of([result.spec for result in self.results])

    @property
    def shots(self) -> list[int]:
        """Return the numbers of shots, ascending; all training images (0) last."""
        drawn = {int(shots) for result in self.results for shots, _ in result.details["draws"]}
        return [*sorted(drawn - {ALL_IMAGES}), ALL_IMAGES]

    def headline(self, at: int | None) -> int:
        """Return the shots of the table: `at`, or the most there are."""
        drawn = [shots for shots in self.shots if shots != ALL_IMAGES]
        if at is not None and at in self.shots:
            return at
        return drawn[-1] if drawn else ALL_IMAGES

    def standings(self, score: str, shots: int) -> list[Standing]:
        """Return the standing of every source, in the order of `sources`."""
        if score in NULLS:
            return self._of_null(score, shots)
        table = [_values(result, score, shots) for result in self.results]
        means = [_mean(values) for values in table]
        places = _places(means)
        of_draws = _places_of_draws(table)
        rows = []
        for number, (source, result) in enumerate(zip(self.sources, self.results, strict=True)):
            known = [value for value in table[number] if value is not None]
            rows.append(
                Standing(
                    source,
                    score,
                    shots,
                    means[number],
                    float(np.std(known, ddof=1)) if len(known) > 1 else None,
                    len(known),
                    places[number],
                    int(of_draws[:, number].min()) if len(of_draws) > 1 else None,
                    int(of_draws[:, number].max()) if len(of_draws) > 1 else None,
                    "; ".join(_reasons(result, score, shots)),
                )
            )
        return rows

    def _of_null(self, name: str, shots: int) -> list[Standing]:
        values = [result.details["nulls"].get(name) for result in self.results]
        places = _places(values)
        return [
            Standing(
                source,
                name,
                shots,
                value,
                None,
                0,
                place,
                reason="" if value is not None else NULLS[name].unknown,
            )
            for source, value, place in zip(self.sources, values, places, strict=True)
        ]

    def values(self, shots: int) -> dict[str, dict[str, float | None]]:
        """Return score → source → mean over the draws, of all scores and nulls."""
        return {
            name: {row.source: row.mean for row in self.standings(name, shots)}
            for name in (*SCORES, *NULLS)
        }

    def order(self, sort_by: str, shots: int) -> tuple[list[int], int]:
        """Return the numbers of the sources, the best first, and the shots that it is from.

        Where the score is not defined at these shots, all training images tell; where it is not
        known there either, the order is that of the question.
        """
        for tried in (shots, ALL_IMAGES):
            places = [row.place for row in self.standings(sort_by, tried)]
            if any(place is not None for place in places):
                last = len(places) + 1
                return sorted(range(len(places)), key=lambda i: places[i] or last), tried
        return list(range(len(self.results))), shots


def ranking_of(results: Sequence[Result]) -> Ranking:
    """Return the ranking of the finished trials among these, of scores only."""
    return Ranking(tuple(r for r in results if r.kind == "source-scores" and r.status == FINISHED))


def _at(result: Result, shots: int) -> list[int]:
    """Return the numbers of the draws at these shots."""
    return [i for i, (k, _) in enumerate(result.details["draws"]) if int(k) == shots]


def _values(result: Result, score: str, shots: int) -> list[float | None]:
    """Return the value of each draw at these shots."""
    return [result.details["values"][score][i] for i in _at(result, shots)]


def _reasons(result: Result, score: str, shots: int) -> list[str]:
    """Return the reasons of the draws at these shots, each once."""
    reasons = [str(result.details["reasons"][score][i]) for i in _at(result, shots)]
    return list(dict.fromkeys(filter(None, reasons)))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _places(values: Sequence[float | None]) -> list[int | None]:
    """Return the place of each value, 1 the largest; equal ones share the better place."""
    known = [value for value in values if value is not None]
    return [None if v is None else 1 + sum(other > v for other in known) for v in values]


def _places_of_draws(table: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Return (draws, sources) places, of the draws in which every source has a value."""
    whole = [row for row in zip(*table, strict=True) if all(value is not None for value in row)]
    if not whole:
        return np.zeros((0, len(table)))
    ranks: np.ndarray = stats.rankdata(-np.array(whole, float), method="min", axis=1)
    return ranks
