"""Figure of a study of scores: which sources each score and each null puts first."""

from __future__ import annotations

import numpy as np

from ...metrics.scores import SCORES
from ...metrics.source_nulls import NULLS
from ...plots import maps
from .ranking import TITLES, Ranking


def places(
    ranking: Ranking, sort_by: str, at: int | None, title: str = "", form: str = "png"
) -> bytes:
    """Draw a cell for each source and score: the share of the other sources that it beats."""
    shots = ranking.headline(at)
    order, _ = ranking.order(sort_by, shots)
    columns = {
        name: [row.place for row in ranking.standings(name, shots)] for name in (*SCORES, *NULLS)
    }
    known = [name for name, row in columns.items() if any(place is not None for place in row)]
    matrix = np.array([[_share(columns[name], i) for name in known] for i in order], float)
    return maps.comparison_map(
        matrix.reshape(len(order), len(known)),
        [ranking.sources[i] for i in order],
        "other sources beaten",
        title,
        form,
        columns=[TITLES[name] for name in known],
    )


def _share(places_of_score: list[int | None], i: int) -> float:
    """Return the share of the other sources with a value that one beats or equals; NaN without."""
    place = places_of_score[i]
    if place is None:
        return float("nan")
    others = sum(other is not None for other in places_of_score) - 1
    return 1.0 if not others else 1.0 - (place - 1) / others
