"""Regret of rules that choose between two methods, over data sets and numbers of shots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import BadDataError


@dataclass(frozen=True, eq=False)
class ChoicePoint:
    """Scores of two methods at one number of shots of one data set, and what rules chose there.

    first, second            (m,) score of each draw
    first_cost, second_cost  cost of one training of each method, in seconds
    chose_second             rule → (m,) whether it took the second method in each draw, or one
                             value for all draws
    """

    first: np.ndarray
    second: np.ndarray
    first_cost: float
    second_cost: float
    chose_second: Mapping[str, ArrayLike]


@dataclass(frozen=True)
class RuleScore:
    """What a rule loses and costs on one data set, mean over its numbers of shots.

    regret  mean score of the method that is better on average, minus that of the rule's choices;
            below 0 where choices that change from draw to draw beat both
    cost    seconds of one training of the method chosen
    """

    regret: float
    cost: float


def score_rules(points: Sequence[ChoicePoint]) -> dict[str, RuleScore]:
    """Return rule → its regret and cost on one data set, each number of shots counting the same.

    The better method is the one with the higher mean over the same draws: chance makes that mean
    too high, by the same amount for every rule. Differences between rules are free of it if no
    rule saw the draw that it chose for.

    raises  BadDataError: no points, methods with different numbers of draws, rules that differ
    """
    if not points:
        raise BadDataError("no-points", "0 numbers of shots", expected="one or more")
    names = list(points[0].chose_second)
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for point in points:
        first, second = np.asarray(point.first, float), np.asarray(point.second, float)
        if first.shape != second.shape or first.ndim != 1 or not first.size:
            raise BadDataError(
                "unpaired",
                f"{first.shape} and {second.shape} scores",
                expected="one of both methods for each draw",
            )
        if list(point.chose_second) != names:
            raise BadDataError("rules", f"{list(point.chose_second)}", expected=f"{names}")
        best = max(float(first.mean()), float(second.mean()))
        for name, chosen in point.chose_second.items():
            takes_second = np.broadcast_to(np.asarray(chosen, bool), first.shape)
            score = float(np.where(takes_second, second, first).mean())
            cost = float(np.where(takes_second, point.second_cost, point.first_cost).mean())
            rows[name].append((best - score, cost))
    means = {name: np.mean(values, axis=0) for name, values in rows.items()}
    return {name: RuleScore(float(regret), float(cost)) for name, (regret, cost) in means.items()}
